"""What sets a device right that the service has lost track of: of its rows those that differ. Pure.

The logs since its position are gone, with a disk or the slot; the device says what it holds, by digests
(``proto.digest``). Its shapes are read twice as of one LSN: to find the buckets in which rows differ, and to send what
is in these. What the device has in them besides does not belong on it. So little is held here, however much there is
to compare, and what travels depends on what differs.

A row that several of the device's shapes hold counts once, in the first of them, with the columns that all of them have
together: the device has it as a whole row in which the others are NULL, and that is what is digested.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgpack

from syncline.actors.devices.delivering import read_chunk
from syncline.actors.devices.layers import Layers
from syncline.actors.devices.overlaps import holding
from syncline.actors.devices.steps import Send, Shapes, Step, Steps
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import THE_END, ImageChunk
from syncline.actors.shapes.projection import united
from syncline.proto import codec
from syncline.proto.digest import NOTHING_HELD, SUM_BYTES, Digests, Holdings, TableDifference, held_body
from syncline.proto.ops import body_of
from syncline.proto.values import Insert, Key, Relation

# A row of a chunk: the relation id of its table, its key, and the row as an encoded insert.
ImageRow = tuple[int, Key, bytes]


@dataclass(frozen=True, slots=True)
class _HeldRow:
    """A row as the device is to have it: by ``relation``. ``op``: the whole row, as an encoded insert."""

    key: Key
    op: bytes
    relation: Relation

    @property
    def body(self) -> bytes:
        """What is digested."""
        if self.relation is self.relation.whole:
            return held_body(body_of(self.op, self.relation.id))
        insert, names = _insert_of(self.op), frozenset(self.relation.names)
        columns = zip(self.relation.whole.names, insert.row, strict=True)
        cells = tuple([cell if name in names else None for name, cell in columns])
        whole = codec.encode_ops((Insert(self.relation.table_id, cells, insert.tags),))
        return held_body(body_of(whole, self.relation.table_id))

    @property
    def sent(self) -> bytes:
        """The row as an encoded insert by its relation."""
        if self.relation is self.relation.whole:
            return self.op
        insert = _insert_of(self.op)
        return codec.encode_ops((Insert(self.relation.id, self.relation.narrowed(insert.row), insert.tags),))


def repairing(holdings: Holdings, shapes: Shapes, at: int) -> Steps:
    """The rows of ``shapes`` as of ``at`` that differ from those a device has with these ``holdings``."""
    relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
    yield Send(tuple(codec.relation_message(relation) for relation in relations.values()))
    differences, rows = yield from _differences(holdings, relations, shapes, at)
    yield Send((codec.repair_begin(lsn_bytes(at), differences.values(), rows),))
    told = set(relations)
    for turn in _in_turn(shapes):
        shape, cursor = turn.shape, 0
        while cursor != THE_END and any(differences[relation.table_id].any for relation in shapes[shape]):
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            wanted = [row for row in _rows(chunk) if differences[row[0]].includes(row[1])]
            held = yield from _counting_here(wanted, shapes[shape], turn, at)
            others = {row.relation.id: row.relation for row in held if row.relation.id not in told}
            told |= others.keys()
            if held:
                yield Send(
                    (*map(codec.relation_message, others.values()), codec.oplog_message(*[r.sent for r in held]))
                )
    yield Send((codec.repair_end(),))


def _differences(
    holdings: Holdings, relations: Mapping[int, Relation], shapes: Shapes, at: int
) -> Generator[Step, object, tuple[dict[int, TableDifference], int]]:
    """By the relation id of the table; and how many rows there are in the buckets that differ."""
    known = {relation.table_id: relation for relation in relations.values()}
    held = {id: holdings.tables.get(relation.table, NOTHING_HELD) for id, relation in known.items()}
    digests = {id: Digests(len(sums) // SUM_BYTES, holdings.salt) for id, sums in held.items()}
    for turn in _in_turn(shapes):
        shape, cursor = turn.shape, 0
        while cursor != THE_END and shapes[shape]:
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            for row in (yield from _counting_here(list(_rows(chunk)), shapes[shape], turn, at)):
                digests[row.relation.table_id].add(row.key, row.body)
    differences = {id: digests[id].difference(known[id].id, sums) for id, sums in held.items()}
    return differences, sum(digests[id].rows_in(difference) for id, difference in differences.items())


@dataclass(frozen=True, slots=True)
class _Turn:
    """``shape`` after those ``before`` it, if these may have rows in common with it, and among ``all`` that there are,
    if some of these may have columns of its rows that it lacks."""

    shape: str
    before: Layers | None
    all: Layers | None


def _in_turn(shapes: Shapes) -> Iterator[_Turn]:
    before, every = Layers({}), Layers(shapes)
    for shape, relations in sorted(shapes.items()):
        lacking = tuple(relation for relation in relations if relation is not relation.whole)
        yield _Turn(
            shape, before if before.share(relations) else None, every if every.share(lacking, but=shape) else None
        )
        before.add(shape, relations)


def _rows(chunk: ImageChunk) -> Iterator[ImageRow]:
    for key, op in zip(chunk.keys, chunk.ops, strict=True):
        relation_id, *cells = msgpack.unpackb(key)
        yield relation_id, tuple(cells), op


def _counting_here(
    rows: Sequence[ImageRow], relations: Sequence[Relation], turn: _Turn, at: int
) -> Generator[Step, object, list[_HeldRow]]:
    """Those of ``rows``, which are of the shape with ``relations`` whose ``turn`` it is, that none before it holds."""
    by_table = {relation.table_id: relation for relation in relations}
    if not rows or (turn.before is None and turn.all is None):
        return [_HeldRow(key, op, by_table[id]) for id, key, op in rows]
    held = [(id, _insert_of(op).row) for id, _, op in rows]
    mine = list(range(len(rows)))
    if turn.before is not None:
        there = yield from holding(turn.before, at, held)
        mine = [place for place, by in enumerate(there) if not by]
    others: Sequence[tuple[Relation, ...]] = [()] * len(mine)
    if turn.all is not None:
        others = yield from holding(turn.all, at, [held[place] for place in mine], but=turn.shape)
    found: list[_HeldRow] = []
    for place, by in zip(mine, others, strict=True):
        id, key, op = rows[place]
        found.append(_HeldRow(key, op, united((by_table[id], *by))))
    return found


def _insert_of(op: bytes) -> Insert:
    (insert,) = codec.decode_changes(op)
    assert isinstance(insert, Insert)
    return insert
