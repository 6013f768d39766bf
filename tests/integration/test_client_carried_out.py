"""What another device did to rows that we have written ourselves is shown whole, as soon as it comes.

Our own write is in Postgres already then, and has not come back yet. Bob sees it, and in one transaction deletes what
Ann has written and leaves a mark: Ann sees both or neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.proxy import Proxy
from tests.integration.test_client_service import confirmed, device, service_on, until
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.actors.devices.rowreader import RowReader
from syncline.actors.postgres.electrify import electrify
from syncline.actors.service import Service
from syncline.client import Database, open_db

SCHEMA = """
CREATE TABLE tasks (id text PRIMARY KEY, title text, done bool NOT NULL);
CREATE TABLE marks (id text PRIMARY KEY);
"""
PART = "this.done = false"


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Service]:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute(SCHEMA)
        for table in ("tasks", "marks"):
            await electrify(connection, table)
        yield service
    await connection.close()


@asynccontextmanager
async def bob_and_ann(
    folder: Path, service: Service, port: int, where: str, columns: tuple[str, ...] | None = None
) -> AsyncIterator[tuple[Database, Database]]:
    """Bob has all rows, and Ann, who speaks to ``port``, those of a shape."""
    async with (
        device(folder / "bob.db", service, "tasks", "marks") as bob,
        asyncio.timeout(PATIENCE_S),
        open_db(folder / "ann.db", f"ws://127.0.0.1:{port}") as ann,
    ):
        await ann.connect(insecure_token("ann"))
        for shape in (await ann.sync("tasks", where, columns=columns), await ann.sync("marks")):
            await shape.synced()
        yield bob, ann


async def delete_and_mark(bob: Database, id: str) -> None:
    """Once Bob has the row."""
    await until(bob, f"EXISTS (SELECT 1 FROM tasks WHERE id = '{id}')")
    async with bob.transaction() as tx:
        await tx.execute("DELETE FROM tasks WHERE id = ?", (id,))
        await tx.execute("INSERT INTO marks VALUES (?)", (id,))


async def remains_of(ann: Database, id: str) -> int:
    """When she sees the mark: of the row that went in the same transaction."""
    count = f"(SELECT count(*) FROM {{}} WHERE id = '{id}')"
    async with ann.sql(f"SELECT {count.format('tasks')}, {count.format('marks')}").live() as results:
        async for found in results:
            if found[0][1]:
                return int(found[0][0])
    raise AssertionError("the live query ended")


@pytest.fixture
def healed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Until it is set, no snapshot shows what has been streamed: as while a synchronous standby is waited for."""
    original, healed = RowReader.shows, asyncio.Event()

    async def shows(self: RowReader, snapshot: object, lsn: int) -> bool:
        if not healed.is_set():
            self._again_after(0.01)
            return False
        return await original(self, snapshot, lsn)

    monkeypatch.setattr(RowReader, "shows", shows)
    return healed


@pytest.mark.parametrize(
    ("where", "columns"), [("", None), (PART, None), ("", ("id", "done"))], ids=["whole", "part", "columns"]
)
async def test_another_devices_transaction_is_seen_whole_where_own_writes_have_been_carried_out(
    service: Service, tmp_path: Path, healed: asyncio.Event, where: str, columns: tuple[str, ...] | None
) -> None:
    async with bob_and_ann(tmp_path, service, service.port, where, columns) as (bob, ann):
        await ann.execute("INSERT INTO tasks (id, done) VALUES ('t', 0)")
        await delete_and_mark(bob, "t")
        assert not await remains_of(ann, "t")
        healed.set()
        await confirmed(ann)
        assert not await ann.sql("SELECT * FROM tasks")


@pytest.mark.parametrize("where", ["", PART], ids=["whole", "part"])
async def test_it_is_so_after_a_connection_was_lost_before_the_echo(
    service: Service, tmp_path: Path, where: str
) -> None:
    proxy = Proxy(service.port)
    await proxy.start()
    async with bob_and_ann(tmp_path, service, proxy.port, where) as (bob, ann):
        for id in ("a", "b", "c"):
            proxy.deafen()
            await ann.execute("INSERT INTO tasks VALUES (?, 'mine', 0)", (id,))
            await delete_and_mark(bob, id)
            await confirmed(bob)
            proxy.cut()
            assert not await remains_of(ann, id)
            await confirmed(ann)
            assert not await ann.sql("SELECT * FROM tasks")
    await proxy.stop()


async def test_it_is_so_for_whom_the_row_leaves_its_shape(
    service: Service, tmp_path: Path, healed: asyncio.Event
) -> None:
    async with bob_and_ann(tmp_path, service, service.port, PART) as (bob, ann):
        await ann.execute("INSERT INTO tasks VALUES ('t', 'mine', 0)")
        await until(bob, "EXISTS (SELECT 1 FROM tasks)")
        async with bob.transaction() as tx:
            await tx.execute("UPDATE tasks SET done = 1")
            await tx.execute("INSERT INTO marks VALUES ('t')")
        assert not await remains_of(ann, "t")
        healed.set()
        await confirmed(ann)
        assert not await ann.sql("SELECT * FROM tasks")


async def test_what_ann_writes_meanwhile_stands_on_what_has_been_carried_out(
    service: Service, tmp_path: Path, healed: asyncio.Event
) -> None:
    """And an own row is never missed in between."""
    async with bob_and_ann(tmp_path, service, service.port, PART) as (bob, ann):
        await ann.execute("INSERT INTO tasks VALUES ('t', 'first', 0)")
        await until(bob, "EXISTS (SELECT 1 FROM tasks)")
        seen: list[list[str]] = []

        async def watch() -> None:
            async with ann.sql("SELECT title FROM tasks").live() as results:
                async for found in results:
                    titles = [str(row[0]) for row in found]
                    seen.append(titles)

        watching = asyncio.create_task(watch())
        async with bob.transaction() as tx:
            await tx.execute("UPDATE tasks SET title = 'by bob'")
            await tx.execute("INSERT INTO marks VALUES ('t')")
        await until(ann, "EXISTS (SELECT 1 FROM marks)")
        assert [tuple(row) for row in await ann.sql("SELECT title FROM tasks")] == [("by bob",)]
        await ann.execute("UPDATE tasks SET title = 'second'")
        await until(bob, "EXISTS (SELECT 1 FROM tasks WHERE title = 'second')")
        healed.set()
        await confirmed(ann)
        await until(ann, "EXISTS (SELECT 1 FROM tasks WHERE title = 'second')")
        watching.cancel()
        assert ["second"] in seen
        assert seen == [one for one in (["first"], ["by bob"], ["second"]) if one in seen]
