"""When have all devices what one of them asks about? Questions are put together, who goes is not waited for."""

from __future__ import annotations

from tests.unit.devices.test_gateway import open_edge

from syncline.actors.devices.claims import Claims
from syncline.actors.devices.gateway import Gateway
from syncline.actors.devices.reaching import AskReach, ReachAsked, Reached, ReachTold
from syncline.actors.devices.reception import Claim
from syncline.cluster import Context
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import Probe, probe, spawn


async def connected(gateway: LocalRef, *names: str) -> list[Probe]:
    devices = [await probe() for _ in names]
    for name, device in zip(names, devices, strict=True):
        await gateway.call(Claim(name, device.ref, "here"))
    return devices


async def asked(device: Probe) -> ReachAsked:
    question = await device.next()
    assert isinstance(question, ReachAsked)
    return question


async def test_questions_that_come_together_are_one_about_the_last_of_their_positions() -> None:
    _, gateway = await open_edge()
    a, b = await connected(gateway, "a", "b")
    for number, lsn in ((1, 10), (2, 30), (3, 20)):
        gateway.inform(AskReach(number, lsn, a.ref))
    to_a, to_b = await asked(a), await asked(b)
    assert (to_a.lsn, to_b.lsn) == (30, 30)
    gateway.inform(ReachTold(to_a.number, a.ref))
    gateway.inform(ReachTold(to_a.number, a.ref))
    gateway.inform(ReachTold(to_b.number, b.ref))
    assert [await a.next() for _ in range(3)] == [Reached(1), Reached(2), Reached(3)]
    assert not b.received


async def test_who_goes_is_not_waited_for_and_who_comes_later_is_not_asked() -> None:
    _, gateway = await open_edge()
    a, b = await connected(gateway, "a", "b")
    gateway.inform(AskReach(1, 10, a.ref))
    to_a = await asked(a)
    (c,) = await connected(gateway, "c")
    gateway.inform(ReachTold(to_a.number, a.ref))
    b.ref.stop()
    assert await a.next() == Reached(1)
    assert not c.received


async def test_an_answer_to_one_question_does_not_count_for_the_next() -> None:
    _, gateway = await open_edge()
    a, b = await connected(gateway, "a", "b")
    gateway.inform(AskReach(1, 10, a.ref))
    first = await asked(a)
    await asked(b)
    gateway.inform(AskReach(2, 10, a.ref))
    second = await asked(a)
    await asked(b)
    gateway.inform(ReachTold(second.number, a.ref))
    gateway.inform(ReachTold(second.number, b.ref))
    assert await a.next() == Reached(2)
    gateway.inform(ReachTold(first.number, a.ref))
    gateway.inform(ReachTold(first.number, b.ref))
    assert await a.next() == Reached(1)


async def test_an_edge_among_several_asks_who_knows_the_devices_of_all() -> None:
    scene, _ = await open_edge()
    context = Context()
    claims = await spawn(Claims(), context)
    edges = [await spawn(Gateway(scene.around, claims), scene.context) for _ in range(2)]  # type: ignore[arg-type]
    (a,) = await connected(edges[0], "a")
    (b,) = await connected(edges[1], "b")
    edges[0].inform(AskReach(7, 10, a.ref))
    for device in (a, b):
        question = await asked(device)
        question.reply_to.inform(ReachTold(question.number, device.ref))
    assert await a.next() == Reached(7)
