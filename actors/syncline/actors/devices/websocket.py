"""One device's socket, from the moment it is a WebSocket, with its limits. How it became one: ``edge``.

The framing is pure (``framing``); this shell moves bytes, keeps time and tells a ``Receiver``, one a device, what
happened. Why not a WebSocket library: docs/decisions/0003-edge-transport.md.

Back-pressure goes both ways and is explicit:

* out: ``Connection.send`` answers False above the high-water mark; the sender then waits for ``Receiver.drained``. A
  sender that goes on regardless is cut off at ``unsent_bytes_max``: memory is not where a slow device's data waits.
* in: ``Receiver.frame`` answers False (or somebody calls ``pause_reading``) and nothing more is read, so TCP slows the
  peer, until ``resume_reading``. At most one message and one read are held meanwhile.

A peer is believed alive while anything arrives from it, or while it goes on taking bytes it was sent. After
``silence_s`` without either it is pinged, after the same again it is cut: a half-open socket lives 60 s at most. A peer
that has not asked to authenticate within ``silence_s`` is closed: pings alone keep nobody in.

Every end is told once, by ``Receiver.closed``: the close code of whoever began the closing, ABNORMAL (1006) when the
connection simply broke.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from syncline.actors.devices.framing import (
    ABNORMAL,
    INTERNAL_ERROR,
    INVALID_DATA,
    NO_CODE,
    NORMAL,
    PING,
    POLICY_VIOLATION,
    PONG,
    Closing,
    FrameReader,
    FrameRefused,
    Ping,
    close_frame,
    header,
)

log = logging.getLogger(__name__)

JWT_EXPIRED = 4000  # sent with exactly the reason "JWT-expired", by which the published client knows it
JWT_EXPIRED_REASON = "JWT-expired"
# Below this a copy into one buffer is cheaper than a second element for the kernel.
_JOIN_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost. Times in seconds.

    ``request_s``: for the whole request head, from the connect. ``silence_s``: until a ping, and again until the close.
    ``closing_s``: for the peer to answer our close frame, and for an HTTP answer to leave. ``high_water_bytes``: unsent
    bytes above which ``send`` answers False. ``unsent_bytes_max``: unsent bytes above which the connection is cut.
    """

    message_bytes_max: int = 64 * 1024 * 1024
    first_message_bytes_max: int = 64 * 1024
    high_water_bytes: int = 256 * 1024
    unsent_bytes_max: int = 64 * 1024 * 1024
    request_s: float = 10.0
    silence_s: float = 20.0
    closing_s: float = 5.0
    connections_max: int = 20_000


class Receiver(Protocol):
    """The device at the other end of a Connection. Called from the event loop; nothing here may block or raise."""

    def frame(self, data: bytes) -> bool:
        """A whole binary message. False: taken, but hold the next until ``resume_reading``."""
        ...

    def drained(self) -> None:
        """What was sent has mostly left; ``send`` may be used again after it answered False."""
        ...

    def closed(self, code: int, reason: str) -> None:
        """The connection is over; called once, and nothing is called after it."""
        ...


class Owner(Protocol):
    """Who accepted the socket."""

    limits: Limits
    refusal: Callable[[str], bytes]

    def left(self, connection: Connection) -> None:
        """The connection is over."""
        ...


