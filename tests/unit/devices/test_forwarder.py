"""A device on a host of its own, its socket with an edge: as if they were together, and neither outlives the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.tokens import insecure_token
from tests.unit.devices.edge_scene import EdgeScene, FakeConnection

from syncline.actors.devices import forwarder
from syncline.actors.devices.claims import ReadConnected
from syncline.actors.devices.device import TRY_AGAIN_LATER, Device
from syncline.actors.devices.forwarder import Forwarder
from syncline.actors.devices.forwarding import TakeSeat
from syncline.actors.devices.framing import SERVICE_RESTART
from syncline.actors.devices.gateway import Lobby, welcome
from syncline.actors.devices.line import Line, Seat
from syncline.actors.devices.reception import FRAMES_WAITING_MAX, Claim
from syncline.actors.devices.websocket import Limits
from syncline.actors.names import DEVICES, GATEWAY
from syncline.cluster import Context, DynamicSupervisor, Refusal
from syncline.cluster.supervisor import WhichChildren
from syncline.cluster.testing import kill, probe, spawn
from syncline.proto import events
from syncline.proto.subprotocols import OLD, OWN

HIGH_WATER = Limits().high_water_bytes


class Seated:
    """An edge, and so many hosts with a seat each."""

    async def start(self, seats: int = 1) -> Seated:
        self.claims = await probe()
        self.hosts = [await EdgeScene().start(gateway=False) for _ in range(seats)]
        for host in self.hosts:
            await spawn(Seat(host.around, self.claims.ref), host.context, name=GATEWAY)
        self.edge = Context("edge-0")
        await spawn(DynamicSupervisor(), self.edge, name=DEVICES, shutdown_s=None)
        refs = {f"connection-{n}": host.context.registry.ref(GATEWAY) for n, host in enumerate(self.hosts)}
        self.forwarder = await spawn(Forwarder(refs), self.edge, name=GATEWAY)
        return self

    def arrives(self, protocol: str = OLD[0]) -> tuple[FakeConnection, Lobby]:
        connection = FakeConnection(protocol)
        return connection, welcome(self.edge.registry.ref(GATEWAY), connection)  # type: ignore[arg-type]

    async def admitted(self, client_id: str = "me") -> tuple[FakeConnection, Lobby]:
        connection, lobby = self.arrives()
        lobby.frame(connection.client.authenticate(client_id, insecure_token("user")))
        await connection.expect(events.Authenticated)
        return connection, lobby

    async def nobody_left(self, context: Context) -> None:
        await until_none(lambda: context.registry.ref(DEVICES).call(WhichChildren()))

    async def line(self) -> Line:
        children = await self.hosts[0].context.registry.ref(DEVICES).call(WhichChildren())
        (found,) = (ref._cell.actor for ref in children.values() if isinstance(ref._cell.actor, Line))
        assert isinstance(found, Line)
        return found

    async def device(self) -> Device:
        children = await self.hosts[0].context.registry.ref(DEVICES).call(WhichChildren())
        (found,) = (ref._cell.actor for ref in children.values() if isinstance(ref._cell.actor, Device))
        assert isinstance(found, Device)
        return found


async def until_none(asked: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(5):
        while True:
            if not await asked():
                return


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def test_a_device_elsewhere_is_admitted_and_its_claim_is_passed_on() -> None:
    scene = await Seated().start()
    await scene.admitted("me")
    claim = await scene.claims.next()
    assert isinstance(claim, Claim)
    assert (claim.client_id, claim.remote) == ("me", FakeConnection.remote)
    assert await scene.forwarder.call(ReadConnected()) == 1


@pytest.mark.parametrize("protocol", [OLD[0], OWN])
async def test_a_device_elsewhere_knows_what_was_agreed(protocol: str) -> None:
    scene = await Seated().start()
    scene.arrives(protocol)
    async with asyncio.timeout(5):
        while not await scene.hosts[0].context.registry.ref(DEVICES).call(WhichChildren()):
            pass
    assert (await scene.line()).protocol == protocol


async def test_a_socket_that_ends_frees_the_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = await Seated().start()
    for _ in range(3):
        _, lobby = await scene.admitted()
        lobby.closed(1006, "gone")
        await scene.nobody_left(scene.hosts[0].context)
        await scene.nobody_left(scene.edge)


async def test_a_device_that_closes_closes_the_socket_with_what_it_said() -> None:
    scene = await Seated().start()
    connection, lobby = await scene.admitted()
    lobby.frame(b"\x00nonsense")
    code, _ = await connection.ended()
    assert code == 1007
    lobby.closed(code, "")
    await scene.nobody_left(scene.edge)
    await scene.nobody_left(scene.hosts[0].context)


async def test_when_all_seats_are_taken_a_socket_is_turned_away_and_one_that_leaves_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = await Seated().start(2)
    sockets = [await scene.admitted(f"device {number}") for number in range(2)]
    monkeypatch.setattr(forwarder, "SEAT_WITHIN_S", 0.0)
    refused, _ = scene.arrives()
    assert await refused.ended() == (TRY_AGAIN_LATER, "all connection hosts are taken, try again later")
    monkeypatch.undo()
    waiting, lobby = scene.arrives()
    lobby.frame(waiting.client.authenticate("device 2", insecure_token("user")))
    sockets[1][1].closed(1000, "")
    await waiting.expect(events.Authenticated)


async def test_a_seat_that_another_edge_has_taken_is_not_given_again() -> None:
    scene = await Seated().start(2)
    other = Context("edge-1")
    await spawn(DynamicSupervisor(), other, name=DEVICES, shutdown_s=None)
    refs = {f"connection-{n}": host.context.registry.ref(GATEWAY) for n, host in enumerate(scene.hosts)}
    await spawn(Forwarder(refs), other, name=GATEWAY)
    await scene.admitted("mine")
    connection = FakeConnection()
    lobby = welcome(other.registry.ref(GATEWAY), connection)  # type: ignore[arg-type]
    lobby.frame(connection.client.authenticate("theirs", insecure_token("user")))
    await connection.expect(events.Authenticated)
    for host in scene.hosts:
        assert len(await host.context.registry.ref(DEVICES).call(WhichChildren())) == 2  # a line and a device


async def test_the_edge_closes_a_socket_whose_device_is_gone() -> None:
    scene = await Seated().start()
    connection, lobby = await scene.admitted()
    line = await scene.line()
    kill(line.ref)
    assert (await connection.ended())[0] == SERVICE_RESTART
    lobby.closed(SERVICE_RESTART, "")
    await scene.nobody_left(scene.edge)
    await scene.nobody_left(scene.hosts[0].context)


async def test_a_device_whose_edge_is_gone_ends() -> None:
    scene = await Seated().start()
    await scene.admitted()
    for ref in (await scene.edge.registry.ref(DEVICES).call(WhichChildren())).values():
        kill(ref)
    await scene.nobody_left(scene.hosts[0].context)


async def test_a_socket_is_not_read_while_too_much_is_on_its_way_to_its_device() -> None:
    scene = await Seated().start()
    connection, lobby = await scene.admitted()
    line = await scene.line()
    line.pause_reading()
    ping = connection.client.start(b"", [], None, "sqlite")
    welcomed = [lobby.frame(ping) for _ in range(FRAMES_WAITING_MAX)]
    assert welcomed == [True] * (FRAMES_WAITING_MAX - 1) + [False]
    await settled(lambda: len(line._frames) == FRAMES_WAITING_MAX)
    connection.reading = False
    line.resume_reading()
    await connection.read()


async def test_a_device_hears_that_its_socket_is_full_and_when_it_has_room_again() -> None:
    scene = await Seated().start()
    connection, lobby = await scene.admitted()
    line, receiver = await scene.line(), Told()
    line._receiver = receiver
    taken: list[bytes] = []
    connection.send = lambda frames: taken.extend(frames) or connection.writable  # type: ignore[assignment, arg-type]
    connection.writable = False
    message = bytes(HIGH_WATER // 4)
    assert [line.send((message,)) for _ in range(5)] == [True, True, True, True, False]
    await settled(lambda: len(taken) == 5)
    assert not receiver.drains
    connection.writable = True
    lobby.drained()
    await settled(lambda: receiver.drains == 1)
    assert line.send((message,))
    await settled(lambda: line._unsent_bytes == 0)


async def test_who_sends_on_into_a_full_socket_is_cut_off() -> None:
    scene = await Seated().start()
    connection, _ = await scene.admitted()
    line = await scene.line()
    line._limits = Limits(unsent_bytes_max=1000)
    connection.send = lambda frames: False  # type: ignore[assignment, misc]
    assert line.send(bytes(600))
    assert not line.send(bytes(600))
    assert not line.open
    assert (await connection.ended())[0] == TRY_AGAIN_LATER


class Told:
    """A receiver that counts."""

    def __init__(self) -> None:
        self.drains = 0

    def frame(self, data: bytes) -> bool:
        return True

    def drained(self) -> None:
        self.drains += 1

    def closed(self, code: int, reason: str) -> None:
        """Nothing to count."""


async def test_a_seat_answers_one_who_asks_while_it_is_taken_with_a_refusal() -> None:
    scene = await Seated().start()
    await scene.admitted()
    stranger = await probe()
    with pytest.raises(Refusal, match="taken"):
        await scene.hosts[0].context.registry.ref(GATEWAY).call(TakeSeat(stranger.ref, "192.0.2.2:1", OLD[0]))
