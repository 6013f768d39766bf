"""The shapes of one host: finds or starts them, hands them their changes, and says how far all of them have come.

Two positions matter. The *watermark*: every shape here has appended everything up to it, but for those that are known
to rest before it (see ``treeconsumer``); edges release transactions by it. The *durable* position: everything up to it
is on this host's disk; the slot may forget what lies before it. Both move in batches, as the router sends them.

``progress.json`` holds the durable position and is written before it is confirmed to the slot. So a slot that is ahead
of it has been consumed by somebody else or was made anew: what our disk holds has a hole, and the shapes start afresh.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from syncline.actors.names import CONSUMERS
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.flush import Progress
from syncline.actors.shapes.asleep import UNKNOWN, Asleep, Concerning, Kept, Waker, Wakes
from syncline.actors.shapes.census import Census, ReadCensus
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import (
    Append,
    Appended,
    Dispatch,
    EnsureShape,
    FindShapes,
    Flush,
    FollowWatermark,
    LiveShapes,
    MarkSeen,
    OwnTransaction,
    Piece,
    ReadWatermark,
    ShapePlace,
    Standing,
    Watermark,
)
from syncline.actors.shapes.progress import read_progress, write_progress
from syncline.actors.shapes.reaping import Idle, IdleShape, ReadFollowed, ReadIdle, RemoveShape
from syncline.actors.shapes.rereading import GiveUp
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shards import Shards, tell
from syncline.actors.shapes.slabs import Slabs
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import (
    Actor,
    ActorDown,
    CallTimeout,
    ChildSpec,
    Down,
    Exit,
    Ref,
    Refusal,
    Restart,
    start_child,
    stop_child,
)
from syncline.proto.values import Relation

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.5
SIZED_AT_ONCE = 1_000  # shapes
FOLLOWED_TIMEOUT_S = 5.0  # everybody waits meanwhile; there will be another time
FLUSH_TIMEOUT_S = 60.0  # a shape may have a long transaction to append first
FLUSHED_AT_ONCE = 100
FLUSH_THREADS = 4
DIALECTS = ("sqlite", "postgresql")
CONSUMER_MAILBOX = 256


MakeConsumer: TypeAlias = Callable[[ShapeStore, Sequence[Relation], Ref], Consumer]


class ShapeLost(Exception):
    """A shape's actor crashed. The shard ends with it, and supervision starts both from what is on disk."""


@dataclass(slots=True)
class _Live:
    """``relations``: of its tables. ``consumer``: None while it is asleep. ``asked``: the number of the last asking for
    it, and when that was."""

    ref: Ref
    store: ShapeStore
    relations: tuple[Relation, ...]
    consumer: Consumer | None
    concerning: Concerning
    asked: int = 0
    asked_s: float = 0.0