class Connection(asyncio.Protocol):
    """A WebSocket until its end. ``protocol``: the agreed subprotocol. ``remote``: "address:port" of the peer.
    ``closed_by_peer``: it has sent a close frame, its answer to ours maybe.

    ``start`` begins it.
    """

    __slots__ = (
        "__weakref__",
        "_alive",
        "_close_code",
        "_close_reason",
        "_closing",
        "_deaf",
        "_half_closed",
        "_owner",
        "_paused",
        "_pinged",
        "_reader",
        "_receiver",
        "_sent_bytes",
        "_taken_bytes",
        "_timer",
        "_transport",
        "_writable",
        "closed_by_peer",
        "protocol",
        "remote",
    )

    def __init__(self, owner: Owner, transport: asyncio.Transport, protocol: str, remote: str) -> None:
        self._owner = owner
        self._transport = transport
        self._reader = FrameReader(owner.limits.message_bytes_max, owner.limits.first_message_bytes_max)
        self._receiver: Receiver | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._deaf = False  # what still arrives is thrown away
        self._half_closed = False  # the peer will send no more
        self._close_code = ABNORMAL
        self._close_reason = ""
        self._paused = False
        self._writable = True
        self._alive = True  # it has just asked for this
        self._pinged = False
        self._sent_bytes = 0
        self._taken_bytes = -1  # of those sent, by the kernel at the last tick; -1 when none were waiting then
        self.protocol = protocol
        self.remote = remote
        self.closed_by_peer = False

    def start(self, on_open: Callable[[Connection], Receiver], rest: bytes) -> None:
        """Asks ``on_open`` for the receiver. ``rest``: what came behind the request, the first frames perhaps."""
        self._restart_timer(self._owner.limits.silence_s, self._tick)
        try:
            self._receiver = on_open(self)
        except Exception:
            log.exception("no device could be started for %s", self.remote)
            self.close(INTERNAL_ERROR)
            return
        if rest:
            self.data_received(rest)

    # --- what a receiver uses -----------------------------------------------------------------------------------------

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes sent that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def open(self) -> bool:
        """Whether ``send`` still reaches the peer: False from the first sign of the end."""
        return not self._closing

    def send(self, frame: bytes | Sequence[bytes]) -> bool:
        """Sends one binary message, or several in order, in one write.

        True: more is welcome. False: above the high-water mark, wait for ``drained``; or the connection is over.
        """
        if self._closing:
            return False
        parts: list[bytes] = []
        for payload in (frame,) if isinstance(frame, bytes) else frame:
            parts.append(header(len(payload)))
            parts.append(payload)
        self._write(parts)
        if self._transport.get_write_buffer_size() > self._owner.limits.unsent_bytes_max:
            log.warning("%s is cut off: it leaves too much unread", self.remote)
            self._end(ABNORMAL, "too much was left unread")
            self._transport.abort()
            return False
        return self._writable

    def pause_reading(self) -> None:
        """Nothing more is read or passed on until ``resume_reading``; the peer's silence does not count meanwhile."""
        if not self._paused and not self._closing:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Passes on what was held, then reads again. May call ``Receiver.frame`` before it returns."""
        if self._paused:
            self._paused = False
            self._alive = True
            self._transport.resume_reading()
            self._pass_on()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Sends what was sent before, then a close frame; ``closed`` follows when the peer answered or time is up."""
        if self._closing:
            return
        self._end(code, reason)
        self._transport.write(close_frame(code, reason))
        self._await_end()

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._alive = True
        if not self._deaf:
            self._reader.feed(data)
            self._pass_on()

    def eof_received(self) -> None:
        self._half_closed = True
        if not self._closing:  # no close frame came, so nobody waits for one
            self._end(ABNORMAL, "the connection ended without a close frame")
            self._restart_timer(self._owner.limits.closing_s, self._transport.abort)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._receiver is not None and not self._closing:
            self._receiver.drained()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.left(self)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.closed(self._close_code, self._close_reason)

    # --- in, out, and the end -----------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """Hands out whole messages until there is none, or somebody asks to wait, or the end."""
        reader, receiver = self._reader, self._receiver
        try:
            while not self._paused:
                message = reader.next()
                if message is None:
                    return
                if isinstance(message, bytes):
                    if not self._closing and receiver is not None and not receiver.frame(message):
                        self.pause_reading()
                elif isinstance(message, Closing):
                    self._peer_closes(message)
                    return
                # One who floods us with pings and reads no pongs gets none: RFC 6455 wants only the last one answered.
                elif isinstance(message, Ping) and not self._closing and self._writable:
                    self._write([header(len(message.payload), PONG), message.payload])
        except FrameRefused as refused:
            self._refuse(refused)
        except Exception:
            log.exception("the device of %s failed on a frame", self.remote)
            self.close(INTERNAL_ERROR)

    def _refuse(self, refused: FrameRefused) -> None:
        if not self._closing:
            log.info("%s is closed: %s", self.remote, refused.reason)
            if refused.code == INVALID_DATA:
                self.send(self._owner.refusal(refused.reason))
            self.close(refused.code, refused.reason)
        self._hang_up()  # what follows a broken frame cannot be read

    def _peer_closes(self, message: Closing) -> None:
        self.closed_by_peer = True
        if not self._closing:
            self._end(message.code, message.reason)
            self._transport.write(close_frame(NORMAL if message.code == NO_CODE else message.code))
            self._await_end()
        self._transport.close()

    def _hang_up(self) -> None:
        self._deaf = True
        half_close(self._transport, self._half_closed)
        self._restart_timer(self._owner.limits.closing_s, self._transport.abort)

    def _end(self, code: int, reason: str) -> None:
        self._closing = True
        self._close_code, self._close_reason = code, reason

    def _await_end(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._restart_timer(self._owner.limits.closing_s, self._transport.abort)

    def _tick(self) -> None:
        if not self._reader.spoken:
            self.close(POLICY_VIOLATION, "no request to authenticate came")
            return
        waiting = self._transport.get_write_buffer_size()
        taken = self._sent_bytes - waiting
        takes = 0 <= self._taken_bytes < taken
        self._taken_bytes = taken if waiting else -1
        if self._alive or takes or self._paused:
            self._alive = self._pinged = False
        elif self._pinged:
            log.info("%s is closed: silent for %s s", self.remote, 2 * self._owner.limits.silence_s)
            self._end(ABNORMAL, "no answer to a ping")
            self._transport.abort()
            return
        else:
            self._pinged = True
            self._write([header(0, PING)])
        self._restart_timer(self._owner.limits.silence_s, self._tick)

    def _write(self, parts: list[bytes]) -> None:
        size = sum(map(len, parts))
        self._sent_bytes += size
        if size <= _JOIN_BYTES_MAX:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def _restart_timer(self, delay_s: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, callback)


def half_close(transport: asyncio.Transport, peer_is_done: bool) -> None:
    """Says that no more will come; the caller then waits, without listening, for the peer to go.

    Closing at once, with input unread, would send a reset that can overtake what was just written.
    """
    if peer_is_done:
        transport.close()
    elif transport.can_write_eof() and not transport.is_closing():
        transport.write_eof()
