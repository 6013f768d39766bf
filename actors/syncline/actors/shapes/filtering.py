"""A shape of one table and a clause: whether a row belongs to it, its content says, before a change and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.membership import Net
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.tree import RowId
from syncline.proto.values import Delete, Gone, Insert, Relation, Row, RowChange, Update


async def filtered(
    changes: Sequence[RowChange], relation: Relation, clauses: Clauses
) -> tuple[list[RowChange], list[Insert]]:
    """What ``changes``, which are of one transaction, do to the shape, and the rows that leave it and live on.

    Raises what ``clauses`` raise.
    """
    netting = Netting({relation.id: relation}, lambda _: ())
    netting.add(changes)
    net = netting.net
    await look(clauses, (row for change in net.values() for row in (change.old, change.new) if row is not None))
    kept, gone = _kept(net, relation, clauses)
    clauses.forget()
    return kept, gone


async def selected(rows: Sequence[TaggedRow], clauses: Clauses) -> list[TaggedRow]:
    """Those of ``rows`` that belong to the shape. Raises what ``clauses`` raise."""
    await look(clauses, (row for row, _ in rows))
    inside = [(row, tags) for row, tags in rows if clauses.judge(0, row)]
    clauses.forget()
    return inside


async def look(clauses: Clauses, rows: Iterable[Row]) -> None:
    """See that ``clauses`` can judge these rows for the shape's own table. Raises what ``clauses`` raise."""
    unknown = {(0, row) for row in rows if clauses.judge(0, row) is None}
    if unknown:
        await clauses.look(unknown)


def _kept(net: Mapping[RowId, Net], relation: Relation, clauses: Clauses) -> tuple[list[RowChange], list[Insert]]:
    kept: list[RowChange] = []
    gone: list[Insert] = []
    for (_, key), change in net.items():
        was = change.old is not None and bool(clauses.judge(0, change.old))
        if change.new is not None and clauses.judge(0, change.new):
            if was:
                kept.append(Update(relation.id, change.new, change.old, change.tags))
            else:
                kept.append(Insert(relation.id, change.new, change.tags))
        elif was and change.new is None:
            assert change.old is not None
            kept.append(Delete(relation.id, change.old))
        elif was and change.new is not None:
            kept.append(Gone(relation.id, relation.key_row(key)))
            gone.append(Insert(relation.id, change.new))
    return kept, gone
