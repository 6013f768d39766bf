"""Transactions that come in pieces, of rows that a device has by several shapes: it ends up with what it is to hold."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.actors.devices.logreader import LogReader
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.names import SHARD
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.streamed import StreamChange, TransactionChunk, TransactionHead, Truncated
from syncline.actors.shapes import departures
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.frames import Frame, for_edges, whole_frame
from syncline.actors.shapes.image import chunk_of
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.messages import Append, AskHeld, ReadPage
from syncline.actors.shapes.projection import Narrowing, columns_of, projection
from syncline.actors.shapes.router import Router, Streamed
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.shards import Shards
from syncline.actors.shapes.store import ShapeStore
from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.ops import Begin, Commit
from syncline.proto.subprotocols import LEAVING_ID_FIRST
from syncline.proto.values import Cell, Change, Column, Delete, Gone, Insert, Relation, Row, Update

ITEMS = Relation(7, "public", "items", (Column("id", "text", primary_key=True), *(Column(c, "text") for c in "gab")))
TABLE = TableInfo(ITEMS, {})
COLUMNS = ("g", "a", "b")
TAGS = ("postgres_1@1",)
Rows = dict[bytes, Row]
Device = dict[bytes, dict[str, Cell]]

KEYS = [b"%d" % number for number in range(2)]
ROW = st.tuples(st.sampled_from(KEYS), *(st.sampled_from([b"x", b"y"]) for _ in COLUMNS))
# A row as it is from then on; the key of one that goes; the key of one that comes to be led to, or no more; TRUNCATE.
OPERATION = st.one_of(ROW, ROW, ROW, st.sampled_from(KEYS), st.sampled_from(KEYS).map(lambda key: ("led", key)))
TRANSACTIONS = st.lists(
    st.lists(st.integers(0, 12).flatmap(lambda n: OPERATION if n else st.none()), min_size=2, max_size=12),
    min_size=1,
    max_size=2,
)
NAMED = st.none() | st.sets(st.sampled_from(COLUMNS)).map(frozenset)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@dataclass
class World:
    """The rows there are, and the keys of those that a row of another table leads to."""

    rows: Rows
    led: frozenset[bytes] = frozenset()

    def play(self, operations: Iterable[Any]) -> list[StreamChange]:
        changes: list[StreamChange] = []
        for operation in operations:
            match operation:
                case None:
                    changes.append(Truncated((ITEMS.id,)))
                    self.rows = {}
                case bytes() as key:
                    if key in self.rows:
                        changes.append(Delete(ITEMS.id, self.rows.pop(key)))
                case "led", key:
                    self.led ^= {key}
                case (key, *_) as row:
                    old = self.rows.get(key)
                    new = Insert(ITEMS.id, row, TAGS) if old is None else Update(ITEMS.id, row, old, TAGS)
                    changes.append(new)
                    self.rows[key] = row
        return changes


@dataclass
class Kind:
    """A shape. ``place``: of the column that has to be x, None if any row is in it. ``tree``: and rows led to."""

    name: str
    place: int | None
    named: frozenset[str] | None = None
    one_of: bool = False
    tree: bool = False

    @property
    def relation(self) -> Relation:
        return ITEMS if self.named is None else projection(ITEMS, self.named)

    @property
    def shape(self) -> Shape:
        projected = () if self.named is None else ((ITEMS.id, tuple(sorted(self.named))),)
        one_of = (COLUMNS[self.place - 1], ("x",)) if self.place and self.one_of else None
        shape = Shape("table", "public", "items", ITEMS.id, ITEMS.names, where=self.name, projected=projected)
        return replace(shape, one_of=one_of)

    def holds(self, row: Row, led: frozenset[bytes]) -> bool:
        return self.place is None or row[self.place] == b"x" or (self.tree and row[0] in led)


class Judging:
    """The clause of a shape."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def compiled(self, _: int) -> bool:
        return False

    async def judged(self, _: int, rows: Sequence[Row]) -> list[bool]:
        return [self._kind.holds(row, frozenset()) for row in rows]


