"""What several shapes of a device tell of one transaction, where they may have rows in common. Pure.

Each tells what the transaction means to it. A device is told each thing once, and of a row that one of its shapes
still has, or has anew, that it changes and not that it goes. That another says it goes does not mean it is gone: who is
found by the values of rows, or was emptied by a TRUNCATE, may not know that a row came again.

Where shapes have columns of their own, a row that stays loses those that none of the shapes has that still have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import TypeAlias

from syncline.actors.shapes.projection import forgotten, lost
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Gone, Insert, Key, Migrate, Relation, Row, Update

_RowId: TypeAlias = tuple[int, Key]


def once(parts: Sequence[bytes], relations: Mapping[int, Relation]) -> tuple[list[bytes], list[bytes]]:
    """``parts``, what each shape tells of a whole transaction, together, and the relations of which it tells besides,
    as messages. What one of them has told already, another does not repeat. Who held a row before says so by an update,
    and what is an insert elsewhere is none for a device that has both.

    What one shape tells keeps its order: a row may change twice there, go and come again, or go as it came. So of two
    that tell the same the later one stays."""
    every = [list(codec.decode_changes(part)) for part in parts]
    if any(isinstance(change, Migrate) for part in every for change in part):
        return list(parts), []
    there = _there(every, relations)
    changes: dict[int, Change] = {}
    told: dict[tuple[bool, int, Row], int] = {}  # whether it is a delete, of what; where it is among the changes
    places = count()
    fewer: dict[int, tuple[Relation, dict[Key, None]]] = {}  # rows that stay with fewer columns
    for part in every:
        of_part: dict[tuple[bool, int, Row], int] = {}
        for change in part:
            assert not isinstance(change, Migrate)
            if there and isinstance(change, Delete | Gone):
                id = row_id(change, relations)
                if id is not None and id in there:
                    less = lost(relations[change.relation_id], there[id])
                    if less is not None:
                        fewer.setdefault(less.id, (less, {}))[1][id[1]] = None
                    continue
            row = change.old_row if isinstance(change, Delete) else change.row
            what = (isinstance(change, Delete), change.relation_id, row)
            same = changes.pop(told.pop(what), None) if what in told else None
            of_part[what] = place = next(places)
            changes[place] = same if isinstance(same, Update) else change
        told.update(of_part)
    lacking = (forgotten(relation, key) for relation, keys in fewer.values() for key in keys)
    besides = [codec.relation_message(relation) for relation, _ in fewer.values()]
    return [codec.encode_ops((*changes.values(), *lacking))], besides


def _there(every: Iterable[Sequence[Change]], relations: Mapping[int, Relation]) -> dict[_RowId, frozenset[str]]:
    """The rows of which one part or another says that they go, and that some shape has in the end: with the columns of
    those that have it."""
    going = {row_id(change, relations) for part in every for change in part if isinstance(change, Delete | Gone)}
    there: dict[_RowId, frozenset[str]] = {}
    for part in every if going else ():
        last: dict[_RowId, Change] = {}
        for change in part:
            id = row_id(change, relations)
            if id in going and id is not None:
                last[id] = change
        for id, change in last.items():
            if isinstance(change, Insert | Update):
                there[id] = there.get(id, frozenset()).union(relations[change.relation_id].names)
    return there


def row_id(change: Change, relations: Mapping[int, Relation]) -> _RowId | None:
    """None for what is not of a row that a shape has."""
    if not isinstance(change, Insert | Update | Delete | Gone):
        return None
    relation = relations.get(change.relation_id)
    if relation is None:
        return None
    return relation.table_id, relation.key_of(change.old_row if isinstance(change, Delete) else change.row)


class Leaving:
    """Rows that leave in a final stretch, unless a later operation of another shape tells of them; and rows that are
    deleted, unless another shape has them anew in the same transaction."""

    def __init__(self, relations: Iterable[Relation]) -> None:
        self.relations = {relation.id: relation for relation in relations}
        self._gone: dict[tuple[int, Key], Gone] = {}
        # Of the transaction that comes by: rows deleted, and the columns of those that somebody has.
        self._deleted: dict[tuple[int, Key], Delete] = {}
        self._there: dict[tuple[int, Key], frozenset[str]] = {}
        self._lsn = 0
        self.told_of: list[bytes] = []  # relations of which it tells besides, as messages

    def passed(self, lsn: int, ops: bytes, *, alone: bool) -> bytes:
        """Of ``ops``, which are of the transaction at ``lsn``, and of what came before all that can be told now.
        ``alone``: no other shape has anything of that transaction, of which nothing need be kept then."""
        told: list[Change] = []
        if lsn > self._lsn:
            self._lsn = lsn
            told += self._deleted.values()
            self._deleted.clear()
            self._there.clear()
        for change in codec.decode_changes(ops):
            assert isinstance(change, Insert | Update | Delete | Gone), "a shape has rows"
            row = change.old_row if isinstance(change, Delete) else change.row
            relation = self.relations.get(change.relation_id)
            if relation is None:  # it takes columns of a row that stays
                told.append(change)
                continue
            id = (relation.table_id, relation.key_of(row))
            before = [left.pop(id) for left in (self._gone, self._deleted) if id in left]
            if isinstance(change, Gone):
                self._gone[id] = change
            elif not isinstance(change, Delete):
                there = self._there.get(id, frozenset()).union(relation.names)
                if not alone:
                    self._there[id] = there
                for left in before:
                    told += self._less(left, there, id)
                told.append(change)
            elif alone:
                told.append(change)
            elif id in self._there:
                told += self._less(change, self._there[id], id)
            else:
                self._deleted[id] = change
        return codec.encode_ops(told)

    def _less(self, left: Gone | Delete, there: frozenset[str], id: tuple[int, Key]) -> Iterator[Change]:
        """The row stays, with what it has come with since, the columns that are ``there``."""
        less = lost(self.relations[left.relation_id], there)
        if less is not None:
            self.told_of.append(codec.relation_message(less))
            yield forgotten(less, id[1])

    def rest(self) -> bytes:
        """What could not be told before the end."""
        return codec.encode_ops((*self._deleted.values(), *self._gone.values()))
