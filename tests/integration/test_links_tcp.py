"""Links between machines: TLS from the token, and a host that comes back at another address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from syncline.cluster import Actor, ActorDown, ChildSpec
from syncline.cluster.host import LocalHost
from syncline.cluster.link_io import Timing

QUICK = Timing(heartbeat_s=0.1, silence_s=2.0, down_after_s=1.0, redial_first_s=0.005, redial_max_s=0.05)
TOKEN = "a token that nobody must read"


class Echo(Actor):
    def __init__(self, who: str) -> None:
        self._who = who

    async def handle_call(self, message: object) -> object:
        return f"{self._who}: {message}"


@contextlib.asynccontextmanager
async def host(id: str, token: str = TOKEN, who: str = "") -> AsyncIterator[LocalHost]:
    it = LocalHost(id, token=token, timing=QUICK)
    await it.open()
    try:
        await it.start(ChildSpec("echo", lambda: Echo(who), name="echo"))
        yield it
    finally:
        await it.close()


async def test_a_host_that_comes_back_elsewhere_is_found_there(tmp_path: Path) -> None:
    where: list[str] = []

    async def find() -> str:
        if not where:
            raise ConnectionError("nobody knows")
        return where[0]

    async with host("origin") as origin:
        edge = origin.connect("edge", find)
        for who, address in (("first", f"unix:{tmp_path}/edge"), ("second", "tcp:127.0.0.1:0")):
            async with host("edge", who=who) as here:
                where.append(await here.listen(address))
                await asyncio.wait_for(edge.reachable(), PATIENCE_S)
                assert await edge.ref("echo").call("hello") == f"{who}: hello"
                where.clear()


class Wire:
    """What lies between two hosts, and hears everything."""

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(4096):
                self.heard += data
                sink.write(data)
        sink.close()


async def test_over_tcp_neither_the_token_nor_a_message_can_be_read() -> None:
    async with host("edge", who="edge") as edge:
        wire = Wire(int((await edge.listen("tcp:127.0.0.1:0")).rpartition(":")[2]))
        server = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
        async with server, host("origin") as origin:
            far = origin.connect("edge", f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert await far.ref("echo").call("a row of somebody") == "edge: a row of somebody"
            assert len(wire.heard) > 100
            assert not any(secret in wire.heard for secret in (TOKEN.encode(), b"somebody", b"origin"))


@pytest.mark.parametrize("token", ["another token", ""])
async def test_who_does_not_know_the_token_gets_nowhere_by_tcp(token: str) -> None:
    async with host("edge") as edge:
        address = await edge.listen("tcp:127.0.0.1:0")
        async with host("stranger", token) as stranger:
            with pytest.raises(ActorDown):
                await stranger.connect("edge", address).ref("echo").call("hello", timeout_s=PATIENCE_S)
        assert not edge.peer("stranger").up
