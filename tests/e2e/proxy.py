"""A wire that can fail: a TCP proxy between devices and the service, or between the service and Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

CHUNK_BYTES = 64 << 10


class Flow:
    """One connection through the proxy. ``dead``: it stays up and nothing passes it any more. ``deaf``: nothing passes
    to the device.

    ``device_ended`` and ``service_ended``: that end has closed or reset its socket.
    """

    def __init__(self, device: asyncio.StreamWriter, service: asyncio.StreamWriter, delay_s: float = 0.0) -> None:
        self.dead = False
        self.deaf = False
        self.device_ended = asyncio.Event()
        self.service_ended = asyncio.Event()
        self._device = device
        self._service = service
        self._delay_s = delay_s

    def cut(self) -> None:
        """Resets both ends."""
        self._device.transport.abort()
        self._service.transport.abort()

    def cut_half(self, *, device: bool) -> None:
        """Resets one end, and the other is never told."""
        self.dead = True
        (self._device if device else self._service).transport.abort()

    async def up(self, device: asyncio.StreamReader) -> None:
        await self._pass(device, self._service, self.device_ended)

    async def down(self, service: asyncio.StreamReader) -> None:
        await self._pass(service, self._device, self.service_ended)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, ended: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)  # the wire is long
                if not (self.dead or (self.deaf and sink is self._device)):
                    sink.write(data)
                    await sink.drain()
        ended.set()
        if not self.dead:  # else the other end is not told
            sink.transport.abort()


class Proxy:
    """Forwards to ``port`` (which may change, after a restart). ``cut`` resets every connection; ``forsake`` leaves
    those there are half-open for good, while new ones pass, as when a phone changes networks or a NAT forgets.
    ``delay_s``: what each piece of data takes. ``connections``: how many there have been.

    Before Postgres the service is the device, and Postgres the service."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.target_port = port
        self.port = 0
        self.connections = 0
        self._delay_s = delay_s
        self._flows: set[Flow] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passable = asyncio.Event()
        self._passable.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def leads_to(self, dsn: str) -> str:
        """``dsn``, of a Postgres at the target, by way of this."""
        url = urlsplit(dsn)
        who, _, _ = url.netloc.rpartition("@")
        return url._replace(netloc=f"{who}@127.0.0.1:{self.port}").geturl()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        self.heal()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Resets every connection, the half-open ones too; how many there were."""
        flows, self._flows = self._flows, set()
        for flow in flows:
            flow.cut()
        return len(flows)

    def forsake(self) -> list[Flow]:
        """From now on nothing passes the connections there are, in either direction, and nobody is told. These."""
        for flow in self._flows:
            flow.dead = True
        return list(self._flows)

    def halve(self, *, device: bool) -> int:
        """Resets one end of every connection, and the other is never told; how many there were."""
        flows = [flow for flow in self._flows if not flow.dead]
        for flow in flows:
            flow.cut_half(device=device)
        return len(flows)

    def swallow(self) -> int:
        """A hole: nothing passes what there is, as by ``forsake``, and new connections wait until ``heal``."""
        self._passable.clear()
        return len(self.forsake())

    def heal(self) -> None:
        """New connections pass again. What was forsaken stays so."""
        self._passable.set()

    def deafen(self) -> int:
        """Nothing passes to the devices any more, from them it does; on how many connections."""
        for flow in self._flows:
            flow.deaf = True
        return len(self._flows)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable.wait()
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        flow = Flow(writer, up_writer, self._delay_s)
        self._flows.add(flow)
        task = asyncio.create_task(self._carry(flow, reader, up_reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, flow: Flow, device: asyncio.StreamReader, service: asyncio.StreamReader) -> None:
        await asyncio.gather(flow.up(device), flow.down(service))
        self._flows.discard(flow)
