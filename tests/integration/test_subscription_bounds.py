"""What a device may ask us to keep for it is bounded."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from tests.integration.tree_scene import Tree, running, until
from tests.rawdevice import RawDevice

from syncline.proto import events
from syncline.proto.values import ShapeRequest


async def ask(device: RawDevice, shapes: int = 1) -> str:
    """Sends a subscription to as many shapes; its id."""
    subscription = str(uuid.uuid4())
    requests = [ShapeRequest(str(uuid.uuid4()), "items") for _ in range(shapes)]
    await device.socket.send(device.session.subscribe(subscription, requests))
    return subscription


async def kept(tree: Tree, device: RawDevice) -> dict[str, str]:
    """The device's subscriptions with their states."""
    return dict(
        await tree.postgres.fetch(
            "SELECT subscription_id, state FROM electric.subscriptions WHERE client_id = $1", device.client_id
        )
    )


async def test_a_device_has_so_many_subscriptions_and_not_one_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.devices.subscriptions.SUBSCRIPTIONS_MAX", 2)
    async with running(database, tmp_path) as tree, RawDevice.connected(tree.url) as device:
        await tree.insert(3)
        await device.start()
        first, second = await device.subscribe("items"), await device.subscribe("items")
        third = await ask(device)
        refused = await device.expect(events.SubscribeRefused)
        assert (refused.subscription_id, refused.code) == (third, "CODE_UNSPECIFIED")
        assert refused.message == "a device has at most 2 subscriptions: end some"
        assert (await kept(tree, device)).keys() == {first, second}
        await device.socket.send(device.session.unsubscribe([first]))
        await device.expect(events.GonesEnded)
        await device.subscribe("items")


async def test_a_device_has_so_many_shapes(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.subscriptions.SHAPES_MAX", 5)
    async with running(database, tmp_path) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        await ask(device, 3)
        await device.expect(events.ShapeDataEnded)
        await ask(device, 3)
        assert "at most 5 shapes" in (await device.expect(events.SubscribeRefused)).message
        await ask(device, 2)
        await device.expect(events.ShapeDataEnded)


async def test_of_ended_subscriptions_only_the_latest_are_remembered(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.database.CANCELLED_MAX", 2)
    async with running(database, tmp_path) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        stays = await device.subscribe("items")
        ended = [await device.subscribe("items") for _ in range(4)]
        for subscription in ended:
            await device.socket.send(device.session.unsubscribe([subscription]))
            await device.expect(events.GonesEnded)

        async def bounded() -> bool:
            return await kept(tree, device) == {stays: "active", **dict.fromkeys(ended[2:], "cancelled")}

        await until(bounded)


async def test_what_a_device_resumes_without_is_forgotten(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path) as tree:
        async with RawDevice.connected(tree.url) as device, RawDevice.connected(tree.url) as other:
            for each in (device, other):
                await each.start()
                stays, ends = await each.subscribe("items"), await each.subscribe("items")
                await each.socket.send(each.session.unsubscribe([ends]))
                await each.expect(events.GonesEnded)
            others = await kept(tree, other)
            assert sorted(others.values()) == ["active", "cancelled"]
            (stays,) = [id for id, state in (await kept(tree, device)).items() if state == "active"]
            lost = await ask(device)  # the connection ends before it has come
            await device.expect(events.Subscribed)
            assert (await kept(tree, device))[lost] == "active"
        async with RawDevice.connected(tree.url, client_id=device.client_id) as again:
            await again.start(device.lsn, (stays,))
            assert await kept(tree, again) == {stays: "active"}
        assert await kept(tree, other) == others
