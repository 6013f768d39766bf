"""A transaction over several tables is seen whole on a device, or not at all, also while shapes come and go."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.npm.service import serving
from tests.patience import PATIENCE_S, until
from tests.tokens import insecure_token

from syncline.client import Database, open_db

pytestmark = pytest.mark.every_major

ACCOUNTS = 20
TOTAL = ACCOUNTS * 200
MOVES = 300
ARRIVALS = 25
SCHEMA = f"""
CREATE TABLE checking (id int4 PRIMARY KEY, amount int4 NOT NULL);
CREATE TABLE savings (id int4 PRIMARY KEY, amount int4 NOT NULL);
CREATE TABLE other (id int4 PRIMARY KEY, note text);
INSERT INTO checking SELECT n, 100 FROM generate_series(1, {ACCOUNTS}) n;
INSERT INTO savings SELECT n, 100 FROM generate_series(1, {ACCOUNTS}) n;
INSERT INTO other SELECT n, 'x' FROM generate_series(1, 500) n;
"""
SUM = "SELECT (SELECT sum(amount) FROM checking) + (SELECT sum(amount) FROM savings)"


async def move_money(dsn: str, seed: int, stopped: asyncio.Event, moves: Counter[int]) -> None:
    """Transactions that take from one table and give to the other, between every second account; counted."""
    seeded = random.Random(seed)
    postgres = await asyncpg.connect(dsn)
    while not stopped.is_set():
        amount, giver, taker = seeded.randint(1, 50), *(2 * seeded.randrange(ACCOUNTS // 2) + seed for _ in range(2))
        tables = ["checking", "savings"]
        seeded.shuffle(tables)
        async with postgres.transaction():
            await postgres.execute(f"UPDATE {tables[0]} SET amount = amount - $1 WHERE id = $2", amount, giver)
            if seeded.random() < 0.3:
                await postgres.execute(
                    "UPDATE other SET note = $1 WHERE id = $2", str(moves[seed]), seeded.randint(1, 500)
                )
            await postgres.execute(f"UPDATE {tables[1]} SET amount = amount + $1 WHERE id = $2", amount, taker)
        moves[seed] += 1
        await asyncio.sleep(0.001)  # the load's pace
    await postgres.close()


async def watch_total(db: Database, seen: set[int]) -> None:
    async with db.sql(SUM).live() as results:
        async for rows in results:
            seen.add(rows[0][0])


async def moves_arrive(db: Database) -> None:
    """Returns when the device has been seen to change many times."""
    arrived = 0
    async with asyncio.timeout(PATIENCE_S), db.sql("SELECT * FROM savings ORDER BY id").live() as results:
        async for _ in results:
            arrived += 1
            if arrived > ARRIVALS:
                return


async def test_money_moved_between_tables_is_never_seen_twice_or_nowhere(database: str, tmp_path: Path) -> None:
    tables = ("checking", "savings", "other")
    stopped = asyncio.Event()
    moves: Counter[int] = Counter()
    seen: set[int] = set()

    async def moved(upto: int) -> bool:
        return moves.total() >= upto

    async with (
        serving(database, tmp_path, sql=SCHEMA, electrified=tables) as (service, postgres),
        open_db(tmp_path / "device.db", service.url.replace("http", "ws")) as db,
    ):
        movers = [asyncio.create_task(move_money(database, seed, stopped, moves)) for seed in (1, 2)]
        await db.connect(insecure_token("ann"))
        # Two subscriptions, each placed at its own position: the device is whole again once it has both.
        await (await db.sync("checking")).synced()
        await (await db.sync("savings")).synced()
        watching = asyncio.create_task(watch_total(db, seen))
        await moves_arrive(db)
        other = await db.sync("other")
        await other.synced()
        await moves_arrive(db)
        await service.kill()
        await service.start()
        await moves_arrive(db)
        await other.unsubscribe()
        await db.disconnect()
        await until(partial(moved, moves.total() + ARRIVALS))
        await db.connect()
        await moves_arrive(db)
        await until(partial(moved, MOVES))
        stopped.set()
        await asyncio.gather(*movers)
        wanted = [tuple(row) for row in await postgres.fetch("SELECT * FROM savings ORDER BY id")]
        async with asyncio.timeout(PATIENCE_S), db.sql("SELECT * FROM savings ORDER BY id").live() as results:
            async for rows in results:
                if [tuple(row) for row in rows] == wanted:
                    break
        watching.cancel()
        assert seen == {TOTAL}
