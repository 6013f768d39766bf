"""One stream of messages between two hosts, over connections that come and go.

The problem: hot data between hosts travels over a socket, sockets are cut, processes are killed, and an old process
may live on as a zombie. Yet a sender must be able to rely on this: *as long as both processes live, every payload
arrives exactly once and in order; when one does not, the other learns it, and nothing of the old mixes with the new.*

The idea is TCP's, one floor higher. Each payload gets a sequence number and stays in a bounded resend buffer until it
is acknowledged. Both ends open every connection with a hello that says who they are, which session of the other they
know and how far they have received it; each then goes on from there. Numbers already seen are dropped (dedupe), a
number too high means that something was lost: the connection is given up and the next hello repairs it. Heartbeats
carry the last number sent, so that a lost last frame is noticed as well.

A *session* names one memory of one process: a restarted process, or one that gave its peer up for dead, has a new one.
On meeting a new session of the peer, an end forgets the old one: numbers begin at 1, and what was unacknowledged is
lost with the process it was meant for (``Established.replaced``: whoever waits for answers has to be told). What was
written before the first contact is kept for it.

An *epoch* says how recent an owner's claim is. Every frame carries its sender's. Frames below the highest epoch seen
of that host are dropped, and a hello below it is refused: the zombie is told so (``Superseded``) and should end.

Frame: 4 bytes length, big endian, then a msgpack array ``[kind, sequence, epoch, ack, body]``. ``ack`` is the highest
sequence received in order. HELLO's body is ``[version, host, session, known session or nil, token]`` and its ack
belongs to that known session. HEARTBEAT's sequence is the last one sent. REFUSED's epoch is the one that supersedes.

Pure: bytes in, events out (``receive``); payloads in (``send``), bytes out (``take``). Time is the shell's business.
"""

from __future__ import annotations

import hmac
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

VERSION: Final = 1
HELLO: Final = 0
DATA: Final = 1
HEARTBEAT: Final = 2
REFUSED: Final = 3
GOODBYE: Final = 4

LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What one link may hold. An acknowledgement is due well before the other end's resend buffer is full."""

    frame_bytes_max: int = 64 << 20  # a frame beyond it is a fault or an attack, not a message
    resend_bytes_max: int = 8 << 20  # some 10 ms of a fast network: enough to keep the pipe full
    resend_frames_max: int = 10_000
    ack_bytes: int = 1 << 20
    ack_frames: int = 256


class LinkError(Exception):
    """The peer or the wire broke the rules; this connection is of no more use, the link itself is unharmed."""


class LinkFull(Exception):
    """The resend buffer is full: the peer is slow or away. Wait until ``room``."""


class Superseded(Exception):
    """The peer has seen a higher epoch of our own host: another process has taken over, and this one must end."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"superseded by an owner with epoch {epoch}")
        self.epoch = epoch


@dataclass(frozen=True, slots=True)
class Hello:
    """How an end opens a connection. ``known`` is the session of the other end it remembers, ``received`` how far."""

    host: str
    session: str
    epoch: int
    known: str | None = None
    received: int = 0
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Established:
    """Hellos are exchanged, payloads flow. ``replaced``: an earlier session of the peer is over, with all it owed."""

    peer: Hello
    resumed: bool
    replaced: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """The next payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The peer's hello was below the fence; it has been told. Write what ``take`` gives, then close."""

    epoch: int


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer said goodbye: it ends, and need not be waited for."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream is of no more use; always the last event. What came before it counts: it was received in order."""

    error: LinkError | Superseded


Event = Established | Delivered | PeerRefused | PeerLeft | Broken


@dataclass(slots=True)
class _Outgoing:
    sequence: int
    epoch: int
    payload: bytes


