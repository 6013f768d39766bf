"""Two hosts in two processes, whoever keeps the other: links that are cut, processes that are killed or frozen."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from tests.conformance.actors import HERE, Note, book, member
from tests.conformance.kept import FAR, Child, Kept, KeptByRay, Place, local_host
from tests.patience import PATIENCE_S, until

from syncline.cluster import ActorDown, Down, ExitKind, NameTaken, Restart
from syncline.cluster.link import Limits
from syncline.cluster.link_io import Timing
from syncline.cluster.ray_host import CALLS_AT_ONCE, HostSpec, RayHost
from syncline.cluster.ray_names import RayName
from syncline.cluster.testing import probe, spawn
from syncline.cluster.tether import Tethered

SMALL = Limits(resend_bytes_max=20_000, resend_frames_max=100, ack_frames=10, ack_bytes=1000)


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
    far: Kept, tmp_path: Path, seed: int
) -> None:
    cutter = Cutter(seed, far.address)
    server = await asyncio.start_unix_server(cutter.accept, tmp_path / "proxy.sock")
    async with server, local_host(timing=Timing(heartbeat_s=0.1, redial_first_s=0.001, down_after_s=60)) as origin:
        there = origin.connect(FAR, f"unix:{tmp_path}/proxy.sock")
        reader = await probe(origin.context, mailbox_capacity=100_000)
        echo = await there.spawn(book("echo", reader.ref, mailbox_capacity=100_000, restart=Restart.TEMPORARY))
        for number in range(0, 1500, 3):
            await echo.send(Note(number))
            assert echo.cast(Note(number + 1))
            assert echo.cast(Note(number + 2))
        assert [(await reader.next(PATIENCE_S)).number for _ in range(1500)] == list(range(1500))
        assert reader.received == []
        assert cutter.cuts > 5
        cutter.calm = True
        echo.stop()
        await echo.join()


async def test_a_killed_host_ends_its_calls_and_monitors_and_comes_back_as_another(far: Kept) -> None:
    async with local_host() as origin:
        there = origin.connect(FAR, far.address)
        watcher = await probe(origin.context)
        old = await there.lookup("book")
        assert old is not None
        monitor = watcher.ref.monitor(old)
        call = asyncio.ensure_future(old.call("hang", timeout_s=60))
        killed = await old.call("pid")
        assert killed == far.pid
        await far.kill()
        down = await watcher.next(PATIENCE_S)
        assert (down.ref, down.monitor, down.exit.kind) == (old, monitor, ExitKind.UNREACHABLE)
        with pytest.raises(ActorDown):
            await call
        await far.running()
        await asyncio.wait_for(there.reachable(), PATIENCE_S)
        assert await there.ref("book").call("pid") == far.pid != killed
        with pytest.raises(ActorDown) as caught:
            await old.call("pid")  # the number of a dead actor never means a new one
        assert caught.value.exit.kind is ExitKind.NOT_FOUND


async def test_a_host_that_is_gone_takes_nothing_and_refuses_at_once(far: Kept) -> None:
    async with local_host() as origin:
        there = origin.connect(FAR, far.address)
        old = await there.lookup("book")
        assert old is not None
        os.kill(far.pid, signal.SIGSTOP)  # so that nobody starts another meanwhile
        try:
            assert (await asyncio.wait_for(old.join(), PATIENCE_S)).kind is ExitKind.UNREACHABLE
            assert not there.up
            assert not old.cast(Note(1))
            for ask in (there.ref("book").call("pid", timeout_s=60), old.send(Note(1)), there.lookup("book")):
                with pytest.raises(ActorDown):
                    await ask
            assert (await old.join()).kind is ExitKind.UNREACHABLE
        finally:
            os.kill(far.pid, signal.SIGCONT)


async def test_a_host_restarted_faster_than_anyone_noticed_is_noticed_at_its_hello(far: Kept) -> None:
    async with local_host(timing=Timing(down_after_s=60)) as origin:
        there = origin.connect(FAR, far.address)
        call = asyncio.ensure_future(there.ref("book").call("hang", timeout_s=60))
        killed = await there.ref("book").call("pid")
        await far.kill()
        await far.running()
        with pytest.raises(ActorDown, match="restarted"):
            await call
        assert await there.ref("book").call("pid") == far.pid != killed


async def test_what_is_tethered_to_a_host_ends_with_it_and_starts_anew_when_it_is_back(far: Kept) -> None:
    async with local_host() as origin:
        reader = await probe(origin.context)
        waiting = Tethered({"book": origin.connect(FAR, far.address)}, member("tethered", reader.ref))
        tether = await spawn(waiting, origin.context, shutdown_s=None)
        for _ in range(2):
            assert await reader.next(PATIENCE_S) == "+tethered"
            await far.kill()
            assert await reader.next(PATIENCE_S) == "-tethered"
            await far.running()
        assert await reader.next(PATIENCE_S) == "+tethered"
        tether.stop()
        assert await reader.next(PATIENCE_S) == "-tethered"


async def test_a_frozen_host_is_given_up_and_learns_of_it_when_it_wakes(far: Kept) -> None:
    async with local_host() as origin:
        there = origin.connect(FAR, far.address)
        book = await there.lookup("book")
        assert book is not None
        watcher = await probe(origin.context)
        watcher.ref.monitor(book)
        await book.call("pid")
        os.kill(far.pid, signal.SIGSTOP)
        assert book.cast(Note(1))  # the socket takes it, and nobody can say whether it will be read
        assert isinstance(await watcher.next(PATIENCE_S), Down)
        os.kill(far.pid, signal.SIGCONT)
        await asyncio.wait_for(there.reachable(), PATIENCE_S)
        await book.send(Note(2))
        assert await book.call("numbers") in ([2], [1, 2])


async def test_a_host_that_is_stopped_counts_as_frozen_and_one_that_is_killed_does_not(far: Kept) -> None:
    frozen: asyncio.Queue[str] = asyncio.Queue()
    quick = Timing(silence_s=0.6, frozen_after_s=0.3)
    async with local_host(timing=quick, frozen=frozen.put_nowait) as origin:
        there = origin.connect(FAR, far.address)
        await there.reachable()
        os.kill(far.pid, signal.SIGSTOP)
        assert await asyncio.wait_for(frozen.get(), PATIENCE_S) == FAR
        os.kill(far.pid, signal.SIGCONT)
        await asyncio.wait_for(there.reachable(), PATIENCE_S)
        while not frozen.empty():
            frozen.get_nowait()
        await far.kill()
        # By then it would have been told, twice over: nothing says that somebody is not frozen.
        await asyncio.sleep(2 * (quick.silence_s + quick.frozen_after_s))
        assert frozen.empty()


async def test_a_host_that_is_busy_is_told_from_one_that_is_frozen(kept_by_ray: KeptByRay) -> None:
    """Its links cannot tell: it says nothing in either case."""
    await kept_by_ray.running()
    async with local_host() as origin:
        busy = await origin.connect(FAR, kept_by_ray.address).spawn(book("busy", restart=Restart.TEMPORARY))
        ended = asyncio.ensure_future(busy.join())
        call = asyncio.ensure_future(busy.call("keep busy", PATIENCE_S))
        await ended  # so long it says nothing that its links give it up
        assert await kept_by_ray.moves()
        with pytest.raises(ActorDown):
            await call
        os.kill(kept_by_ray.pid, signal.SIGSTOP)
        try:
            assert not await kept_by_ray.moves()
        finally:
            os.kill(kept_by_ray.pid, signal.SIGCONT)
        assert await kept_by_ray.moves()


async def test_many_who_wait_for_a_host_do_not_make_it_look_frozen(ray: None) -> None:
    host = RayHost.bring_up(HostSpec(RayName("conformance", "starting"), f"{HERE}:never_ready", None))
    try:
        waiting = [asyncio.ensure_future(host.ready()) for _ in range(3 * CALLS_AT_ONCE)]
        assert await host.node()
        assert await host.moves()
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
    finally:
        host.end()


async def test_an_end_in_order_is_known_at_once(far: Kept) -> None:
    async with local_host(timing=Timing(down_after_s=600)) as origin:
        there = origin.connect(FAR, far.address)
        watcher = await probe(origin.context)
        watcher.ref.monitor(there.ref("book"))
        await there.ref("book").call("pid")
        await far.leave()
        assert isinstance(await watcher.next(PATIENCE_S), Down)


@pytest.mark.parametrize("kept", [Child, KeptByRay])
async def test_a_superseded_owner_is_turned_away_and_ends(
    kept: type[Child | KeptByRay],
    request: pytest.FixtureRequest,
    sockets: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if kept is KeptByRay:
        request.getfixturevalue("ray")
    async with local_host("edge") as edge:
        address = await edge.listen(f"unix:{sockets}/edge.sock")
        old, new = (kept(Place("origin", connect=f"edge={address}", epoch=epoch)) for epoch in (1, 2))
        try:
            await old.running()
            origin = edge.peer("origin")
            await asyncio.wait_for(origin.reachable(), PATIENCE_S)
            assert await origin.ref("book").call("pid") == old.pid
            await new.running()
            await old.ended()
            if isinstance(old, Child):
                assert await old.exit_code() == 1
            assert await origin.ref("book").call("pid") == new.pid
            if isinstance(old, KeptByRay):  # which starts it again and again: it is turned away as often as it comes

                async def turned_away() -> bool:
                    return caplog.text.count("has the stale epoch 1") >= 3

                await until(turned_away)
                assert await origin.ref("book").call("pid") == new.pid
        finally:
            for either in (old, new):
                either.end()


async def test_a_full_link_pushes_back_and_recovers(far: Kept) -> None:
    async with local_host(limits=SMALL) as origin:
        book = origin.connect(FAR, far.address).ref("book")
        await book.call("pid")
        taken = [number for number in range(500) if book.cast(Note(number))]
        assert 0 < len(taken) <= 100
        await book.send(Note(1000))
        assert await book.call("numbers") == [*taken, 1000]


async def test_facts_pass_a_full_link_and_nobody_is_taken_for_dead(far: Kept) -> None:
    async with local_host(limits=SMALL) as origin:
        book, watcher = origin.connect(FAR, far.address).ref("book"), await probe(origin.context)
        await book.call("pid")
        while book.cast(Note(1)):
            pass
        watcher.monitor(book)
        book.inform(Note(2))  # to a book it says nothing, but it must have arrived before what follows
        book.stop()
        down = await watcher.next(PATIENCE_S)
        assert isinstance(down, Down)
        assert down.exit.kind is not ExitKind.UNREACHABLE


async def test_a_name_that_lives_at_another_host_is_reached_like_any_other(far: Kept) -> None:
    async with local_host() as origin:
        registry = origin.context.registry
        registry.lives_at("book", origin.connect(FAR, far.address).ref("book"))
        assert await origin.ref("book").call("pid") == far.pid
        with pytest.raises(NameTaken):
            registry.register("book", (await probe(origin.context)).ref)


async def test_a_host_is_reached_by_tcp_as_by_a_unix_socket() -> None:
    child = Child(Place(listen="tcp:127.0.0.1:0"))
    try:
        await child.running()
        async with local_host() as origin:
            book = origin.connect(FAR, child.address).ref("book")
            await book.send(Note(1, ("a",)))
            assert await book.call("numbers") == [1]
    finally:
        child.end()
