"""A shape of which nobody wants anything falls asleep, and is a consumer again as soon as somebody does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.shapes.shape_scene import SHAPE, ids, insert, piece
from tests.unit.shapes.test_shard import Scene

from syncline.actors.shapes import asleep, shard
from syncline.actors.shapes.asleep import Asleep, Wakes
from syncline.actors.shapes.census import Census, ReadCensus
from syncline.actors.shapes.clauses import NO_CLAUSES, Clauses
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.messages import (
    Arrived,
    Dispatch,
    FindShapes,
    Join,
    Joined,
    Leave,
    NotifyReady,
    ReadRows,
    ShapePlace,
    ShapeReady,
)
from syncline.actors.shapes.reaping import Idle, ReadIdle, RemoveShape
from syncline.actors.shapes.shard import Shard
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import crash, probe


class Tiring(Scene):
    """Whose shapes fall asleep at once. ``looks``: how often the shard has looked for those that may."""

    looks = 0

    async def looked_at(self) -> None:
        """Returns when the shard has looked at its shapes again, and again."""
        before = self.looks

        async def looks() -> int:
            await asyncio.sleep(0.005)  # it looks now and then, and tells nobody
            return self.looks

        await self.until(looks, lambda looks: looks >= before + 2)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiring:
    monkeypatch.setattr(asleep, "ASLEEP_AFTER_S", 0.0)
    monkeypatch.setattr(shard, "FLUSH_INTERVAL_S", 0.01)
    scene = Tiring(tmp_path / "shapes")
    put_to_sleep = Shard._put_to_sleep

    async def looking(self: Shard) -> None:
        await put_to_sleep(self)
        scene.looks += 1

    monkeypatch.setattr(Shard, "_put_to_sleep", looking)
    await scene.start()
    return scene


def actor_of(place: ShapePlace) -> object:
    assert isinstance(place.ref, LocalRef)
    return place.ref._cell.actor


async def falls_asleep(scene: Scene, place: ShapePlace) -> None:
    async def actor() -> object:
        await asyncio.sleep(0.005)  # the shard looks at its shapes now and then
        return actor_of(place)

    await scene.until(actor, lambda one: isinstance(one, Asleep))


async def test_nothing_holds_on_to_the_consumer_that_fell_asleep(scene: Scene) -> None:
    place = await scene.ready()
    await falls_asleep(scene, place)
    edge = await probe(scene.context)
    place.ref.inform(Join(edge.ref, 1))
    await edge.next()
    consumer = actor_of(place)
    assert isinstance(consumer, Consumer)
    gone = weakref.ref(consumer)
    del consumer
    place.ref.inform(Leave(edge.ref))
    await falls_asleep(scene, place)
    gc.collect()
    assert gone() is None


async def test_a_wake_waits_for_postgres(scene: Scene) -> None:
    """Of those that name values the clause is read again."""
    away = [ConnectionError("Postgres is away")] * 2
    read = 0

    async def clauses() -> Clauses:
        nonlocal read
        read += 1
        if read > 1 and away:
            raise away.pop()
        return NO_CLAUSES

    scene.read_clauses = clauses
    shape = replace(SHAPE, where="this.id = 1", one_of=("id", ("1",)))
    place = await scene.ready(shape=shape)
    await falls_asleep(scene, place)
    await scene.shard.send(Dispatch(120, {shape.hash: (piece(120, insert(2)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 120)
    assert (read, away) == (4, [])
    assert await scene.logged(place) == [2]


async def test_what_happens_meanwhile_is_appended_in_order(scene: Scene) -> None:
    place = await scene.ready()
    for lsn in (120, 130, 140):
        await falls_asleep(scene, place)
        await scene.shard.send(Dispatch(lsn, {SHAPE.hash: (piece(lsn, insert(lsn)),)}))
        await scene.until(scene.watermark, lambda reached, lsn=lsn: reached == lsn)
    await falls_asleep(scene, place)
    assert await scene.logged(place) == [120, 130, 140]
    await falls_asleep(scene, place)
    await scene.until(lambda: asyncio.sleep(0, scene.confirmed), lambda confirmed: 140 in confirmed)


async def test_who_has_its_address_may_follow_it_and_keeps_it_awake(scene: Tiring) -> None:
    place = await scene.ready()
    await falls_asleep(scene, place)
    edge = await probe(scene.context)
    place.ref.inform(Join(edge.ref, 1))
    assert await edge.next() == Joined(SHAPE.hash, 110, 110, 1)
    await scene.looked_at()
    assert isinstance(actor_of(place), Consumer)
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    arrived = await edge.next()
    assert isinstance(arrived, Arrived)
    assert ids(arrived.records) == [2]


async def test_its_rows_are_read_and_its_readiness_is_told(scene: Scene) -> None:
    place = await scene.ready()
    await falls_asleep(scene, place)
    chunk, _ = await place.ref.call(ReadRows(110, 0))
    assert len(chunk.keys) == 1
    await falls_asleep(scene, place)
    device = await probe(scene.context)
    place.ref.inform(NotifyReady(device.ref))
    assert await device.next() == ShapeReady(SHAPE.hash)


async def test_it_does_not_fall_asleep_within_a_transaction(scene: Tiring) -> None:
    place = await scene.ready()
    half = replace(piece(120, insert(2)), last=False)
    await scene.shard.send(Dispatch(110, {SHAPE.hash: (half,)}))
    await scene.looked_at()
    assert isinstance(actor_of(place), Consumer)
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (replace(piece(120, insert(3)), first=False),)}))
    await falls_asleep(scene, place)
    assert await scene.logged(place) == [2, 3]


async def test_a_start_finds_what_was_asleep(scene: Scene) -> None:
    place = await scene.ready()
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    await falls_asleep(scene, place)
    await scene.start_again()
    place = await scene.ensure()
    assert place.ready_lsn == 110
    assert await scene.logged(place) == [2]


async def test_those_that_name_values_are_asleep_from_the_start(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = replace(SHAPE, where="this.id = 1", one_of=("id", ("1",)))
    await scene.ready(shape=shape)
    await scene.until(lambda: asyncio.sleep(0, scene.confirmed), lambda confirmed: 110 in confirmed)
    crash(scene.shard)
    await scene.shard.join()
    monkeypatch.setattr(asleep, "ASLEEP_AFTER_S", 30.0)
    await scene.start()
    found = await scene.shard.call(FindShapes(frozenset({shape.hash})))
    place = ShapePlace(found[shape.hash], 110)  # type: ignore[index]
    assert isinstance(actor_of(place), Asleep)
    await scene.ensure(shape)
    census = await scene.shard.call(ReadCensus())
    assert isinstance(census, Census)
    assert census.asleep == 1, "it was asked for, and sent nothing"
    await scene.shard.send(Dispatch(130, {shape.hash: (piece(130, insert(3)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 130)
    assert await scene.logged(place) == [3]
    assert isinstance(actor_of(place), Consumer)


async def test_what_is_asleep_is_counted_and_can_be_removed(scene: Scene) -> None:
    place = await scene.ready()
    await falls_asleep(scene, place)
    census = await scene.shard.call(ReadCensus())
    assert isinstance(census, Census)
    assert (census.tables, census.asleep) == (1, 1)
    idle = await scene.shard.call(ReadIdle(frozenset()))
    assert isinstance(idle, Idle)
    (one,) = idle.shapes
    assert await scene.shard.call(RemoveShape(one.shape.hash, one.asked))
    assert not await scene.children() & {f"shape:{SHAPE.hash}"}
    await scene.shard.send(Dispatch(130, {SHAPE.hash: (piece(130, insert(3)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 130)
    assert (await scene.ensure()).ready_lsn is None


async def test_one_that_is_asked_for_all_the_time_stays_awake(scene: Tiring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asleep, "ASLEEP_AFTER_S", 30.0)
    place = await scene.ready()
    await scene.looked_at()
    assert isinstance(actor_of(place), Consumer)


def test_who_was_not_used_for_longest_falls_asleep_first() -> None:
    now_s = 0.0
    wakes = Wakes(lambda: now_s)
    for shape in ("a", "b", "c"):
        wakes.used(shape)
        now_s += 1
    wakes.used("a")
    now_s = asleep.ASLEEP_AFTER_S + 2.5
    assert list(wakes.unused()) == ["b", "c"], "a was used again"
    assert list(wakes.unused()) == [], "they count as used"
    now_s *= 2
    for shape in wakes.unused():
        wakes.forget(shape)
    now_s *= 2
    assert list(wakes.unused()) == []
