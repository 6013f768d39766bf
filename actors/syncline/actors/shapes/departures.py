"""Rows that leave in a transaction of several shapes, unless another of them tells of them later in it. Pure.

A row may go in one piece of a large transaction and come in another, to a shape that has not had it. Told in that order
that is right as it stands; but some clients take of a row that goes and comes within one transaction the tags from the
first operation, and would know none of it. So what leaves is held back until the transaction ends, or the row is told
of again: then it stays, without the columns that it had by the shapes it has left alone.

That takes memory for each such row. Of more than ``HELD_BACK_BYTES_MAX`` the earliest are told where they are, which is
the order that Postgres had: whoever takes operations one after the other loses nothing by it.

What stands at one place of a transaction may come in several parts, as it is read: trees tell of all of it at its end.
A shape that then says a row goes which another has told of there just before knows less of it (see ``together``). So
while a place is not done, the keys are kept of the rows that are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from syncline.actors.shapes.projection import forgotten, lost
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Gone, Insert, Key, Relation, Update

# For each device that reads logs. Some 10,000 rows of 100 bytes: all of a transaction of two pieces that deletes.
HELD_BACK_BYTES_MAX = 4 << 20
# What is needed for a row, besides its cells.
ROW_BYTES = 300


_Place: TypeAlias = tuple[int, int]


@dataclass(slots=True)
class _Departure:
    """``last``: what is to be told; ``relation_ids``: by which the device has had the row."""

    last: Delete | Gone
    relation_ids: frozenset[int]
    size_bytes: int


class Departures:
    """``relations``: of all shapes that tell of rows. What takes columns of a row that stays is of none of them."""

    def __init__(self, relations: Iterable[Relation]) -> None:
        self.relations = {relation.id: relation for relation in relations}
        self._held: dict[tuple[int, Key], _Departure] = {}  # the earliest first
        self._size_bytes = 0
        self._told_of: dict[int, Relation] = {}
        self._place: _Place | None = None  # of what has been told last
        self._there: dict[tuple[int, Key], frozenset[str]] = {}  # the rows told of there, and their columns

    def passed(self, changes: Iterable[Change], place: _Place | None = None, *, more: bool = False) -> list[Change]:
        """Of ``changes``, which come next, and of what is held back, all that can be told now. ``place``: the LSN, and
        where in its transaction they stand; shapes may tell ``more`` of it."""
        if place != self._place:
            self._place = place
            self._there.clear()
        there: dict[tuple[int, Key], frozenset[str]] = {}
        told: list[Change] = []
        for change in changes:
            relation = None
            if isinstance(change, Insert | Update | Delete | Gone):
                relation = self.relations.get(change.relation_id)
            if relation is None:
                told.append(change)
                continue
            assert isinstance(change, Insert | Update | Delete | Gone)
            row = change.old_row if isinstance(change, Delete) else change.row
            id = (relation.table_id, relation.key_of(row))
            before = self._held.pop(id, None)
            self._size_bytes -= 0 if before is None else before.size_bytes
            if isinstance(change, Delete | Gone) and id in self._there:
                told += self._less((relation.id,), self._there[id], id[1])
                continue
            if isinstance(change, Delete | Gone):
                there.pop(id, None)
                by = frozenset((relation.id,)).union(() if before is None else before.relation_ids)
                held = self._held[id] = _Departure(change, by, ROW_BYTES + sum(len(cell or b"") for cell in row))
                self._size_bytes += held.size_bytes
                continue
            if before is not None:
                told += self._less(before.relation_ids, relation.names, id[1])
            if more:
                there[id] = there.get(id, frozenset()).union(relation.names)
            told.append(change)
        for id, names in there.items():
            self._there[id] = self._there.get(id, frozenset()).union(names)
        while self._size_bytes > HELD_BACK_BYTES_MAX:
            earliest = self._held.pop(next(iter(self._held)))
            self._size_bytes -= earliest.size_bytes
            told.append(earliest.last)
        return told

    def rest(self) -> bytes:
        """What could not be told before the end."""
        rest = codec.encode_ops(departure.last for departure in self._held.values())
        self._held.clear()
        self._size_bytes = 0
        return rest

    def described(self, relations: Iterable[Relation]) -> None:
        """Of these it is told besides, too."""
        self._told_of.update((relation.id, relation) for relation in relations)

    def relations_told(self) -> list[bytes]:
        """Of which relations it has told besides, as messages that have to come before."""
        told, self._told_of = self._told_of, {}
        return [codec.relation_message(relation) for relation in told.values()]

    def _less(self, relation_ids: Iterable[int], names: Collection[str], key: Key) -> Iterable[Change]:
        """The row, which the device has had by these relations, stays with the columns of these ``names``."""
        for id in sorted(relation_ids):
            less = lost(self.relations[id], names)
            if less is not None:
                self._told_of[less.id] = less
                yield forgotten(less, key)
