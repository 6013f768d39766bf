"""Logs of which only the final operations are left: whoever comes back, from wherever, ends up with what there is."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.actors.devices.logreader import LogReader
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.shapes import finalpages, finals, image, logfiles, segment
from syncline.actors.shapes import rows as rows_module
from syncline.actors.shapes.finalpages import FinalPages
from syncline.actors.shapes.frames import Frame
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import AskHeld, ReadPage
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ShapeStore
from syncline.proto import codec
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import Change, Column, Delete, Gone, Insert, Relation, Update

ITEMS = Relation(7, "public", "items", (Column("id", "text", primary_key=True), Column("value", "text")))
NOTES = Relation(8, "public", "notes", ITEMS.columns)
KEYS = [b"%d" % number for number in range(4)]
Rows = dict[tuple[int, bytes], bytes]

# What one operation does to a row of a table: a value, of which the first byte says which shapes hold it, or None.
OPERATION = st.tuples(
    st.sampled_from([ITEMS, NOTES]), st.sampled_from(KEYS), st.none() | st.sampled_from([b"a1", b"b1", b"ab2", b"c3"])
)
# A transaction is operations, in records of some of them; or None: the tables are emptied.
TRANSACTION = st.none() | st.tuples(st.lists(OPERATION, min_size=1, max_size=5), st.integers(1, 3))
HISTORY = st.lists(TRANSACTION, min_size=1, max_size=10)
# The last of these is read in two pages by whoever stands behind the one before.
IN_TWO_PAGES: list[Any] = [
    ([(NOTES, b"0", b"a1")], 1),
    ([(NOTES, b"1", b"a1")], 1),
    ([(NOTES, b"0", None), (NOTES, b"1", None), (ITEMS, b"0", b"b1"), (NOTES, b"1", b"a1")], 1),
]
# After which transactions the log of each shape is folded and packed.
PACKED = st.fixed_dictionaries({name: st.sets(st.integers(1, 10), max_size=3) for name in "abn"})


@dataclass
class Kept:
    """A shape: the rows of a table of which the value has a letter in it; None: all of them."""

    name: str
    relation: Relation
    letter: bytes | None

    def holds(self, relation_id: int, value: bytes | None) -> bool:
        return relation_id == self.relation.id and value is not None and (self.letter is None or self.letter in value)

    def changes(
        self, relation: Relation, key: bytes, old: bytes | None, new: bytes | None
    ) -> tuple[list[Change], bytes]:
        was, is_ = self.holds(relation.id, old), self.holds(relation.id, new)
        if is_:
            row = (key, new)
            return [Update(relation.id, row, (key, old), ()) if was else Insert(relation.id, row, ())], b""
        if was and new is None:
            return [Delete(relation.id, (key, old))], b""
        if was:
            return [Gone(relation.id, (key, None))], codec.encode_ops([Insert(relation.id, (key, new), ())])
        return [], b""


SHAPES = (Kept("a", ITEMS, b"a"), Kept("b", ITEMS, b"b"), Kept("n", NOTES, None))


def played(transactions: list[Any]) -> tuple[dict[str, list[Record]], list[Rows]]:
    """The logs, and what there was after each transaction (first: before them all)."""
    logs: dict[str, list[Record]] = {shape.name: [] for shape in SHAPES}
    rows: Rows = {}
    states = [dict(rows)]
    for lsn, transaction in enumerate(transactions, 1):
        operations, size = transaction or ([(of(id), key, None) for id, key in rows], 5)
        steps = []
        for relation, key, new in operations:
            old = rows.pop((relation.id, key), None)
            if new is not None:
                rows[relation.id, key] = new
            if old is not None or new is not None:
                steps.append((relation, key, old, new))
        net = {
            key: (relation, key, states[-1].get((relation.id, key)), new)
            for relation, key, _, new in steps
            if relation is ITEMS
        }
        for shape in SHAPES:
            told = [shape.changes(*step) for step in (steps if shape.letter is None else net.values())]
            told = [part for part in told if part[0]]
            for index, at in enumerate(range(0, len(told), size)):
                part = told[at : at + size]
                changes = [change for some, _ in part for change in some]
                logs[shape.name].append(
                    Record(
                        *(lsn, 1_000 + lsn, "postgres_1", index, at + size >= len(told), len(changes)),
                        codec.encode_ops(changes),
                        truncates=transaction is None,
                        gone=b"".join(gone for _, gone in part),
                    )
                )
        states.append(dict(rows))
    return logs, states


def of(relation_id: int) -> Relation:
    return ITEMS if relation_id == ITEMS.id else NOTES


def seen(rows: Rows) -> Rows:
    """What a device of all shapes has of ``rows``."""
    return {id: value for id, value in rows.items() if any(shape.holds(id[0], value) for shape in SHAPES)}


class Live:
    """A shape's actor, as far as logs are read."""

    def __init__(self, shape: Kept, store: ShapeStore) -> None:
        self.shape = shape
        self.store = store
        self.relations = {shape.relation.id: shape.relation}
        self.finals = FinalPages(store, self.relations)

    async def call(self, message: object, _: float) -> object:
        if isinstance(message, AskHeld):
            return tuple(self.shape.holds(id, row[1]) for id, row in message.rows)
        assert isinstance(message, ReadPage)
        if self.finals.needed(message):
            return await self.finals.page(message)
        return self.store.read(message.after, message.upto, message.bytes_max, message.generation)

    async def pack(self) -> None:
        if self.store.appended_lsn > self.store.image_at(1 << 60).lsn:
            await rows_module.Rows(self.store, self.relations).fold()
        packing = self.store.begin_packing()
        if packing is not None:
            await self.finals.pack(packing)


