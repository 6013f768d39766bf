"""A shape of one table and a clause: whether a row belongs to it, its content says, before a change and after it."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.netting import Netting
from syncline.proto.values import Delete, Gone, Insert, Relation, RowChange, Update


async def filtered(
    changes: Sequence[RowChange], relation: Relation, clauses: Clauses
) -> tuple[list[RowChange], list[Insert]]:
    """What ``changes``, which are of one transaction, do to the shape, and the rows that leave it and live on.

    Raises what ``clauses`` raise.
    """
    netting = Netting({relation.id: relation}, lambda _: ())
    netting.add(changes)
    net = netting.net
    images = [row for change in net.values() for row in (change.old, change.new) if row is not None]
    inside = iter(await clauses.judged(0, images))
    kept: list[RowChange] = []
    gone: list[Insert] = []
    for (_, key), change in net.items():
        was = change.old is not None and next(inside)
        if change.new is not None and next(inside):
            if was:
                kept.append(Update(relation.id, change.new, change.old, change.tags))
            else:
                kept.append(Insert(relation.id, change.new, change.tags))
        elif was and change.new is None:
            assert change.old is not None
            kept.append(Delete(relation.id, change.old))
        elif was and change.new is not None:
            kept.append(Gone(relation.id, relation.key_row(key)))
            gone.append(Insert(relation.id, change.new, change.tags))
    return kept, gone


async def selected(rows: Sequence[TaggedRow], clauses: Clauses) -> list[TaggedRow]:
    """Those of ``rows`` that belong to the shape. Raises what ``clauses`` raise."""
    inside = await clauses.judged(0, [row for row, _ in rows])
    return [row for row, is_inside in zip(rows, inside, strict=True) if is_inside]
