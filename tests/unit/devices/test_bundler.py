"""The bundles of one edge: who is answered when, who is told what, and what happens when somebody ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from syncline.actors.devices.bundler import PINNED_S, Bundler
from syncline.actors.devices.following import (
    Author,
    AwaitLsn,
    AwaitShards,
    Followed,
    FollowSet,
    OwnPassed,
    Pinned,
    Released,
    Unfollow,
)
from syncline.actors.names import SHARD
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import (
    Arrived,
    FollowWatermark,
    HeldBelow,
    Join,
    Joined,
    Leave,
    OwnTransaction,
    ReadReleased,
    Watermark,
)
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Context, ExitKind
from syncline.cluster.clock import Clock, VirtualClock
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import Probe, crash, probe, run_virtual, spawn


@dataclass
class Scene:
    """A bundler, a shard that stands at 100, two shapes, and as many devices as a test wants."""

    context: Context
    bundler: LocalRef
    shard: Probe
    shapes: dict[str, Probe]

    @classmethod
    async def made(cls, clock: Clock | None = None) -> Scene:
        context = Context() if clock is None else Context(clock=clock)
        shard = Probe(lambda message: 100 if isinstance(message, FollowWatermark) else None)
        await spawn(shard, context, name=SHARD)
        bundler = await spawn(Bundler(Shards({SHARD: context.registry.ref(SHARD)})), context)
        assert isinstance(await shard.next(), FollowWatermark)
        return cls(context, bundler, shard, {name: await probe(context) for name in ("a", "b")})

    async def device(self, **options: int) -> Probe:
        return await probe(self.context, **options)

    async def follow(self, device: Probe, *names: str, generation: int = 1) -> None:
        await self.bundler.send(FollowSet(device.ref, generation, {name: self.shapes[name].ref for name in names}))

    async def join(self, name: str, appended: int) -> None:
        """The shape is asked to join, and does."""
        asked = await self.shapes[name].next()
        assert isinstance(asked, Join)
        self.bundler.inform(Joined(name, 1, appended, asked.number))

    async def append(self, name: str, lsn: int) -> None:
        await self.bundler.send(Arrived(name, (Record(lsn, lsn, "postgres_1", 0, True, 1, b""),)))

    async def watermark(self, lsn: int, *own: OwnTransaction) -> None:
        await self.bundler.send(Watermark(SHARD, lsn, own))

    async def quiet(self, device: Probe) -> bool:
        """Nothing has come for ``device`` by the time the bundler has taken everything."""
        await self.settled()
        return not device.received

    async def settled(self) -> None:
        marker = await probe(self.context)
        await self.bundler.send(FollowSet(marker.ref, 1, {}))
        assert isinstance(await marker.next(), Followed)


def lsns(released: object) -> list[int]:
    assert isinstance(released, Released), released
    return [frame.lsn for frame in released.frames]


async def test_a_follower_is_answered_when_every_shape_has_joined() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a", "b")
    await scene.join("a", 90)
    assert await scene.quiet(device)
    await scene.join("b", 95)
    assert await device.next() == Followed(1, 100)


async def test_a_follower_is_answered_when_the_watermark_has_reached_what_a_shape_had_appended() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a")
    await scene.join("a", 110)
    assert await scene.quiet(device)
    await scene.watermark(120)
    assert await device.next() == Followed(1, 120)
    assert await scene.quiet(device), "what lies below the answer is in the logs and is not sent as well"


async def test_a_transaction_is_released_whole_and_once_the_watermark_has_passed_it() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a", "b")
    await scene.join("a", 100)
    await scene.join("b", 100)
    await device.next()
    await scene.append("a", 110)
    assert await scene.quiet(device)
    await scene.append("b", 110)
    await scene.watermark(110)
    assert lsns(await device.next()) == [110]


async def test_what_comes_again_after_watermarks_that_released_nothing_is_not_released_again() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a")
    await scene.join("a", 100)
    await device.next()
    for lsn in (150, 200):
        await scene.watermark(lsn)
    await scene.append("a", 120)
    await scene.append("a", 210)
    await scene.watermark(210)
    assert lsns(await device.next()) == [210]
    assert await scene.quiet(device)


async def test_a_set_is_joined_once_for_all_its_devices_and_left_with_the_last() -> None:
    scene = await Scene.made()
    first, second = await scene.device(), await scene.device()
    await scene.follow(first, "a")
    await scene.join("a", 100)
    await scene.follow(second, "a")
    assert await second.next() == Followed(1, 100)
    await scene.bundler.send(Unfollow(first.ref))
    await scene.settled()
    assert not scene.shapes["a"].received
    second.ref.stop()
    assert isinstance(await scene.shapes["a"].next(), Leave)


async def test_a_device_changes_sets_without_leaving_what_both_have() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a")
    await scene.join("a", 100)
    await scene.follow(device, "a", "b", generation=2)
    await scene.join("b", 100)
    assert [await device.next(), await device.next()] == [Followed(1, 100), Followed(2, 100)]
    await scene.append("a", 110)
    await scene.watermark(110)
    released = await device.next()
    assert (released.generation, lsns(released)) == (2, [110])
    assert not scene.shapes["a"].received


async def test_the_answer_to_an_earlier_join_proves_nothing() -> None:
    scene = await Scene.made()
    first, second = await scene.device(), await scene.device()
    await scene.follow(first, "a")
    earlier = await scene.shapes["a"].next()
    await scene.bundler.send(Unfollow(first.ref))
    assert isinstance(await scene.shapes["a"].next(), Leave)
    await scene.follow(second, "a")
    scene.bundler.inform(Joined("a", 1, 100, earlier.number))  # on its way before we left; what came then, we missed
    await scene.watermark(150)
    assert await scene.quiet(second)
    await scene.join("a", 140)
    assert await second.next() == Followed(1, 150)


async def test_an_author_hears_of_its_transaction_before_it_follows_anything() -> None:
    scene = await Scene.made()
    author = await scene.device()
    await scene.bundler.send(Author(author.ref, "me"))
    await scene.watermark(110, OwnTransaction(105, "me", 7), OwnTransaction(106, "another", 8))
    assert await author.next() == OwnPassed(105, 7)


async def test_an_author_is_told_how_far_its_shapes_are_when_they_hold_nothing_of_its_transaction() -> None:
    scene = await Scene.made()
    author = await scene.device()
    await scene.bundler.send(Author(author.ref, "me"))
    await scene.follow(author, "a")
    await scene.join("a", 100)
    await author.next()
    await scene.watermark(110, OwnTransaction(105, "me", 7))
    assert await author.next() == OwnPassed(105, 7)
    assert await author.next() == Released(1, (), 110)


async def test_the_newest_connection_of_a_client_is_its_author_also_after_the_older_one_ends() -> None:
    scene = await Scene.made()
    older, newer = await scene.device(), await scene.device()
    await scene.bundler.send(Author(older.ref, "me"))
    await scene.bundler.send(Author(newer.ref, "me"))
    older.ref.stop()
    await older.ref.join()
    await scene.watermark(110, OwnTransaction(105, "me", 7))
    assert await newer.next() == OwnPassed(105, 7)


async def test_an_awaited_position_is_told_when_it_is_passed_and_at_once_if_it_has_been() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a")
    await scene.join("a", 100)
    await device.next()
    await scene.bundler.send(AwaitLsn(device.ref, 100))
    assert await device.next() == Released(1, (), 100)
    await scene.bundler.send(AwaitLsn(device.ref, 120))
    await scene.watermark(110)
    assert await scene.quiet(device)
    await scene.watermark(120)
    assert await device.next() == Released(1, (), 120)


class Deaf(Probe):
    """Takes one message and then nothing more."""

    async def handle_cast(self, message: object) -> None:
        await super().handle_cast(message)
        await asyncio.Event().wait()


async def test_a_device_without_room_is_ended_rather_than_sent_a_stream_with_a_hole() -> None:
    scene = await Scene.made()
    device, other = Deaf(), await scene.device()
    ref = await spawn(device, scene.context, mailbox_capacity=2, shutdown_s=0.1)
    await scene.bundler.send(FollowSet(ref, 1, {"a": scene.shapes["a"].ref}))
    await scene.follow(other, "a")
    await scene.join("a", 100)
    await device.next()
    for lsn in range(110, 150, 10):
        await scene.append("a", lsn)
        await scene.watermark(lsn)
    await scene.settled()
    assert len(other.received) == 5
    crash(ref)  # it was asked to end and would, if it ever came back from what it does
    assert (await ref.join()).abnormal


async def test_it_ends_with_the_shard() -> None:
    scene = await Scene.made()
    crash(scene.shard.ref)
    assert (await scene.bundler.join()).kind is ExitKind.CRASHED


def test_it_waits_for_a_shard_that_takes_its_time() -> None:
    async def main(clock: VirtualClock) -> None:
        context = Context(clock=clock)
        bundler = await spawn(Bundler(Shards({SHARD: context.registry.ref(SHARD)})), context)
        device, shape = await probe(context), await probe(context)
        await bundler.send(FollowSet(device.ref, 1, {"a": shape.ref}))
        join = await shape.next()
        bundler.inform(Joined("a", 1, 90, join.number))
        await asyncio.sleep(10)  # virtual time
        assert bundler.alive
        assert not device.received
        shard = Probe(lambda message: 100)
        await spawn(shard, context, name=SHARD)
        assert await device.next() == Followed(1, 100)

    run_virtual(main)


async def test_what_one_of_two_shards_has_not_passed_is_held_and_its_author_told_once() -> None:
    context = Context()
    names = (f"{SHARD}-0", f"{SHARD}-1")
    for name in names:
        await spawn(Probe(lambda message: 100), context, name=name)
    bundler = await spawn(Bundler(Shards({name: context.registry.ref(name) for name in names})), context)
    device, shape = await probe(context), await probe(context)
    await bundler.send(Author(device.ref, "me"))
    await bundler.send(FollowSet(device.ref, 1, {"a": shape.ref}))
    join = await shape.next()
    bundler.inform(Joined("a", 1, 90, join.number))
    assert await device.next() == Followed(1, 100)
    await bundler.send(Arrived("a", (Record(110, 110, "me", 0, True, 1, b""),)))
    own = (OwnTransaction(110, "me", 7),)
    await bundler.send(Watermark(names[0], 110, own))
    await bundler.send(Watermark(names[1], 105, ()))
    await bundler.send(Watermark(names[1], 110, own))
    assert await device.next() == OwnPassed(110, 7)
    released = await device.next()
    assert isinstance(released, Released)
    assert (released.upto, [frame.lsn for frame in released.frames]) == (110, [110])
    await bundler.send(Watermark(names[0], 120, own))  # the slot has sent it again
    await bundler.send(Watermark(names[1], 120, own))
    await bundler.send(AwaitLsn(device.ref, 120))
    assert await device.next() == Released(1, (), 120)


async def test_who_awaits_the_shards_is_answered_when_the_last_of_them_is_followed() -> None:
    context = Context()
    names = ("first", "second")
    bundler = await spawn(Bundler(Shards({name: context.registry.ref(name) for name in names})), context)
    awaiting = [asyncio.create_task(bundler.call(AwaitShards())) for _ in range(2)]
    for name in names:
        assert not any(task.done() for task in awaiting)
        await spawn(shard := Probe(lambda message: 100), context, name=name)
        assert isinstance(await shard.next(), FollowWatermark)
    await asyncio.gather(*awaiting)
    await bundler.call(AwaitShards())


async def test_a_shape_that_rests_holds_up_those_who_follow_it_and_nobody_else() -> None:
    scene = await Scene.made()
    both, one = await scene.device(), await scene.device()
    await scene.follow(both, "a", "b")
    await scene.follow(one, "b")
    await scene.join("a", 100)
    await scene.join("b", 100)
    assert (await both.next(), await one.next()) == (Followed(1, 100), Followed(1, 100))
    await scene.bundler.call(HeldBelow("a", 109))
    await scene.append("b", 110)
    await scene.watermark(120)
    assert lsns(await one.next()) == [110]
    assert await scene.quiet(both)
    await scene.append("a", 110)
    await scene.bundler.call(HeldBelow("a", 114))
    assert lsns(await both.next()) == [110], "as far as it has come"
    await scene.bundler.send(AwaitLsn(both.ref, 118))
    assert await scene.quiet(both)
    await scene.bundler.call(HeldBelow("a", None))
    assert await both.next() == Released(1, (), 120)


async def test_who_comes_to_a_shape_that_rests_waits_for_it() -> None:
    scene = await Scene.made()
    device, late = await scene.device(), await scene.device()
    await scene.follow(device, "a")
    await scene.bundler.call(HeldBelow("a", 105))
    await scene.join("a", 104)
    await scene.watermark(120)
    assert await device.next() == Followed(1, 105)
    await scene.follow(late, "a", "b")
    await scene.join("b", 100)
    assert await late.next() == Followed(1, 105)
    await scene.append("a", 120)
    await scene.bundler.call(HeldBelow("a", None))
    assert (lsns(await device.next()), lsns(await late.next())) == ([120], [120])


async def test_another_set_of_shapes_that_are_known_waits_for_one_that_rests() -> None:
    scene = await Scene.made()
    first, late = await scene.device(), await scene.device()
    await scene.follow(first, "a", "b")
    await scene.join("a", 100)
    await scene.join("b", 100)
    assert await first.next() == Followed(1, 100)
    await scene.bundler.call(HeldBelow("a", 105))
    await scene.watermark(120)
    await scene.follow(late, "a")
    assert await late.next() == Followed(1, 105)
    await scene.append("a", 110)
    await scene.bundler.call(HeldBelow("a", None))
    assert lsns(await late.next()) == [110]


# --- who is in the middle of reading ----------------------------------------------------------------------------------


async def test_a_device_is_pinned_where_it_is_answered_until_it_says_that_it_reads_no_more() -> None:
    scene = await Scene.made()
    device = await scene.device()
    await scene.follow(device, "a")
    await scene.join("a", 90)
    assert await device.next() == Followed(1, 100)
    await scene.watermark(150)
    assert await scene.bundler.call(ReadReleased("a")) == 100
    await scene.bundler.send(Pinned(device.ref, 120))
    assert await scene.bundler.call(ReadReleased("a")) == 120
    await scene.bundler.send(Pinned(device.ref, None))
    assert await scene.bundler.call(ReadReleased("a")) == 150


async def test_a_device_that_has_gone_pins_nothing() -> None:
    scene = await Scene.made()
    device, other = await scene.device(), await scene.device()
    for one in (device, other):
        await scene.follow(one, "a")
    await scene.join("a", 90)
    await scene.watermark(150)
    await scene.bundler.send(Pinned(other.ref, None))
    assert await scene.bundler.call(ReadReleased("a")) == 100
    await scene.bundler.send(Unfollow(device.ref))
    assert await scene.bundler.call(ReadReleased("a")) == 150
    await scene.bundler.send(Pinned(device.ref, 120))
    assert await scene.bundler.call(ReadReleased("a")) == 150


def test_who_reads_nothing_for_long_holds_nobody_up() -> None:
    async def scenario(clock: VirtualClock) -> None:
        scene = await Scene.made(clock)
        device = await scene.device()
        await scene.follow(device, "a")
        await scene.join("a", 90)
        await scene.watermark(150)
        await asyncio.sleep(PINNED_S / 2)  # virtual time
        await scene.bundler.send(Pinned(device.ref, 120))
        await asyncio.sleep(PINNED_S - 1)  # virtual time
        assert await scene.bundler.call(ReadReleased("a"), 10 * PINNED_S) == 120
        await asyncio.sleep(2)  # virtual time
        assert await scene.bundler.call(ReadReleased("a"), 10 * PINNED_S) == 150

    run_virtual(scenario)
