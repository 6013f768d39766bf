"""The Writer as devices meet it: they cast writes, it casts back what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene
from tests.patience import PATIENCE_S

from syncline.actors.postgres.batching import LARGE_OPERATIONS
from syncline.actors.postgres.write import RowOperation, Write
from syncline.actors.postgres.writer import WriteLoop, Writer, Written
from syncline.cluster import Actor, ChildSpec, Context, Ref, Strategy, Supervisor
from syncline.cluster.cell import Cell
from syncline.cluster.clock import SystemClock

pytestmark = pytest.mark.every_major

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)"
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.name = 'slow' THEN PERFORM pg_sleep(30); END IF; RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION slow();
"""
HELD = """
CREATE TABLE released (flag bool);
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN WHILE NOT EXISTS (SELECT FROM released) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$;
CREATE TRIGGER held BEFORE INSERT ON items FOR EACH ROW WHEN (NEW.name = 'held') EXECUTE FUNCTION held();
"""
NOBODY = cast(Ref, object())


def insert(s: Scene, client: str, lsn: int, key: str, name: str | None = "n", reply_to: Ref = NOBODY) -> Write:
    return Write(client, lsn, 1_000 + lsn, (RowOperation(s.relids["items"], "I", (key, name)),), reply_to)


def many(s: Scene, client: str, lsn: int, name: str = "n") -> Write:
    """A large transaction; ``name`` is its last row's."""
    rows = [(str(lsn * 1_000_000 + n), "n") for n in range(LARGE_OPERATIONS)] + [("0", name)]
    changes = tuple(RowOperation(s.relids["items"], "I", row) for row in rows)
    return Write(client, lsn, 1_000 + lsn, changes, NOBODY)


