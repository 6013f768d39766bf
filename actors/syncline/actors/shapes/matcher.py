"""Change -> the shapes it may touch. Pure.

Shapes are found by the tables they have rows of; where the clause on a shape's own table names the values of a column,
by that value, however many such shapes there are. In doubt a shape is named, and decides for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.shapes.shape import Shape
from syncline.proto.values import Cell, Delete, Key, Relation, Row, RowChange, Update

RelationOf: TypeAlias = Callable[[int], Relation | None]

Shapes = dict[str, None]  # hashes, in the order in which they came
NOBODY: Mapping[str, None] = {}


class _Table:
    """The shapes that may have rows of one table."""

    def __init__(self) -> None:
        self.every: Shapes = {}
        self.always: Shapes = {}  # those that are told of every change
        self.by_value: dict[int, dict[Cell, Shapes]] = {}  # the others: place of the column -> cell -> shapes

    def leave(self, shape: str, place: int, cells: Iterable[str]) -> None:
        by_cell = self.by_value.get(place, {})
        for cell in (text.encode() for text in cells):
            shapes = by_cell.get(cell, {})
            shapes.pop(shape, None)
            if not shapes:
                by_cell.pop(cell, None)
        if not by_cell:
            self.by_value.pop(place, None)

    def touched(self, change: RowChange, before: Sequence[Row] = ()) -> Mapping[str, None]:
        """``before``: what else the row has been in this transaction."""
        if not self.by_value:
            return self.always
        rows = list(images(change))
        if not rows:
            return self.every
        rows += before
        found = [shapes for shapes in self._with(rows) if shapes]
        if not self.always and len(found) <= 1:
            return found[0] if found else NOBODY
        return {shape: None for shapes in (self.always, *found) for shape in shapes}

    def _with(self, rows: Sequence[Row]) -> Iterator[Mapping[str, None]]:
        for place, by_cell in self.by_value.items():
            for cell in {row[place] for row in rows}:
                yield by_cell.get(cell, NOBODY)


def images(change: RowChange) -> Iterator[Row]:
    """The row before and after; nothing, if what was before is not known."""
    match change:
        case Update(row=row, old_row=old):
            if old is not None:
                yield from (old, row)
        case Delete(old_row=old):
            yield old
        case _:
            yield change.row


class Matcher:
    """Which shapes are live, indexed by what their changes have in common.

    A row that is deleted and inserted anew is one row that has changed: who has had it is told of all that becomes of
    it, in the piece of the transaction that deletes it; a shape looks at no more than that at a time.
    ``relation_of``: what the key of a table is, None if nobody knows.
    """

    def __init__(self, shapes: Iterable[Shape] = (), relation_of: RelationOf = lambda _: None) -> None:
        self._tables: dict[int, _Table] = {}
        self._relation_of = relation_of
        for shape in shapes:
            self.add(shape)

    def add(self, shape: Shape) -> None:
        # Rows of the shape's own table that its clause leaves out mean nothing to it, unless others bring them along.
        brought = {one.relation_id for one in shape.included} | {one.parent_id for one in shape.references}
        for relation_id in shape.tables:
            table = self._tables.setdefault(relation_id, _Table())
            table.every[shape.hash] = None
            if shape.one_of is None or relation_id != shape.relation_id or relation_id in brought:
                table.always[shape.hash] = None
                continue
            column, cells = shape.one_of
            by_cell = table.by_value.setdefault(shape.columns.index(column), {})
            for cell in cells:
                by_cell.setdefault(cell.encode(), {})[shape.hash] = None

    def remove(self, shape: Shape) -> None:
        """It is told of no change any more."""
        for relation_id in shape.tables:
            table = self._tables.get(relation_id)
            if table is None:
                continue
            table.every.pop(shape.hash, None)
            table.always.pop(shape.hash, None)
            if shape.one_of is not None and relation_id == shape.relation_id:
                table.leave(shape.hash, shape.columns.index(shape.one_of[0]), shape.one_of[1])
            if not table.every:
                del self._tables[relation_id]

    def split(self, changes: Sequence[StreamChange]) -> dict[str, list[StreamChange]]:
        """Each touched shape's changes, in order; of one transaction, or of a piece of one."""
        touched: dict[str, list[StreamChange]] = {}
        first: dict[tuple[int, Key], Row] = {}
        for change in changes:
            if isinstance(change, Truncated):  # a shape of several of these tables is told once
                tables = (self._tables.get(relation_id) for relation_id in change.relation_ids)
                shapes: Mapping[str, None] = {shape: None for table in tables if table for shape in table.every}
            else:
                table = self._tables.get(change.relation_id)
                shapes = (
                    NOBODY
                    if table is None
                    else table.touched(change, self._before(change, first) if table.by_value else ())
                )
            for shape in shapes:
                touched.setdefault(shape, []).append(change)
        return touched

    def _before(self, change: RowChange, first: dict[tuple[int, Key], Row]) -> tuple[Row, ...]:
        """What the transaction found under the key of this change, which is noted when it is changed first: whoever
        had that row has to know what becomes of it in the end, whatever it was like in between."""
        old = _found(change)
        if old is None and not first:
            return ()
        relation = self._relation_of(change.relation_id)
        if relation is None:
            return ()
        row = change.old_row if isinstance(change, Delete) else change.row
        before = first.get((relation.id, relation.key_of(row)))
        if old is not None:
            first.setdefault((relation.id, relation.key_of(old)), old)
        return () if before is None else (before,)


def _found(change: RowChange) -> Row | None:
    """The row before; None if there was none, or it is not known."""
    return change.old_row if isinstance(change, Delete | Update) else None
