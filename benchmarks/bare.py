"""The least a server must do: an event loop that keeps connections and writes bytes to them. Nothing of ours in it."""

from __future__ import annotations

import asyncio
import os
import time
from multiprocessing.connection import Connection

import uvloop

from benchmarks.side import now_ms

CONNECTING_MAX = 50


class _Kept(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.Transport]) -> None:
        self._transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)  # type: ignore[arg-type]  # uvloop's class derives from neither


def serve(pipe: Connection) -> None:
    """For a process of its own: sends its port and process id; then answers each (size, times, connections).

    The answer: CPU seconds of writing so many bytes so many times to every connection, once there are so many of them
    (a connection counts for its other end before it does here).
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    transports: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: _Kept(transports), "127.0.0.1", 0, backlog=4096)
    pipe.send((server.sockets[0].getsockname()[1], os.getpid()))
    while True:
        size, times, connections = await asyncio.to_thread(pipe.recv)
        while len(transports) < connections:  # noqa: ASYNC110 - as often as it takes, and it takes a moment
            await asyncio.sleep(0.001)
        cpu_s = time.process_time()
        data = bytes(size)
        for _ in range(times):
            for transport in transports:
                transport.write(data)
            await asyncio.sleep(0)
        while any(transport.get_write_buffer_size() for transport in transports):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.001)
        pipe.send(time.process_time() - cpu_s)


class _Receiver(asyncio.Protocol):
    def __init__(self, done: list[float], all_done: asyncio.Event, connections: int) -> None:
        self._done = done
        self._all_done = all_done
        self._connections = connections
        self.missing = 0

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing == 0:
            self._done.append(now_ms())
            if len(self._done) == self._connections:
                self._all_done.set()


def receive(pipe: Connection, port: int, connections: int) -> None:
    """For a process of its own: "ready" when connected; then answers each number of bytes with the times (``now_ms``)
    at which the connections had received so many."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_receive(pipe, port, connections))


async def _receive(pipe: Connection, port: int, connections: int) -> None:
    loop = asyncio.get_running_loop()
    done: list[float] = []
    all_done = asyncio.Event()
    turn = asyncio.Semaphore(CONNECTING_MAX)

    async def join() -> _Receiver:
        async with turn:
            _, receiver = await loop.create_connection(
                lambda: _Receiver(done, all_done, connections), "127.0.0.1", port
            )
            return receiver

    receivers = await asyncio.gather(*(join() for _ in range(connections)))
    pipe.send("ready")
    while True:
        size = await asyncio.to_thread(pipe.recv)
        done.clear()
        all_done.clear()
        for receiver in receivers:
            receiver.missing = size
        pipe.send("expecting")
        await all_done.wait()
        pipe.send(list(done))