class Ear:
    """Keeps what devices are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Written]] = []
        self._news = asyncio.Event()

    def __call__(self, write: Write, written: Written) -> None:
        self.heard.append((write.client_id, written))
        self._news.set()

    async def until(self, count: int) -> list[tuple[str, int, str]]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < count:
                self._news.clear()
                await self._news.wait()
        return [(client, written.lsn, written.status) for client, written in self.heard]


@asynccontextmanager
async def writing(s: Scene, **options: Any) -> AsyncIterator[tuple[WriteLoop, Ear]]:
    ear = Ear()
    loop = WriteLoop(s.dsn, SystemClock(), ear, **options)
    task = asyncio.create_task(loop.run())
    try:
        yield loop, ear
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_write_is_answered_with_a_durable_position_behind_its_commit(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        slot = f"s_{database.rpartition('/')[2]}"
        await s.connection.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        loop.add(insert(s, "a", 1, "1"))
        assert await ear.until(1) == [("a", 1, "applied")]
        shown = await s.connection.fetch(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, '0/0'::pg_lsn + $2::bigint, NULL,"
            " 'proto_version', '1', 'publication_names', 'electric_publication')",
            slot,
            ear.heard[0][1].position,
        )
        assert b"C" in {row["data"][:1] for row in shown}


async def test_a_writer_takes_up_what_was_changed_of_tables_when_it_connects(database: str) -> None:
    """A default that came while no service ran, which no failing write tells of."""
    async with scene(database, SCHEMA, "items") as s:
        await s.connection.execute("ALTER TABLE items ALTER name SET DEFAULT 'by default', ALTER name DROP NOT NULL")
        async with writing(s) as (loop, ear):
            row = RowOperation(s.relids["items"], "I", ("1", None), (True, False))
            loop.add(Write("a", 1, 1_001, (row,), NOBODY))
            assert await ear.until(1) == [("a", 1, "applied")]
        assert await s.rows("items") == [(1, "by default")]


async def test_a_repeated_write_is_a_duplicate_and_a_bad_one_a_rejection(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        for write in (insert(s, "a", 1, "1"), insert(s, "a", 1, "1"), insert(s, "a", 2, "2", None)):
            loop.add(write)
        assert await ear.until(3) == [("a", 1, "applied"), ("a", 1, "duplicate"), ("a", 2, "rejected")]
        rejection = ear.heard[2][1].rejection
        assert rejection is not None
        assert (rejection.sqlstate, rejection.table) == ("23502", "items")


async def test_a_lock_of_the_application_holds_up_that_device_alone_and_is_not_seen_by_it(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        application = await asyncpg.connect(database)
        transaction = application.transaction()
        await transaction.start()
        await application.execute("INSERT INTO items VALUES (1, 'application')")
        loop.add(insert(s, "a", 1, "1"))
        loop.add(insert(s, "a", 2, "2"))
        for lsn in range(1, 6):
            loop.add(insert(s, "b", lsn, str(10 + lsn)))
        assert await ear.until(5) == [("b", lsn, "applied") for lsn in range(1, 6)]
        await transaction.rollback()
        await application.close()
        assert (await ear.until(7))[5:] == [("a", 1, "applied"), ("a", 2, "applied")]


async def test_a_transaction_that_never_ends_is_found_out_and_rejected_alone(database: str) -> None:
    async with scene(database, SCHEMA + ";" + SLOW, "items") as s, writing(s, statement_timeout_s=0.2) as (loop, ear):
        loop.add(insert(s, "a", 1, "1"))
        loop.add(insert(s, "b", 1, "2", "slow"))
        loop.add(insert(s, "b", 2, "3"))
        loop.add(insert(s, "c", 1, "4"))
        outcome = {(client, lsn): status for client, lsn, status in await ear.until(4)}
        assert outcome[("b", 1)] == "rejected"
        assert {outcome[other] for other in (("a", 1), ("b", 2), ("c", 1))} <= {"applied", "duplicate"}
        assert [row[0] for row in await s.rows("items")] == [1, 3, 4]
        assert await s.connection.fetchval("SELECT sqlstate FROM electric.rejections") == "57014"


async def test_nobody_waits_for_a_large_transaction_but_its_own_device(database: str) -> None:
    async with scene(database, SCHEMA + ";" + HELD, "items") as s, writing(s) as (loop, ear):
        loop.add(many(s, "a", 1, "held"))
        loop.add(insert(s, "a", 2, "2"))
        for lsn in range(1, 4):
            loop.add(insert(s, "b", lsn, str(10 + lsn)))
        assert await ear.until(3) == [("b", lsn, "applied") for lsn in range(1, 4)]
        await s.connection.execute("INSERT INTO released VALUES (true)")
        assert (await ear.until(5))[3:] == [("a", 1, "applied"), ("a", 2, "applied")]


async def test_a_large_transaction_has_time_for_each_of_its_operations(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s, statement_timeout_s=0.2) as (loop, ear):
        loop.add(many(s, "a", 1))
        assert await ear.until(1) == [("a", 1, "applied")]


async def test_a_number_beyond_bigint_is_rejected_alone(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        loop.add(insert(s, "a", 1, "1"))
        loop.add(insert(s, "b", 2**64, "2"))
        loop.add(insert(s, "b", 3, "3"))
        assert await ear.until(3) == [("a", 1, "applied"), ("b", 2**64, "rejected"), ("b", 3, "applied")]
        assert [row[0] for row in await s.rows("items")] == [1, 3]


async def test_a_right_taken_away_holds_writes_until_it_is_given_back(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        await s.connection.execute("ALTER TABLE items RENAME TO hidden")
        loop.add(insert(s, "a", 1, "1"))
        loop.add(Write("b", 1, 1, (), NOBODY))
        assert await ear.until(1) == [("b", 1, "applied")]
        await s.connection.execute("ALTER TABLE hidden RENAME TO items")
        assert (await ear.until(2))[1:] == [("a", 1, "applied")]


async def test_a_text_postgres_cannot_hold_is_rejected_and_recorded(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s) as (loop, ear):
        loop.add(insert(s, "a", 1, "1", "nul \x00"))
        loop.add(insert(s, "a", 2, "2"))
        assert await ear.until(2) == [("a", 1, "rejected"), ("a", 2, "applied")]


class Device(Actor):
    """Hears what the writer says."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    async def handle_cast(self, message: Any) -> None:
        self._ear(Write("", 0, 0, (), NOBODY), message)


async def test_the_actor_answers_whoever_the_write_says(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s:
        ear = Ear()
        context = Context()
        tree = Cell(
            ChildSpec(
                "tree",
                lambda: Supervisor(
                    Strategy.ONE_FOR_ALL,
                    [
                        ChildSpec("writer", lambda: Writer(s.dsn), name="writer"),
                        ChildSpec("device", lambda: Device(ear), name="device"),
                    ],
                ),
            ),
            context,
        )
        await tree.started()
        writer, device = context.registry.lookup("writer"), context.registry.lookup("device")
        assert writer is not None
        assert device is not None
        await writer.send(insert(s, "a", 1, "1", reply_to=device))
        await writer.send(insert(s, "a", 2, "2", reply_to=device))
        assert [status for _, _, status in await ear.until(2)] == ["applied", "applied"]
        tree.ref.stop()
        await tree.ref.join()
        assert not await s.connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncline-writer' AND datname ="
            " current_database() AND state = 'active'"
        )
