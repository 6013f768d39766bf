"""What an application writes to tables that nobody has described to it: rows like those that are there.

A new row is a copy of another one under a new key, with other values where no constraint is about them, and with new
ones in what must be unique. An update changes such columns too, or takes over from another row all that one constraint
is about. So most of it holds; what does not, Postgres or the device refuses, and that is a part of the test.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tests.schemas.catalogue import Reference, Table, quoted
from tests.schemas.values import NoValueError, Value, alike, fresh, in_postgres, invented

Row: TypeAlias = Mapping[str, Value]
Reader: TypeAlias = Callable[[Table], Awaitable[Sequence[Row]]]
"""The rows of a table, as the author sees them."""
Kind: TypeAlias = Literal["insert", "update", "delete"]

TRIES = 12
"""How often a combination of parents is drawn that no row has."""


@dataclass(frozen=True)
class Write:
    """``values``: the columns it sets; ``key``: of the row there is, of updates and deletes."""

    kind: Kind
    table: Table
    values: Row = field(default_factory=dict)
    key: Row = field(default_factory=dict)

    def on_device(self) -> tuple[str, list[Value]]:
        """The statement for SQLite, and its parameters."""
        return self._statement(quoted(self.table.on_devices), lambda name: "?", "")

    def in_postgres(self) -> tuple[str, list[str | None]]:
        numbers = iter(range(1, len(self.values) + len(self.key) + 1))

        def parameter(name: str) -> str:
            return f"${next(numbers)}::text::{self.table.column[name].cast}"

        sql, values = self._statement(self.table.name, parameter, "OVERRIDING SYSTEM VALUE ")
        return sql, [in_postgres(value) for value in values]

    def _statement(self, table: str, parameter: Callable[[str], str], overriding: str) -> tuple[str, list[Value]]:
        values = [*self.values.values(), *self.key.values()]
        if self.kind == "insert":
            names = ", ".join(map(quoted, self.values))
            given = ", ".join(map(parameter, self.values))
            return f"INSERT INTO {table} ({names}) {overriding}VALUES ({given})", values
        sets = ", ".join(f"{quoted(name)} = {parameter(name)}" for name in self.values)
        where = " AND ".join(f"{quoted(name)} = {parameter(name)}" for name in self.key)
        if self.kind == "update":
            return f"UPDATE {table} SET {sets} WHERE {where}", values
        return f"DELETE FROM {table} WHERE {where}", values


class Author:
    """Somebody who writes; ``rows`` is what he sees. The same seed and rows make the same writes."""

    def __init__(self, tables: Sequence[Table], rows: Reader, seed: str) -> None:
        self._tables = {table.name: table for table in tables}
        self._rows = rows
        self._random = random.Random(seed)

    def plan(self, deletes: int) -> list[list[tuple[Kind, Table]]]:
        """Transactions in which every table gets a new row and a changed one, and some lose one: mostly such that
        nobody refers to, so that cascades leave something to write to."""
        tables = list(self._tables.values())
        parents = {reference.parent for table in tables for reference in table.references}
        leaves = [table for table in tables if table.name not in parents] or tables
        steps: list[tuple[Kind, Table]] = []
        for table in tables:
            steps += [("insert", table), ("update", table)]
        for number in range(deletes):
            steps.append(("delete", self._random.choice(tables if number % 4 == 0 else leaves)))
        self._random.shuffle(steps)
        transactions: list[list[tuple[Kind, Table]]] = []
        while steps:
            size = self._random.choice((1, 1, 1, 2, 3))
            transactions.append(steps[:size])
            steps = steps[size:]
        return transactions

    async def write(self, kind: Kind, table: Table) -> Write | None:
        """None: there is nothing to be written, or nothing is known of a type."""
        match kind:
            case "insert":
                return await self.insert(table)
            case "update":
                return await self._update(table)
        rows = await self._rows(table)
        return Write("delete", table, key=_key(table, self._random.choice(rows))) if rows else None

    async def insert(self, table: Table) -> Write | None:
        rows = await self._rows(table)
        template = self._random.choice(rows) if rows else None
        try:
            values = self._copied(table, template) if template is not None else self._invented(table)
        except NoValueError:
            return None
        if template is None and not await self._point(table, table.references, values):
            return None
        if not await self._made_unique(table, values, rows):
            return None
        for column in table.columns:
            if column.defaulted and (column.name in table.key or self._random.random() < 0.3):
                if column.name not in table.referring and self._random.random() < 0.5:
                    values.pop(column.name, None)  # as an application does that relies on the default
        return Write("insert", table, values) if values else None

    async def _update(self, table: Table) -> Write | None:
        rows = await self._rows(table)
        units = [unit for unit in table.units if not any(table.column[name].numbered for name in unit)]
        if not rows or not units:
            return None
        row = self._random.choice(rows)
        values: dict[str, Value] = {}
        for unit in self._random.sample(units, min(len(units), self._random.choice((1, 1, 2, 3)))):
            values |= self._changed(table, unit, row, rows)
        return Write("update", table, values, _key(table, row)) if values else None

    def _changed(self, table: Table, unit: frozenset[str], row: Row, rows: Sequence[Row]) -> dict[str, Value]:
        ties = [*table.bound, *table.uniques, *(frozenset(reference.columns) for reference in table.references)]
        ties = [tie for tie in ties if tie & unit]
        if not ties:
            (name,) = unit
            return {name: alike(table.column[name], row[name], self._random)}
        loose = [name for name in self._free(table, unit) if any(name in unique for unique in table.uniques)]
        if loose:
            name = self._random.choice(loose)
            return {name: fresh(table.column[name], row[name], [other[name] for other in rows], self._random)}
        shared = frozenset().union(*ties).intersection(table.key)
        donors = [other for other in rows if all(other[name] == row[name] for name in shared)]
        donor = self._random.choice(donors)
        return {name: donor[name] for name in sorted(unit)}

    def _free(self, table: Table, names: frozenset[str]) -> list[str]:
        """Those that no foreign key, CHECK or partition is about; failing these, those that no foreign key is about."""
        without = [name for name in sorted(names) if name not in table.referring]
        return [name for name in without if not any(name in bound for bound in table.bound)] or without

    def _copied(self, table: Table, template: Row) -> dict[str, Value]:
        tied = table.referring.union(*table.bound, *table.uniques)
        return {
            name: value if name in tied or self._random.random() < 0.3 else alike(column, value, self._random)
            for name, column, value in ((column.name, column, template[column.name]) for column in table.columns)
        }

    def _invented(self, table: Table) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for column in table.columns:
            if column.name in table.referring:
                values[column.name] = None
            elif column.not_null or column.name in table.key or self._random.random() < 0.7:
                values[column.name] = invented(column, self._random)
            else:
                values[column.name] = None
        return values

    async def _made_unique(self, table: Table, values: dict[str, Value], rows: Sequence[Row]) -> bool:
        """New values in every set of columns that must be unique, the key first. Whether that could be done."""
        renewed: set[str] = set()
        for unique in sorted(table.uniques, key=lambda names: (not names & set(table.key), sorted(names))):
            if unique & renewed:
                continue
            loose = self._free(table, unique)
            if loose:
                name = self._random.choice(loose)
                values[name] = fresh(table.column[name], values[name], [row[name] for row in rows], self._random)
                renewed.add(name)
                continue
            pointing = [reference for reference in table.references if unique.intersection(reference.columns)]
            taken = {tuple(row[name] for name in sorted(unique)) for row in rows}
            for _ in range(TRIES):
                if not await self._point(table, pointing, values):
                    return False
                if tuple(values[name] for name in sorted(unique)) not in taken:
                    break
            else:
                return False
            renewed |= unique
        return True

    async def _point(self, table: Table, references: Sequence[Reference], values: dict[str, Value]) -> bool:
        """Lets ``values`` refer to parents drawn anew. Of keys with columns in common the later follow the earlier.
        Whether there are any."""
        settled: set[str] = set()
        for reference in references:
            parent = self._tables.get(reference.parent)
            pairs = list(zip(reference.columns, reference.parent_columns, strict=True))
            parents = [] if parent is None else await self._rows(parent)
            fitting = [
                row for row in parents if all(row[theirs] == values[ours] for ours, theirs in pairs if ours in settled)
            ]
            if fitting:
                row = self._random.choice(fitting)
                values.update({ours: row[theirs] for ours, theirs in pairs})
            elif any(table.column[name].not_null or name in table.key for name in reference.columns):
                return False
            settled.update(reference.columns)
        return True


def _key(table: Table, row: Row) -> Row:
    return {name: row[name] for name in table.key}


