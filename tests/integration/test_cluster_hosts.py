"""Two hosts in two processes: refs, spawning and monitors across a link that is cut, and processes that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE_S

from syncline.cluster import (
    Actor,
    ActorDown,
    ChildSpec,
    Down,
    ExitKind,
    Factory,
    NameTaken,
    Overflow,
    Ref,
    Refusal,
    StartFailed,
    Strategy,
    Supervisor,
)
from syncline.cluster.host import LocalHost
from syncline.cluster.link import Limits
from syncline.cluster.link_io import Timing
from syncline.cluster.testing import probe

ROOT = Path(__file__).parents[2]
HERE = "tests.integration.test_cluster_hosts"
QUICK = Timing(heartbeat_s=0.1, silence_s=0.6, down_after_s=1.0, redial_first_s=0.005, redial_max_s=0.05)

GATE = asyncio.Event()  # in the other process: no note is taken while it is shut
GATE.set()


@dataclass(frozen=True)
class Note:
    """A message with a type of its own."""

    number: int
    text: tuple[str, ...] = ()


class Book(Actor):
    """Lives in the other process: keeps notes, and does what the tests need to see."""

    def __init__(self, reader: Ref | None = None) -> None:
        self.numbers: list[int] = []
        self.reader = reader

    async def handle_cast(self, message: Note) -> None:
        await GATE.wait()
        self.numbers.append(message.number)
        if self.reader is not None:
            await self.reader.send(message)

    async def handle_call(self, message: Any) -> object:
        match message:
            case "numbers":
                return list(self.numbers)
            case "pid":
                return os.getpid()
            case "hang":
                return self.defer()
            case "crash":
                raise ZeroDivisionError("by order")
            case "refuse":
                raise Refusal("not today")
            case "shut the gate":
                GATE.clear()
            case "open the gate":
                GATE.set()
        return message


def types() -> tuple[type, ...]:
    return (Note,)


def application(host: LocalHost) -> ChildSpec:
    """The tree of the other process."""
    books = [
        ChildSpec("book", Book, name="book", mailbox_capacity=100_000),
        ChildSpec("small", Book, name="small", mailbox_capacity=2, overflow=Overflow.BLOCK),
    ]
    return ChildSpec("root", lambda: Supervisor(Strategy.ONE_FOR_ONE, books, max_restarts=10), shutdown_s=None)


class Process:
    """Another host, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process, self.address = process, address

    @classmethod
    async def start(cls, *arguments: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "syncline.cluster", f"{HERE}:application", "--types", f"{HERE}:types", *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        ready = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode().split()
        assert ready[:1] == ["ready"]
        return cls(process, ready[2] if len(ready) > 2 else "")

    async def end(self, how: int) -> int:
        with suppress(ProcessLookupError):
            self.process.send_signal(how)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


@asynccontextmanager
async def local_host(id: str = "origin", **options: Any) -> AsyncIterator[LocalHost]:
    host = LocalHost(id, types=types(), **{"timing": QUICK, **options})
    await host.open()
    try:
        yield host
    finally:
        await host.close()


@pytest.fixture(params=["unix", "tcp"])
async def edge(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Process]:
    listen = f"unix:{tmp_path}/edge.sock" if request.param == "unix" else "tcp:127.0.0.1:0"
    process = await Process.start("--id", "edge", "--listen", listen)
    yield process
    await process.end(signal.SIGKILL)


@pytest.fixture
async def unix_edge(tmp_path: Path) -> AsyncIterator[Process]:
    process = await Process.start("--id", "edge", "--listen", f"unix:{tmp_path}/edge.sock")
    yield process
    await process.end(signal.SIGKILL)


async def test_a_ref_works_the_same_across_processes(edge: Process) -> None:
    async with local_host() as origin:
        book = origin.connect("edge", edge.address).ref("book")
        assert await book.call("pid") == edge.process.pid
        assert book.cast(Note(1))
        await book.send(Note(2, ("a", "b")))
        assert await book.call("numbers") == [1, 2]
        assert await book.call(Note(3, ("x",))) == Note(3, ("x",))
        with pytest.raises(Refusal, match="not today"):
            await book.call("refuse")
        with pytest.raises(ActorDown) as caught:
            await book.call("crash")
        assert caught.value.exit.kind is ExitKind.CRASHED
        assert "ZeroDivisionError" in caught.value.exit.detail
        assert await book.call("numbers") == []  # restarted by its supervisor, under the same name


async def test_actors_are_spawned_looked_up_monitored_and_stopped_across_processes(unix_edge: Process) -> None:
    async with local_host() as origin:
        edge = origin.connect("edge", unix_edge.address)
        watcher = await probe(origin.context)
        book = await edge.spawn(ChildSpec("mine", Factory(f"{HERE}:Book", (watcher.ref,)), name="mine"))
        assert await edge.lookup("mine") == book
        assert await edge.lookup("nobody") is None
        await book.send(Note(7))
        assert await watcher.next() == Note(7)  # through a ref that crossed the link
        monitor = watcher.ref.monitor(book)
        book.stop()
        down = await watcher.next()
        assert (down.ref, down.monitor, down.exit.kind) == (book, monitor, ExitKind.SHUTDOWN)
        with pytest.raises(ActorDown):
            await book.call("pid")
        with pytest.raises(StartFailed, match="no callable"):
            await edge.spawn(ChildSpec("bad", Factory(f"{HERE}:nothing")))


async def test_a_tree_is_started_and_stopped_from_another_process(unix_edge: Process) -> None:
    async with local_host() as origin:
        edge = origin.connect("edge", unix_edge.address)
        with pytest.raises(StartFailed, match="root already"):
            await edge.start(ChildSpec("book", Factory(f"{HERE}:Book")))
        await edge.stop()
        assert await edge.lookup("book") is None
        await edge.start(ChildSpec("book", Factory(f"{HERE}:Book"), name="book"))
        assert await edge.ref("book").call("pid") == unix_edge.process.pid


async def test_send_waits_for_room_in_the_other_process_and_holds_up_nobody_else(unix_edge: Process) -> None:
    async with local_host() as origin:
        edge = origin.connect("edge", unix_edge.address)
        small = edge.ref("small")
        await small.call("shut the gate")
        sends = [asyncio.ensure_future(small.send(Note(number))) for number in range(6)]
        await asyncio.gather(*sends[:3])  # one at the gate, two in the mailbox
        await edge.ref("book").call("pid")
        assert not any(send.done() for send in sends[3:])
        await edge.ref("book").call("open the gate")
        await asyncio.gather(*sends)
        assert await small.call("numbers") == [0, 1, 2, 3, 4, 5]


class Cutter:
    """A proxy that cuts each connection after a number of bytes drawn from a seed, mid-frame as it comes."""

    def __init__(self, seed: int, target: str) -> None:
        self.random, self.target, self.cuts = random.Random(seed), target.removeprefix("unix:"), 0
        self.calm = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self.target)
        budget = [10**9 if self.calm else self.random.randrange(50, 20_000)]
        try:
            await asyncio.gather(
                self.pump(reader, there_writer, budget),
                self.pump(there_reader, writer, budget),
            )
        except ConnectionError:
            self.cuts += 1
        finally:
            writer.transport.abort()
            there_writer.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: list[int]) -> None:
        while data := await reader.read(4096):
            writer.write(data[: budget[0]])
            await writer.drain()
            budget[0] -= len(data)
            if budget[0] <= 0:
                raise ConnectionAbortedError
        raise ConnectionResetError


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_over_a_link_that_is_cut_all_the_time_each_message_arrives_once_and_in_order(
    unix_edge: Process, tmp_path: Path, seed: int
) -> None:
    cutter = Cutter(seed, unix_edge.address)
    server = await asyncio.start_unix_server(cutter.accept, tmp_path / "proxy.sock")
    async with server, local_host(timing=Timing(heartbeat_s=0.1, redial_first_s=0.001, down_after_s=60)) as origin:
        edge = origin.connect("edge", f"unix:{tmp_path}/proxy.sock")
        reader = await probe(origin.context, mailbox_capacity=100_000)
        book = await edge.spawn(ChildSpec("echo", Factory(f"{HERE}:Book", (reader.ref,)), mailbox_capacity=100_000))
        for number in range(0, 1500, 3):
            await book.send(Note(number))
            assert book.cast(Note(number + 1))
            assert book.cast(Note(number + 2))
        assert [(await reader.next(30)).number for _ in range(1500)] == list(range(1500))
        assert reader.received == []
        assert cutter.cuts > 5
        cutter.calm = True


