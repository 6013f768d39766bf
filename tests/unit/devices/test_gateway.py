"""The front desk: every socket gets a device or is closed, a client id belongs to its newest connection."""

from __future__ import annotations

import asyncio

from tests.tokens import insecure_token
from tests.unit.devices.edge_scene import AnsweringBundler, EdgeScene, FakeConnection

from syncline.actors.devices.claims import Claims, ReadConnected
from syncline.actors.devices.following import AwaitShards
from syncline.actors.devices.gateway import Gateway, Lobby, welcome
from syncline.actors.devices.reception import Claim, Evict
from syncline.actors.names import DEVICES, GATEWAY
from syncline.cluster import ChildSpec, Context, DynamicSupervisor, Ref
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.supervisor import WhichChildren
from syncline.cluster.testing import Probe, crash, probe, spawn
from syncline.proto import events


async def open_edge() -> tuple[EdgeScene, LocalRef]:
    scene = await EdgeScene().start(gateway=False)
    return scene, await spawn(Gateway(scene.around), scene.context, name=GATEWAY)  # type: ignore[arg-type]


def arrives(scene: EdgeScene) -> tuple[FakeConnection, Lobby]:
    connection = FakeConnection()
    return connection, welcome(scene.context.registry.ref(GATEWAY), connection)  # type: ignore[arg-type]


async def authenticates(connection: FakeConnection, lobby: Lobby, client_id: str) -> None:
    lobby.frame(connection.client.authenticate(client_id, insecure_token("user")))
    await connection.expect(events.Authenticated)


async def test_a_frame_that_comes_before_the_device_is_handed_on_to_it() -> None:
    scene, gateway = await open_edge()
    connection, lobby = arrives(scene)
    await authenticates(connection, lobby, "me")
    assert await gateway.call(ReadConnected()) == 1


async def test_a_socket_that_ends_before_its_device_is_there_leaves_nothing_behind() -> None:
    scene, gateway = await open_edge()
    _, lobby = arrives(scene)
    lobby.closed(1006, "gone")
    await gateway.call(ReadConnected())
    devices = scene.context.registry.ref(DEVICES)
    async with asyncio.timeout(5):
        while await devices.call(WhichChildren()):
            assert gateway.alive


async def test_the_newest_connection_of_a_client_evicts_the_older_however_quickly_they_come() -> None:
    scene, gateway = await open_edge()
    sockets = []
    for _ in range(3):
        connection, lobby = arrives(scene)
        await authenticates(connection, lobby, "me")
        sockets.append(connection)
    for older in sockets[:-1]:
        assert (await older.ended())[0] == 4001
    assert await gateway.call(ReadConnected()) == 1
    assert sockets[-1].closed is None


async def test_an_older_device_without_room_hears_of_its_eviction_all_the_same() -> None:
    _, gateway = await open_edge()
    older = Probe()
    ref = await spawn(older, Context(), mailbox_capacity=1)
    while ref.cast("busy"):
        pass
    newer = await probe()
    await gateway.call(Claim("me", ref, "here"))
    await gateway.call(Claim("me", newer.ref, "there"))
    while not isinstance(await older.next(), Evict):
        pass


async def test_a_device_that_claims_again_is_not_evicted_and_one_that_has_ended_is_forgotten() -> None:
    _, gateway = await open_edge()
    device = await probe()
    await gateway.call(Claim("me", device.ref, "here"))
    await gateway.call(Claim("me", device.ref, "here"))
    assert not device.received
    device.ref.stop()
    await device.ref.join()
    assert await gateway.call(ReadConnected()) == 0


async def test_a_gateway_that_starts_again_takes_sockets_although_devices_of_the_earlier_one_are_there() -> None:
    scene, first = await open_edge()
    waiting, lobby = arrives(scene)
    await waiting.read()
    crash(first)
    await first.join()
    second = await spawn(Gateway(scene.around), scene.context, name=GATEWAY)  # type: ignore[arg-type]
    connection, new_lobby = arrives(scene)
    await authenticates(connection, new_lobby, "me")
    assert second.alive
    await authenticates(waiting, lobby, "another")
    assert await second.call(ReadConnected()) == 2


