"""One actor that tells many edges how far several shards have come."""

from __future__ import annotations

import asyncio

import pytest

from syncline.actors.shapes.messages import FollowWatermark, OwnTransaction, Watermark
from syncline.actors.shapes.shards import Shards
from syncline.actors.shapes.watermarks import Watermarks
from syncline.cluster import Context, ExitKind
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import Probe, crash, probe, spawn

NAMES = ("shard-0", "shard-1")


class Scene:
    """Two shards that stand at 100 and 90."""

    async def start(self) -> Scene:
        self.context = Context()
        self.shards = []
        for name, lsn in zip(NAMES, (100, 90), strict=True):
            self.shards.append(await spawn(Probe(lambda message, lsn=lsn: lsn), self.context, name=name))
        refs = {name: self.context.registry.ref(name) for name in NAMES}
        self.watermarks: LocalRef = await spawn(Watermarks("all", Shards(refs)), self.context)
        return self

    async def edge(self) -> Probe:
        edge = await probe(self.context)
        assert await self.watermarks.call(FollowWatermark(edge.ref)) == 90
        return edge


@pytest.fixture
async def scene() -> Scene:
    return await Scene().start()


async def test_all_are_told_when_the_last_shard_has_passed_and_of_a_transaction_once(scene: Scene) -> None:
    edges = [await scene.edge() for _ in range(3)]
    own = (OwnTransaction(105, "me", 7),)
    await scene.watermarks.send(Watermark(NAMES[0], 110, own))
    await scene.watermarks.send(Watermark(NAMES[1], 95, ()))
    await scene.watermarks.send(Watermark(NAMES[1], 110, own))
    await scene.watermarks.send(Watermark(NAMES[0], 120, own))  # the slot has sent it again
    await scene.watermarks.send(Watermark(NAMES[1], 120, own))
    told = [Watermark("all", 95, ()), Watermark("all", 110, own), Watermark("all", 120, ())]
    for edge in edges:
        assert [await edge.next() for _ in told] == told


async def test_an_edge_that_has_ended_is_forgotten(scene: Scene) -> None:
    gone, edge = await scene.edge(), await scene.edge()
    crash(gone.ref)
    await scene.watermarks.send(Watermark(NAMES[1], 95, ()))
    await scene.watermarks.send(Watermark(NAMES[1], 96, ()))
    assert [await edge.next(), await edge.next()] == [Watermark("all", 95, ()), Watermark("all", 96, ())]
    assert scene.watermarks.alive


async def test_a_slow_edge_holds_the_shards_back_and_not_for_ever_when_it_ends(scene: Scene) -> None:
    class Slow(Probe):
        async def handle_cast(self, message: object) -> None:
            await asyncio.Event().wait()

    slow, edge = await spawn(Slow(), scene.context, mailbox_capacity=1), await scene.edge()
    await scene.watermarks.call(FollowWatermark(slow))
    for lsn in (91, 92, 93, 94):
        await scene.watermarks.send(Watermark(NAMES[1], lsn, ()))
    for lsn in (91, 92, 93):
        assert (await edge.next()).lsn == lsn
    crash(slow)
    assert (await edge.next()).lsn == 94


async def test_it_ends_with_a_shard(scene: Scene) -> None:
    crash(scene.shards[0])
    assert (await scene.watermarks.join()).kind is ExitKind.CRASHED
