"""The shapes of one host: what they are handed, how far they are, what survives, and who is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, FakeSnapshot, ids, insert, piece, row

from syncline.actors.names import CONSUMERS, SHARD
from syncline.actors.shapes.consumer import Consumer, ReadClauses
from syncline.actors.shapes.log import END_OF_TRANSACTION
from syncline.actors.shapes.messages import (
    Dispatch,
    EnsureShape,
    FindShapes,
    Flush,
    FollowWatermark,
    Join,
    LiveShapes,
    OwnTransaction,
    ReadPage,
    ReadWatermark,
    ShapePlace,
    Standing,
    Watermark,
)
from syncline.actors.shapes.reaping import Idle, IdleShape, ReadIdle, RemoveShape
from syncline.actors.shapes.rereading import GiveUp
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shard import DIALECTS, Shard
from syncline.actors.shapes.shards import AssignedShards, Shards
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Context, DynamicSupervisor, ExitKind, Ref, Refusal
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.supervisor import WhichChildren
from syncline.cluster.testing import Probe, crash, kill, probe, spawn
from syncline.proto.values import Relation

START = 100


class Scene:
    """A shard on ``directory`` whose slot stood at 100. Snapshots have one row and a mark named "mark"."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names = [SHARD]
        self.context = Context()
        self.confirmed: list[int] = []
        self.relations: dict[int, Relation] = {ITEMS.id: ITEMS}
        self.taken: asyncio.Event = asyncio.Event()
        self.read_clauses: ReadClauses | None = None  # of every shape
        self.assigned: dict[str, str] | None = None  # shape -> shard, where that is decided elsewhere

    async def start(self, start_lsn: int = START) -> LocalRef:
        if self.context.registry.lookup(CONSUMERS) is None:
            await spawn(DynamicSupervisor(), self.context, name=CONSUMERS, shutdown_s=None)
        refs = {name: self.context.registry.ref(name) for name in self.names}
        shards = Shards(refs) if self.assigned is None else AssignedShards(refs, self._assign)
        shard = Shard(
            SHARD,
            shards,
            self.directory,
            self._consumer,
            self.relations.get,
            start_lsn,
            self.confirmed.append,
        )
        self.shard = await spawn(shard, self.context)
        return self.shard

    async def start_again(self) -> None:
        """After a crash."""
        crash(self.shard)
        await self.shard.join()
        await self.start()

    async def _assign(self, shape: str, prefers: str | None) -> str:
        assert self.assigned is not None
        return self.assigned.setdefault(shape, prefers or SHARD)

    def _consumer(self, store: ShapeStore, relations: Sequence[Relation], shard: Ref) -> Consumer:
        return Consumer(store, relations, self._take, shard, self.read_clauses)

    async def _take(self, *_: object) -> Any:
        self.taken.set()
        return FakeSnapshot("mark", row(1))

    async def ensure(self, shape: Shape = SHAPE) -> ShapePlace:
        place = await self.shard.call(EnsureShape(shape, (ITEMS,)))
        assert isinstance(place, ShapePlace)
        return place

    async def ready(self, lsn: int = 110, shape: Shape = SHAPE) -> ShapePlace:
        """``shape``, by default that of all items, read and placed at ``lsn``."""
        await self.ensure(shape)
        await self.taken.wait()
        await self.shard.send(Dispatch(lsn, {}, marks=((shape.hash, "mark", lsn),)))
        return await self.until(lambda: self.ensure(shape), lambda place: place.ready_lsn is not None)

    async def until(self, ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(5):
            answer = await ask()
            while not holds(answer):
                await asyncio.sleep(0)
                answer = await ask()
        return answer

    async def watermark(self) -> int:
        answer = await self.shard.call(ReadWatermark())
        assert isinstance(answer, int)
        return answer

    async def logged(self, place: ShapePlace) -> list[int]:
        page = await place.ref.call(ReadPage((0, END_OF_TRANSACTION), 1 << 62, 1 << 30))
        return ids(page.records)

    async def children(self) -> set[str]:
        found = await self.context.registry.ref(CONSUMERS).call(WhichChildren())
        return set(found)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "shapes")


async def test_it_begins_with_the_schema_shapes_at_the_position_of_the_slot(scene: Scene) -> None:
    await scene.start()
    assert await scene.watermark() == START
    shapes = await scene.shard.call(LiveShapes())
    assert set(shapes) == {schema_shape(dialect) for dialect in DIALECTS}
    place = await scene.shard.call(EnsureShape(schema_shape("sqlite"), ()))
    assert place.ready_lsn == START


