"""A transaction larger than the service takes is undone on its device and holds up nobody, not even its author."""

from __future__ import annotations

import time
from pathlib import Path

import asyncpg
import pytest
from tests.integration.tree_scene import running, until
from tests.npm.rig import devices, eventually
from tests.npm.service import serving
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import open_db
from syncline.proto import codec, events, server_session
from syncline.proto.assembly import TransactionLimits
from syncline.proto.values import Column, Gone, Insert, Relation, Transaction, Update

# Devices are told of no CHECK that asks for the time: Postgres alone judges.
NUMBERS = "CREATE TABLE numbers (id int4 PRIMARY KEY, n int4 NOT NULL CHECK (n >= 0 OR now() IS NULL))"
RELATION = Relation(0, "public", "numbers", (Column("id", "INTEGER"), Column("n", "INTEGER")))
# Parts of the service that count, made small where a test would need a minute to fill them.
SMALL_HEALED = "syncline.actors.devices.healing.KEYS_MAX"
SMALL_REMEMBERED = "syncline.actors.devices.uplink.ECHO_BYTES_MAX"


def many(rows: range, n: bytes = b"1") -> bytes:
    return codec.encode_ops([Insert(0, (b"%d" % row, n)) for row in rows])


async def rejections(postgres: asyncpg.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in await postgres.fetch("SELECT sqlstate, ops::text FROM electric.rejections")]


