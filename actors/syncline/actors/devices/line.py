"""A host with one device: its seat, and the line that stands there for the socket, which is with an edge.

When either end goes, so does the other: a device without its edge ends, as with a socket that broke, and an edge whose
device is gone closes the socket, upon which the app comes back and is given a seat that is free.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Sequence

from syncline.actors.devices.contests import Displaced
from syncline.actors.devices.device import TRY_AGAIN_LATER, UNEXPECTED, Device
from syncline.actors.devices.forwarding import BytesLeft, Close, FrameTaken, Sent, TakeSeat
from syncline.actors.devices.framing import ABNORMAL, NORMAL
from syncline.actors.devices.gateway import DEVICE_MAILBOX
from syncline.actors.devices.reaching import AskReach
from syncline.actors.devices.reception import Claim, ConnectionClosed, FrameArrived, Surroundings
from syncline.actors.devices.websocket import Limits, Receiver
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
    stop_child,
)

log = logging.getLogger(__name__)

# Room is told of when so much of what fills a line has left, as a socket does.
ROOM_SHARE = 4


class Line(Actor):
    """What a device has instead of its ``Connection``, whose manners it has. ``relay``: who has the socket."""

    def __init__(self, relay: Ref, remote: str, protocol: str, limits: Limits | None = None) -> None:
        self.remote = remote
        self.protocol = protocol
        self.closed_by_peer = False  # nobody tells
        self._relay = relay
        self._limits = limits or Limits()
        self._receiver: Receiver | None = None
        self._frames: deque[bytes] = deque()
        self._paused = False
        self._open = True
        self._ended: tuple[int, str] | None = None
        self._unsent_bytes = 0
        self._writable = True

    async def init(self) -> None:
        self.monitor(self._relay)

    async def terminate(self, reason: Exit) -> None:
        self._over(ABNORMAL, "the line ended")

    async def handle_info(self, message: object) -> None:
        match message:
            case FrameArrived(data):
                self._frames.append(data)
                self._pass_on()
            case BytesLeft(count):
                self._left(count)
            case ConnectionClosed(code, reason):
                self._over(code, reason)
            case Down(ref=ref) if ref == self._relay:
                self._over(ABNORMAL, "its edge is gone")
            case Down():
                self.close(UNEXPECTED, "internal error")  # unless the device has closed it
                self.stop()
            case _:
                pass

    def serve(self, device: Device) -> None:
        """It is there: what has come is for it."""
        self._receiver = device.receiver
        self.monitor(device.ref)
        if self._ended is not None:
            device.receiver.closed(*self._ended)
        self._pass_on()

    # --- what a device uses -------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """See ``Connection``; and so for all that follows."""
        return self._open

    def send(self, frame: bytes | Sequence[bytes]) -> bool:
        if not self._open:
            return False
        messages = (frame,) if isinstance(frame, bytes) else tuple(frame)
        self._unsent_bytes += sum(map(len, messages))
        self._relay.inform(Sent(messages))
        if self._unsent_bytes > self._limits.unsent_bytes_max:
            log.warning("%s is cut off: it leaves too much unread", self.remote)
            self.close(TRY_AGAIN_LATER, "too much was left unread")
            return False
        self._writable = self._unsent_bytes <= self._limits.high_water_bytes
        return self._writable

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._pass_on()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        if self._open:
            self._open = False
            self._relay.inform(Close(code, reason))

    # --- what the edge says -------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        while self._frames and self._receiver is not None and self._open and not self._paused:
            data = self._frames.popleft()
            self._paused = not self._receiver.frame(data)
            self._relay.inform(FrameTaken(len(data)))

    def _left(self, count: int) -> None:
        self._unsent_bytes -= count
        if not self._writable and self._unsent_bytes <= self._limits.high_water_bytes // ROOM_SHARE:
            self._writable = True
            if self._receiver is not None and self._open:
                self._receiver.drained()

    def _over(self, code: int, reason: str) -> None:
        self._open = False
        if self._ended is None:
            self._ended = code, reason
            if self._receiver is not None:
                self._receiver.closed(code, reason)


class Seat(Actor):
    """Takes one device at a time, for whichever edge asks first, and is its gateway. ``claims``: where the client ids
    of all devices are known."""

    def __init__(self, around: Surroundings, claims: Ref) -> None:
        self._around = around
        self._claims = claims
        self._taken: dict[Ref, None] = {}  # by a line and a device, until both have ended

    async def init(self) -> None:
        self._devices = self.context.registry.ref(DEVICES)

    async def terminate(self, reason: Exit) -> None:
        for actor in self._taken:
            actor.stop()

    async def handle_info(self, message: object) -> None:
        match message:
            case Down(ref=ref):
                self._taken.pop(ref, None)
            case AskReach() | Displaced():
                self._claims.inform(message)
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case TakeSeat():
                return await self._take(message)
            case Claim():
                self._claims.inform(message)
                return None
            case _:
                raise TypeError(f"a seat does not understand {message!r}")

    async def _take(self, asked: TakeSeat) -> Ref:
        """The line. Raises Refusal."""
        if self._taken:
            raise Refusal("it is taken")
        name = uuid.uuid4().hex
        line = Line(asked.relay, asked.remote, asked.protocol)
        device = Device(line, self._around)
        try:
            await self._start(f"line:{name}", line)
            await self._start(f"device:{name}", device)
        except (Refusal, ActorDown, CallTimeout) as error:
            log.warning("no device could be started for %s: %s", asked.remote, error)
            await stop_child(self._devices, f"line:{name}")
            raise Refusal("no device could be started") from error
        line.serve(device)
        return line.ref

    async def _start(self, id: str, actor: Actor) -> None:
        spec = ChildSpec(id, lambda: actor, restart=Restart.TEMPORARY, mailbox_capacity=DEVICE_MAILBOX)
        ref = await start_child(self._devices, spec)
        self._taken[ref] = None
        self.monitor(ref)
