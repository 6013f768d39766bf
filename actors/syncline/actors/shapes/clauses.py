"""The clauses of a shape, asked of rows: by Python where that is certain to mean the same, else by Postgres.

Those who ask go over their rows twice if need be: what only Postgres can tell is noted as unknown, then asked for many
rows at once, and known the next time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.where_sql import check
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.where import Undecided, Where, parse
from syncline.proto.values import Row

Evaluate: TypeAlias = Callable[[Where, TableInfo, Sequence[Row]], Awaitable[Sequence[bool]]]
"""Whether rows satisfy a clause, asked of Postgres; a row for which it raises an error does not."""


class Clauses:
    """``wheres``: node -> its table and clause, for those that have one. ``evaluate``: see there."""

    def __init__(self, wheres: Mapping[int, tuple[TableInfo, Where]], evaluate: Evaluate) -> None:
        self._wheres = wheres
        self._evaluate = evaluate
        self._holds = {node: where.holds() for node, (_, where) in wheres.items() if where.compiled}
        self._looked: dict[tuple[int, Row], bool] = {}

    def __contains__(self, node: int) -> bool:
        """Whether the node has a clause at all."""
        return node in self._wheres

    def compiled(self, node: int) -> bool:
        """Whether the node has a clause, and hardly any row of which Postgres has to be asked."""
        return node in self._holds

    @property
    def slow(self) -> bool:
        """Whether one of them is evaluated by Postgres alone."""
        return len(self._holds) < len(self._wheres)

    def sql(self, node: int) -> str:
        """SQL over rows ``t`` that holds at least for those that satisfy the clause of ``node``; empty: for all."""
        if node not in self._wheres or self._wheres[node][1].can_raise:
            return ""
        return self._wheres[node][1].sql("t")

    def judge(self, node: int, row: Row) -> bool | None:
        """Whether ``row`` satisfies the clause of ``node``; None: ``look`` has to be called first."""
        answer = self._certain(node, row)
        return self._looked.get((node, row)) if answer is None else answer

    def _certain(self, node: int, row: Row) -> bool | None:
        """What can be said without Postgres."""
        if node not in self._wheres:
            return True
        holds = self._holds.get(node)
        if holds is None:
            return None
        try:
            return holds(row)
        except Undecided:
            return None

    async def judged(self, node: int, rows: Sequence[Row]) -> list[bool]:
        """Which of ``rows`` satisfy the clause of ``node``, asked all at once. Raises what asyncpg raises."""
        if node not in self._wheres:
            return [True] * len(rows)
        inside = {row: self._certain(node, row) for row in rows}
        unknown = [row for row, answer in inside.items() if answer is None]
        if unknown:
            table, where = self._wheres[node]
            inside.update(zip(unknown, await self._evaluate(where, table, unknown), strict=True))
        return [bool(inside[row]) for row in rows]

    async def look(self, judgements: Collection[tuple[int, Row]]) -> None:
        """Ask Postgres about (node, row). Raises what asyncpg raises."""
        rows: dict[int, list[Row]] = {}
        for node, row in judgements:
            rows.setdefault(node, []).append(row)
        for node, of_node in rows.items():
            answers = await self.judged(node, of_node)
            self._looked.update(((node, row), inside) for row, inside in zip(of_node, answers, strict=True))

    def selected(self, node: int, rows: Iterable[Row]) -> None:
        """Postgres has selected these rows by ``sql``."""
        if node in self._wheres and node not in self._holds and not self._wheres[node][1].can_raise:
            self._looked.update(((node, row), True) for row in rows)

    def forget(self) -> None:
        """Nobody asks again about the rows that were looked at."""
        self._looked.clear()


async def _ask_nobody(where: Where, table: TableInfo, rows: Sequence[Row]) -> Sequence[bool]:
    raise AssertionError("there is no clause")


NO_CLAUSES = Clauses({}, _ask_nobody)
"""Every row belongs."""


def clauses_of(shape: Shape, tables: Mapping[int, TableInfo], evaluate: Evaluate) -> Clauses:
    """``tables``: those of the shape, by relation id. Raises KeyError if one is missing, WhereRefused for a clause that
    the table's columns do not allow any more."""
    return Clauses(_wheres(shape, tables), evaluate)


async def check_clauses(pool: asyncpg.Pool, shape: Shape, tables: Mapping[int, TableInfo]) -> None:
    """Ask Postgres whether it can evaluate what only it can. Raises WhereRefused, and what asyncpg raises."""
    for table, where in _wheres(shape, tables).values():
        if not where.compiled:
            await check(pool, where, table)


def _wheres(shape: Shape, tables: Mapping[int, TableInfo]) -> dict[int, tuple[TableInfo, Where]]:
    texts = {0: (shape.relation_id, shape.where)}
    texts.update((n, (one.relation_id, one.where)) for n, one in enumerate(shape.included, 1))
    return {
        node: (tables[relation_id], parse(text, tables[relation_id]))
        for node, (relation_id, text) in texts.items()
        if text
    }
