"""What an actor promises to those who talk to it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from syncline.cluster import Actor, ActorDown, CallTimeout, Context, Down, Exit, ExitKind, Refusal, VirtualClock
from syncline.cluster.spec import NORMAL
from syncline.cluster.testing import Stalled, crash, kill, probe, run_virtual, spawn


class Counter(Actor):
    def __init__(self) -> None:
        self.count = 0
        self.ended: Exit | None = None

    async def handle_cast(self, message: int) -> None:
        self.count += message

    async def handle_call(self, message: Any) -> object:
        if message == "refuse":
            raise Refusal("not today")
        if message == "crash":
            raise ZeroDivisionError("by order")
        if message == "hang":
            await asyncio.Event().wait()
        if message == "stop":
            self.stop()
        return self.count

    async def terminate(self, reason: Exit) -> None:
        self.ended = reason


async def test_casts_arrive_in_order_before_a_later_call() -> None:
    ref = await spawn(Counter())
    for number in range(100):
        assert ref.cast(number)
    assert await ref.call("count") == 4950


async def test_a_refusal_reaches_the_caller_and_leaves_the_actor_alive() -> None:
    ref = await spawn(Counter())
    with pytest.raises(Refusal, match="not today"):
        await ref.call("refuse")
    assert await ref.call("count") == 0


async def test_a_crash_in_a_call_is_actor_down_with_its_cause_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    ref = await spawn(Counter())
    with caplog.at_level(logging.ERROR), pytest.raises(ActorDown) as caught:
        await ref.call("crash")
    assert isinstance(caught.value.exit.cause, ZeroDivisionError)
    assert caught.value.__cause__ is caught.value.exit.cause
    record = caplog.records[0]
    assert record.exc_info
    assert record.__dict__["actor"] == "Counter"


async def test_calls_waiting_behind_a_crash_are_answered_with_actor_down() -> None:
    ref = await spawn(Counter())
    calls = [asyncio.ensure_future(ref.call(message)) for message in ("crash", "count", "count")]
    assert [type(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == [ActorDown] * 3


async def test_a_call_to_the_dead_fails_at_once() -> None:
    ref = await spawn(Counter())
    kill(ref)
    await ref.join()
    assert not ref.cast(1)
    with pytest.raises(ActorDown):
        await ref.call("count", timeout_s=1e9)
    with pytest.raises(ActorDown):
        await ref.send(1)


def test_a_call_gives_up_after_its_timeout_and_the_actor_goes_on() -> None:
    async def main(clock: VirtualClock) -> None:
        ref = await spawn(Counter())
        with pytest.raises(CallTimeout, match="within 2 s"):
            await ref.call("hang", timeout_s=2)
        assert clock.monotonic_s() == 2
        assert ref.alive

    run_virtual(main)


async def test_a_call_whose_caller_gave_up_while_it_was_queued_is_skipped() -> None:
    actor = await probe()
    call = asyncio.ensure_future(actor.ref.call("unwanted"))
    await asyncio.sleep(0)
    call.cancel()
    assert await actor.ref.call("wanted") == "wanted"
    assert actor.received == ["wanted"]


async def test_an_actor_may_answer_later() -> None:
    class Later(Actor):
        async def handle_call(self, message: str) -> object:
            reply = self.defer()
            self.background(self.answer(reply, message))
            return reply

        async def answer(self, reply: Any, message: str) -> None:
            await asyncio.sleep(0)
            reply.set(message.upper())

    ref = await spawn(Later())
    assert await asyncio.gather(ref.call("a"), ref.call("b")) == ["A", "B"]


async def test_answers_still_owed_at_the_end_become_actor_down() -> None:
    class Never(Actor):
        async def handle_call(self, message: object) -> object:
            return self.defer()

    ref = await spawn(Never())
    call = asyncio.ensure_future(ref.call("anything"))
    await asyncio.sleep(0)
    ref.stop()
    with pytest.raises(ActorDown):
        await call


async def test_a_crash_of_background_work_crashes_the_actor() -> None:
    class Reader(Actor):
        async def init(self) -> None:
            self.background(self.read())

        async def read(self) -> None:
            raise ConnectionResetError("cut")

    exit = await (await spawn(Reader())).join()
    assert isinstance(exit.cause, ConnectionResetError)


async def test_background_work_is_cancelled_before_terminate() -> None:
    seen: list[str] = []

    class Reader(Actor):
        async def init(self) -> None:
            self.background(self.read())

        async def read(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cancelled")

        async def terminate(self, reason: Exit) -> None:
            seen.append("terminated")

    ref = await spawn(Reader())
    await asyncio.sleep(0)
    ref.stop()
    await ref.join()
    assert seen == ["cancelled", "terminated"]


async def test_a_monitor_tells_the_end_once_after_the_last_words() -> None:
    watcher = await probe()

    class Talker(Actor):
        async def handle_cast(self, message: str) -> None:
            watcher.ref.cast(message)
            self.stop()

    talker = await spawn(Talker())
    monitor = watcher.ref.monitor(talker)
    talker.cast("last words")
    assert await watcher.next() == "last words"
    assert await watcher.next() == Down(talker, NORMAL, monitor)


async def test_monitoring_the_dead_tells_at_once_and_a_cancelled_monitor_tells_nothing() -> None:
    watcher, other = await probe(), await probe()
    watcher.ref.monitor(other.ref).cancel()
    other.ref.stop()
    exit = await other.ref.join()
    monitor = watcher.ref.monitor(other.ref)
    assert await watcher.next() == Down(other.ref, exit, monitor)
    assert watcher.received == []


async def test_terminate_runs_after_a_stop_a_crash_and_a_kill() -> None:
    for end, kind in ((lambda ref: ref.stop(), ExitKind.SHUTDOWN), (crash, ExitKind.CRASHED), (kill, ExitKind.KILLED)):
        actor = Counter()
        ref = await spawn(actor)
        end(ref)
        assert (await ref.join()).kind is kind
        assert actor.ended is not None
        assert actor.ended.kind is kind


async def test_an_init_that_fails_is_told_to_the_starter() -> None:
    class Broken(Actor):
        async def init(self) -> None:
            raise FileNotFoundError("no config")

    with pytest.raises(ActorDown) as caught:
        await spawn(Broken())
    assert isinstance(caught.value.exit.cause, FileNotFoundError)


def test_an_init_that_hangs_is_a_crash() -> None:
    class Slow(Actor):
        async def init(self) -> None:
            await asyncio.Event().wait()

    async def main(clock: VirtualClock) -> None:
        with pytest.raises(ActorDown):
            await spawn(Slow(), init_s=10.0)
        assert clock.monotonic_s() == 10

    run_virtual(main)


def test_timers_come_as_infos_in_the_hosts_time_and_can_be_cancelled() -> None:
    async def main(clock: VirtualClock) -> None:
        actor = await probe(Context(clock=clock))
        actor.send_after(5, "five")
        actor.send_after(3600, "an hour")
        actor.send_after(10, "never").cancel()
        assert await actor.next(1e9) == "five"
        assert await actor.next(1e9) == "an hour"
        assert clock.monotonic_s() == 3600

    run_virtual(main)


def test_waiting_for_nobody_is_reported_as_stalled() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled):
        run_virtual(main)


async def test_an_actor_that_calls_itself_is_told_so() -> None:
    class Narcissus(Actor):
        async def handle_call(self, message: object) -> object:
            return await self.ref.call(message)

    ref = await spawn(Narcissus())
    with pytest.raises(ActorDown) as caught:
        await ref.call("mirror")
    assert isinstance(caught.value.exit.cause, RuntimeError)


async def test_a_busy_actor_lets_others_run() -> None:
    ref = await spawn(Counter(), mailbox_capacity=10_000)
    for _ in range(10_000):
        ref.cast(1)
    other = await spawn(Counter())
    assert await other.call("count") == 0
    assert len(ref._cell.mailbox) > 0