async def test_a_shape_is_started_once_however_many_ask(scene: Scene) -> None:
    await scene.start()
    first, second = await scene.ensure(), await scene.ensure()
    assert first.ref == second.ref
    assert await scene.shard.call(FindShapes(frozenset({SHAPE.hash, "no such"}))) == {SHAPE.hash: first.ref}


async def test_the_watermark_waits_for_the_shapes_that_were_handed_something(scene: Scene) -> None:
    await scene.start()
    edge = await probe(scene.context)
    assert await scene.shard.call(FollowWatermark(edge.ref)) == START
    place = await scene.ready()
    own = OwnTransaction(120, "me", 1)
    await scene.shard.send(Dispatch(125, {SHAPE.hash: (piece(120, insert(2)),)}, (own,)))
    assert await edge.next() == Watermark(SHARD, 110, ())
    assert await edge.next() == Watermark(SHARD, 125, (own,))
    assert await scene.logged(place) == [2]


async def test_an_edge_that_has_ended_is_forgotten(scene: Scene) -> None:
    await scene.start()
    gone, edge = await probe(scene.context), await probe(scene.context)
    for follower in (gone, edge):
        await scene.shard.call(FollowWatermark(follower.ref))
    await scene.shard.send(Dispatch(110, {}))
    crash(gone.ref)
    await scene.shard.send(Dispatch(120, {}))
    assert [await edge.next(), await edge.next()] == [Watermark(SHARD, 110, ()), Watermark(SHARD, 120, ())]
    assert scene.shard.alive


class Slow(Probe):
    """An edge that takes nothing."""

    async def handle_cast(self, message: Any) -> None:
        await asyncio.Event().wait()


async def test_what_the_slot_sends_again_while_shapes_are_behind_is_no_harm(scene: Scene) -> None:
    await scene.start()
    place = await scene.ready()
    edge = await spawn(Slow(), scene.context, mailbox_capacity=1)
    place.ref.inform(Join(edge, 1))
    for lsn in (120, 130, 140):
        await scene.shard.send(Dispatch(lsn, {SHAPE.hash: (piece(lsn, insert(lsn)),)}))
    assert await scene.watermark() < 140, "the shape cannot go on"
    for lsn in (120, 130):  # the connection was cut, and the slot begins again
        await scene.shard.send(Dispatch(lsn, {SHAPE.hash: (piece(lsn, insert(lsn)),)}))
    assert await scene.watermark() < 140
    crash(edge)
    await scene.until(scene.watermark, lambda lsn: lsn == 140)
    assert await scene.logged(place) == [120, 130, 140]


async def test_more_changes_than_all_mailboxes_hold_pass_a_shard_and_its_shapes(scene: Scene) -> None:
    await scene.start()
    place = await scene.ready()
    changes = [Dispatch(lsn, {SHAPE.hash: (piece(lsn, insert(lsn)),)}) for lsn in range(200, 3_200)]

    async def flood() -> None:
        for change in changes:
            await scene.shard.send(change)

    async with asyncio.timeout(30):
        await flood()
        await scene.until(scene.watermark, lambda lsn: lsn == 3_199)
    assert len(await scene.logged(place)) == len(changes)


async def test_it_ends_with_a_shape_that_crashes(scene: Scene) -> None:
    await scene.start()
    place = await scene.ready()
    crash(place.ref)  # type: ignore[arg-type]
    assert (await scene.shard.join()).kind is ExitKind.CRASHED
    assert await scene.children() == set(), "and takes the others with it"


async def test_started_again_it_has_what_was_ready_and_takes_no_transaction_twice(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 120)
    await scene.start_again()
    place = await scene.ensure()
    assert place.ready_lsn == 110
    await scene.shard.send(Dispatch(130, {SHAPE.hash: (piece(120, insert(2)), piece(130, insert(3)))}))
    await scene.until(scene.watermark, lambda lsn: lsn == 130)
    assert await scene.logged(place) == [2, 3]


async def test_it_starts_no_shape_that_lives_elsewhere_and(scene: Scene) -> None:
    scene.names.append("another")
    scene.assigned = {SHAPE.hash: "another"}
    await scene.start()
    with pytest.raises(Refusal, match="elsewhere"):
        await scene.ensure()
    scene.assigned.clear()
    await scene.start_again()
    await scene.ready()
    assert scene.assigned[SHAPE.hash] == SHARD
    crash(scene.shard)
    await scene.shard.join()
    scene.assigned.clear()
    await scene.start()
    assert (await scene.ensure()).ready_lsn == 110, "it has the files, and nobody said otherwise"


