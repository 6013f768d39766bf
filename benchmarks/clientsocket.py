"""The client's half of a WebSocket on an asyncio protocol: what a device needs, so that thousands fit a process.

The edge's half is in ``syncline.actors.devices``; nothing but the masking of bytes is shared with it.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable

from syncline.actors.devices.framing import BINARY, CLOSE, CONTINUATION, PING, PONG, unmask

SUBPROTOCOL = "electric.0.12"
NOBODY = "no upgrade: HTTP/1.1 503"
"""How the end begins of a connection to a service that is not ready."""
_FIN = 0x80
_MASKED = 0x80


class ClientSocket(asyncio.Protocol):
    """``on_open`` once the server has agreed, ``on_message`` for each binary message, ``on_end`` once, at the end.

    ``host``: with the port, as the request names it; a connection that was reset at once does not know it any more.
    ``received_bytes``: all bytes from the server, the answer to the upgrade included.
    """

    def __init__(
        self,
        host: str,
        on_open: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._host = host
        self._on_open = on_open
        self._on_message = on_message
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._fragments = b""
        self._open = False
        self._said = "the connection broke"
        self.received_bytes = 0

    # --- what the owner does ------------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        self._send(BINARY, message)

    def abort(self) -> None:
        """Ends the connection as a cable that is pulled."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Takes nothing more off the socket: what comes fills its buffers, then those of the server."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- what the loop calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's class derives from neither
        assert self._transport is not None
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._on_end(self._said)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._buffer += data
        if self._open or self._read_head():
            self._read_frames()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        if not head.startswith(b"HTTP/1.1 101 "):
            self._said = f"no upgrade: {head.splitlines()[0].decode(errors='replace')}"
            self.abort()
            return False
        self._open = True
        self._on_open()
        return True

    def _read_frames(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                octets = 2 if size == 126 else 8
                size, start = int.from_bytes(buffer[start : start + octets], "big"), start + octets
                if len(buffer) < start:
                    break
            if len(buffer) < start + size:
                break
            first, payload = buffer[at], bytes(memoryview(buffer)[start : start + size])
            at = start + size
            self._frame(first & 0x0F, bool(first & _FIN), payload)
        del buffer[:at]

    def _frame(self, opcode: int, final: bool, payload: bytes) -> None:
        if opcode in (BINARY, CONTINUATION):
            payload = self._fragments + payload
            self._fragments = b"" if final else payload
            if final:
                self._on_message(payload)
        elif opcode == PING:
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self._said = f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}"
            self._send(CLOSE, payload[:2])
            if self._transport is not None:
                self._transport.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        size = len(payload)
        if size < 126:
            header = bytes((_FIN | opcode, _MASKED | size))
        elif size < 1 << 16:
            header = bytes((_FIN | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
        else:
            header = bytes((_FIN | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
        key = os.urandom(4)
        self._transport.write(header + key + unmask(payload, key))