async def test_a_killed_process_ends_its_calls_and_monitors_and_comes_back_as_another(
    unix_edge: Process, tmp_path: Path
) -> None:
    async with local_host() as origin:
        edge = origin.connect("edge", unix_edge.address)
        watcher = await probe(origin.context)
        old = await edge.lookup("book")
        assert old is not None
        monitor = watcher.ref.monitor(old)
        call = asyncio.ensure_future(old.call("hang", timeout_s=60))
        assert await old.call("pid") == unix_edge.process.pid
        await unix_edge.end(signal.SIGKILL)
        down = await watcher.next(10)
        assert (down.ref, down.monitor, down.exit.kind) == (old, monitor, ExitKind.UNREACHABLE)
        with pytest.raises(ActorDown):
            await call
        with pytest.raises(ActorDown):
            await edge.ref("book").call("pid", timeout_s=60)
        assert not edge.up
        assert not old.cast(Note(1))

        again = await Process.start("--id", "edge", "--listen", unix_edge.address)
        try:
            await asyncio.wait_for(edge.reachable(), PATIENCE_S)
            assert await edge.ref("book").call("pid") == again.process.pid
            with pytest.raises(ActorDown) as caught:
                await old.call("pid")  # the number of a dead actor never means a new one
            assert caught.value.exit.kind is ExitKind.NOT_FOUND
        finally:
            await again.end(signal.SIGKILL)