async def test_shapes_an_earlier_shard_left_behind_do_not_keep_it_from_starting(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    before = await scene.children()
    scene.shard._cell.actor.terminate = _nothing  # type: ignore[method-assign]
    kill(scene.shard)
    await scene.shard.join()
    assert await scene.children() == before
    await scene.start()
    assert (await scene.ensure()).ready_lsn == 110
    assert await scene.children() == before


async def _nothing(_: object) -> None:
    """In place of a ``terminate`` there was no time for."""


async def test_a_shape_whose_reading_was_interrupted_starts_from_nothing(scene: Scene) -> None:
    await scene.start()
    await scene.ensure()
    await scene.start_again()
    assert not await scene.shard.call(FindShapes(frozenset({SHAPE.hash})))
    assert (await scene.ready(150)).ready_lsn == 150


@pytest.mark.parametrize("now", [None, replace(ITEMS, columns=ITEMS.columns[:1])])
async def test_a_shape_whose_table_is_gone_or_another_is_not_taken_up_again(scene: Scene, now: Relation | None) -> None:
    await scene.start()
    await scene.ready()
    crash(scene.shard)
    await scene.shard.join()
    scene.relations.clear()
    if now is not None:
        scene.relations[ITEMS.id] = now
    await scene.start()
    assert not await scene.shard.call(FindShapes(frozenset({SHAPE.hash})))
    assert not (scene.directory / SHAPE.hash).exists()


async def test_a_slot_ahead_of_the_disk_means_a_hole_and_everything_starts_afresh(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    crash(scene.shard)
    await scene.shard.join()
    await scene.start(start_lsn=500)
    assert await scene.watermark() == 500
    assert not await scene.shard.call(FindShapes(frozenset({SHAPE.hash})))


async def test_a_shape_has_no_folder_before_its_first_change_and_is_there_again_all_the_same(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    assert not (scene.directory / SHAPE.hash).exists()
    kill(scene.shard)
    await scene.shard.join()
    await scene.start()
    place = await scene.ensure()
    assert place.ready_lsn == 110
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 120)
    assert (scene.directory / SHAPE.hash).exists()
    kill(scene.shard)
    await scene.shard.join()
    await scene.start()
    place = await scene.ensure()
    assert place.ready_lsn == 110
    assert await scene.logged(place) == [2]


async def test_a_shape_that_is_removed_is_given_up_before_anything_is_said_to_be_there_without_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash then would bring it back, with a hole."""
    await scene.start()
    await scene.ready()
    given_up, give_up = [], ShapeStore.give_up

    def giving_up(store: ShapeStore) -> None:
        given_up.append(store.shape in [live.store.shape for live in scene.shard._cell.actor._shapes.values()])  # type: ignore[attr-defined]
        give_up(store)

    monkeypatch.setattr(ShapeStore, "give_up", giving_up)
    idle = await scene.shard.call(ReadIdle(frozenset()))
    (shape,) = idle.shapes
    assert await scene.shard.call(RemoveShape(shape.shape.hash, shape.asked))
    assert given_up[0]


async def test_what_is_on_the_disk_is_confirmed_after_it_is_written_down(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.shapes.shard.FLUSH_INTERVAL_S", 0.001)
    await scene.start()
    await scene.ready()
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    await scene.until(scene.watermark, lambda _: 120 in scene.confirmed)
    assert json.loads((scene.directory / "progress.json").read_text()) == {"durable_lsn": 120}
    assert scene.confirmed == sorted(set(scene.confirmed))


class Resting(Consumer):
    """Rests before what it is handed from 130 on until ``go``; ``did``: its appends and flushes in order."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go = asyncio.Event()
        self.did: list[str] = []

    async def _append(self, pieces: Sequence[Any], upto: int) -> None:
        if upto < 130:
            await super()._append(pieces, upto)
            return
        self._shard.inform(Standing(self._hash, upto))
        self.background(self._later(pieces, upto))

    async def _later(self, pieces: Sequence[Any], upto: int) -> None:
        await self.go.wait()
        self.did.append("append")
        await super()._append(pieces, upto)

    async def handle_call(self, message: object) -> object:
        if isinstance(message, Flush):
            self.did.append("flush")
        return await super().handle_call(message)


async def test_a_shape_that_rests_lets_devices_go_on_and_the_slot_wait(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it appends later is on the disk before the slot may forget it."""
    monkeypatch.setattr("syncline.actors.shapes.shard.FLUSH_INTERVAL_S", 0.05)  # both dispatches come before a flush
    made: list[Resting] = []

    def consumer(store: ShapeStore, relations: Sequence[Relation], shard: Ref) -> Consumer:
        if store.shape.kind == "schema":
            return Consumer(store, relations, scene._take, shard)
        made.append(Resting(store, relations, scene._take, shard))
        return made[0]

    monkeypatch.setattr(scene, "_consumer", consumer)
    await scene.start()
    await scene.ready()
    await scene.until(scene.watermark, lambda _: 110 in scene.confirmed)
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    await scene.shard.send(Dispatch(130, {SHAPE.hash: (piece(130, insert(3)),)}))
    await scene.until(scene.watermark, lambda lsn: lsn == 130)
    await scene.until(scene.watermark, lambda _: 120 in scene.confirmed)
    assert 130 not in scene.confirmed
    made[0].go.set()
    await scene.until(scene.watermark, lambda _: 130 in scene.confirmed)
    assert made[0].did[-2:] == ["append", "flush"]


# --- removal ----------------------------------------------------------------------------------------------------------


async def idle(scene: Scene, *needed: str) -> IdleShape | None:
    answer = await scene.shard.call(ReadIdle(frozenset(needed)))
    assert isinstance(answer, Idle)
    return next(iter(answer.shapes), None)


async def test_a_shape_that_nobody_has_asked_for_since_is_removed_and_its_files_with_it(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    assert await idle(scene, SHAPE.hash) is None
    one = await idle(scene)
    assert one is not None
    assert one.size_bytes > 0
    assert await scene.shard.call(RemoveShape(SHAPE.hash, one.asked))
    assert not (scene.directory / SHAPE.hash).exists()
    assert SHAPE not in await scene.shard.call(LiveShapes())
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    assert await scene.watermark() == 120, "nobody waits for it"
    await scene.until(lambda: asyncio.sleep(0, scene.confirmed), lambda confirmed: 120 in confirmed)
    scene.taken.clear()
    place = await scene.ready(130)
    assert place.ready_lsn == 130
    assert await scene.logged(place) == []


async def test_a_shape_that_somebody_asks_for_meanwhile_stays(scene: Scene) -> None:
    await scene.start()
    await scene.ready()
    one = await idle(scene)
    assert one is not None
    await scene.ensure()
    assert not await scene.shard.call(RemoveShape(SHAPE.hash, one.asked))
    assert SHAPE in await scene.shard.call(LiveShapes())


async def test_a_shape_that_an_edge_follows_stays(scene: Scene) -> None:
    await scene.start()
    place = await scene.ready()
    edge = await probe(scene.context)
    place.ref.inform(Join(edge.ref, 1))
    await edge.next()
    one = await idle(scene)
    assert one is not None
    assert not await scene.shard.call(RemoveShape(SHAPE.hash, one.asked))


async def test_a_shape_that_is_removed_while_it_owes_something_is_not_waited_for(scene: Scene) -> None:
    await scene.start()
    await scene.ensure()  # its snapshot is still being taken
    await scene.taken.wait()
    one = await idle(scene)
    assert one is not None
    await scene.shard.send(Dispatch(120, {SHAPE.hash: (piece(120, insert(2)),)}))
    assert await scene.shard.call(RemoveShape(SHAPE.hash, one.asked))
    assert await scene.watermark() == 120
    assert not (scene.directory / SHAPE.hash).exists()


async def test_a_shape_whose_table_has_changed_besides_the_stream_is_read_anew_when_the_shard_starts_again(
    scene: Scene,
) -> None:
    await scene.start()
    await scene.ready()
    assert await scene.shard.call(GiveUp(frozenset({ITEMS.id + 1}))) == 0
    assert SHAPE in await scene.shard.call(LiveShapes())
    assert await scene.shard.call(GiveUp(frozenset({ITEMS.id}))) == 1
    await scene.shard.join()
    scene.taken.clear()
    await scene.start()
    assert SHAPE not in await scene.shard.call(LiveShapes())
    assert (await scene.ready(130)).ready_lsn == 130


async def test_the_schema_is_never_removed(scene: Scene) -> None:
    await scene.start()
    assert await idle(scene) is None
    for shape in map(schema_shape, DIALECTS):
        assert not await scene.shard.call(RemoveShape(shape.hash, "0"))
