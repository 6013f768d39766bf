"""The front desk of an edge whose devices live on hosts of their own: every new socket gets a seat there, or none.

An edge does not know what other edges have taken: a host itself refuses a second device. So seats are asked for, one
after another, but for those which this edge has given away. Where all are taken a socket waits a little, and is turned
away then.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Final

from syncline.actors.devices.claims import ReadConnected
from syncline.actors.devices.edge import LEAVING
from syncline.actors.devices.forwarding import BytesLeft, Close, FrameTaken, Sent, TakeSeat
from syncline.actors.devices.framing import SERVICE_RESTART
from syncline.actors.devices.gateway import Lobby
from syncline.actors.devices.reception import ConnectionClosed, FrameArrived, FramesWaiting
from syncline.actors.devices.websocket import Connection
from syncline.actors.names import DEVICES
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
)
from syncline.cluster.placement import ranked

log = logging.getLogger(__name__)

TAKE_TIMEOUT_S: Final = 5.0  # a host that was killed is known to be down by then
SEAT_WITHIN_S: Final = 3.0  # the devices that leave when others come are gone by then
SEAT_RETRY_S: Final = 0.1


class Relay(Actor):
    """Stands for the device of ``connection``, which is elsewhere: passes on what comes, either way.

    It lives until both the socket and the device have ended.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._line: Ref | None = None
        self._line_ended = False
        self._socket_ended = False
        self._waiting = FramesWaiting()
        self._unreported = 0  # bytes that the socket had no room for

    def serve(self, line: Ref) -> None:
        """There is a device now."""
        self._line = line
        self.monitor(line)

    async def terminate(self, reason: Exit) -> None:
        if self._line is not None:
            self._connection.close(SERVICE_RESTART, LEAVING)

    # --- what the socket calls ----------------------------------------------------------------------------------------

    def frame(self, data: bytes) -> bool:
        self._waiting.taken(len(data))
        self._tell(FrameArrived(data))
        return not self._waiting.full

    def drained(self) -> None:
        self._tell(BytesLeft(self._unreported))
        self._unreported = 0

    def closed(self, code: int, reason: str) -> None:
        self._socket_ended = True
        self._tell(ConnectionClosed(code, reason))
        self._end_if_over()

    # --- what the device's host says ----------------------------------------------------------------------------------

    async def handle_info(self, message: object) -> None:
        match message:
            case FrameTaken(size):
                self._waiting.handled(size)
                if not self._waiting.full:
                    self._connection.resume_reading()
            case Sent(messages):
                self._unreported += sum(map(len, messages))
                if self._connection.send(messages):
                    self.drained()
            case Close(code, reason):
                self._connection.close(code, reason)
            case Down():
                self._connection.close(SERVICE_RESTART, LEAVING)  # unless the device has closed it
                self._line_ended = True
                self._end_if_over()
            case _:
                pass

    def _tell(self, message: object) -> None:
        assert self._line is not None, "it stands for a device"
        self._line.inform(message)

    def _end_if_over(self) -> None:
        if self._socket_ended and self._line_ended:
            self.stop()


class Forwarder(Actor):
    """The gateway of such an edge. ``seats``: host -> who takes a device there."""

    def __init__(self, seats: Mapping[str, Ref]) -> None:
        self._seats = dict(seats)
        self._given: dict[str, Ref | None] = {}  # seat -> the relay of who has it; None while it is asked for
        self._full = False

    async def init(self) -> None:
        self._devices = self.context.registry.ref(DEVICES)
        self._order = list(ranked(self.context.host_id, self._seats))  # several edges begin with different ones

    async def handle_info(self, message: object) -> None:
        match message:
            case Lobby():
                self.background(self._open(message))
            case Down(ref=ref):
                self._given = {seat: relay for seat, relay in self._given.items() if relay != ref}
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadConnected():
                return len(self._given)
            case _:
                raise TypeError(f"the forwarder does not understand {message!r}")

    async def _open(self, lobby: Lobby) -> None:
        relay = await self._seated(lobby.connection)
        if relay is not None:
            self._full = False
            lobby.admit(relay)
            return
        if not self._full and lobby.connection.open:  # said once, however many come
            self._full = True
            log.warning("all %d connection hosts are taken: who comes now is turned away", len(self._seats))
        lobby.turn_away("all connection hosts are taken, try again later")

    async def _seated(self, connection: Connection) -> Relay | None:
        """A relay to a device with a seat; None when there was none in time, or the socket has ended meanwhile."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SEAT_WITHIN_S
        while connection.open:
            for seat in tuple(self._order):
                if seat not in self._given and (relay := await self._take(seat, connection)) is not None:
                    return relay
            if loop.time() > until_s:
                break
            await asyncio.sleep(SEAT_RETRY_S)
        return None

    async def _take(self, seat: str, connection: Connection) -> Relay | None:
        """A relay to a device there; None when there cannot be one now."""
        self._given[seat] = None
        relay = Relay(connection)
        spec = ChildSpec(f"relay:{uuid.uuid4().hex}", lambda: relay, restart=Restart.TEMPORARY)
        ref: Ref | None = None
        line: Ref | None = None
        try:
            ref = await start_child(self._devices, spec)
            line = await self._seats[seat].call(TakeSeat(ref, connection.remote, connection.protocol), TAKE_TIMEOUT_S)
        except Refusal:
            return None
        except (ActorDown, CallTimeout):  # others are asked first from now on
            self._order.remove(seat)
            self._order.append(seat)
            return None
        finally:
            if ref is None or line is None:
                del self._given[seat]
                if ref is not None:
                    ref.stop()  # and with it a device that was started for it in spite of all
        self._given[seat] = ref
        self.monitor(ref)
        relay.serve(line)
        return relay
