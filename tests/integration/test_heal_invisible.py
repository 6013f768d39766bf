"""A commit that is on the disk and not visible yet: what heals a device must not come from before it.

Synchronous replication to a standby that is not there holds commits in exactly this state, for as long as the test
likes. It is switched on for the one session that is to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import server_under_test
from tests.integration.tree_scene import Tree, running, until
from tests.rawdevice import RawDevice

from syncline.actors.names import REPLICATOR, ROUTER
from syncline.actors.postgres.pgoutput import Message
from syncline.actors.postgres.stream import STATUS_INTERVAL_S
from syncline.proto.values import Column, Relation, Transaction, Update

DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))
# Eighty pieces, far more than wait for the router at a time: the stream can be held up when some have passed.
LARGE_ROWS = 400_000


@pytest.fixture(scope="module")
def waiting_postgres(server_dir: Path) -> Iterator[str]:
    """A server whose one synchronous standby never comes."""
    server = server_under_test(
        server_dir / "waiting",
        {"fsync": "off", "synchronous_standby_names": "missing", "synchronous_commit": "local"},
    )
    yield server.start()
    server.stop("immediate")


@contextlib.asynccontextmanager
async def held_back(dsn: str, sql: str) -> AsyncIterator[asyncio.Task[str]]:
    """``sql`` committed on the disk and visible to nobody until the task is cancelled in Postgres."""
    session = await asyncpg.connect(dsn)
    watching = await asyncpg.connect(dsn)
    await session.execute("SET synchronous_commit = on")
    pid = session.get_server_pid()
    committing = asyncio.create_task(session.execute(sql))

    async def waits() -> bool:
        query = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
        return bool(await watching.fetchval(query, pid))

    try:
        await until(waits)
        yield committing
    finally:
        await watching.execute("SELECT pg_cancel_backend($1)", pid)
        await committing
        await session.close()
        await watching.close()


async def time_to_read(tree: Tree, table: str) -> None:
    """Returns when the table is being read, and would have been long since if nothing were waited for."""

    async def being_read() -> bool:
        with contextlib.suppress(LookupError):
            return bool(await tree.consumer(table))
        return False

    await until(being_read)
    for _ in range(50):
        await tree.postgres.execute("SELECT")


async def test_a_rejected_write_is_not_healed_with_a_row_from_before_a_commit_that_is_held_back(
    waiting_postgres: str, tmp_path: Path
) -> None:
    async with (
        running(waiting_postgres, tmp_path) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await tree.insert(1)
        await device.start()
        await device.subscribe("items")
        (table,) = device.rows.values()
        (before,) = table.values()
        key = before[0]
        assert key is not None

        async def shows(body: bytes) -> bool:
            return any(row[2] == body for row in table.values())

        async def rejected() -> bool:
            return bool(await tree.postgres.fetchval("SELECT count(*) FROM electric.rejections"))

        ms = int(time.time() * 1000)
        async with held_back(waiting_postgres, "UPDATE items SET body = 'newer'"):
            await until(lambda: shows(b"newer"))
            wrong = Update(0, (key, b"not a number", b"wrong"), before, ("postgres_1@0",))
            for frame in device.session.write(Transaction(ms, b"\1", (wrong,)), {0: DEVICE_ITEMS}):
                await device.socket.send(frame)
            await until(rejected)
            for number in range(2):  # and meanwhile everything else arrives
                body = f"meanwhile {number}"
                await tree.postgres.execute("INSERT INTO items VALUES ($1, 1, $2)", uuid.uuid4(), body)
                await until(lambda body=body: shows(body.encode()))  # type: ignore[misc]

        async def echoed() -> bool:
            return any(t.commit_ms == ms for t in device.transactions if t.origin == device.client_id)

        await until(echoed)
        assert table[key] == (key, b"0", b"newer")


async def test_a_table_that_is_read_anew_has_a_commit_that_a_service_before_was_sent_and_that_is_held_back(
    waiting_postgres: str, tmp_path: Path
) -> None:
    """It is in no snapshot yet. The slot has not been told that it may be forgotten, so the next service is sent it."""
    sql = "CREATE TABLE later (id uuid PRIMARY KEY, n int4 NOT NULL, body text)"

    async def newer(device: RawDevice) -> bool:
        return [row[2] for table in device.rows.values() for row in table.values()] == [b"newer"]

    async with contextlib.AsyncExitStack() as held:
        async with (
            running(waiting_postgres, tmp_path / "first", sql, ("later",)) as tree,
            RawDevice.connected(tree.url) as device,
        ):
            await tree.postgres.execute("INSERT INTO later VALUES ($1, 1, 'older')", uuid.uuid4())
            await device.start()
            await device.subscribe("later")
            await held.enter_async_context(held_back(waiting_postgres, "UPDATE later SET body = 'newer'"))
            await until(lambda: newer(device))
            await asyncio.sleep(STATUS_INTERVAL_S + 1)  # it could have been told by now: nothing says that it was not
        async with (
            running(waiting_postgres, tmp_path / "second", "SELECT 1", ()) as tree,
            RawDevice.connected(tree.url) as device,
            asyncio.TaskGroup() as tasks,
        ):
            await device.start()
            subscribing = tasks.create_task(device.subscribe("later"))

            await time_to_read(tree, "later")
            await held.aclose()
            await subscribing
            await until(lambda: newer(device))


async def test_a_table_that_is_read_while_a_large_commit_passes_that_is_held_back_has_the_part_that_has_passed(
    waiting_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new shape is sent the rest of the pieces alone, and what it was not sent is in no snapshot yet."""
    sql = "CREATE TABLE early (id int PRIMARY KEY, body text); CREATE TABLE bulky (id int PRIMARY KEY)"
    large = f"UPDATE early SET body = 'newer'; INSERT INTO bulky SELECT generate_series(1, {LARGE_ROWS})"
    async with running(waiting_postgres, tmp_path, sql, ("early", "bulky")) as tree:
        await tree.postgres.execute("INSERT INTO early VALUES (1, 'older')")
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            await device.subscribe("bulky")
        bulky = await tree.consumer("bulky")
        router, replicator = (tree.actor(name)._cell.actor for name in (ROUTER, REPLICATOR))
        receive, rest = replicator._stream.receive, asyncio.Event()  # type: ignore[attr-defined]
        routes = len(router._added)  # type: ignore[attr-defined]

        async def receive_the_rest_later() -> list[Message]:
            messages: list[Message] = await receive()
            if router._passing is not None:  # type: ignore[attr-defined]
                await rest.wait()
            return messages

        async def passing() -> bool:
            return bool(bulky._cell.actor._store.log_bytes)  # type: ignore[attr-defined]

        async def added() -> bool:
            return len(router._added) > routes  # type: ignore[attr-defined]

        monkeypatch.setattr(replicator._stream, "receive", receive_the_rest_later)  # type: ignore[attr-defined]
        async with RawDevice.connected(tree.url) as device, asyncio.TaskGroup() as tasks:
            await device.start()
            async with held_back(waiting_postgres, large):
                await until(passing)
                subscribing = tasks.create_task(device.subscribe("early"))
                await until(added)
                assert router._passing is not None  # type: ignore[attr-defined]
                rest.set()
                await time_to_read(tree, "early")
            await subscribing
            (table,) = device.rows.values()

            async def current() -> bool:
                return (b"2",) in [row[:1] for row in table.values()]

            await tree.postgres.execute("INSERT INTO early VALUES (2, 'later')")
            await until(current)
            assert table == {b"1": (b"1", b"newer"), b"2": (b"2", b"later")}
