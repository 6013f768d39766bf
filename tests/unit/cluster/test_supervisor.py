"""What supervisors do when children end, and when they are stopped."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from syncline.cluster import (
    Actor,
    ActorDown,
    ChildSpec,
    Context,
    DynamicSupervisor,
    Exit,
    ExitKind,
    Restart,
    StartFailed,
    Strategy,
    Supervisor,
    TooManyRestarts,
    VirtualClock,
    start_child,
    stop_child,
)
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.supervisor import WhichChildren
from syncline.cluster.testing import crash, kill, run_virtual, spawn


class Journal:
    """Who started and ended, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.context = Context()

    def spec(self, id: str, restart: Restart = Restart.PERMANENT, **options: Any) -> ChildSpec:
        return ChildSpec(id, lambda: Member(self.lines, id), restart, name=id, **options)

    def ref(self, id: str) -> LocalRef:
        found = self.context.registry.lookup(id)
        assert isinstance(found, LocalRef)
        return found

    async def crash(self, id: str) -> None:
        """Crashes a child, and waits until its supervisor is done with it."""
        self.lines.clear()
        crash(self.ref(id))
        await settle()

    async def supervise(self, strategy: Strategy, *specs: ChildSpec, **options: Any) -> LocalRef:
        return await spawn(Supervisor(strategy, specs, **options), self.context, id="supervisor", shutdown_s=None)


class Member(Actor):
    def __init__(self, lines: list[str], id: str) -> None:
        self.lines, self.id = lines, id

    async def init(self) -> None:
        self.lines.append(f"+{self.id}")

    async def handle_call(self, message: object) -> object:
        return message

    async def terminate(self, reason: Exit) -> None:
        self.lines.append(f"-{self.id}")


