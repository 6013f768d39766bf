"""Some columns of a table as a relation of its own. Pure.

A shape that names columns keeps whole rows: its clauses may speak of other columns, and so may those of the shapes that
have rows in common with it. What leaves it for devices has these columns only, under a relation with an id of its own:
a device may have several projections of a table, beside the whole of it, and tells them apart by that.

The id follows from the table and the columns, so that everybody who encodes a row comes to the same one. It lies where
oids of tables come last; two projections of one device share one with a probability of one in a thousand millions.
Columns that no shape has have ids of a range of their own: those that leave, and those of several shapes together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.shape import Shape
from syncline.proto import codec
from syncline.proto.subprotocols import LEAVING_ID_FIRST, PROJECTION_ID_FIRST
from syncline.proto.values import Change, Column, Compensation, Delete, Gone, Insert, Relation, Row, Update

PROJECTIONS_MAX = 10_000  # remembered


@dataclass(frozen=True)
class Projection(Relation):
    """``columns`` are some of those of the relation ``of``, in their order, and all of its key among them."""

    of: Relation

    @property
    def table_id(self) -> int:
        return self.of.id

    @property
    def whole(self) -> Relation:
        return self.of

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where its columns stand in a row of the table."""
        names = {name: place for place, name in enumerate(self.of.names)}
        return tuple(names[name] for name in self.names)

    def narrowed(self, row: Row) -> Row:
        return tuple([row[place] for place in self.places])


@lru_cache(maxsize=PROJECTIONS_MAX)
def projection(relation: Relation, names: frozenset[str]) -> Relation:
    """The columns ``names`` of ``relation``, and its key; itself if these are all."""
    columns = _with_key(relation, names)
    return relation if len(columns) == len(relation.columns) else _projection(relation, columns, PROJECTION_ID_FIRST)


@lru_cache(maxsize=PROJECTIONS_MAX)
def _leaving(relation: Relation, names: frozenset[str]) -> Projection:
    return _projection(relation, _with_key(relation, names), LEAVING_ID_FIRST)


def _with_key(relation: Relation, names: frozenset[str]) -> tuple[Column, ...]:
    return tuple(column for column in relation.columns if column.primary_key or column.name in names)


def _projection(relation: Relation, columns: tuple[Column, ...], first_id: int) -> Projection:
    text = json.dumps((relation.id, [column.name for column in columns]))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return Projection(first_id + number % (1 << 30), relation.schema, relation.table, columns, relation)


def wire_relations(shape: Shape, relations: Iterable[Relation]) -> tuple[Relation, ...]:
    """As which devices get rows of ``relations``, the tables of ``shape``."""
    projected = dict(shape.projected)
    return tuple(
        projection(relation, frozenset(projected[relation.id])) if relation.id in projected else relation
        for relation in relations
    )


def clash(relations: Iterable[Relation]) -> tuple[Relation, Relation] | None:
    """Two of ``relations`` that are not the same and have the same id."""
    by_id: dict[int, Relation] = {}
    for relation in relations:
        other = by_id.setdefault(relation.id, relation)
        if (other.table_id, other.names) != (relation.table_id, relation.names):
            return other, relation
    return None


class Narrowing:
    """What leaves a shape for devices. ``relations``: as which they get its rows."""

    def __init__(self, relations: Iterable[Relation]) -> None:
        self._by_table: Mapping[int, Relation] = {
            relation.table_id: relation for relation in relations if relation is not relation.whole
        }

    def __bool__(self) -> bool:
        """Whether it makes a difference."""
        return bool(self._by_table)

    def records(self, records: Sequence[Record]) -> Sequence[Record]:
        """``records`` as devices get them."""
        return [*map(self.record, records)] if self else records

    def record(self, record: Record) -> Record:
        """``record`` with operations of devices' columns; its ``gone`` rows stay whole, for other shapes to judge."""
        return replace(record, ops=codec.encode_ops(self.changes(codec.decode_changes(record.ops))))

    def chunk(self, chunk: ImageChunk) -> ImageChunk:
        """``chunk`` with rows of devices' columns."""
        changes = self.changes(codec.decode_changes(b"".join(chunk.ops)))
        return ImageChunk(chunk.keys, tuple([codec.encode_ops((change,)) for change in changes]))

    def changes(self, changes: Iterable[Change]) -> list[Change]:
        return [self._change(change) for change in changes]

    def _change(self, change: Change) -> Change:
        if not isinstance(change, Insert | Update | Delete | Gone | Compensation):
            return change
        relation = self._by_table.get(change.relation_id)
        if relation is None:
            return change
        match change:
            case Update(row=row, old_row=old):
                old = None if old is None else relation.narrowed(old)
                return Update(relation.id, relation.narrowed(row), old, change.tags)
            case Delete(old_row=old_row):
                return Delete(relation.id, relation.narrowed(old_row), change.tags)
            case Insert(row=row) | Compensation(row=row):
                return replace(change, relation_id=relation.id, row=relation.narrowed(row))
            case Gone(row=row):
                return Gone(relation.id, relation.narrowed(row))


def columns_of(relations: Iterable[Relation]) -> Collection[str]:
    """Those which any of ``relations`` has."""
    return {name for relation in relations for name in relation.names}


def united(relations: Sequence[Relation]) -> Relation:
    """What a device has of a row that it has by ``relations``, at least one, of one table."""
    names = frozenset(columns_of(relations))
    whole = relations[0].whole
    if len(names) == len(whole.columns):
        return whole
    alike = (relation for relation in relations if len(relation.columns) == len(names))
    return next(alike, None) or _leaving(whole, names)


def lost(relation: Relation, held: Collection[str]) -> Relation | None:
    """The columns that a device has by ``relation`` alone, with the key, when its other shapes still hold the columns
    ``held`` of a row; None if there are none."""
    if not held:
        return relation
    gone = frozenset(relation.names).difference(held)
    return _leaving(relation.whole, gone) if gone else None


def forgotten(relation: Relation, key: Sequence[bytes | None]) -> Update:
    """A row of which a device keeps less than it had: the columns of ``relation``, but for its key, become NULL."""
    return Update(relation.id, relation.key_row(tuple(key)), None)
