"""Direct SQL that does not rest, beside a device's transaction of many rows."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.conflict_scene import conflict_scene
from tests.patience import PATIENCE_S

ROWS = 3_000
ACCOUNTS = f"""
CREATE TABLE accounts (id int4 PRIMARY KEY, noted text, by_sql int4 NOT NULL);
INSERT INTO accounts SELECT n, NULL, 0 FROM generate_series(1, {ROWS}) n;
"""


@pytest.mark.each_runtime
async def test_a_transaction_of_many_rows_arrives_while_sql_updates_some_of_them(database: str, tmp_path: Path) -> None:
    """Each time that it is tried, SQL has written a row of which the stream has not told yet."""
    async with conflict_scene(database, tmp_path, ("python",), ACCOUNTS, "accounts") as scene:
        (ann,) = scene.devices
        await scene.settled()
        updates = 0

        async def go_on() -> None:
            nonlocal updates
            for number in itertools.cycle(range(1, ROWS, 7)):
                await scene.postgres.execute("UPDATE accounts SET by_sql = by_sql + 1 WHERE id = $1", number)
                updates += 1
                await asyncio.sleep(0.02)  # as an application that has other things to do

        going_on = asyncio.create_task(go_on())
        await ann.write("UPDATE accounts SET noted = 'yes'")
        other = await asyncpg.connect(scene.dsn)
        async with asyncio.timeout(PATIENCE_S):
            while not await other.fetchval("SELECT noted FROM accounts WHERE id = 1"):
                assert not going_on.done()
                await asyncio.sleep(0.05)  # nothing tells of it
        await other.close()
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
        await scene.settled()
        rows = await scene.rows("accounts")
        assert [row[1] for row in rows] == ["yes"] * ROWS
        assert sum(int(str(row[2])) for row in rows) in (updates, updates + 1)
