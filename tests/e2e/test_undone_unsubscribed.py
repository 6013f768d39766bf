"""A write that is refused is undone on its device, also where that is subscribed to nothing, or to other tables."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.integration.tree_scene import Tree, running, until
from tests.npm.rig import devices, eventually
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import open_db
from syncline.proto import codec, events, server_session
from syncline.proto.assembly import TransactionLimits
from syncline.proto.values import Column, Gone, Insert, Relation, Transaction, Update

# Devices are told of no CHECK that asks for the time: Postgres alone judges.
SQL = """
    CREATE TABLE numbers (id int4 PRIMARY KEY, n int4 NOT NULL CHECK (n >= 0 OR now() IS NULL));
    CREATE TABLE others (id int4 PRIMARY KEY)
"""
TABLES = ("numbers", "others")
RELATION = Relation(0, "public", "numbers", (Column("id", "INTEGER"), Column("n", "INTEGER")))
REFUSED = {
    "what Postgres refuses": "INSERT INTO numbers VALUES (2, 2), (3, 3), (4, -4)",
    "too many operations": "INSERT INTO numbers VALUES (2, 2), (3, 3), (4, 4)",
}


async def refusals(tree: Tree) -> int:
    count: int = await tree.postgres.fetchval("SELECT count(*) FROM electric.rejections")
    return count


@pytest.mark.parametrize("subscribed", [None, "others", "numbers"])
@pytest.mark.parametrize("why", REFUSED)
async def test_a_device_of_ours_undoes_it_whatever_it_is_subscribed_to(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, subscribed: str | None
) -> None:
    if why == "too many operations":
        monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1)")
        async with open_db(tmp_path / "device.db", tree.url.replace("http", "ws")) as db:
            await db.connect(insecure_token("ann"))
            if subscribed is None:
                await (await db.sync("others")).unsubscribe()  # the tables are made when the device has started
            else:
                await (await db.sync(subscribed)).synced()
            await db.execute(REFUSED[why])

            async def undone() -> bool:
                rows = [row["id"] for row in await db.sql("SELECT id FROM numbers ORDER BY id")]
                kept = [1] if subscribed == "numbers" else []
                return rows == kept and not db.status.pending_writes and await refusals(tree) == 1

            await until(undone)


@pytest.mark.parametrize("subscribed", [None, "others", "numbers"])
@pytest.mark.parametrize("why", REFUSED)
async def test_the_published_client_undoes_it_whatever_it_is_subscribed_to(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, subscribed: str | None
) -> None:
    if why == "too many operations":
        monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    async with (
        running(database, tmp_path, SQL, TABLES) as tree,
        devices(tmp_path, tree.url, "ann") as [ann],
    ):
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1)")
        if subscribed is not None:
            await ann.sync(subscribed)
        await ann.execute((REFUSED[why],))

        async def undone() -> bool:
            kept = {1} if subscribed == "numbers" else set()
            return (await ann.dump("numbers")).keys() == kept and not await ann.pending() and await refusals(tree) == 1

        await eventually(undone)


async def test_of_a_write_beyond_the_limits_every_row_is_put_right(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1 << 20))
    ms = int(time.time() * 1000)
    write = Transaction(
        ms, b"\x01", tuple(Update(0, (b"%d" % row, b"7"), (b"%d" % row, b"1"), ()) for row in range(1, 6))
    )
    async with running(database, tmp_path, SQL, TABLES) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute("INSERT INTO numbers VALUES (1, 1), (2, 2)")
        await device.start()
        await device.subscribe("numbers")
        for frame in device.session.write(write, {0: RELATION}):
            await device.socket.send(frame)
        echo = (await device.expect(events.TransactionReceived)).transaction
        assert (echo.origin, echo.commit_ms) == (device.client_id, ms)
        assert [change.row for change in echo.changes if isinstance(change, Update)] == [(b"1", b"1"), (b"2", b"2")]
        gone = [change.row for change in echo.changes if isinstance(change, Gone)]
        assert gone == [(b"3", None), (b"4", None), (b"5", None)]
        small = codec.encode_begin(ms + 1, b"\x02", None, None), codec.encode_ops([Insert(0, (b"9", b"9"))])
        await device.socket.send(codec.oplog_message(*small, codec.encode_commit(0, b"")))
        assert (await device.expect(events.TransactionReceived)).transaction.commit_ms == ms + 1
