"""A wire that can fail: a TCP proxy between devices and the service."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK_BYTES = 64 << 10


class Proxy:
    """Forwards to ``port`` (which may change, after a restart). ``cut`` resets every connection, ``black_hole`` makes
    them half-open: they stay up and nothing passes any more; new ones pass again after ``heal``."""

    def __init__(self, port: int) -> None:
        self.target_port = port
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        cut = len(self._writers)
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        return cut

    def black_hole(self) -> None:
        """From now on nothing passes, in either direction, and nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        self._writers.discard(sink)
        sink.transport.abort()
