"""What a transaction does to each row in the end. Pure.

Inserted and deleted within it: nothing. A changed primary key: one row is deleted and another inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.shapes.tree import RowId
from syncline.actors.shapes.treevalues import Net, Tags
from syncline.proto.values import Delete, Insert, Relation, Row, Update


class Netting:
    """Takes changes in order. ``relations``: by id, those that count. ``rows_of``: the rows of a table that are held
    before the transaction: only of them does anybody need to be told when it is truncated."""

    def __init__(
        self, relations: Mapping[int, Relation], rows_of: Callable[[int], Iterable[tuple[RowId, Row]]]
    ) -> None:
        self._relations = relations
        self._rows_of = rows_of
        self._rows: dict[RowId, tuple[Row | None, Row | None, Tags]] = {}
        self.emptied: set[int] = set()  # relation ids: what was in them, net or not, is gone

    def add(self, changes: Iterable[StreamChange]) -> None:
        for change in changes:
            if isinstance(change, Truncated):
                for relation_id in change.relation_ids:
                    if relation_id in self._relations:
                        self._empty(relation_id)
                continue
            relation = self._relations.get(change.relation_id)
            if relation is None:
                continue
            match change:
                case Insert(row=row, tags=tags):
                    self._set(relation, row, None, row, tags)
                case Update(row=row, old_row=old, tags=tags):
                    before = row if old is None else old
                    if relation.key_of(before) != relation.key_of(row):
                        self._set(relation, before, before, None, ())
                        self._set(relation, row, None, row, tags)
                    else:
                        self._set(relation, row, before, row, tags)
                case Delete(old_row=old):
                    self._set(relation, old, old, None, ())
                case _:
                    raise TypeError(f"the stream of Postgres has no {type(change).__name__}")

    def _set(self, relation: Relation, row: Row, found: Row | None, left: Row | None, tags: Tags) -> None:
        id = (relation.id, relation.key_of(row))
        known = self._rows.get(id)
        self._rows[id] = (found if known is None else known[0], left, tags)

    def _empty(self, relation_id: int) -> None:
        self.emptied.add(relation_id)
        for id, (old, _, _) in list(self._rows.items()):
            if id[0] == relation_id:
                self._rows[id] = (old, None, ())
        for id, row in self._rows_of(relation_id):
            if id not in self._rows:
                self._rows[id] = (row, None, ())

    def found(self, rows_of: Callable[[int], Iterable[tuple[RowId, Row]]]) -> None:
        """Only now it is known which rows there were before it all: those that were truncated away count."""
        for relation_id in self.emptied:
            for id, row in rows_of(relation_id):
                _, left, tags = self._rows.get(id, (None, None, ()))
                self._rows[id] = (row, left, tags)

    @property
    def named(self) -> Collection[RowId]:
        """Every row that was changed, also for nothing in the end."""
        return self._rows.keys()

    @property
    def net(self) -> dict[RowId, Net]:
        """What all of it comes to."""
        return {id: Net(*row) for id, row in self._rows.items() if row[0] is not None or row[1] is not None}