class Shard(Actor, Waker):
    """The shapes under ``directory``, of which ``name`` is the home among the ``shards``.

    ``start_lsn``: the slot's confirmed position at start. ``relation_of``: a table's relation by oid, None if it is no
    longer synced. ``consumer``: makes the actor of a shape. ``confirm``: called with each new durable position.
    """

    def __init__(
        self,
        name: str,
        shards: Shards,
        directory: Path,
        consumer: MakeConsumer,
        relation_of: Callable[[int], Relation | None],
        start_lsn: int,
        confirm: Callable[[int], None],
    ) -> None:
        self._name = name
        self._shards = shards
        self._directory = directory
        self._consumer = consumer
        self._relation_of = relation_of
        self._start_lsn = start_lsn
        self._confirm = confirm
        self._shapes: dict[str, _Live] = {}
        self._wakes = Wakes(lambda: self.clock.monotonic_s())
        self._edges: dict[Ref, None] = {}
        self._progress = Progress()
        self._stored = Progress()  # the same, and of the shapes that rest only what they have appended
        self._watermark = 0
        self._own: list[OwnTransaction] = []
        self._durable = 0
        self._dispatched = 0
        self._unflushed: set[str] = set()
        self._life = uuid.uuid4().hex
        self._askings = 0

    async def init(self) -> None:
        self._consumers = self.context.registry.ref(CONSUMERS)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._slabs = await asyncio.to_thread(Slabs, self._directory)
        self._durable = read_progress(self._directory)
        if self._durable < self._start_lsn:
            if self._durable:
                log.warning("the slot is ahead of what is on this disk: shapes start afresh, devices sync again")
            self._slabs.remove()
            for path in self._directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._slabs = Slabs(self._directory)
            self._durable = self._start_lsn
            write_progress(self._directory, self._durable)
        self._watermark = self._durable
        self._dispatched = self._durable
        self._progress, self._stored = Progress(self._durable), Progress(self._durable)
        folders = {path.name for path in self._directory.iterdir() if path.is_dir()}
        for name in sorted(folders.union(self._slabs.found)):
            await self._resume(self._directory / name)
        self.background(self._slabs.write())
        for shape in map(schema_shape, DIALECTS):
            if await self._shards.found(shape.hash) == self._name:
                await self._ensure(shape, ())
        self.background(self._flush_regularly())

    async def terminate(self, reason: Exit) -> None:
        stops = [stop_child(self._consumers, _child_id(shape)) for shape in self._shapes]
        await asyncio.gather(*stops, return_exceptions=True)
        self._slabs.close()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Dispatch():
                await self._dispatch(message)
            case _:
                raise TypeError(f"a shard does not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case EnsureShape(shape, relations):
                live = await self._ensure(shape, relations)
                self._askings += 1
                live.asked, live.asked_s = self._askings, self.clock.monotonic_s()
                self._wakes.used(shape.hash)
                return ShapePlace(live.ref, live.store.ready_lsn)
            case FindShapes(hashes):
                return {found: self._shapes[found].ref for found in hashes if found in self._shapes}
            case FollowWatermark(edge):
                self._edges[edge] = None
                self.monitor(edge)
                return self._watermark
            case ReadWatermark():
                return self._watermark
            case ReadIdle(needed):
                return await self._idle(needed)
            case ReadCensus():
                return await self._census()
            case RemoveShape(shape, asked):
                return await self._remove(shape, asked)
            case GiveUp(relation_ids):
                return await self._give_up(relation_ids)
            case LiveShapes():
                return tuple(live.store.shape for live in self._shapes.values())
            case _:
                raise TypeError(f"a shard does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case Appended(shape) | Standing(shape) if shape not in self._shapes:
                pass  # it has been removed
            case Appended(shape, upto):
                self._unflushed.add(shape)
                self._stored.done(upto, shape)
                self._progress.done(upto, shape)
                await self._advance()
            case Standing(shape, upto):
                self._progress.done(upto, shape)
                await self._advance()
            case Down(ref=ref, exit=exit) if any(live.ref == ref for live in self._shapes.values()):
                # What was in its mailbox is lost: the whole chain starts again from the durable position.
                raise ShapeLost(f"shape {ref} ended: {exit}")
            case Down(ref=ref):
                self._edges.pop(ref, None)
            case _:
                pass

    # --- changes ------------------------------------------------------------------------------------------------------

    async def _dispatch(self, dispatch: Dispatch) -> None:
        self._own.extend(dispatch.own)
        entries: dict[str, Sequence[Piece | Record]] = {}
        for shape, pieces in dispatch.entries.items():
            live = self._shapes.get(shape)
            if live is not None:
                concerning = live.concerning(pieces, at_rest=not self._stored.owes(shape))
                if concerning:
                    entries[shape] = concerning
        # After a restart or a reconnect the slot sends again what was dispatched before: it counts as part of the last.
        upto = self._dispatched = max(dispatch.upto, self._dispatched)
        self._progress.dispatched(upto, entries)
        self._stored.dispatched(upto, entries)
        for shape, concerning in entries.items():
            self._wakes.used(shape)
            await self._shapes[shape].ref.send(Append(tuple(concerning), upto))
        for shape, mark, lsn in dispatch.marks:
            if shape in self._shapes:
                await self._shapes[shape].ref.send(MarkSeen(mark, lsn))
        await self._advance()

    async def _advance(self) -> None:
        lsn = int(self._progress.watermark)
        if lsn <= self._watermark:
            return
        self._watermark = lsn
        passed = tuple(own for own in self._own if own.lsn <= lsn)
        self._own = [own for own in self._own if own.lsn > lsn]
        await tell(self._edges, Watermark(self._name, lsn, passed))

    # --- shapes -------------------------------------------------------------------------------------------------------

    async def _ensure(self, shape: Shape, relations: tuple[Relation, ...]) -> _Live:
        live = self._shapes.get(shape.hash)
        if live is None:
            if await self._shards.found(shape.hash, self._name) != self._name:
                raise Refusal(f"{shape.hash} lives elsewhere")
            directory = self._directory / shape.hash
            await self._clear(shape.hash)
            if directory.exists():
                shutil.rmtree(directory, ignore_errors=True)
            store = ShapeStore(directory, shape, None if shape.kind == "schema" else self._slabs)
            if shape.kind == "schema":
                store.finish_image(self._watermark)
            live = await self._start(store, relations)
        return live

    async def _idle(self, needed: frozenset[str]) -> Idle:
        idle: list[IdleShape] = []
        size = 0
        for number, (hash, live) in enumerate(list(self._shapes.items())):
            size += live.store.size_bytes
            if hash not in needed and live.store.shape.kind == "table":
                unasked_s = self.clock.monotonic_s() - live.asked_s
                idle.append(IdleShape(live.store.shape, live.store.size_bytes, self._asked(live), unasked_s))
            if number % SIZED_AT_ONCE == SIZED_AT_ONCE - 1:
                await asyncio.sleep(0)
        return Idle(tuple(idle), size)

    async def _census(self) -> Census:
        loading: list[tuple[int, int]] = []
        since: list[int] = []
        tables = slow = outside = logs = images = other = asleep = 0
        for number, live in enumerate(list(self._shapes.values()), 1):
            store = live.store
            if store.ready_lsn is None:
                loading.append((store.shape.relation_id, store.image_rows))
            elif store.shape.kind == "table":
                since.append(store.ready_lsn)
            tables += store.shape.kind == "table"
            asleep += live.consumer is None
            slow += store.noted.slow
            outside += store.noted.outside
            logs, images, other = logs + store.log_bytes, images + store.image_bytes, other + store.other_bytes
            if number % SIZED_AT_ONCE == 0:
                await asyncio.sleep(0)
        oldest = max(since, default=0)
        return Census(len(self._shapes), tables, tuple(loading), oldest, slow, outside, logs, images, other, asleep)

    def _asked(self, live: _Live) -> str:
        return f"{self._life}:{live.asked}"

    async def _remove(self, shape: str, asked: str) -> bool:
        live = self._shapes.get(shape)
        if live is None or live.store.shape.kind != "table" or self._asked(live) != asked:
            return False
        try:
            if await live.ref.call(ReadFollowed(), FOLLOWED_TIMEOUT_S):
                return False
        except (ActorDown, CallTimeout):
            return False  # it is busy, or the shard is about to end, too
        self._wakes.forget(shape)  # it is not to fall asleep meanwhile
        # First of all: what is on the disk counts as having everything, and gets nothing from now on.
        await asyncio.to_thread(live.store.give_up)
        del self._shapes[shape]  # its end is no loss
        await stop_child(self._consumers, _child_id(shape))
        self._unflushed.discard(shape)
        self._progress.forget(shape)
        self._stored.forget(shape)
        await asyncio.to_thread(live.store.remove)
        try:
            await self._shards.release(shape)
        except AWAY as error:
            log.warning("shape %s keeps its home: %s", shape, error)
        await self._advance()
        return True

    async def _give_up(self, relation_ids: frozenset[int]) -> int:
        stale = [live for live in self._shapes.values() if not relation_ids.isdisjoint(live.store.shape.tables)]
        for live in stale:
            await asyncio.to_thread(live.store.give_up)  # no start finds it any more
        if stale:
            self.stop()
        return len(stale)

    async def _clear(self, shape: str) -> None:
        """A shard that was killed leaves its shapes behind: two actors must not write to the same files."""
        if await stop_child(self._consumers, _child_id(shape)):
            log.warning("shape %s of an earlier shard was still there", shape)

    async def _resume(self, path: Path) -> None:
        await self._clear(path.name)
        store = await asyncio.to_thread(ShapeStore.load, path, self._slabs)  # it reads the whole log
        relations = None if store is None else self._relations_of(store.shape)
        here = await self._shards.found(path.name, self._name) == self._name
        if store is None or not here or relations is None:
            log.info("shape files in %s are no longer of use: removed", path.name)
            if store is None:
                shutil.rmtree(path, ignore_errors=True)
            else:
                await asyncio.to_thread(store.remove)
            return
        # Of those that name values the router knows what concerns them: nobody else has to find out first.
        asleep = store.ready_lsn is not None and store.shape.one_of is not None and not store.shape.is_tree
        await self._start(store, relations, asleep=asleep)

    def _relations_of(self, shape: Shape) -> tuple[Relation, ...] | None:
        """Of its tables; None if one of them is not what it was when the shape was made."""
        relations: list[Relation] = []
        for relation_id, columns in shape.tables.items():
            relation = self._relation_of(relation_id)
            if relation is None or relation.names != columns:
                return None
            relations.append(relation)
        return tuple(relations)

    async def _start(self, store: ShapeStore, relations: tuple[Relation, ...], *, asleep: bool = False) -> _Live:
        consumer = None if asleep else self._consumer(store, relations, self.ref)
        made: list[Actor] = [consumer or Asleep(self, store, UNKNOWN)]  # whom nobody is to hold on to
        spec = ChildSpec(
            id=_child_id(store.shape.hash),
            start=made.pop,
            restart=Restart.TEMPORARY,
            mailbox_capacity=CONSUMER_MAILBOX,
        )
        ref = await start_child(self._consumers, spec)
        live = _Live(ref, store, relations, consumer, UNKNOWN.concerning if consumer is None else consumer.concerning)
        self.monitor(live.ref)
        self._shapes[store.shape.hash] = live
        if consumer is None:
            store.rest()
        else:
            self._wakes.used(store.shape.hash)
        return live

    async def _put_to_sleep(self) -> None:
        for shape in self._wakes.unused():
            live = self._shapes.get(shape)
            if live is None or live.consumer is None:  # it is gone, or has not been sent anything
                self._wakes.forget(shape)
                continue
            owing = shape in self._unflushed or self._stored.owes(shape)
            if live.store.shape.kind == "table" and not owing and live.consumer.may_sleep:
                await self._fall_asleep(live, live.consumer)
                self._wakes.forget(shape)
            await asyncio.sleep(0)  # a tree closes a file

    async def _fall_asleep(self, live: _Live, consumer: Consumer) -> None:
        kept = consumer.kept()
        await consumer.become(Asleep(self, live.store, kept))  # without a pause: it has nothing to do at its start
        live.store.rest()
        live.consumer, live.concerning = None, kept.concerning

    async def awaken(self, hash: str, kept: Kept) -> Consumer:
        """See ``Waker``."""
        live = self._shapes[hash]
        consumer = self._consumer(live.store, live.relations, self.ref)
        await consumer.resume(kept)
        return consumer

    def awoken(self, hash: str, actor: Consumer) -> None:
        """See ``Waker``."""
        live = self._shapes[hash]
        live.consumer, live.concerning = actor, actor.concerning
        self._wakes.used(hash)

    # --- durability ---------------------------------------------------------------------------------------------------

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            if self._slabs.wasteful:
                await asyncio.to_thread(self._slabs.tidy)
            await self._put_to_sleep()
            target, shapes = min(self._watermark, int(self._stored.watermark)), self._unflushed
            if target <= self._durable:
                continue
            self._unflushed = set()
            await self._flush(list(shapes))
            await asyncio.to_thread(self._slabs.sync)
            await asyncio.to_thread(write_progress, self._directory, target)
            self._durable = target
            self._confirm(target)

    async def _flushing(self, shape: str) -> Callable[[], None]:
        live = self._shapes.get(shape)
        try:
            return _nothing if live is None else await live.ref.call(Flush(), FLUSH_TIMEOUT_S)
        except ActorDown:
            if self._shapes.get(shape) is live:
                raise
            return _nothing  # it has been removed meanwhile

    async def _flush(self, shapes: Sequence[str]) -> None:
        """What these have by now is on the disk when this returns: a few at a time, for a disk takes in what is asked
        for at once together."""
        for at in range(0, len(shapes), FLUSHED_AT_ONCE):
            flushes = await asyncio.gather(*map(self._flushing, shapes[at : at + FLUSHED_AT_ONCE]))
            shares = [flushes[n::FLUSH_THREADS] for n in range(min(FLUSH_THREADS, len(flushes)))]
            await asyncio.gather(*[asyncio.to_thread(_one_by_one, share) for share in shares])


def _nothing() -> None:
    pass


def _one_by_one(works: Sequence[Callable[[], None]]) -> None:
    for work in works:
        work()


def _child_id(shape: str) -> str:
    return f"shape:{shape}"
