"""A device's shapes that may have rows in common: a row that leaves one of them stays if another holds it. Pure.

A device has of a row the columns of all its shapes that hold it. So a row may stay with fewer of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

from syncline.actors.devices.layers import Layers
from syncline.actors.devices.steps import AnyHolds, HeldRow, Shapes, Step
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.projection import columns_of, forgotten, lost
from syncline.proto import codec
from syncline.proto.values import Change, Gone, Insert, Key, Relation


def shared(shapes: Shapes) -> tuple[Relation, ...]:
    """The relations of those tables of which two of them may have rows."""
    relations = [relation for of_shape in shapes.values() for relation in of_shape]
    times = Counter(relation.table_id for relation in relations)
    return tuple({relation.id: relation for relation in relations if times[relation.table_id] > 1}.values())


def leaving_rows(record: Record) -> tuple[Insert, ...]:
    """The rows that leave the record's shape with it and are still there in Postgres, whole, by their tables."""
    return tuple(insert for insert in codec.decode_changes(record.gone) if isinstance(insert, Insert))


def holding(
    shapes: Layers, lsn: int, rows: Sequence[HeldRow], but: str = ""
) -> Generator[Step, object, list[tuple[Relation, ...]]]:
    """Of each of ``rows``, which are whole and as of ``lsn``, the relations by which a device with ``shapes``, ``but``
    for one, has it; none, if none of them holds it."""
    found: list[tuple[Relation, ...]] = [()] * len(rows)
    tables = {table_id for table_id, _ in rows}
    for layer in shapes:
        if tables.isdisjoint(layer.relations):
            continue
        answer = yield AnyHolds(layer, lsn, tuple(rows), but)
        assert isinstance(answer, list)
        for place, holds in enumerate(answer):
            if holds:
                found[place] = (*found[place], layer.relations[rows[place][0]])
    return found


def keeping(
    record: Record, rows: Sequence[Insert], held: Sequence[tuple[Relation, ...]], relations: Sequence[Relation]
) -> Record:
    """``record`` without saying of those of its leaving ``rows`` that are ``held`` by others that they leave: of such a
    row those columns leave that nobody else has. ``relations``: of the record's shape."""
    by_table = {relation.table_id: relation for relation in relations}
    stay: dict[tuple[int, tuple[bytes | None, ...]], Sequence[Change]] = {}
    told: dict[int, Relation] = {}
    for insert, holders in zip(rows, held, strict=True):
        if holders:
            relation = by_table[insert.relation_id]
            key = relation.whole.key_of(insert.row)
            less = lost(relation, columns_of(holders))
            if less is not None:
                told[less.id] = less
            stay[relation.id, relation.key_row(key)] = () if less is None else (forgotten(less, key),)
    ops: list[Change] = []
    for change in codec.decode_changes(record.ops):
        if isinstance(change, Gone) and (change.relation_id, change.row) in stay:
            ops += stay[change.relation_id, change.row]
        else:
            ops.append(change)
    prelude = (*record.prelude, *map(codec.relation_message, told.values()))
    return replace(record, ops=codec.encode_ops(ops), rows=len(ops), gone=b"", prelude=prelude)


def fewer_columns(
    relations: Mapping[int, Relation], inserts: Sequence[Insert], held: Sequence[tuple[Relation, ...]]
) -> list[tuple[Relation, Key]]:
    """Of the rows of ``inserts``, which are whole and leave a shape with ``relations`` (by table), those that stay with
    less, as others that ``held`` them have not all columns: each with the relation of what leaves, and its key."""
    found: list[tuple[Relation, Key]] = []
    for insert, holders in zip(inserts, held, strict=True):
        relation = relations[insert.relation_id]
        less = lost(relation, columns_of(holders)) if holders else None
        if less is not None:
            found.append((less, relation.whole.key_of(insert.row)))
    return found
