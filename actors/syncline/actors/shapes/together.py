"""What several shapes of a device tell of one transaction, where they may have rows in common. Pure.

Each tells what the transaction means to it. A device is told each thing once, and of a row that one of its shapes
still has, or has anew, that it changes and not that it goes. That another says it goes does not mean it is gone: who is
found by the values of rows, or was emptied by a TRUNCATE, may not know that a row came again.

Where shapes have columns of their own, a row that stays loses those that none of the shapes has that still have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
    changes, besides = put_together([[*codec.decode_changes(part)] for part in parts], relations)
    return [codec.encode_ops(changes)], [codec.relation_message(relation) for relation in besides]


def put_together(
    every: Sequence[Sequence[Change]], relations: Mapping[int, Relation]
) -> tuple[list[Change], list[Relation]]:
    """``once`` for what is decoded; also of a piece of a transaction."""
    if any(isinstance(change, Migrate) for part in every for change in part):
        return [change for part in every for change in part], []
    there = _there(every, relations)
    changes: dict[int, Change] = {}
    told: dict[tuple[bool, int, Row], int] = {}  # whether it is a delete, of what; where it is among the changes
    places = count()
    fewer: dict[int, tuple[Relation, dict[Key, None]]] = {}  # rows that stay with fewer columns
    went: dict[_RowId, Row | None] = {}  # of which it is not told that they go: what they were then
    for part in every:
        of_part: dict[tuple[bool, int, Row], int] = {}
        for change in part:
            assert not isinstance(change, Migrate)
            if there and isinstance(change, Delete | Gone):
                id = row_id(change, relations)
                if id is not None and id in there:
                    went[id] = change.old_row if isinstance(change, Delete) else None
                    less = lost(relations[change.relation_id], there[id])
                    if less is not None:
                        fewer.setdefault(less.id, (less, {}))[1][id[1]] = None
                    continue
            row = change.old_row if isinstance(change, Delete) else change.row
            what = (isinstance(change, Delete), change.relation_id, row)
            same = changes.pop(told.pop(what), None) if what in told else None
            of_part[what] = place = next(places)
            changes[place] = change if same is None else _of_two(same, change, went, relations)
        told.update(of_part)
    lacking = (forgotten(relation, key) for relation, keys in fewer.values() for key in keys)
    return [*changes.values(), *lacking], [relation for relation, _ in fewer.values()]


def _of_two(
    earlier: Change, later: Change, went: Mapping[_RowId, Row | None], relations: Mapping[int, Relation]
) -> Change:
    """What stands for two that tell the same of a row. Who held it before says so by an update. Where they know
    different things of what it was before, that is not said: some clients take for the whole change what has changed
    since."""
    for one, other in ((earlier, later), (later, earlier)):
        if isinstance(one, Update):
            id = row_id(one, relations)
            known = one.old_row if id is None else went.get(id, one.old_row)
            alike = known == one.old_row and (not isinstance(other, Update) or other.old_row == known)
            return one if alike else replace(one, old_row=None)
    return later


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
