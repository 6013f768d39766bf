"""Two live devices with one client id: both are told of each other, instead of taking turns for ever."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.tree_scene import running
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.actors.devices.contests import DISPLACED_MAX
from syncline.proto import events


def vitals(url: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/api/status", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request) as response:
        found = json.loads(response.read())
    assert isinstance(found, dict)
    return found


async def test_two_that_take_the_place_of_one_another_are_told_of_each_other(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(database, tmp_path) as tree, AsyncExitStack() as stack:

        async def comes() -> RawDevice:
            return await stack.enter_async_context(RawDevice.connected(tree.url, client_id="me"))

        older = await comes()
        for _ in range(DISPLACED_MAX - 1):
            newer = await comes()
            assert (await older.closed())[0] == 4001
            older = newer
        newest = await stack.enter_async_context(RawDevice.connected(tree.url, client_id="me", token=""))
        await newest.socket.send(newest.session.authenticate("me", insecure_token("user")))
        for device in (older, newest):
            told = await device.expect(events.PeerFailed)
            assert told.code == "INVALID_REQUEST"
            for one in (older, newest):
                host, port, *_ = one.socket.local_address
                assert f"{host}:{port}" in told.message
            await device.closed()
        assert (await asyncio.to_thread(vitals, tree.url))["devices_contested"] == ["me"]
        found = [record for record in caplog.records if "in use twice, from" in record.getMessage()]
        assert [record.levelname for record in found] == ["WARNING"]


async def test_one_whose_older_connections_are_dead_is_not_in_its_own_way(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path) as tree, AsyncExitStack() as stack:
        for _ in range(2 * DISPLACED_MAX):
            dead = await stack.enter_async_context(RawDevice.connected(tree.url, client_id="me"))
            dead.socket.transport.pause_reading()  # nor does it answer any more; nobody is told
            stack.callback(dead.socket.transport.abort)
        async with RawDevice.connected(tree.url, client_id="me") as newest:
            await newest.start()
