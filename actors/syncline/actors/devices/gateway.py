"""The edge's front desk: every new socket gets a device, and a client id belongs to one device at a time.

The newest connection of a client wins. An app that wakes up has often lost its old socket without the server knowing;
refusing it until the old one times out is how users were locked out of their own data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable

from syncline.actors.devices.claims import Holders, ReadClients, ReadConnected, ReadContested
from syncline.actors.devices.contests import Displaced
from syncline.actors.devices.device import TRY_AGAIN_LATER, Device
from syncline.actors.devices.following import AwaitShards
from syncline.actors.devices.reaching import AskReach, PassOn, Reach, ReachTold
from syncline.actors.devices.reception import Claim, Surroundings
from syncline.actors.devices.turns import Turns
from syncline.actors.devices.websocket import Connection, Receiver
from syncline.actors.names import BUNDLER, DEVICES
from syncline.cluster import (
    Actor,
    ActorDown,
    CallTimeout,
    ChildSpec,
    Down,
    Exit,
    Ref,
    Refusal,
    Restart,
    start_child,
    stop_child,
)

log = logging.getLogger(__name__)

# A device's mailbox: releases pile up here while it waits for Postgres or the disk; they are small, frames are shared.
DEVICE_MAILBOX = 2_000
# Devices started side by side.
OPENING_AT_ONCE = 100
# Who comes while a shard starts again waits so long for it, which is less than most wait for an answer.
SHARDS_S = 4.0


class Lobby:
    """Takes a new socket's callbacks until its device is there; frames wait in the socket meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._frames: list[bytes] = []
        self._ended: tuple[int, str] | None = None
        self._receiver: Receiver | None = None
        self._leave_gateway: Callable[[], None] = lambda: None

    def wait_for(self, gateway: Ref) -> None:
        """Asks ``gateway`` for a device. Should it end before there is one, the socket is closed: nobody would come."""
        if gateway.alive:
            self._leave_gateway = gateway.on_end(lambda _: self.turn_away("restarting"))
            gateway.inform(self)
        else:
            self.turn_away("restarting")

    def admit(self, receiver: Receiver) -> None:
        """Its device is there, and takes over as ``receiver``."""
        self._leave_gateway()
        self._receiver = receiver
        for frame in self._frames:
            receiver.frame(frame)
        self._frames.clear()
        if self._ended is not None:
            receiver.closed(*self._ended)
        self.connection.resume_reading()

    def frame(self, data: bytes) -> bool:
        if self._receiver is not None:
            return self._receiver.frame(data)
        self._frames.append(data)
        return False

    def drained(self) -> None:
        if self._receiver is not None:
            self._receiver.drained()

    def closed(self, code: int, reason: str) -> None:
        self._leave_gateway()
        if self._receiver is not None:
            self._receiver.closed(code, reason)
        self._ended = (code, reason)

    def turn_away(self, reason: str) -> None:
        """No device comes: its client may try again."""
        self.connection.close(TRY_AGAIN_LATER, reason)


class Gateway(Actor):
    """``around``: what devices need. ``claims``: where those of all edges are known, if there are several.

    It waits for nobody: a claim is answered at once, whatever else is going on.
    """

    def __init__(self, around: Surroundings, claims: Ref | None = None) -> None:
        self._around = around
        self._claims = claims
        self._opening = Turns(OPENING_AT_ONCE)
        self._holders = Holders(self.monitor, lambda: self.clock.monotonic_s())
        self._reach = Reach(
            self._holders.by_client.values, lambda: self.ref, lambda delay_s: self.send_after(delay_s, PassOn())
        )

    async def init(self) -> None:
        self._devices = self.context.registry.ref(DEVICES)
        self._bundler = self.context.registry.ref(BUNDLER)

    async def terminate(self, reason: Exit) -> None:
        for device in self._holders.by_client.values():
            device.stop()

    async def handle_info(self, message: object) -> None:
        match message:
            case Lobby():
                self.background(self._open(message))
            case Down(ref=ref):
                self._holders.ended(ref)
                self._reach.ended(ref)
            case AskReach() if self._claims is not None:
                self._claims.inform(message)
            case AskReach():
                self._reach.ask(message)
            case ReachTold():
                self._reach.told(message)
            case Displaced():
                self._holders.displaced(message)
                if self._claims is not None:
                    self._claims.inform(message)
            case PassOn():
                self._reach.pass_on()
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case Claim():
                contested = self._holders.claim(message)
                if contested is None and self._claims is not None:
                    self._claims.inform(message)
                return contested
            case ReadClients():
                return tuple(self._holders.by_client)
            case ReadConnected():
                return len(self._holders.by_client)
            case ReadContested():
                return self._holders.contested
            case _:
                raise TypeError(f"the gateway does not understand {message!r}")

    async def _open(self, lobby: Lobby) -> None:
        device = Device(lobby.connection, self._around)
        spec = ChildSpec(
            id=f"device:{uuid.uuid4().hex}",  # a gateway that starts again finds devices of the earlier one
            start=lambda: device,
            restart=Restart.TEMPORARY,
            mailbox_capacity=DEVICE_MAILBOX,
        )
        try:
            with contextlib.suppress(ActorDown, CallTimeout):
                await self._bundler.call(AwaitShards(), SHARDS_S)
            async with self._opening:
                await start_child(self._devices, spec)
        except asyncio.CancelledError:
            # The gateway ends: nobody would come for the device, which may be there already.
            lobby.turn_away("restarting")
            with contextlib.suppress(Refusal, ActorDown, CallTimeout):
                await stop_child(self._devices, spec.id)
            raise
        except (Refusal, ActorDown, CallTimeout) as error:
            log.warning("no device could be started for %s: %s", lobby.connection.remote, error)
            lobby.turn_away("no device could be started")
            return
        lobby.admit(device.receiver)


def welcome(gateway: Ref, connection: Connection) -> Lobby:
    """What the edge calls for a new socket: its receiver."""
    lobby = Lobby(connection)
    lobby.wait_for(gateway)
    return lobby