async def test_a_process_restarted_faster_than_anyone_noticed_is_noticed_at_its_hello(unix_edge: Process) -> None:
    async with local_host(timing=Timing(down_after_s=60)) as origin:
        edge = origin.connect("edge", unix_edge.address)
        call = asyncio.ensure_future(edge.ref("book").call("hang", timeout_s=60))
        assert await edge.ref("book").call("pid") == unix_edge.process.pid
        await unix_edge.end(signal.SIGKILL)
        again = await Process.start("--id", "edge", "--listen", unix_edge.address)
        try:
            with pytest.raises(ActorDown, match="restarted"):
                await call
            assert await edge.ref("book").call("pid") == again.process.pid
        finally:
            await again.end(signal.SIGKILL)


async def test_a_frozen_process_is_given_up_and_learns_of_it_when_it_wakes(unix_edge: Process) -> None:
    async with local_host() as origin:
        edge = origin.connect("edge", unix_edge.address)
        book = await edge.lookup("book")
        assert book is not None
        watcher = await probe(origin.context)
        watcher.ref.monitor(book)
        await book.call("pid")
        unix_edge.process.send_signal(signal.SIGSTOP)
        assert book.cast(Note(1))  # the socket takes it, and nobody can say whether it will be read
        assert isinstance(await watcher.next(10), Down)
        unix_edge.process.send_signal(signal.SIGCONT)
        await asyncio.wait_for(edge.reachable(), PATIENCE_S)
        await book.send(Note(2))
        assert await book.call("numbers") in ([2], [1, 2])


async def test_an_orderly_end_is_exit_code_0_and_known_at_once(unix_edge: Process) -> None:
    async with local_host(timing=Timing(down_after_s=60)) as origin:
        edge = origin.connect("edge", unix_edge.address)
        watcher = await probe(origin.context)
        watcher.ref.monitor(edge.ref("book"))
        await edge.ref("book").call("pid")
        assert await unix_edge.end(signal.SIGTERM) == 0
        assert isinstance(await watcher.next(10), Down)


async def test_a_superseded_owner_is_turned_away_and_ends(tmp_path: Path) -> None:
    async with local_host("edge") as edge:
        address = await edge.listen(f"unix:{tmp_path}/edge.sock")
        old = await Process.start("--id", "origin", "--epoch", "1", "--connect", f"edge={address}")
        origin = edge.peer("origin")
        await asyncio.wait_for(origin.reachable(), PATIENCE_S)
        assert await origin.ref("book").call("pid") == old.process.pid
        new = await Process.start("--id", "origin", "--epoch", "2", "--connect", f"edge={address}")
        try:
            assert await asyncio.wait_for(old.process.wait(), PATIENCE_S) == 1
            assert await origin.ref("book").call("pid") == new.process.pid
        finally:
            await new.end(signal.SIGKILL)


async def test_a_full_link_pushes_back_and_recovers(unix_edge: Process) -> None:
    limits = Limits(resend_bytes_max=20_000, resend_frames_max=100, ack_frames=10, ack_bytes=1000)
    async with local_host(limits=limits) as origin:
        book = origin.connect("edge", unix_edge.address).ref("book")
        await book.call("pid")
        taken = [number for number in range(500) if book.cast(Note(number))]
        assert 0 < len(taken) <= 100
        await book.send(Note(1000))
        assert await book.call("numbers") == [*taken, 1000]


async def test_facts_pass_a_full_link_and_nobody_is_taken_for_dead(unix_edge: Process) -> None:
    limits = Limits(resend_bytes_max=20_000, resend_frames_max=100, ack_frames=10, ack_bytes=1000)
    async with local_host(limits=limits) as origin:
        book, watcher = origin.connect("edge", unix_edge.address).ref("book"), await probe(origin.context)
        await book.call("pid")
        while book.cast(Note(1)):
            pass
        watcher.monitor(book)
        book.inform(Note(2))  # to a book it says nothing, but it must have arrived before what follows
        book.stop()
        down = await watcher.next()
        assert isinstance(down, Down)
        assert down.exit.kind is not ExitKind.UNREACHABLE


async def test_a_name_that_lives_at_another_host_is_reached_like_any_other(unix_edge: Process) -> None:
    async with local_host() as origin:
        registry = origin.context.registry
        registry.lives_at("book", origin.connect("edge", unix_edge.address).ref("book"))
        assert await origin.ref("book").call("pid") == unix_edge.process.pid
        with pytest.raises(NameTaken):
            registry.register("book", (await probe(origin.context)).ref)


async def test_a_root_that_gives_up_ends_its_host(tmp_path: Path) -> None:
    async with local_host() as host:
        spec = ChildSpec("book", Book, name="book")
        await host.start(ChildSpec("root", lambda: Supervisor(Strategy.ONE_FOR_ONE, [spec], max_restarts=0)))
        with pytest.raises(ActorDown):
            await host.ref("book").call("crash")
        exit = await asyncio.wait_for(host.ended, PATIENCE_S)
        assert exit.kind is ExitKind.CRASHED
