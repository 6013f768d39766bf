"""The least a server must do: an event loop that keeps connections and writes bytes to them. Nothing of ours in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from multiprocessing.connection import Connection

import psutil
import uvloop

from benchmarks.figures import per_cpu_s
from benchmarks.side import beside, now_ms

CONNECTING_MAX = 50


class _Kept(asyncio.Protocol):
    def __init__(self, transports: list[asyncio.Transport], greeting: bytes) -> None:
        self._transports = transports
        self._greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transports.append(transport)  # type: ignore[arg-type]  # uvloop's class derives from neither
        if self._greeting:
            self._transports[-1].write(self._greeting)


def serve(pipe: Connection, greeting: int = 0) -> None:
    """For a process of its own: sends its port and process id; then answers each (size, times, connections).

    The answer: CPU seconds of writing so many bytes so many times to every connection, once there are so many of them
    (a connection counts for its other end before it does here). Each is sent ``greeting`` bytes when it comes.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(EOFError):
        runner.run(_serve(pipe, bytes(greeting)))


async def _serve(pipe: Connection, greeting: bytes) -> None:
    transports: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Kept(transports, greeting), "127.0.0.1", 0, backlog=4096
    )
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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(EOFError):
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


def rush(pipe: Connection, port: int, connections: int, size: int) -> None:
    """For a process of its own: connects all at once; sends after how many milliseconds each had ``size`` bytes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(_rush(port, connections, size)))


async def _rush(port: int, connections: int, size: int) -> list[float]:
    loop = asyncio.get_running_loop()
    done: list[float] = []
    all_done = asyncio.Event()

    def receiver() -> _Receiver:
        made = _Receiver(done, all_done, connections)
        made.missing = size
        return made

    started_ms = now_ms()
    await asyncio.gather(*(loop.create_connection(receiver, "127.0.0.1", port) for _ in range(connections)))
    await all_done.wait()
    return [at_ms - started_ms for at_ms in done]


# --- limits, for those who compare with them --------------------------------------------------------------------------


async def fanned_out(connections: int, size: int, writes: int) -> tuple[list[list[float]], float]:
    """Of each of ``writes``, after how many milliseconds each of ``connections`` had it; sends a CPU second."""
    after_ms: list[list[float]] = []
    cpu_s = 0.0
    async with beside(serve) as server:
        port, _ = await server.receive()
        async with beside(receive, port, connections) as receivers:
            await receivers.receive()
            for _ in range(writes):
                receivers.send(size)
                await receivers.receive()
                written_ms = now_ms()
                server.send((size, 1, connections))
                after_ms.append([at_ms - written_ms for at_ms in await receivers.receive()])
                cpu_s += await server.receive()
    return after_ms, per_cpu_s(connections * writes, cpu_s)


async def written(connections: int, size: int, times: int) -> float:
    """Sends a CPU second when each of ``connections`` is written ``size`` bytes ``times`` times in a row."""
    async with beside(serve) as server:
        port, _ = await server.receive()
        async with beside(receive, port, connections) as receivers:
            await receivers.receive()
            receivers.send(size * times)
            await receivers.receive()
            server.send((size, times, connections))
            await receivers.receive()
            cpu_s: float = await server.receive()
            return per_cpu_s(connections * times, cpu_s)


async def rushed(connections: int, size: int) -> tuple[list[float], float]:
    """All connect at once, and each is sent ``size`` bytes: after how many milliseconds each has them; connections a
    CPU second.
    """
    async with beside(serve, size) as server:
        port, pid = await server.receive()
        before = psutil.Process(pid).cpu_times()
        async with beside(rush, port, connections, size) as comers:
            after_ms: list[float] = await comers.receive()
            after = psutil.Process(pid).cpu_times()
            return after_ms, per_cpu_s(connections, after.user + after.system - before.user - before.system)


async def memory_bytes(connections: int, warm: int) -> float:
    """Resident memory a connection, after the first ``warm`` ones."""
    async with beside(serve) as server:
        port, pid = await server.receive()
        async with beside(receive, port, warm) as first:
            await first.receive()
            server.send((0, 0, warm))
            await server.receive()
            before = psutil.Process(pid).memory_info().rss
            async with beside(receive, port, connections) as more:
                await more.receive()
                server.send((0, 0, warm + connections))
                await server.receive()
                return float(psutil.Process(pid).memory_info().rss - before) / connections
