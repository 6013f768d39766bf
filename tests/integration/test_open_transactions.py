"""Devices that begin large transactions and do not commit them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import websockets
from tests.integration.tree_scene import Tree, running, until
from tests.rawdevice import RawDevice

from syncline.proto import codec, holding, server_session
from syncline.proto.assembly import TransactionLimits
from syncline.proto.values import Column, Insert, Relation

COLUMNS = 100
WIDE = f"CREATE TABLE wide (c0 int4 PRIMARY KEY, {', '.join(f'c{n} text' for n in range(1, COLUMNS))})"
RELATION = Relation(0, "public", "wide", tuple(Column(f"c{n}", "TEXT") for n in range(COLUMNS)))


async def begin(device: RawDevice, ids: range) -> None:
    """A transaction that is not committed, of rows that are mostly NULL: about 1,000 bytes of memory each."""
    await device.start()
    await device.socket.send(codec.relation_message(RELATION))
    await device.socket.send(codec.oplog_message(codec.encode_begin(int(time.time() * 1000), b"\x01", None, None)))
    await add(device, ids)


async def add(device: RawDevice, ids: range) -> None:
    await device.socket.send(
        codec.oplog_message(codec.encode_ops([Insert(0, (b"%d" % id, *[None] * (COLUMNS - 1))) for id in ids]))
    )


async def commit(device: RawDevice) -> None:
    await device.socket.send(codec.oplog_message(codec.encode_commit(0, b"")))


async def rows(tree: Tree) -> int:
    count: int = await tree.postgres.fetchval("SELECT count(*) FROM wide")
    return count


async def test_the_largest_has_to_come_again_when_all_take_too_much_and_the_others_are_applied(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "OPEN_BYTES_MAX", 1_000_000)
    async with running(database, tmp_path, WIDE, ("wide",)) as tree, contextlib.AsyncExitStack() as devices:
        large, *small = [await devices.enter_async_context(RawDevice.connected(tree.url)) for _ in range(4)]
        await begin(large, range(600))
        for number, device in enumerate(small):
            await begin(device, range(1000 * number, 1000 * number + 250))
        assert (await large.closed())[0] == 1013
        for device in small:
            await commit(device)

        async def applied() -> bool:
            return await rows(tree) == 750

        await until(applied)
        again = await devices.enter_async_context(RawDevice.connected(tree.url, client_id=large.client_id))
        await begin(again, range(10_000, 10_600))
        await commit(again)

        async def applied_too() -> bool:
            return await rows(tree) == 1350

        await until(applied_too)


async def test_a_connection_that_ends_gives_back_what_its_transaction_took(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "OPEN_BYTES_MAX", 1_000_000)
    async with running(database, tmp_path, WIDE, ("wide",)) as tree:
        for _ in range(3):
            async with RawDevice.connected(tree.url) as device:
                await begin(device, range(600))
                await device.subscribe("wide")  # so that it was read

        async def comes_in() -> bool:
            """The service may still be about to notice that another has left, and then turns this one away."""
            async with RawDevice.connected(tree.url) as device:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await begin(device, range(900))
                    await commit(device)

                async def decided() -> bool:
                    return device.socket.close_code is not None or await rows(tree) == 900

                await until(decided)
            return await rows(tree) == 900

        await until(comes_in)


async def test_one_of_too_many_nulls_is_refused_in_its_place(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = TransactionLimits(ops_max=500_000, bytes_max=128 << 20, memory_max=500_000)
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", limits)
    async with running(database, tmp_path, WIDE, ("wide",)) as tree, RawDevice.connected(tree.url) as device:
        await begin(device, range(300))
        await add(device, range(300, 600))
        await commit(device)

        async def refused() -> bool:
            query = "SELECT sqlstate FROM electric.rejections WHERE client_id = $1 AND message LIKE '%bytes of memory'"
            return bool(await tree.postgres.fetchval(query, device.client_id) == "54000")

        await until(refused)
        assert await rows(tree) == 0