class Sink:
    """A reference to whom nobody listens."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def call(self, *_: object) -> object:
        return ()

    async def send(self, message: object) -> None:
        self.sent.append(message)

    def inform(self, _: object) -> None:
        pass


class TableShape:
    """A shape of one table, with a router of its own."""

    def __init__(self, kind: Kind, place: Path, rows: Rows) -> None:
        self.kind = kind
        self._shard = Sink()
        self._store = ShapeStore(place / kind.name, kind.shape)
        mine = [(row, TAGS) for row in rows.values() if kind.holds(row, frozenset())]
        self._store.write_image_chunk(chunk_of(mine, ITEMS))
        self._store.finish_image(1)

        async def clauses() -> Any:
            return Judging(kind)

        read = None if kind.place is None else clauses
        self._consumer = Consumer(self._store, (ITEMS,), None, Sink(), read)  # type: ignore[arg-type]
        self._router = Router(None, lambda _: TABLE, Shards({SHARD: self._shard}), Sink())  # type: ignore[arg-type, dict-item]

    async def start(self) -> None:
        await self._consumer.init()
        await self._router.init()
        self._router._matcher.add(self.kind.shape)

    async def pass_(self, lsn: int, changes: list[StreamChange], cuts: list[int], before: World, after: World) -> None:
        for chunk in chunks_of(lsn, changes, cuts):
            await self._router.handle_cast(Streamed((chunk,)))
        for dispatch in self._shard.sent:
            pieces = dispatch.entries.get(self.kind.shape.hash, ())
            await self._consumer.handle_cast(Append(pieces, dispatch.upto))
        self._shard.sent.clear()

    async def call(self, message: object, _: float) -> object:
        return await self._consumer.handle_call(message)

    def close(self) -> None:
        self._store.close()


class TreeShape:
    """What a tree tells of a transaction is what it comes to."""

    def __init__(self, kind: Kind, world: World) -> None:
        self.kind = kind
        self._log: list[Record] = []
        self._held = {1: self._holds(world)}

    async def start(self) -> None:
        pass

    def _holds(self, world: World) -> set[bytes]:
        return {key for key, row in world.rows.items() if self.kind.holds(row, world.led)}

    async def pass_(self, lsn: int, changes: list[StreamChange], cuts: list[int], before: World, after: World) -> None:
        was, now = self._holds(before), self._holds(after)
        touched = {key for change in changes for key in keys_of(change, before)}
        # Found by the values of rows, it hears that one goes and not that it comes again with others.
        deleted = {self.kind.relation.key_of(c.old_row)[0] for c in changes if isinstance(c, Delete)}
        told: list[tuple[Change, bytes]] = []
        for key in sorted({*was, *now}):
            old, new = before.rows.get(key), after.rows.get(key)
            if key in now:
                assert new is not None
                if key not in was:
                    told.append((Insert(ITEMS.id, new, TAGS), b""))
                elif key in touched:
                    told.append((Update(ITEMS.id, new, old, TAGS), b""))
            elif new is not None and key not in deleted:
                gone = codec.encode_ops((Insert(ITEMS.id, new, TAGS),))
                told.append((Gone(ITEMS.id, (key, None, None, None)), gone))
            else:
                assert old is not None
                told.append((Delete(ITEMS.id, old), b""))
        # As it does with what leaves, in a transaction of pieces (see ``treeconsumer``).
        told.sort(key=lambda one: not isinstance(one[0], Delete | Gone))
        for index, (change, gone) in enumerate(told):
            record = Record(lsn, lsn, "postgres_1", index, change is told[-1][0], 1, codec.encode_ops((change,)))
            leaves = cuts[0] < len(changes) and isinstance(change, Delete | Gone)
            record.gone, record.until = gone, 0 if leaves else len(changes)
            self._log.append(record)
        self._held[lsn] = now

    async def call(self, message: object, _: float) -> object:
        if isinstance(message, AskHeld):
            return tuple(row[0] in self._held[message.lsn] for _, row in message.rows)
        assert isinstance(message, ReadPage)
        found = [r for r in self._log if r.position > message.after and r.lsn <= message.upto]
        return Page(tuple(Narrowing((self.kind.relation,)).records(found[:2])), more=len(found) > 2)

    def close(self) -> None:
        pass


def keys_of(change: StreamChange, before: World) -> Iterable[bytes | None]:
    if isinstance(change, Truncated):
        return before.rows.keys()
    return ((change.old_row if isinstance(change, Delete) else change.row)[0],)


def chunks_of(lsn: int, changes: list[StreamChange], cuts: list[int]) -> Iterator[TransactionChunk]:
    start = number = 0
    while True:
        end = start + cuts[number % len(cuts)]
        last = end >= len(changes)
        yield TransactionChunk(TransactionHead(Lsn(lsn), lsn, lsn), changes[start:end], start == 0, last)
        start, number = end, number + 1
        if last:
            return


class Holders:
    def __init__(self, live: Mapping[str, Any]) -> None:
        self._live = live

    def refs(self, shapes: Iterable[str]) -> Mapping[str, Any]:
        return {shape: self._live[shape] for shape in sorted(shapes)}

    def selects(self, shape: str) -> bool:
        return self._live[shape].kind.place is not None

    def named(self, _: str) -> None:
        return None


def expected(kinds: Sequence[Kind], world: World) -> Device:
    device: Device = {}
    for key, row in world.rows.items():
        held = columns_of(kind.relation for kind in kinds if kind.holds(row, world.led))
        if held:
            device[key] = {name: row[place] if name in held else None for place, name in enumerate(ITEMS.names)}
    return device


@dataclass
class Ours:
    """A device that takes one operation after the other."""

    relations: Mapping[int, Relation]
    rows: Device

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            assert isinstance(change, Insert | Update | Delete | Gone)
            relation = self.relations[change.relation_id]
            row = change.old_row if isinstance(change, Delete) else change.row
            (key,) = relation.key_of(row)
            assert key is not None
            if isinstance(change, Delete | Gone):
                self.rows.pop(key, None)
            elif relation.id < LEAVING_ID_FIRST:
                self.rows.setdefault(key, dict.fromkeys(ITEMS.names)).update(zip(relation.names, row, strict=True))
            elif key in self.rows:
                self.rows[key].update((name, None) for name in relation.names if name != "id")


@dataclass
class Published:
    """A device that folds what a transaction tells of a row as the published client does; it has whole rows."""

    rows: Device
    tags: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    def apply(self, changes: Sequence[Change]) -> None:
        folded: dict[bytes, tuple[type, dict[str, Cell], tuple[str, ...]]] = {}
        for change in changes:
            assert isinstance(change, Insert | Update | Delete | Gone)
            new = {} if isinstance(change, Delete | Gone) else dict(zip(ITEMS.names, change.row, strict=True))
            old_row = change.old_row if isinstance(change, Update | Delete) else None
            old = {} if old_row is None else dict(zip(ITEMS.names, old_row, strict=True))
            key = (change.old_row if isinstance(change, Delete) else change.row)[0]
            assert key is not None
            tags = () if isinstance(change, Gone) else change.tags
            if key not in folded:
                folded[key] = (type(change), new or old, tags)
            else:
                _, full, first = folded[key]
                changed = {name: cell for name, cell in new.items() if name not in old or old[name] != cell}
                folded[key] = (type(change), {**full, **changed}, first)
        for key, (kind, full, tags) in folded.items():
            if kind in (Delete, Gone):
                self.rows.pop(key, None)
            else:
                self.rows[key] = full
                self.tags[key] = tags


def relation_in(message: bytes) -> Relation:
    (_, found) = codec.decode(message)
    assert isinstance(found, pb.SatRelation)
    return codec.relation_of(found)


def transactions_of(frames: Iterable[Frame]) -> Iterator[tuple[int, list[Change], dict[int, Relation]]]:
    """LSN, what is told, and the relations that are described before it."""
    changes: list[Change] = []
    described: dict[int, Relation] = {}
    for frame in frames:
        for message in frame.prelude:
            relation = relation_in(message)
            described[relation.id] = relation
        for op in codec.decode_ops(frame.body or b""):
            if isinstance(op, Commit):
                yield frame.lsn, changes, described
                changes, described = [], {}
            elif not isinstance(op, Begin):
                changes.append(op)  # type: ignore[arg-type]


async def of_edges(live: Mapping[str, Any], lsn: int) -> list[Record]:
    """What edges have of a transaction."""
    found: list[Record] = []
    for shape in live.values():
        position, more = (lsn - 1, END_OF_TRANSACTION), True
        records: list[Record] = []
        while more:
            page = await shape.call(ReadPage(position, lsn, 1 << 20), 0)
            more = page.more
            records += page.records
            position = page.records[-1].position if more else position
        found += for_edges(records)
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, max_size=4), TRANSACTIONS, st.tuples(NAMED, NAMED, NAMED, NAMED, NAMED), st.booleans(), st.data())
def test_a_device_has_in_the_end_what_its_shapes_hold(
    first: list[Row], transactions: list[list[Any]], named: tuple[Any, ...], whole: bool, data: st.DataObject
) -> None:
    every = [
        Kind("g", 1, named[0], one_of=True),
        Kind("a", 2, named[1]),
        Kind("g too", 1, named[2]),
        Kind("all", None, named[3]),
        Kind("tree", 3, named[4], tree=True),
        Kind("tree too", 2, named[1], tree=True),
    ]
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=2, max_size=3, unique_by=lambda kind: kind.name))
    kinds = [replace(kind, named=None) for kind in chosen] if whole else chosen
    # Merged in whichever order.
    names = data.draw(st.permutations(["1", "2", "3"]))
    cuts = data.draw(CUTS)
    limit = data.draw(st.sampled_from([0, 700, 1 << 20]))

    async def go(place: Path) -> None:
        world = World({row[0]: row for row in first if row[0] is not None})
        live: dict[str, Any] = {}
        for name, kind in zip(names, kinds, strict=False):
            shape = TreeShape(kind, world) if kind.tree else TableShape(kind, place, world.rows)
            live[name] = shape
            await shape.start()
        relations = {one.kind.relation.id: one.kind.relation for one in live.values()}
        start = expected(kinds, world)
        ours = Ours(relations, {key: dict(row) for key, row in start.items()})
        theirs = Published({key: dict(row) for key, row in start.items()})
        wanted: dict[int, Device] = {}
        for lsn, operations in enumerate(transactions, 2):
            before = World(dict(world.rows), world.led)
            changes = world.play(operations)
            for shape in live.values():
                await shape.pass_(lsn, changes, cuts, before, world)
            wanted[lsn] = expected(kinds, world)
        of_shapes = {name: (one.kind.relation,) for name, one in live.items()}
        upto = len(transactions) + 1
        reader = LogReader(Holders(live), of_shapes, 1, upto, SharedAnswers())
        frames: list[Frame] = []
        done = False
        while not done:
            some, done = await reader.read()
            frames += some
        told = {lsn: (changes, described) for lsn, changes, described in transactions_of(frames)}
        for lsn, state in wanted.items():
            changes, described = told.get(lsn, ([], {}))
            ours.relations = {**relations, **described}
            ours.apply(changes)
            assert ours.rows == state, f"{changes}"
            if whole:
                theirs.apply(changes)
                assert theirs.rows == state, f"{changes}"
            released = whole_frame(await of_edges(live, lsn), relations) if lsn in told else None
            if released is not None and released.body is not None:
                ((_, changes, _),) = transactions_of([released])
                again = Ours(relations, {key: dict(row) for key, row in start.items()})
                again.apply(changes)
                assert again.rows == state
            start = state
        for shape in live.values():
            shape.close()

    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        stack.enter_context(mock.patch.object(departures, "HELD_BACK_BYTES_MAX", limit))
        stack.enter_context(mock.patch("syncline.actors.devices.logreader.PAGE_BYTES", 120))
        stack.enter_context(mock.patch("os.fsync"))
        asyncio.run(go(Path(place)))
