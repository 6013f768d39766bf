"""WebSocket frames, the server's half of RFC 6455, without a socket: bytes in, messages out, and the other way round.

A device sends little and receives much, so the two directions differ. Outgoing frames are unmasked: two to ten bytes of
header before the payload, built once and shared by everybody who gets the same frame. Incoming frames are masked and
may be cut anywhere, by TCP or by fragmentation; ``FrameReader`` collects them and hands out whole messages one at a
time, so that whoever is slow can leave the rest in the buffer and stop reading.

Limits: a message's announced length is checked before its bytes are waited for, the sum of fragments likewise, and the
first message of a connection (the request to authenticate) may be much smaller than those of a known device.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE = 1005  # never on the wire: the peer's close frame had no code
ABNORMAL = 1006  # never on the wire: the connection ended without a close frame
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012  # come back at once: another takes over

_FIN = 0x80
_RESERVED_BITS = 0x70
_MASKED = 0x80
_CONTROL_BYTES_MAX = 125
# Compact the buffer when this much of it has been consumed; below that, a moving offset is cheaper.
_COMPACT_BYTES = 64 * 1024


class FrameRefused(Exception):
    """The peer broke RFC 6455 or one of our limits. ``code``: the close code to answer with."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """The peer's close frame; ``code`` is NO_CODE when it named none."""

    code: int
    reason: str


def header(size: int, opcode: int = BINARY) -> bytes:
    """The header of an unmasked, unfragmented frame with a payload of ``size`` bytes."""
    first = _FIN | opcode
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """A whole close frame; a reason that does not fit is cut at a character. NO_CODE sends an empty one."""
    payload = b"" if code == NO_CODE else code.to_bytes(2, "big") + _cut(reason, _CONTROL_BYTES_MAX - 2)
    return header(len(payload), CLOSE) + payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` with the four bytes of ``mask`` laid over it; its own inverse."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


class FrameReader:
    """Collects incoming bytes and yields one message or control frame at a time.

    ``message_bytes_max`` bounds every message, ``first_message_bytes_max`` the first one.
    """

    def __init__(self, message_bytes_max: int, first_message_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._offset = 0
        self._bytes_max = first_message_bytes_max
        self._later_bytes_max = message_bytes_max
        self.spoken = False  # whether a first message has been read
        self._unfinished: bytearray | None = None  # the fragments so far of a fragmented message

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer) - self._offset + len(self._unfinished or b"")

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | Ping | Pong | Closing | None:
        """The next whole binary message or control frame, None when more bytes are needed. Raises FrameRefused."""
        while True:
            frame = self._next_frame()
            if frame is None:
                return None
            opcode, final, payload = frame
            if opcode >= CLOSE:
                return _control(opcode, payload)
            if self._unfinished is not None:
                self._unfinished += payload
                payload = bytes(self._unfinished) if final else b""
            elif not final:
                self._unfinished = bytearray(payload)
            if final:
                self._unfinished = None
                self.spoken, self._bytes_max = True, self._later_bytes_max
                return payload

    def _next_frame(self) -> tuple[int, bool, bytes] | None:
        buffer, start = self._buffer, self._offset
        available = len(buffer) - start
        if available < 2:
            return None
        first, second = buffer[start], buffer[start + 1]
        opcode, size, at = first & 0x0F, second & 0x7F, start + 2
        self._check_header(first, second, opcode, size)
        if size == 126:
            if available < 4:
                return None
            size, at = int.from_bytes(buffer[at : at + 2], "big"), at + 2
        elif size == 127:
            if available < 10:
                return None
            size, at = int.from_bytes(buffer[at : at + 8], "big"), at + 8
        if opcode < CLOSE and size + len(self._unfinished or b"") > self._bytes_max:
            raise FrameRefused(MESSAGE_TOO_BIG, f"a message may have {self._bytes_max} bytes")
        end = at + 4 + size
        if len(buffer) < end:
            return None
        payload = unmask(bytes(memoryview(buffer)[at + 4 : end]), bytes(buffer[at : at + 4]))
        self._consume(end)
        return opcode, bool(first & _FIN), payload

    def _check_header(self, first: int, second: int, opcode: int, size: int) -> None:
        if first & _RESERVED_BITS:
            raise FrameRefused(PROTOCOL_ERROR, "no extension was agreed on")
        if not second & _MASKED:
            raise FrameRefused(PROTOCOL_ERROR, "a client's frames are masked")
        if opcode == TEXT:
            raise FrameRefused(INVALID_DATA, "only binary messages are spoken here")
        if opcode in (CLOSE, PING, PONG):
            if not first & _FIN or size > _CONTROL_BYTES_MAX:
                raise FrameRefused(PROTOCOL_ERROR, "a control frame is whole and short")
        elif opcode == CONTINUATION:
            if self._unfinished is None:
                raise FrameRefused(PROTOCOL_ERROR, "nothing to continue")
        elif opcode != BINARY:
            raise FrameRefused(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif self._unfinished is not None:
            raise FrameRefused(PROTOCOL_ERROR, "a message is still unfinished")

    def _consume(self, end: int) -> None:
        if end == len(self._buffer):
            self._buffer = bytearray()  # a new one, so that a big message's memory is given back
            self._offset = 0
        elif end > _COMPACT_BYTES:
            del self._buffer[:end]
            self._offset = 0
        else:
            self._offset = end


def _control(opcode: int, payload: bytes) -> Ping | Pong | Closing:
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Closing(NO_CODE, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (
        (1000 <= code <= 1014 and code not in (1004, NO_CODE, ABNORMAL)) or 3000 <= code <= 4999
    ):
        raise FrameRefused(PROTOCOL_ERROR, "not a close code")
    try:
        return Closing(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise FrameRefused(INVALID_DATA, "a close reason is UTF-8") from None


def _cut(text: str, size: int) -> bytes:
    return text.encode(errors="replace")[:size].decode(errors="ignore").encode()