async def settle() -> None:
    """Lets everything happen that needs no time."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, ["-b", "+b"]),
        (Strategy.REST_FOR_ONE, ["-b", "-c", "+b", "+c"]),
        (Strategy.ONE_FOR_ALL, ["-b", "-c", "-a", "+a", "+b", "+c"]),
    ],
)
async def test_each_strategy_restarts_its_group_in_order(strategy: Strategy, expected: list[str]) -> None:
    journal = Journal()
    await journal.supervise(strategy, *map(journal.spec, "abc"))
    assert journal.lines == ["+a", "+b", "+c"]
    await journal.crash("b")
    assert journal.lines == expected
    assert await journal.ref("b").call("alive?") == "alive?"


async def test_children_stop_in_reverse_order() -> None:
    journal = Journal()
    supervisor = await journal.supervise(Strategy.ONE_FOR_ONE, *map(journal.spec, "abc"))
    journal.lines.clear()
    supervisor.stop()
    assert (await supervisor.join()).kind is ExitKind.SHUTDOWN
    assert journal.lines == ["-c", "-b", "-a"]
    assert len(journal.context.registry) == 0


async def test_a_transient_child_restarts_after_a_crash_and_not_after_a_normal_end() -> None:
    journal = Journal()
    await journal.supervise(Strategy.ONE_FOR_ALL, journal.spec("a"), journal.spec("t", Restart.TRANSIENT))
    await journal.crash("t")
    assert journal.lines == ["-t", "-a", "+a", "+t"]
    journal.lines.clear()
    journal.ref("t").stop()
    await settle()
    assert journal.lines == ["-t"]


async def test_a_temporary_child_is_not_restarted_and_disturbs_nobody() -> None:
    journal = Journal()
    supervisor = await journal.supervise(Strategy.ONE_FOR_ALL, journal.spec("a"), journal.spec("t", Restart.TEMPORARY))
    await journal.crash("t")
    assert journal.lines == ["-t"]
    assert list(await supervisor.call(WhichChildren())) == ["a"]


async def test_too_many_restarts_escalate_and_leave_nobody_behind() -> None:
    journal = Journal()
    supervisor = await journal.supervise(Strategy.ONE_FOR_ONE, *map(journal.spec, "ab"), max_restarts=2, max_seconds=60)
    await journal.crash("a")
    await journal.crash("a")
    await journal.crash("a")
    exit = await supervisor.join()
    assert isinstance(exit.cause, TooManyRestarts)
    assert journal.lines == ["-a", "-b"]


def test_restarts_further_apart_than_the_window_do_not_add_up() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Journal()
        journal.context = Context(clock=clock)
        supervisor = await journal.supervise(Strategy.ONE_FOR_ONE, journal.spec("a"), max_restarts=1, max_seconds=5)
        for _ in range(10):
            await journal.crash("a")
            await asyncio.sleep(5)  # virtual time: nobody waits
        assert supervisor.alive

    run_virtual(main)


async def test_escalation_restarts_the_inner_tree_from_above() -> None:
    journal = Journal()
    inner = ChildSpec(
        "inner", lambda: Supervisor(Strategy.ONE_FOR_ONE, [journal.spec("a")], max_restarts=0), shutdown_s=None
    )
    await journal.supervise(Strategy.REST_FOR_ONE, inner, journal.spec("z"))
    await journal.crash("a")
    assert journal.lines == ["-a", "-z", "+a", "+z"]


async def test_a_child_that_fails_to_start_takes_back_those_before_it() -> None:
    journal = Journal()

    def broken() -> Actor:
        raise OSError("no disk")

    with pytest.raises(ActorDown) as caught:
        await journal.supervise(Strategy.ONE_FOR_ONE, journal.spec("a"), ChildSpec("b", broken))
    assert isinstance(caught.value.exit.cause, StartFailed)
    assert isinstance(caught.value.exit.cause.__cause__, OSError)
    assert journal.lines == ["+a", "-a"]


async def test_an_init_that_keeps_failing_uses_up_the_intensity() -> None:
    starts = itertools.count(1)

    class Flaky(Actor):
        async def init(self) -> None:
            if next(starts) > 1:
                raise ConnectionError("away")

    journal = Journal()
    supervisor = await journal.supervise(
        Strategy.ONE_FOR_ONE, ChildSpec("flaky", Flaky, name="flaky"), max_restarts=3, max_seconds=60
    )
    crash(journal.ref("flaky"))
    exit = await supervisor.join()
    assert isinstance(exit.cause, TooManyRestarts)
    assert next(starts) == 5  # the first, and three restarts


class Stubborn(Actor):
    """Does not stop when asked, nor, if ``deaf``, when cancelled."""

    def __init__(self, deaf: bool = False) -> None:
        self.deaf = deaf
        self.release = asyncio.Event()

    async def handle_cast(self, message: object) -> None:
        while True:
            try:
                await self.release.wait()
                return
            except asyncio.CancelledError:
                if not self.deaf:
                    raise


@pytest.mark.parametrize(("deaf", "expected_s"), [(False, 3.0), (True, 5.0)])
def test_a_child_that_does_not_stop_in_time_is_killed_or_at_last_abandoned(deaf: bool, expected_s: float) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Journal()
        stubborn = Stubborn(deaf)
        spec = ChildSpec("stubborn", lambda: stubborn, shutdown_s=3, name="stubborn")
        supervisor = await journal.supervise(Strategy.ONE_FOR_ONE, journal.spec("a"), spec)
        ref = journal.ref("stubborn")
        ref.cast("go")
        await settle()
        supervisor.stop()
        await supervisor.join()
        assert clock.monotonic_s() == expected_s
        assert (await ref.join()).kind is ExitKind.KILLED
        assert journal.lines == ["+a", "-a"]
        stubborn.release.set()

    run_virtual(main)


def test_killing_a_supervisor_kills_its_tree_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Journal()
        spec = ChildSpec("stubborn", Stubborn, shutdown_s=3600, name="stubborn")
        supervisor = await journal.supervise(Strategy.ONE_FOR_ONE, journal.spec("a"), spec)
        ref = journal.ref("stubborn")
        ref.cast("go")
        await settle()
        kill(supervisor)
        await supervisor.join()
        assert clock.monotonic_s() <= 1
        assert not ref.alive
        assert journal.lines == ["+a", "-a"]

    run_virtual(main)


async def dynamic(journal: Journal, **options: Any) -> tuple[DynamicSupervisor, LocalRef]:
    supervisor = DynamicSupervisor(**options)
    return supervisor, await spawn(supervisor, journal.context, shutdown_s=None)


async def test_dynamic_children_start_by_ref_or_object_and_restart_alone() -> None:
    journal = Journal()
    supervisor, ref = await dynamic(journal)
    a = await start_child(ref, journal.spec("a"))
    await supervisor.start_child(journal.spec("b"))
    await journal.crash("a")
    assert journal.lines == ["-a", "+a"]
    assert not a.alive
    assert await journal.ref("a").call("alive?") == "alive?"


async def test_a_dynamic_child_stopped_by_id_is_forgotten_and_its_id_free() -> None:
    journal = Journal()
    supervisor, ref = await dynamic(journal)
    await start_child(ref, journal.spec("a"))
    with pytest.raises(StartFailed, match="runs already"):
        await start_child(ref, journal.spec("a"))
    assert await stop_child(ref, "a")
    assert not await stop_child(ref, "a")
    await start_child(ref, journal.spec("a"))
    assert len(supervisor) == 1


async def test_a_dynamic_child_that_never_lived_is_not_kept_nor_retried() -> None:
    class Broken(Actor):
        async def init(self) -> None:
            raise OSError("no")

    journal = Journal()
    supervisor, ref = await dynamic(journal)
    with pytest.raises(StartFailed) as caught:
        await start_child(ref, ChildSpec("broken", Broken))
    assert isinstance(caught.value.__cause__, OSError)
    await settle()
    assert len(supervisor) == 0
    assert ref.alive


async def test_dynamic_children_have_a_limit() -> None:
    journal = Journal()
    _, ref = await dynamic(journal, children_max=1)
    await start_child(ref, journal.spec("a"))
    with pytest.raises(StartFailed, match="at most"):
        await start_child(ref, journal.spec("b"))


async def test_a_slow_start_does_not_hold_up_others() -> None:
    class Slow(Actor):
        async def init(self) -> None:
            await asyncio.Event().wait()

    journal = Journal()
    _, ref = await dynamic(journal)
    slow = asyncio.ensure_future(start_child(ref, ChildSpec("slow", Slow)))
    await start_child(ref, journal.spec("quick"))
    ref.stop()
    with pytest.raises(ActorDown):
        await slow
    assert journal.lines == ["+quick", "-quick"]


async def test_dynamic_restarts_run_out_like_any_other() -> None:
    journal = Journal()
    _, ref = await dynamic(journal, max_restarts=1, max_seconds=60)
    await start_child(ref, journal.spec("a"))
    await journal.crash("a")
    await journal.crash("a")
    assert isinstance((await ref.join()).cause, TooManyRestarts)


async def test_an_exit_during_a_group_restart_is_decided_after_it() -> None:
    journal = Journal()
    inits: list[Callable[[], None]] = []

    class Next(Member):
        async def init(self) -> None:
            await super().init()
            for action in inits:
                action()

    await journal.supervise(
        Strategy.REST_FOR_ONE,
        journal.spec("a"),
        ChildSpec("b", lambda: Next(journal.lines, "b"), name="b"),
        max_restarts=5,
        max_seconds=60,
    )
    inits.append(lambda: (inits.clear(), crash(journal.ref("a")))[0])
    await journal.crash("b")
    assert journal.lines == ["-b", "+b", "-a", "-b", "+a", "+b"]