class Holders:
    def __init__(self, live: Mapping[str, Live]) -> None:
        self._live = live

    def refs(self, shapes: Iterable[str]) -> Mapping[str, Any]:
        return {shape: self._live[shape] for shape in sorted(shapes)}

    def selects(self, shape: str) -> bool:
        return self._live[shape].shape.letter is not None

    def named(self, _: str) -> None:
        return None


async def frames_of(live: Mapping[str, Live], after: int, upto: int) -> list[Frame]:
    shapes = {name: (one.shape.relation,) for name, one in live.items()}
    reader = LogReader(Holders(live), shapes, after, upto, SharedAnswers())
    found: list[Frame] = []
    done = False
    while not done:
        frames, done = await reader.read()
        found += frames
    return found


def followed(rows: Rows, frames: Iterable[Frame]) -> Iterable[tuple[int, Rows, list[tuple[type, int, bytes]]]]:
    """A device at ``rows`` after each transaction of ``frames``: its LSN, the rows, and what it was told of which."""
    told: list[tuple[type, int, bytes]] = []
    opened = False
    for frame in frames:
        for op in codec.decode_ops(frame.body or b""):
            if isinstance(op, Begin):
                assert not opened
                opened, told = True, []
            elif isinstance(op, Commit):
                assert int(op.lsn) == frame.lsn
                opened = False
                yield frame.lsn, dict(rows), told
            else:
                assert opened
                assert isinstance(op, Insert | Update | Delete | Gone)
                key, value = op.old_row if isinstance(op, Delete) else op.row
                assert key is not None
                told.append((type(op), op.relation_id, key))
                rows.pop((op.relation_id, key), None)
                if isinstance(op, Insert | Update):
                    assert value is not None
                    rows[op.relation_id, key] = value
    assert not opened


@settings(max_examples=150, deadline=None)
@given(HISTORY, PACKED, st.booleans())
@example(IN_TWO_PAGES, {"a": set(), "b": {3}, "n": set()}, False)
def test_wherever_a_device_stands_the_final_operations_bring_it_where_the_others_are(
    transactions: list[Any], packed: dict[str, set[int]], reload: bool
) -> None:
    logs, states = played(transactions)
    end = len(transactions)

    async def go(place: Path) -> None:
        live: dict[str, Live] = {}
        for shape in SHAPES:
            where = str(shape.letter)
            store = ShapeStore(place / shape.name, Shape("table", "public", "items", 7, ITEMS.names, where=where))
            store.finish_image(0)
            live[shape.name] = Live(shape, store)
            for record in logs[shape.name]:
                store.append([record])
                if record.last and record.lsn in packed[shape.name]:
                    await live[shape.name].pack()
            if reload:
                store.close()
                loaded = ShapeStore.load(store.directory)
                assert loaded is not None
                assert loaded.final_lsn == store.final_lsn
                assert loaded.log_bytes == store.log_bytes
                live[shape.name] = Live(shape, loaded)
        final_upto = max(one.store.final_lsn for one in live.values())
        for after in range(end + 1):
            upto = end
            position, rows = after, seen(states[after])
            for lsn, rows, told in followed(seen(states[after]), await frames_of(live, after, upto)):
                assert rows == seen(states[lsn]), f"at {lsn}, from {after}"
                assert lsn >= final_upto or after >= final_upto, "no fragment of a transaction is given"
                if lsn == final_upto and after < final_upto:
                    notes = [key for _, id, key in told if id == NOTES.id]
                    assert len(notes) == len(set(notes)), "of a row no more than is final"
                    left = {(id, key) for kind, id, key in told if kind is Gone}
                    assert not left.intersection((id, key) for kind, id, key in told if kind is not Gone)
                position = lsn
            assert rows == seen(states[upto])
            assert position <= upto
        for one in live.values():
            one.store.close()

    small = (
        mock.patch.multiple(image, OVERLAY_CHUNK_ROWS=2, STEP_ROWS=2, STEP_COPIED_ROWS=2),
        mock.patch.multiple(finals, STEP_ROWS=2),
        mock.patch.multiple(finalpages, STEP_ROWS=2, PACK_PAUSE_S=0),
        mock.patch.multiple(rows_module, FOLD_PAUSE_S=0),
        mock.patch.multiple(logfiles, SEGMENT_BYTES_MAX=300),
        mock.patch.multiple(segment, INDEX_EVERY_BYTES=100, INDEX_AGAIN_BYTES=120, READ_WINDOW_BYTES=64),
        mock.patch("syncline.actors.devices.logreader.PAGE_BYTES", 150),
        mock.patch("os.fsync"),
    )
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        for patch in small:
            stack.enter_context(patch)
        asyncio.run(go(Path(place)))
