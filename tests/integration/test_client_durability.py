"""An application says "saved" and is right: on this disk, in Postgres, on every other device that is connected."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from tests.integration.test_client_rejections import SCHEMA
from tests.integration.test_client_service import confirmed, device, rows, service_on, service_with
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.actors.service import Service
from syncline.client import Database, UsageError, WriteRejected, open_db
from syncline.proto.events import TransactionReceived
from syncline.proto.subprotocols import OLD, OWN

pytestmark = pytest.mark.every_major

INSERT = "INSERT INTO notes VALUES (?, x'', 'fine', NULL)"
TOO_LONG = "INSERT INTO notes VALUES (?, x'', 'much too long a title', NULL)"


@pytest.fixture
async def service(database: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Service]:
    schema = SCHEMA + "CREATE TABLE others (id int4 PRIMARY KEY);"
    async with service_with(connection, database, tmp_path / "service", schema, "notes", "others") as service:
        yield service


async def written(db: Database, number: int, sql: str = INSERT) -> int:
    """The id of a transaction of its own."""
    async with db.transaction() as tx:
        await tx.execute(sql, (number,))
    assert tx.id is not None
    return tx.id


async def unsettled(waiting: asyncio.Task[None]) -> None:
    """It is not done, and goes on waiting for as long as anything that is under way may take."""
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done


async def test_what_is_durable_at_the_server_is_in_postgres(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        for number in range(5):
            async with a.transaction() as tx:
                await tx.execute(INSERT, (number,))
            await tx.durable("server")
            assert await connection.fetchval("SELECT count(*) FROM notes") == number + 1
        assert await a.execute("UPDATE notes SET stars = 1 WHERE id = 1", durable="server") == 1
        assert await connection.fetchval("SELECT stars FROM notes WHERE id = 1") == 1


async def test_offline_it_waits_until_there_is_a_connection_or_nobody_wants_it_any_more(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        await a.disconnect()
        first = await written(a, 1)
        await a.durable("device", first)
        waiting = asyncio.create_task(a.durable("server", first))
        await unsettled(waiting)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await a.durable("everyone", first)
        await a.connect()
        await asyncio.wait_for(waiting, PATIENCE_S)
        assert await connection.fetchval("SELECT count(*) FROM notes") == 1


@pytest.mark.parametrize("level", ["server", "everyone"])
async def test_a_rejected_write_is_not_taken_for_saved_not_even_once_it_is_dismissed(
    service: Service, tmp_path: Path, level: str
) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        bad = await written(a, 1, TOO_LONG)
        with pytest.raises(WriteRejected, match="short") as raised:
            await a.durable(level, bad)  # type: ignore[arg-type]
        assert [raised.value.rejection] == await a.rejections()
        await a.dismiss(raised.value.rejection)
        with pytest.raises(WriteRejected):
            await a.durable(level, bad)  # type: ignore[arg-type]
        with pytest.raises(WriteRejected):
            await a.execute(TOO_LONG, (2,), durable=level)  # type: ignore[arg-type]
    async with open_db(tmp_path / "a.db", "ws://localhost:1") as a:
        with pytest.raises(WriteRejected):
            await a.durable(level, bad)  # type: ignore[arg-type]


async def test_a_transaction_is_asked_for_by_its_id_after_a_restart(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        saved = await written(a, 1)
        await a.durable("server", saved)
        await a.disconnect()
        unsaved = await written(a, 2)
    async with open_db(tmp_path / "a.db", f"ws://127.0.0.1:{service.port}") as a:
        await a.durable("server", saved)
        waiting = asyncio.create_task(a.durable("everyone", unsaved))
        await unsettled(waiting)
        await a.connect(insecure_token("ann"))
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_everyone_is_every_device_that_is_connected_whatever_its_shapes(service: Service, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = [await stack.enter_async_context(device(tmp_path / f"{name}.db", service, "notes")) for name in "abc"]
        await stack.enter_async_context(device(tmp_path / "d.db", service, "others"))
        await stack.enter_async_context(device(tmp_path / "e.db", service))
        for number in range(60):
            await a.execute(INSERT, (number,), durable="everyone" if number % 20 == 19 else None)
            if number % 20 == 19:
                for db in (b, c):
                    assert await rows(db, "SELECT count(*) FROM notes") == [(number + 1,)]
        await asyncio.gather(*[b.execute(INSERT, (number,), durable="everyone") for number in range(100, 140)])
        assert await rows(a, "SELECT count(*) FROM notes") == [(100,)]
        assert await rows(c, "SELECT count(*) FROM notes") == [(100,)]


@pytest.mark.parametrize("protocol", [OWN, OLD[0]])
async def test_a_device_that_has_not_acknowledged_is_waited_for_until_it_does_or_goes(
    service: Service, tmp_path: Path, protocol: str
) -> None:
    url = f"http://127.0.0.1:{service.port}"
    async with device(tmp_path / "a.db", service, "notes") as a:
        for ends_by_acknowledging in (True, False):
            async with RawDevice.connected(url, protocol=protocol) as raw:
                await raw.start()
                await raw.subscribe("notes")
                raw.acking = False
                number = int(ends_by_acknowledging)
                waiting = asyncio.create_task(a.durable("everyone", await written(a, number)))
                got = (await raw.expect(TransactionReceived)).transaction
                assert got.origin == a.client_id
                await unsettled(waiting)
                if ends_by_acknowledging:
                    assert got.transaction_id is not None
                    await raw.socket.send(raw.session.ack(got.transaction_id, got.lsn))
                    await asyncio.wait_for(waiting, PATIENCE_S)
            await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_question_that_is_lost_with_its_connection_is_asked_again(
    service: Service, database: str, tmp_path: Path
) -> None:
    port = service.port
    async with device(tmp_path / "a.db", service, "notes") as a:
        async with RawDevice.connected(f"http://127.0.0.1:{port}") as raw:
            await raw.start()
            await raw.subscribe("notes")
            raw.acking = False
            waiting = asyncio.create_task(a.durable("everyone", await written(a, 1)))
            await raw.expect(TransactionReceived)
            await unsettled(waiting)
            await a.disconnect()
        await service.stop()
        await unsettled(waiting)
        async with service_on(database, tmp_path / "service", port):
            await a.connect()
            await asyncio.wait_for(waiting, PATIENCE_S)


async def test_what_was_flushed_is_told_from_what_was_not_by_what_sqlite_was_asked(tmp_path: Path) -> None:
    """That a disk keeps what it was told to keep no test can show. ``flush`` is a commit that waits for it."""
    async with open_db(tmp_path / "a.db", "ws://localhost:1") as a:
        said: list[str] = []
        async with a._store.turn() as writer:
            await writer.run(lambda connection: connection.set_trace_callback(said.append))
        await a.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY)")
        assert not any("synchronous" in sql for sql in said)
        await a.execute("INSERT INTO mine VALUES (1)", durable="device")
        tail = said[said.index("PRAGMA synchronous = FULL") :]
        assert [sql.split(" SET")[0] for sql in tail] == [
            *("PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "UPDATE _syncline_state", "COMMIT"),
            "PRAGMA synchronous = NORMAL",
        ]
        said.clear()
        async with a.transaction() as tx:
            await tx.execute("INSERT INTO mine VALUES (2)")
            waiting = [
                asyncio.create_task(a.execute(f"INSERT INTO mine VALUES ({n})", durable="device")) for n in (3, 4)
            ]
        await asyncio.gather(*waiting, tx.durable("device"), tx.durable("everyone"))
        assert 1 <= said.count("PRAGMA synchronous = FULL") <= 3
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("SELECT count(*) FROM mine").fetchone() == (4,)


async def test_a_position_that_was_not_sent_is_not_asked_about(service: Service) -> None:
    for lsn in (b"9" * 18, b"x", b"-1", b""):
        async with RawDevice.connected(f"http://127.0.0.1:{service.port}", protocol=OWN) as raw:
            await raw.start()
            await raw.socket.send(raw.session.reach(lsn))
            assert (await raw.closed())[0] == 1007


async def test_what_cannot_be_waited_for_is_said(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        async with a.transaction() as tx:
            await tx.execute(INSERT, (1,))
            for asking in (tx.durable("server"), a.durable("server", 1)):
                with pytest.raises(UsageError):
                    await asking
        assert tx.id is not None
        with pytest.raises(UsageError, match="levels are device, server, everyone"):
            await tx.durable("moon")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="no transaction"):
            await a.durable("server", tx.id + 10**12)
        with pytest.raises(UsageError, match="no transaction"):
            await a.durable("device", tx.id + 10**12)
        async with a.transaction() as nothing:
            pass
        assert nothing.id is None
        await nothing.durable("everyone")
        await confirmed(a)
        await a.disconnect()
        waiting = asyncio.create_task(a.durable("server", await written(a, 2)))
        others = asyncio.create_task(a.durable("everyone", tx.id))
        await unsettled(waiting)
    for task in (waiting, others):
        with pytest.raises(UsageError, match="closed"):
            await task
