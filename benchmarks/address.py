"""An address that devices connect to, and that can move from one service to another, as between two machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK_BYTES = 64 << 10


class Address:
    """Passes connections on to ``target``, a port of this machine, at a ``port`` of its own."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._flows: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []  # of device, of service
        self._forsaken: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    @contextlib.asynccontextmanager
    async def of(target: int) -> AsyncIterator[Address]:
        address = Address(target)
        server = await asyncio.start_server(address._accept, "127.0.0.1", 0)
        address.port = server.sockets[0].getsockname()[1]
        try:
            yield address
        finally:
            server.close()
            address.move(target)
            address.forget()
            for task in address._tasks:
                task.cancel()
            await asyncio.gather(*address._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def move(self, target: int) -> None:
        """Devices lose their connections and find ``target``; where they were connected nobody hears of it."""
        self._target = target
        flows, self._flows = self._flows, []
        for device, service in flows:
            device.transport.abort()
            self._forsaken.append(service)

    def forget(self) -> None:
        """Resets what was left open where devices were connected before."""
        forsaken, self._forsaken = self._forsaken, []
        for service in forsaken:
            service.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_service, to_service = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        flow = (writer, to_service)
        self._flows.append(flow)
        task = asyncio.ensure_future(self._carry(flow, reader, from_service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(
        self,
        flow: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        from_device: asyncio.StreamReader,
        from_service: asyncio.StreamReader,
    ) -> None:
        device, service = flow
        passing = [
            asyncio.ensure_future(_pass(from_device, service)),
            asyncio.ensure_future(_pass(from_service, device)),
        ]
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for one in passing:
            one.cancel()
        device.transport.abort()
        if flow in self._flows:
            self._flows.remove(flow)
            service.transport.abort()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
