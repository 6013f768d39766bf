"""Well-formed frames with values no device has cost the connection that sent them, and nobody else anything."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
import websockets
from tests.npm.service import serving
from tests.rawdevice import RawDevice

from syncline.proto import codec, events
from syncline.proto.values import Column, Insert, Relation

ITEMS = "CREATE TABLE items (id uuid PRIMARY KEY, n int4, body text)"
RELATION = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))
NOW_MS = int(time.time() * 1000)


def written(lsn: bytes, ms: int, tags: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    """The frames of a device transaction with one row."""
    row = Insert(0, (str(uuid.uuid4()).encode(), b"1", b"x"), tags)
    body = codec.oplog_message(
        codec.encode_begin(ms, lsn, None, None), codec.encode_ops((row,)), codec.encode_commit(0, b"")
    )
    return codec.relation_message(RELATION), body


@pytest.mark.parametrize(
    ("lsn", "ms", "tags"),
    [
        (b"\xff" * 2000, NOW_MS, ()),
        (b"\xff" * 8, NOW_MS, ()),
        (b"\x01", 2**63, ()),
        (b"\x01", NOW_MS, ("a\x00b@1",)),
    ],
    ids=["long position", "position beyond bigint", "time beyond bigint", "tag with U+0000"],
)
async def test_a_write_with_impossible_values_closes_its_connection_and_disturbs_nobody(
    database: str, tmp_path: Path, lsn: bytes, ms: int, tags: tuple[str, ...]
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as bystander,
        RawDevice.connected(service.url) as hostile,
    ):
        for device in (bystander, hostile):
            await device.start()
        for frame in written(lsn, ms, tags):
            await hostile.socket.send(frame)
        assert (await hostile.closed())[0] == 1007
        for frame in written(b"\x01", NOW_MS):
            await bystander.socket.send(frame)
        while (await bystander.expect(events.TransactionReceived)).transaction.origin != bystander.client_id:
            pass  # the schema comes first
        assert await postgres.fetchval("SELECT count(*) FROM items") == 1
        assert "crashed" not in service.log.read_text()


async def test_a_resume_from_an_endless_number_starts_over(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as (service, _), RawDevice.connected(service.url) as device:
        await device.socket.send(device.session.start(b"9" * 5000, [], None, "sqlite"))
        try:
            assert (await device.expect(events.StreamRefused)).code == "BEHIND_WINDOW"
        except websockets.ConnectionClosed:
            assert (await device.closed())[0] == 1007