class Link:
    """One end. ``fence`` is the highest epoch known of the peer's host, kept by the owner from link to link."""

    def __init__(
        self, host: str, session: str, epoch: int = 0, *, fence: int = 0, token: str = "", limits: Limits | None = None
    ) -> None:
        self.host = host
        self.session = session
        self.epoch = epoch
        self.fence = fence
        self.dropped_epoch = 0  # payloads dropped for their low epoch
        self.duplicates = 0  # payloads dropped because they had arrived before
        self._token = token
        self._limits = limits or Limits()
        self._peer_session: str | None = None
        self._received = 0
        self._received_unacked = 0
        self._received_unacked_bytes = 0
        self._sequence = 0
        self._acked = 0
        self._unacked: deque[_Outgoing] = deque()  # written to this connection
        self._waiting: deque[_Outgoing] = deque()  # not yet
        self._resend_bytes = 0
        self._inbuf = bytearray()
        self._control: list[bytes] = []
        self._established = False

    # ---------------------------------------------------------------- the owner's side

    @property
    def room(self) -> bool:
        """Whether ``send`` takes one more payload."""
        return (
            self._resend_bytes < self._limits.resend_bytes_max
            and len(self._unacked) + len(self._waiting) < self._limits.resend_frames_max
        )

    @property
    def unacked(self) -> int:
        """Payloads accepted and not yet acknowledged."""
        return len(self._unacked) + len(self._waiting)

    def send(self, payload: bytes, *, beyond: bool = False) -> None:
        """Accepts a payload, connected or not. Raises ``LinkFull``, unless it is small and may go ``beyond`` the bound;
        ``ValueError`` if it can never be sent."""
        if len(payload) + 64 > self._limits.frame_bytes_max:
            raise ValueError(f"a payload of {len(payload)} bytes is beyond the limit {self._limits.frame_bytes_max}")
        if not self.room and not beyond:
            raise LinkFull(f"{self._resend_bytes} bytes in {self.unacked} frames wait for acknowledgement")
        self._sequence += 1
        self._waiting.append(_Outgoing(self._sequence, self.epoch, payload))
        self._resend_bytes += len(payload)

    def raise_epoch(self, epoch: int) -> None:
        """Payloads from now on carry ``epoch``. Raises ``ValueError`` when it is lower than before."""
        if epoch < self.epoch:
            raise ValueError(f"epoch {epoch} is below {self.epoch}")
        self.epoch = epoch

    # ---------------------------------------------------------------- the connection's side

    def connected(self) -> None:
        """A new connection exists: the hello is the first thing to ``take``."""
        self.disconnected()
        body = [VERSION, self.host, self.session, self._peer_session, self._token]
        self._control.append(_frame(HELLO, 0, self.epoch, self._received, body))

    def disconnected(self) -> None:
        """The connection is gone, and with it whatever was under way. Harmless when there was none."""
        self._established = False
        self._inbuf.clear()
        self._control.clear()
        self._waiting.extendleft(reversed(self._unacked))
        self._unacked.clear()

    def heartbeat(self) -> None:
        """To be called now and then: says that we live, how far we received, and how far we have sent."""
        if self._established:
            last = self._unacked[-1].sequence if self._unacked else self._acked
            self._control.append(_frame(HEARTBEAT, last, self.epoch, self._received, None))
            self._acknowledged_now()

    def goodbye(self) -> None:
        """Our process ends in order: the peer need not wait for us."""
        if self._established:
            self._control.append(_frame(GOODBYE, 0, self.epoch, self._received, None))

    def take(self, bytes_max: int = 256 << 10) -> bytes:
        """The next bytes to write, about ``bytes_max`` at most; empty when there is nothing to say."""
        parts = self._control
        self._control = []
        size = sum(map(len, parts))
        while self._established and self._waiting and size < bytes_max:
            outgoing = self._waiting.popleft()
            self._unacked.append(outgoing)
            parts.append(_frame(DATA, outgoing.sequence, outgoing.epoch, self._received, outgoing.payload))
            size += len(parts[-1])
            self._acknowledged_now()
        if self._established and (
            self._received_unacked >= self._limits.ack_frames or self._received_unacked_bytes >= self._limits.ack_bytes
        ):
            self.heartbeat()
            parts.extend(self._control)
            self._control = []
        return b"".join(parts)

    def receive(self, data: bytes) -> list[Event]:
        """Takes bytes as they come. Never raises: after ``Broken`` close, ``disconnected``, and connect again."""
        self._inbuf += data
        events: list[Event] = []
        try:
            self._receive(events)
        except (LinkError, Superseded) as error:
            events.append(Broken(error))
        return events

    def _receive(self, events: list[Event]) -> None:
        for kind, sequence, epoch, ack, body in _frames(self._inbuf, self._limits.frame_bytes_max):
            if kind == REFUSED:
                raise Superseded(epoch)
            if kind == HELLO:
                events.append(self._on_hello(_hello(epoch, ack, body)))
            elif not self._established:
                raise LinkError("the peer did not open with a hello")
            else:
                self._on_ack(ack)
                if kind == DATA:
                    if self._on_data(sequence, epoch, body):
                        events.append(Delivered(body))
                elif kind == HEARTBEAT:
                    if sequence > self._received:
                        raise LinkError(f"payloads up to {sequence} were sent, received {self._received}")
                elif kind == GOODBYE:
                    events.append(PeerLeft())
                else:
                    raise LinkError(f"frame of unknown kind {kind}")

    def _on_hello(self, hello: Hello) -> Event:
        if self._established:
            raise LinkError("a second hello")
        if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            raise LinkError(f"{hello.host} does not know the token")
        if hello.epoch < self.fence:
            self._control = [refusal(self.fence)]
            return PeerRefused(hello.epoch)
        self.fence = hello.epoch
        resumed = hello.session == self._peer_session
        forgotten = resumed and hello.known != self.session and self._acked > 0
        replaced = forgotten or (not resumed and self._peer_session is not None)
        if replaced:
            self._waiting.clear()
            self._resend_bytes = self._sequence = self._acked = 0
        if replaced or not resumed:
            self._received = 0
            self._acknowledged_now()
            self._peer_session = hello.session
        self._established = True
        if hello.known == self.session and not replaced:
            self._on_ack(hello.received)
        return Established(hello, resumed and not forgotten, replaced)

    def _on_ack(self, ack: int) -> None:
        if ack > self._sequence:
            raise LinkError(f"acknowledged {ack}, but only {self._sequence} were ever sent")
        for queue in (self._unacked, self._waiting):
            while queue and queue[0].sequence <= ack:
                self._resend_bytes -= len(queue.popleft().payload)
        self._acked = max(self._acked, ack)

    def _on_data(self, sequence: int, epoch: int, body: Any) -> bool:
        if not isinstance(body, bytes):
            raise LinkError("a payload that is not bytes")
        self._received_unacked += 1
        self._received_unacked_bytes += len(body)
        if sequence <= self._received:
            self.duplicates += 1
            return False
        if sequence != self._received + 1:
            raise LinkError(f"payload {sequence} arrived after {self._received}")
        self._received = sequence
        if epoch < self.fence:
            self.dropped_epoch += 1
            return False
        self.fence = epoch
        return True

    def _acknowledged_now(self) -> None:
        self._received_unacked = self._received_unacked_bytes = 0


