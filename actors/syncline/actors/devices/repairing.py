"""What sets a device right that the service has lost track of: of its rows those that differ. Pure.

The logs since its position are gone, with a disk or the slot; the device says what it holds, by digests
(``proto.digest``). Its shapes are read twice as of one LSN: to find the buckets in which rows differ, and to send what
is in these. What the device has in them besides does not belong on it. So little is held here, however much there is
to compare, and what travels depends on what differs.

A row that several of the device's shapes hold counts once: each is asked what those before it hold.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import msgpack

from syncline.actors.devices.delivering import held_by, read_chunk
from syncline.actors.devices.layers import Layers
from syncline.actors.devices.steps import Send, Shapes, Step, Steps
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import ImageChunk
from syncline.proto import codec
from syncline.proto.digest import NOTHING_HELD, SUM_BYTES, Digests, Holdings, TableDifference
from syncline.proto.ops import body_of
from syncline.proto.values import Insert, Key, Relation

# A row of a chunk: its relation id, its key, and the row as an encoded insert.
ImageRow = tuple[int, Key, bytes]


def repairing(holdings: Holdings, shapes: Shapes, at: int) -> Steps:
    """The rows of ``shapes`` as of ``at`` that differ from those a device has with these ``holdings``."""
    relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
    yield Send(tuple(codec.relation_message(relation) for relation in relations.values()))
    differences, rows = yield from _differences(holdings, relations, shapes, at)
    yield Send((codec.repair_begin(lsn_bytes(at), differences.values(), rows),))
    for shape, others in _in_turn(shapes):
        cursor = 0
        while any(differences[relation.id].any for relation in shapes[shape]):
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            wanted = [row for row in _rows(chunk) if differences[row[0]].includes(row[1])]
            ops = [op for _, _, op in (yield from _of_no_other(wanted, others, at))]
            if ops:
                yield Send((codec.oplog_message(*ops),))
    yield Send((codec.repair_end(),))


def _differences(
    holdings: Holdings, relations: Mapping[int, Relation], shapes: Shapes, at: int
) -> Generator[Step, object, tuple[dict[int, TableDifference], int]]:
    """By relation id; and how many rows there are in the buckets that differ."""
    held = {id: holdings.tables.get(relation.table, NOTHING_HELD) for id, relation in relations.items()}
    digests = {id: Digests(len(sums) // SUM_BYTES, holdings.salt) for id, sums in held.items()}
    for shape, others in _in_turn(shapes):
        cursor = 0
        while shapes[shape]:
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            for id, key, op in (yield from _of_no_other(list(_rows(chunk)), others, at)):
                digests[id].add(key, body_of(op, id))
    differences = {id: digests[id].difference(id, sums) for id, sums in held.items()}
    return differences, sum(digests[id].rows_in(difference) for id, difference in differences.items())


def _in_turn(shapes: Shapes) -> Iterator[tuple[str, Layers | None]]:
    """Each of ``shapes``, and those before it if they may have rows in common with it."""
    before = Layers({})
    for shape, relations in sorted(shapes.items()):
        yield shape, before if before.share(relations) else None
        before.add(shape, relations)


def _rows(chunk: ImageChunk) -> Iterator[ImageRow]:
    for key, op in zip(chunk.keys, chunk.ops, strict=True):
        relation_id, *cells = msgpack.unpackb(key)
        yield relation_id, tuple(cells), op


def _of_no_other(
    rows: Sequence[ImageRow], others: Layers | None, at: int
) -> Generator[Step, object, Iterable[ImageRow]]:
    if others is None or not rows:
        return rows
    inserts = [change for change in codec.decode_ops(b"".join(op for _, _, op in rows)) if isinstance(change, Insert)]
    held = yield from held_by(inserts, others, at)
    return [row for row, by in zip(rows, held, strict=True) if not by]