async def test_more_operations_than_the_service_takes_are_refused_in_their_place(database: str, tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    async with (
        serving(database, tmp_path, sql=NUMBERS, electrified=("numbers",)) as (service, postgres),
        RawDevice.connected(service.url) as device,
    ):
        await device.start()
        await device.subscribe("numbers")
        size = server_session.TRANSACTION_LIMITS.ops_max + 1
        await device.socket.send(codec.relation_message(RELATION))
        await device.socket.send(codec.oplog_message(codec.encode_begin(now_ms, b"\x01", None, None)))
        for start in range(0, size, 20_000):
            await device.socket.send(codec.oplog_message(many(range(start, min(size, start + 20_000)))))
        await device.socket.send(codec.oplog_message(codec.encode_commit(now_ms, b"\x01")))
        small = codec.encode_begin(now_ms + 1, b"\x02", None, None), many(range(7, 8)), codec.encode_commit(0, b"")
        await device.socket.send(codec.oplog_message(*small))
        while True:
            # Half a million operations take a dozen seconds, on a machine that does nothing else.
            echo = (await device.expect(events.TransactionReceived, 5 * PATIENCE_S)).transaction
            if (echo.origin, echo.commit_ms) == (device.client_id, now_ms):
                break
        undone = {change.row[0] for change in echo.changes if isinstance(change, Gone)}
        assert undone | {b"7"} == {b"%d" % row for row in range(size)}
        await until_applied(postgres, 1)
        assert await rejections(postgres) == [("54000", "[]")]

        async def has_the_small_one() -> bool:
            return [set(rows) for rows in device.rows.values()] == [{b"7"}]

        await until(has_the_small_one)
        assert device.socket.close_code is None


async def test_a_refused_write_of_which_too_much_would_be_remembered_has_its_device_start_over(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = int(time.time() * 1000)
    monkeypatch.setattr(SMALL_REMEMBERED, 300)
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    async with (
        running(database, tmp_path, NUMBERS, ("numbers",)) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await device.start()
        subscription = await device.subscribe("numbers")
        await device.socket.send(codec.relation_message(RELATION))
        large = codec.encode_begin(now_ms, b"\x01", None, None), many(range(10)), codec.encode_commit(now_ms, b"\x01")
        await device.socket.send(codec.oplog_message(*large))
        echo = (await device.expect(events.TransactionReceived)).transaction
        assert (echo.origin, echo.commit_ms, echo.changes) == (device.client_id, now_ms, ())
        assert (await device.closed())[0] == 1013
        async with RawDevice.connected(tree.url, client_id=device.client_id) as again:
            await again.socket.send(again.session.start(device.lsn, [subscription], None, "sqlite"))
            assert (await again.expect(events.StreamRefused)).code == "SUBSCRIPTION_NOT_FOUND"


async def until_applied(postgres: asyncpg.Connection, rows: int) -> None:
    async def applied() -> bool:
        return bool(await postgres.fetchval("SELECT count(*) = $1 FROM numbers", rows))

    await until(applied)


@pytest.mark.parametrize(
    "beyond", ["the rows that are read at once", "the operations of a transaction", "the rows that are remembered"]
)
async def test_a_device_of_ours_has_what_postgres_has_after_a_large_write_was_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: str
) -> None:
    if beyond == "the rows that are read at once":
        monkeypatch.setattr(SMALL_HEALED, 2)
    else:
        monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    if beyond == "the rows that are remembered":
        monkeypatch.setattr(SMALL_REMEMBERED, 300)
    async with running(database, tmp_path, NUMBERS, ("numbers",)) as tree:
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1)")
        async with open_db(tmp_path / "device.db", tree.url.replace("http", "ws")) as db:
            await db.connect(insecure_token("ann"))
            await (await db.sync("numbers")).synced()
            async with db.transaction() as tx:
                await tx.execute("UPDATE numbers SET n = 2 WHERE id = 1")
                await tx.execute("INSERT INTO numbers VALUES (2, 2)")
                await tx.execute("INSERT INTO numbers VALUES (3, -3)")
            await db.execute("INSERT INTO numbers VALUES (4, 4)")

            async def agree() -> bool:
                here = [tuple(row) for row in await db.sql("SELECT id, n FROM numbers ORDER BY id")]
                there = [tuple(row) for row in await tree.postgres.fetch("SELECT id, n FROM numbers ORDER BY id")]
                return here == there == [(1, 1), (4, 4)] and not db.status.pending_writes

            await until(agree)


async def test_a_write_that_was_applied_and_comes_again_brings_all_its_rows_as_they_are(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SMALL_HEALED, 2)
    ms = int(time.time() * 1000)
    write = Transaction(ms, b"\x01", tuple(Insert(0, (b"%d" % row, b"1")) for row in range(1, 6)))
    async with running(database, tmp_path, NUMBERS, ("numbers",)) as tree:
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            subscription = await device.subscribe("numbers")
            for frame in device.session.write(write, {0: RELATION}):
                await device.socket.send(frame)
            await device.expect(events.TransactionReceived)
            await tree.postgres.execute("UPDATE numbers SET n = 9 WHERE id = 4; DELETE FROM numbers WHERE id = 5")
            await device.expect(events.TransactionReceived)
        async with RawDevice.connected(tree.url, client_id=device.client_id) as again:
            await again.socket.send(again.session.start(device.lsn, [subscription], None, "sqlite"))
            await again.expect(events.StreamStarted)
            for frame in again.session.write(write, {0: RELATION}):
                await again.socket.send(frame)
            while True:
                echo = (await again.expect(events.TransactionReceived)).transaction
                if echo.commit_ms == ms:
                    break
        values = [change.row for change in echo.changes if isinstance(change, Update)]
        assert values == [(b"1", b"1"), (b"2", b"1"), (b"3", b"1"), (b"4", b"9")]
        assert [change.row for change in echo.changes if isinstance(change, Gone)] == [(b"5", None)]


async def test_the_published_client_is_told_to_begin_anew_after_a_large_write_was_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SMALL_REMEMBERED, 300)
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    async with (
        running(database, tmp_path, NUMBERS, ("numbers",)) as tree,
        devices(tmp_path, tree.url, "ann") as [ann],
    ):
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1)")
        await ann.sync("numbers")
        await ann.execute(("INSERT INTO numbers VALUES (2, 2), (3, 3), (4, 4)",))

        async def emptied() -> bool:
            return bool(await rejections(tree.postgres)) and not await ann.dump("numbers")

        await eventually(emptied)
        await ann.sync("numbers")
        await ann.execute(("INSERT INTO numbers VALUES (5, 5)",))

        async def agree() -> bool:
            there = await tree.postgres.fetch("SELECT id, n FROM numbers ORDER BY id")
            return [tuple(row) for row in there] == [(1, 1), (5, 5)] and len(await ann.dump("numbers")) == 2

        await eventually(agree)


async def test_the_published_client_has_what_postgres_has_after_a_write_of_more_rows_than_are_read_at_once_was_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SMALL_HEALED, 2)
    async with (
        running(database, tmp_path, NUMBERS, ("numbers",)) as tree,
        devices(tmp_path, tree.url, "ann") as [ann],
    ):
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1), (2, 2), (3, 3)")
        await ann.sync("numbers")
        await ann.execute(("UPDATE numbers SET n = n - 2",), ("INSERT INTO numbers VALUES (4, 4), (5, 5)",))

        async def agree() -> bool:
            here = await ann.query("SELECT id, n FROM numbers ORDER BY id")
            healed = [(row["id"], row["n"]) for row in here] == [(1, 1), (2, 2), (3, 3)]
            return healed and bool(await rejections(tree.postgres))

        await eventually(agree)