def refusal(epoch: int) -> bytes:
    """What to write to a peer whose hello is below the fence ``epoch``, before closing."""
    return _frame(REFUSED, 0, epoch, 0, None)


def opening_hello(data: bytes, limits: Limits | None = None) -> Hello | None:
    """Who opens this connection, ``None`` while ``data`` is incomplete. Raises ``LinkError``.

    For the accepting end, which has to find the link of that peer before it can feed the same bytes to it.
    """
    for kind, _, epoch, ack, body in _frames(bytearray(data), (limits or Limits()).frame_bytes_max):
        if kind != HELLO:
            raise LinkError("the peer did not open with a hello")
        return _hello(epoch, ack, body)
    return None


def _frame(kind: int, sequence: int, epoch: int, ack: int, body: object) -> bytes:
    packed: bytes = msgpack.packb((kind, sequence, epoch, ack, body))
    return len(packed).to_bytes(LENGTH_BYTES, "big") + packed


def _frames(buffer: bytearray, frame_bytes_max: int) -> list[tuple[int, int, int, int, Any]]:
    """Cuts whole frames off the front of ``buffer``."""
    frames = []
    start = 0
    while len(buffer) - start >= LENGTH_BYTES:
        size = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
        if size > frame_bytes_max:
            raise LinkError(f"a frame of {size} bytes is beyond the limit {frame_bytes_max}")
        if len(buffer) - start - LENGTH_BYTES < size:
            break
        frames.append(_unpack(bytes(buffer[start + LENGTH_BYTES : start + LENGTH_BYTES + size])))
        start += LENGTH_BYTES + size
    del buffer[:start]
    return frames


def _unpack(packed: bytes) -> tuple[int, int, int, int, Any]:
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise LinkError("a frame that is not msgpack") from error
    if not isinstance(fields, list) or len(fields) != 5 or not all(type(n) is int and n >= 0 for n in fields[:4]):
        raise LinkError("a frame of the wrong form")
    return fields[0], fields[1], fields[2], fields[3], fields[4]


def _hello(epoch: int, received: int, body: Any) -> Hello:
    if not isinstance(body, list) or not body or body[0] != VERSION:
        raise LinkError(f"the peer speaks another version: {body[:1] if isinstance(body, list) else body!r}")
    if len(body) != 5 or not all(isinstance(text, str) for text in (body[1], body[2], body[3] or "", body[4])):
        raise LinkError("a hello of the wrong form")
    return Hello(body[1], body[2], epoch, body[3], received, body[4])
