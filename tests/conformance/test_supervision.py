"""What supervisors, tethers and hosts do when somebody ends, whoever keeps the host they are in."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.conformance.actors import HERE, member, root, supervisor
from tests.conformance.conftest import Hosted
from tests.conformance.kept import Child
from tests.patience import PATIENCE_S, until

from syncline.cluster import ActorDown, ChildSpec, ExitKind, Factory, Restart, StartFailed, Strategy
from syncline.cluster.host import Host
from syncline.cluster.testing import Probe, probe, spawn
from syncline.cluster.tether import Tethered


async def crash(host: Host, name: str) -> None:
    with pytest.raises(ActorDown):
        await host.ref(name).call("crash", PATIENCE_S)


async def said(reader: Probe, *lines: str) -> None:
    """Waits for as many lines; it must be these."""
    assert [await reader.next(PATIENCE_S) for _ in lines] == list(lines)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, "-b +b"),
        (Strategy.REST_FOR_ONE, "-b -c +b +c"),
        (Strategy.ONE_FOR_ALL, "-b -c -a +a +b +c"),
    ],
)
async def test_each_strategy_restarts_its_group_in_order(hosted: Hosted, strategy: Strategy, expected: str) -> None:
    reader = await probe(hosted.here.context)
    await hosted.there.start(supervisor("root", strategy, *(member(id, reader.ref) for id in "abc")))
    await said(reader, "+a", "+b", "+c")
    await crash(hosted.there, "b")
    await said(reader, *expected.split())
    assert await hosted.there.ref("b").call("here") == "here"
    await hosted.there.stop()
    await said(reader, "-c", "-b", "-a")
    assert reader.received == []
    assert [await hosted.there.lookup(name) for name in ("root", "a", "b", "c")] == [None] * 4


async def test_who_is_restarted_after_which_end(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    await hosted.there.start(root(*(member(restart.value, reader.ref, restart) for restart in Restart)))
    await said(reader, "+permanent", "+transient", "+temporary")
    for name, after_end, after_crash in (
        ("permanent", ["-permanent", "+permanent"], ["-permanent", "+permanent"]),
        ("temporary", [], ["-temporary"]),
        ("transient", ["-transient"], ["-transient", "+transient"]),
    ):
        await crash(hosted.there, name)
        await said(reader, *after_crash)
        if after_end:
            await hosted.there.ref(name).call("end")
            await said(reader, *after_end)
    await hosted.there.stop()
    await said(reader, "-permanent")  # the others have not come back meanwhile


async def test_too_many_restarts_are_for_the_supervisor_above(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    inner = supervisor("inner", Strategy.ONE_FOR_ONE, *(member(id, reader.ref) for id in "ab"), max_restarts=2)
    await hosted.there.start(supervisor("root", Strategy.REST_FOR_ONE, inner, member("c", reader.ref)))
    await said(reader, "+a", "+b", "+c")
    for _ in range(2):
        await crash(hosted.there, "a")
        await said(reader, "-a", "+a")
    await crash(hosted.there, "a")
    await said(reader, "-a", "-b", "-c", "+a", "+b", "+c")


async def test_a_root_that_gives_up_ends_its_host_and_whoever_keeps_that_decides(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    await hosted.there.start(supervisor("root", Strategy.ONE_FOR_ONE, member("a", reader.ref), max_restarts=0))
    await said(reader, "+a")
    await crash(hosted.there, "a")
    await said(reader, "-a")
    if hosted.kept is None:
        exit = await asyncio.wait_for(hosted.here.ended, PATIENCE_S)
        assert exit.kind is ExitKind.CRASHED
        return
    ended = hosted.kept.pid
    await hosted.kept.ended()
    if isinstance(hosted.kept, Child):
        assert await hosted.kept.exit_code() == 1
    await hosted.kept.running()
    assert hosted.kept.pid != ended

    async def back() -> bool:
        assert hosted.kept is not None
        with contextlib.suppress(ActorDown):
            return bool(await hosted.there.ref("book").call("pid", PATIENCE_S) == hosted.kept.pid)
        return False

    await until(back)


async def test_a_tree_that_cannot_start_leaves_nothing(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    sickly = ChildSpec("sickly", Factory(f"{HERE}:Sickly"))
    with pytest.raises(StartFailed, match="sickly"):
        await hosted.there.start(root(member("a", reader.ref), sickly))
    await said(reader, "+a", "-a")
    with pytest.raises(StartFailed, match="no callable"):
        await hosted.there.start(ChildSpec("root", Factory(f"{HERE}:nothing")))
    await hosted.there.start(root(member("a", reader.ref)))
    await said(reader, "+a")
    with pytest.raises(StartFailed, match="root already"):
        await hosted.there.start(root())


async def test_beside_the_tree_actors_live_and_are_restarted_and_the_tree_does_not_notice(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    await hosted.there.start(root(member("a", reader.ref)))
    await hosted.there.spawn(member("beside", reader.ref))
    await said(reader, "+a", "+beside")
    with pytest.raises(StartFailed, match="runs already"):
        await hosted.there.spawn(member("beside", reader.ref))
    with pytest.raises(StartFailed, match="sickly"):
        await hosted.there.spawn(ChildSpec("sickly", Factory(f"{HERE}:Sickly")))
    companion = member("companion", reader.ref, Restart.TEMPORARY)
    await hosted.there.spawn(companion)
    await said(reader, "+companion")
    lines = ["+beside"]
    while lines[-1] == "+beside":
        await crash(hosted.there, "beside")
        await said(reader, "-beside")
        lines.append(await reader.next(PATIENCE_S))
    assert len(lines) > 2
    assert lines[-1] == "-companion"  # so many restarts do not help: nothing is kept of those beside
    assert await hosted.there.ref("a").call("here") == "here"
    await spawned(hosted.there, companion)
    await said(reader, "+companion")
    hosted.there.ref("companion").stop()
    await said(reader, "-companion")
    await hosted.there.stop()
    await said(reader, "-a")


async def spawned(host: Host, spec: ChildSpec) -> None:
    """Asks until it is: meanwhile the supervisor of those beside is being replaced."""

    async def done() -> bool:
        try:
            await host.spawn(spec)
        except StartFailed:
            return False
        return True

    await until(done)


async def test_what_is_tethered_lives_while_what_it_needs_does(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    waiting = Tethered({"a": hosted.there, "b": hosted.there}, member("tethered", reader.ref))
    tether = await spawn(waiting, hosted.here.context, shutdown_s=None)
    await hosted.there.start(root(member("a", reader.ref)))
    await said(reader, "+a")  # and b is not there yet
    await hosted.there.stop()
    await said(reader, "-a")
    await hosted.there.start(root(member("a", reader.ref), member("b", reader.ref)))
    assert {await reader.next(PATIENCE_S) for _ in range(3)} == {"+a", "+b", "+tethered"}
    for needed in "ba":
        await crash(hosted.there, needed)
        lines = [await reader.next(PATIENCE_S) for _ in range(4)]
        assert [line for line in lines if "tethered" in line] == ["-tethered", "+tethered"]
        assert [line for line in lines if "tethered" not in line] == [f"-{needed}", f"+{needed}"]
    tether.stop()
    await said(reader, "-tethered")
