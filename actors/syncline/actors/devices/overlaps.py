"""A device's shapes that may have rows in common: a row that leaves one of them stays if another holds it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.log import Record
from syncline.proto import codec
from syncline.proto.values import Gone, Insert, Relation


def overlap(shapes: Shapes) -> bool:
    """Whether two of them may have rows of the same table."""
    ids = [relation.id for relations in shapes.values() for relation in relations]
    return len(ids) > len(set(ids))


def sharing(shapes: Shapes, relations: Sequence[Relation]) -> Shapes:
    """Those of ``shapes`` that may have rows of these tables."""
    ids = {relation.id for relation in relations}
    return {shape: of_shape for shape, of_shape in shapes.items() if any(relation.id in ids for relation in of_shape)}


def leaving_rows(record: Record) -> tuple[HeldRow, ...]:
    """The rows that leave the record's shape with it and are still there in Postgres."""
    inserts = codec.decode_changes(record.gone)
    return tuple((insert.relation_id, insert.row) for insert in inserts if isinstance(insert, Insert))


def keeping(record: Record, kept: Sequence[HeldRow], relations: Sequence[Relation]) -> Record:
    """``record`` without saying of the rows ``kept`` that they leave. ``relations``: of the record's shape."""
    by_id = {relation.id: relation for relation in relations}
    stay = {(id, by_id[id].key_row(by_id[id].key_of(row))) for id, row in kept}
    ops = [
        change
        for change in codec.decode_changes(record.ops)
        if not (isinstance(change, Gone) and (change.relation_id, change.row) in stay)
    ]
    return replace(record, ops=codec.encode_ops(ops), rows=len(ops), gone=b"")