async def test_a_gateway_that_ends_ends_the_devices_it_knew() -> None:
    scene, gateway = await open_edge()
    connection, lobby = arrives(scene)
    await authenticates(connection, lobby, "me")
    crash(gateway)
    await connection.ended()


async def test_a_socket_in_the_mailbox_of_a_gateway_that_ends_is_closed() -> None:
    scene, gateway = await open_edge()
    connection, _ = arrives(scene)
    crash(gateway)  # before it has come to the new socket
    assert (await connection.ended())[0] == 1013


class HesitantDevices(DynamicSupervisor):
    """Starts devices, and does not say so. ``started``: one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()

    async def start_child(self, spec: ChildSpec) -> Ref:
        await super().start_child(spec)
        self.started.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


async def hesitant_devices(scene: EdgeScene) -> HesitantDevices:
    usual = scene.context.registry.ref(DEVICES)
    usual.stop()
    await usual.join()
    devices = HesitantDevices()
    await spawn(devices, scene.context, name=DEVICES)
    return devices


async def test_a_claim_is_answered_while_other_sockets_wait_for_their_devices() -> None:
    scene, gateway = await open_edge()
    await hesitant_devices(scene)
    for _ in range(3):
        arrives(scene)
    device = await probe()
    await gateway.call(Claim("me", device.ref, "here"))
    assert await gateway.call(ReadConnected()) == 1


async def test_a_gateway_that_ends_before_a_device_was_handed_its_socket_leaves_neither_behind() -> None:
    scene, gateway = await open_edge()
    devices = await hesitant_devices(scene)
    connection, _ = arrives(scene)
    async with asyncio.timeout(5):
        await devices.started.wait()
        crash(gateway)
        await connection.over.wait()
        while await devices.ref.call(WhichChildren()):
            assert devices.ref.alive
    assert connection.closed == (1013, "restarting")


async def test_without_a_gateway_a_socket_is_closed_at_once() -> None:
    scene = await EdgeScene().start(gateway=False)
    connection, _ = arrives(scene)
    assert connection.closed is not None
    assert connection.closed[0] == 1013


async def test_a_socket_for_which_no_device_can_be_started_is_closed_and_the_next_one_served() -> None:
    scene, gateway = await open_edge()
    devices = scene.context.registry.lookup(DEVICES)
    assert isinstance(devices, LocalRef)
    devices._cell.actor._children_max = 0  # type: ignore[attr-defined]
    connection, _ = arrives(scene)
    assert (await connection.ended())[0] == 1013
    devices._cell.actor._children_max = 1  # type: ignore[attr-defined]
    later, lobby = arrives(scene)
    await authenticates(later, lobby, "me")
    assert gateway.alive


async def test_a_client_that_comes_through_another_edge_evicts_its_older_device() -> None:
    context = Context()
    claims = await spawn(Claims(), context)
    scenes = [await EdgeScene().start(gateway=False) for _ in range(2)]
    for scene in scenes:
        await spawn(Gateway(scene.around, claims), scene.context, name=GATEWAY)  # type: ignore[arg-type]
    (older, lobby), (newer, new_lobby) = (arrives(scene) for scene in scenes)
    await authenticates(older, lobby, "me")
    await authenticates(newer, new_lobby, "me")
    assert (await older.ended())[0] == 4001
    assert newer.closed is None
    async with asyncio.timeout(5):
        while await claims.call(ReadConnected()) != 1:
            assert claims.alive


class Attaching(AnsweringBundler):
    """Its shards come when ``reply`` is set."""

    async def handle_call(self, message: object) -> object:
        self.reply = self.defer()
        self._keep(message)
        return self.reply


async def test_a_socket_that_comes_while_a_shard_is_away_gets_its_device_when_that_is_back() -> None:
    scene = EdgeScene()
    scene.bundler = bundler = Attaching(scene)
    await scene.start(gateway=False)
    await spawn(Gateway(scene.around), scene.context, name=GATEWAY)  # type: ignore[arg-type]
    connection, lobby = arrives(scene)
    assert isinstance(await bundler.next(), AwaitShards)
    assert not await scene.context.registry.ref(DEVICES).call(WhichChildren())
    bundler.reply.set(None)
    await authenticates(connection, lobby, "me")
