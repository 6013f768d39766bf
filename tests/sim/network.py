"""Sockets between devices and the service: each direction keeps its order, and that is all that is promised.

A link carries the frames of one connection. It can be cut for both sides, or for one of them while the other goes on
believing for a while (half open); what was under way may still arrive or not. It may arrive late, too: the device has
taken the connection for dead and sends everything again on the next one, and then the service reads from the first what
had been under way. So frames come twice, and not in order, though each direction keeps its own. A stalled direction
delivers nothing until it goes on. ``ServerEnd`` is what the device actor sees as its connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from tests.outgoing_rules import OutgoingRules
from tests.sim.waiting import Scheduler

from syncline.actors.devices.device import Device
from syncline.proto.errors import ProtocolError

LATENCY_US = 6_000
BUFFER_FRAMES = 4
NOTICED_US = 400_000


class Direction:
    """One way of a link. ``deliver`` is called for each frame; ``drained`` when a full buffer has emptied."""

    def __init__(self, scheduler: Scheduler, deliver: Callable[[bytes], None], drained: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._deliver = deliver
        self._drained = drained
        self._frames: deque[bytes] = deque()
        self._moving = False
        self.paused = False
        self.stalled_until_us = 0
        self.open = True

    @property
    def full(self) -> bool:
        return len(self._frames) >= BUFFER_FRAMES

    def send(self, frame: bytes) -> None:
        if self.open:
            self._frames.append(frame)
            self.move()

    def move(self) -> None:
        if self._frames and not self._moving and not self.paused:
            self._moving = True
            stalled_us = max(0, self.stalled_until_us - self._scheduler.now_us)
            latency_us = int(LATENCY_US * self._scheduler.rng.random() ** 2)
            self._scheduler.after(stalled_us + latency_us, self._arrive)

    def _arrive(self) -> None:
        self._moving = False
        if not self.open or self.paused or not self._frames:
            return
        was_full = self.full
        # What left together often arrives together.
        for _ in range(self._scheduler.rng.randrange(1, 4)):
            if self._frames and self.open and not self.paused:
                self._deliver(self._frames.popleft())
        if was_full and not self.full:
            self._drained()
        self.move()


class Link:
    """One connection of a device, by ``protocol``. ``to_device`` and ``device_closed`` are the device's callbacks.

    ``broken`` is told of a frame that no device must be sent.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        accept: Callable[[ServerEnd], Device],
        to_device: Callable[[bytes], None],
        device_closed: Callable[[str], None],
        broken: Callable[[str], None],
        protocol: str,
    ) -> None:
        self._scheduler = scheduler
        self._device_closed = device_closed
        self._broken = broken
        self.device_open = True
        self.server_open = True
        self.down = Direction(scheduler, to_device, self._drained)
        self.up = Direction(scheduler, self._at_server, lambda: None)
        self.rules = OutgoingRules(protocol)
        self.server_end = ServerEnd(self, protocol)
        self._receiver = accept(self.server_end).receiver

    def send(self, frame: bytes) -> None:
        """By the device."""
        if self.device_open:
            self.rules.heard(frame)
            self.up.send(frame)

    def check(self, frame: bytes) -> None:
        """A frame of the server's, by the rules of what a device may be sent."""
        try:
            self.rules.check(frame)
        except ProtocolError as error:
            self._broken(error.message)

    def _at_server(self, frame: bytes) -> None:
        if self.server_open and not self._receiver.frame(frame):
            self.up.paused = True

    def _drained(self) -> None:
        if self.server_open:
            self._receiver.drained()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Both sides hear of it, at their own times; what was under way is lost."""
        self.up.open = self.down.open = False
        self._scheduler.soon(20_000, lambda: self.close_device("cut"))
        self._scheduler.soon(20_000, self.close_server)

    def lose_device(self, *, arrives: bool, late_us: int = 0) -> None:
        """The device is gone or thinks so; the server goes on believing for a while.

        ``arrives``: what the device has sent still reaches the server, ``late_us`` from now.
        """
        self.up.stalled_until_us = max(self.up.stalled_until_us, self._scheduler.now_us + late_us)
        self.down.open = False
        self.device_open = False
        self.up.open = arrives
        self._scheduler.after(late_us, lambda: self._scheduler.soon(2 * NOTICED_US, self.close_server))

    def lose_server(self) -> None:
        """The server is gone or has closed; the device finds out late."""
        self.up.open = False
        self.server_open = False
        self.down.open = False
        self._scheduler.soon(NOTICED_US, lambda: self.close_device("no answer to a ping"))

    def close_device(self, reason: str) -> None:
        if self.device_open:
            self.device_open = False
            self.down.open = False
            self._device_closed(reason)

    def close_server(self) -> None:
        if self.server_open:
            self.server_open = False
            self._receiver.closed(1006, "")

    def closed_by_server(self, reason: str) -> None:
        """An orderly close: what was sent before it arrives before it."""
        if not self.server_open:
            return
        self.server_open = False
        self.up.open = False
        self._receiver.closed(1000, "")
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        if self.down._frames and self.down.open:
            self._scheduler.after(1_000, lambda: self._finish(reason))
        else:
            self.close_device(reason)


class ServerEnd:
    """The connection as ``Device`` uses it."""

    remote = "sim"
    closed_by_peer = False

    def __init__(self, link: Link, protocol: str) -> None:
        self._link = link
        self.protocol = protocol

    @property
    def open(self) -> bool:
        return self._link.server_open

    def send(self, messages: bytes | Sequence[bytes]) -> bool:
        """False: the buffer is full, ``drained`` will be called."""
        link = self._link
        if not link.server_open:
            return False
        for message in (messages,) if isinstance(messages, bytes) else messages:
            link.check(message)
            link.down.send(message)
        # A peer that is gone drains nothing, and a buffer of a dead socket stays full.
        return not link.down.full

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._link.closed_by_server(reason)

    def pause_reading(self) -> None:
        self._link.up.paused = True

    def resume_reading(self) -> None:
        if self._link.up.paused:
            self._link.up.paused = False
            self._link.up.move()
