"""A device whose position is one of another history: it is not resumed, and counts as repaired when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.unit.devices.edge_scene import CATALOG, SUBSCRIPTION, WATERMARK, EdgeScene, OneDevice, written

from syncline.actors.devices.following import OwnPassed, Released
from syncline.actors.postgres.currentrows import CurrentRow
from syncline.actors.postgres.writer import Written
from syncline.proto import events
from syncline.proto.digest import Holdings
from syncline.proto.subprotocols import OWN
from syncline.proto.values import ShapeRequest

POSITION = b"%d" % WATERMARK
NOTHING = Holdings(bytes(16), {})
OF_ITEMS = [(SUBSCRIPTION, [ShapeRequest("33333333-3333-4333-8333-333333333333", "items")])]


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[EdgeScene]:
    scene = await EdgeScene().start()
    scene.database.another_history = True
    yield scene


async def refused(scene: EdgeScene, protocol: str) -> OneDevice:
    """One that has asked to go on at a position that is one of this history, too."""
    device = OneDevice(scene, protocol=protocol)
    await device.authenticate()
    device.say(device.connection.client.start(POSITION, [SUBSCRIPTION]))
    assert (await device.connection.expect(events.StreamRefused)).code == "BEHIND_WINDOW"
    return device


async def test_a_device_of_the_old_line_starts_over_and_then_is_of_this_history(scene: EdgeScene) -> None:
    device = await refused(scene, "electric.0.12")
    assert (await device.connection.ended())[0] == 1007
    await OneDevice.streaming(scene)
    assert not scene.database.another_history


async def test_our_own_is_repaired_and_of_this_history_when_it_acknowledges_that(scene: EdgeScene) -> None:
    device = await refused(scene, OWN)
    assert device.connection.closed is None
    client = device.connection.client
    device.say(client.start(POSITION, [SUBSCRIPTION], holdings=NOTHING, described=OF_ITEMS))
    ended = await device.connection.expect(events.RepairEnded)
    assert set(scene.database.known) == {SUBSCRIPTION}, "which Postgres did not know"
    device.say(client.ack(1, b"%d" % (WATERMARK - 1)))  # of what came before the repair
    await processed(device)
    assert scene.database.another_history
    device.say(client.ack(0, ended.lsn))
    await processed(device)
    assert not scene.database.another_history


@pytest.mark.parametrize("answered", ["before", "after"])
async def test_what_is_carried_out_before_the_place_of_a_repair_comes_back_with_its_rows(
    scene: EdgeScene, answered: str
) -> None:
    device = await refused(scene, OWN)
    scene.released = WATERMARK - 1
    device.say(device.connection.client.start(POSITION, [SUBSCRIPTION], holdings=NOTHING, described=OF_ITEMS))
    await device.connection.expect(events.SendFrom)
    for answer in device.connection.answers:
        device.say(answer)
    write = await written(scene, device)
    row = (b"1", b"by SQL", b"3")
    scene.database.current = [CurrentRow(CATALOG.tables[7], (b"1",), row, ("postgres_1@9", "client@1"))]

    def carried_out() -> None:
        device.ref.cast(Written(write.lsn, write.ms, "applied", WATERMARK + 1))
        device.ref.cast(OwnPassed(WATERMARK, write.ms))

    if answered == "before":
        carried_out()
    generation = scene.bundler.followed[-1].generation
    device.ref.cast(Released(generation, (), WATERMARK))
    await device.connection.expect(events.RepairEnded)
    if answered == "after":
        carried_out()
    device.ref.cast(Released(generation, (), int(scene.database.flushed)))
    echo = (await device.connection.expect(events.TransactionReceived)).transaction
    assert echo.commit_ms == write.ms
    assert [change.row for change in echo.changes] == [row]


async def processed(device: OneDevice) -> None:
    device.say(device.connection.client.unsubscribe([]))
    await device.connection.expect(events.Unsubscribed)
    await asyncio.sleep(0)


async def test_what_a_device_does_not_describe_has_it_start_over(scene: EdgeScene) -> None:
    device = await refused(scene, OWN)
    device.say(device.connection.client.start(POSITION, [SUBSCRIPTION], holdings=NOTHING))
    assert (await device.connection.expect(events.StreamRefused)).code == "SUBSCRIPTION_NOT_FOUND"
    assert (await device.connection.ended())[0] == 1007
