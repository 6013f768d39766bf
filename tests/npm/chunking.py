"""A network between a device and the service that delivers the subscribe answer and the shape's data as one chunk.

Two programs on one fast machine rarely get the operating system to do that, a slow network often does. Frames from the
service are held back from the answer to ``subscribe`` until the end of the data, then written at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

OP_LOG = 9
RPC_RESPONSE = 22
SUBS_DATA_END = 16
SUBSCRIBE = b"subscribe"


class Chunking:
    """``url`` leads to the service at ``port`` through it.

    ``joined`` counts the deliveries that left as one, ``with_rows`` those of them that had rows.
    """

    def __init__(self, port: int) -> None:
        self.url = ""
        self.joined = 0
        self.with_rows = 0
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, upstream_writer))
                both.create_task(self._hold_back(upstream_reader, writer))
        finally:
            upstream_writer.close()
            writer.close()

    async def _hold_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            if b" 101 " not in head.split(b"\r\n")[0]:
                await _pass_on(reader, writer)
                return
            held: list[bytes] = []
            rows = False
            while True:
                frame, payload = await _frame(reader)
                kind = payload[0] if payload else -1
                answer = kind == RPC_RESPONSE and SUBSCRIBE in payload[: 3 + len(SUBSCRIBE)]
                if not held and not answer:
                    writer.write(frame)
                    continue
                held.append(frame)
                rows = rows or kind == OP_LOG
                if kind == SUBS_DATA_END:
                    writer.write(b"".join(held))
                    self.joined += 1
                    self.with_rows += rows
                    held.clear()
                    rows = False
        writer.close()


@contextlib.asynccontextmanager
async def chunking(port: int) -> AsyncIterator[Chunking]:
    """A running `Chunking` in front of the service at ``port``."""
    network = Chunking(port)
    server = await asyncio.start_server(network.serve, "127.0.0.1", 0)
    network.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield network
    finally:
        server.close()


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next WebSocket frame of a server, as it came and its payload."""
    head = await reader.readexactly(2)
    length = head[1]
    if length > 125:
        extended = await reader.readexactly(2 if length == 126 else 8)
        head, length = head + extended, int.from_bytes(extended, "big")
    payload = await reader.readexactly(length)
    return head + payload, payload


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
