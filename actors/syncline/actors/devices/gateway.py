"""The edge's front desk: every new socket gets a device, and a client id belongs to one device at a time.

The newest connection of a client wins. An app that wakes up has often lost its old socket without the server knowing;
refusing it until the old one times out is how users were locked out of their own data.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

from syncline.actors.devices.device import Claim, Device, Evict, Surroundings
from syncline.actors.devices.websocket import Connection
from syncline.actors.names import DEVICES
from syncline.cluster import Actor, ChildSpec, Down, Exit, Ref, Restart, start_child

log = logging.getLogger(__name__)

# A device's mailbox: releases pile up here while it waits for Postgres or the disk; they are small, frames are shared.
DEVICE_MAILBOX = 2_000
TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class ReadConnected:
    """Call. Answer: the number of authenticated devices."""


class Lobby:
    """Takes a new socket's callbacks until its device is there; frames wait in the socket meanwhile."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.frames: list[bytes] = []
        self.ended: tuple[int, str] | None = None
        self.device: Device | None = None

    def frame(self, data: bytes) -> bool:
        if self.device is not None:
            return self.device.receiver.frame(data)
        self.frames.append(data)
        return False

    def drained(self) -> None:
        if self.device is not None:
            self.device.receiver.drained()

    def closed(self, code: int, reason: str) -> None:
        if self.device is not None:
            self.device.receiver.closed(code, reason)
        self.ended = (code, reason)


class Gateway(Actor):
    """``around``: what devices need."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._numbers = itertools.count(1)
        self._by_client: dict[str, Ref] = {}

    async def init(self) -> None:
        self._devices = self.context.registry.ref(DEVICES)

    async def terminate(self, reason: Exit) -> None:
        for device in self._by_client.values():
            device.stop()

    async def handle_info(self, message: object) -> None:
        match message:
            case Lobby():
                await self._open(message)
            case Down(ref=ref):
                for client_id in [client_id for client_id, device in self._by_client.items() if device == ref]:
                    del self._by_client[client_id]
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case Claim(client_id, device, remote):
                older = self._by_client.get(client_id)
                if older is not None and older != device:
                    older.inform(Evict(remote))
                self._by_client[client_id] = device
                self.monitor(device)
                return None
            case ReadConnected():
                return len(self._by_client)
            case _:
                raise TypeError(f"the gateway does not understand {message!r}")

    async def _open(self, lobby: Lobby) -> None:
        device = Device(lobby.connection, self._around)
        spec = ChildSpec(
            id=f"device:{next(self._numbers)}",
            start=lambda: device,
            restart=Restart.TEMPORARY,
            mailbox_capacity=DEVICE_MAILBOX,
        )
        await start_child(self._devices, spec)
        lobby.device = device
        for frame in lobby.frames:
            device.receiver.frame(frame)
        if lobby.ended is not None:
            device.receiver.closed(*lobby.ended)
        lobby.connection.resume_reading()


def welcome(gateway: Ref, connection: Connection) -> Lobby:
    """What the edge calls for a new socket: its receiver."""
    lobby = Lobby(connection)
    if gateway.alive:
        gateway.inform(lobby)
    else:
        connection.close(TRY_AGAIN_LATER, "restarting")
    return lobby
