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
Kind: TypeAlias = Literal["insert", "update", "delete", "rename"]
"""A rename gives a row another key, which devices cannot."""

INSERTS, UPDATES = 2, 3
"""Of a table, in one plan."""
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
        self._read = rows
        self._random = random.Random(seed)
        self._new: dict[str, list[Row]] = {}

    def plan(self, deletes: int, renames: int = 0) -> list[list[tuple[Kind, Table]]]:
        """Transactions in which every table gets new rows and changed ones, and some lose one: mostly such that nobody
        refers to, so that cascades leave something to write to."""
        tables = list(self._tables.values())
        parents = {reference.parent for table in tables for reference in table.references}
        leaves = [table for table in tables if table.name not in parents] or tables
        steps: list[tuple[Kind, Table]] = []
        for table in tables:
            steps += [("insert", table) for _ in range(INSERTS)]
            steps += [("update", table) for _ in range(UPDATES)]
        steps += [("delete", self._random.choice(leaves if n % 4 else tables)) for n in range(deletes)]
        steps += [("rename", self._random.choice(tables)) for _ in range(renames)]
        self._random.shuffle(steps)
        transactions: list[list[tuple[Kind, Table]]] = []
        while steps:
            size = self._random.choice((1, 1, 1, 2, 3))
            transactions.append(steps[:size])
            steps = steps[size:]
        return transactions

    async def transaction(self, steps: Sequence[tuple[Kind, Table]]) -> list[Write]:
        """Its writes; later ones know of the rows that earlier ones make, and may refer to them."""
        self._new.clear()
        writes = []
        for kind, table in steps:
            write = await self._write(kind, table)
            if write is not None:
                writes.append(write)
        self._new.clear()
        return writes

    async def _write(self, kind: Kind, table: Table) -> Write | None:
        """None: there is nothing to be written, or nothing is known of a type."""
        match kind:
            case "insert":
                return await self._insert(table)
            case "update":
                return await self._update(table)
            case "rename":
                return await self._rename(table)
        rows = await self._read(table)
        return Write("delete", table, key=_key(table, self._random.choice(rows))) if rows else None

    async def _rows(self, table: Table) -> Sequence[Row]:
        return [*await self._read(table), *self._new.get(table.name, ())]

    async def _insert(self, table: Table) -> Write | None:
        rows = await self._rows(table)
        try:
            if rows:
                values = self._copied(table, self._random.choice(rows))
                if table.references and self._random.random() < 0.4:
                    await self._point(table, [self._random.choice(table.references)], values)
            else:
                values = self._invented(table)
                if not await self._point(table, table.references, values):
                    return None
        except NoValueError:
            return None
        if not await self._made_unique(table, values, rows):
            return None
        self._new.setdefault(table.name, []).append(values)
        return Write("insert", table, self._without_defaults(table, values))

    def _without_defaults(self, table: Table, values: Row) -> Row:
        """Some columns are left to their defaults, as applications do: the key most of all. Nobody refers to such a row
        in the same transaction, as nobody knows its key."""
        left = {
            column.name
            for column in table.columns
            if column.defaulted
            and column.name not in table.referring
            and self._random.random() < (0.5 if column.name in table.key else 0.15)
        }
        if left.intersection(table.key):
            self._new[table.name].pop()
        return {name: value for name, value in values.items() if name not in left} or values

    async def _update(self, table: Table) -> Write | None:
        rows = await self._rows(table)
        units = [unit for unit in table.units if not any(table.column[name].numbered for name in unit)]
        if not rows or not units:
            return None
        row = self._random.choice(rows)
        values: dict[str, Value] = {}
        for unit in self._random.sample(units, min(len(units), self._random.choice((1, 1, 2, 3)))):
            values |= await self._changed(table, unit, row, rows)
        return Write("update", table, values, _key(table, row)) if values else None

    async def _rename(self, table: Table) -> Write | None:
        rows = await self._read(table)
        if not rows or any(table.column[name].numbered for name in table.key):
            return None
        row = self._random.choice(rows)
        values = dict(row)
        if not await self._renewed(table, frozenset(table.key), values, rows):
            return None
        return Write("update", table, {name: values[name] for name in table.key}, _key(table, row))

    async def _changed(self, table: Table, unit: frozenset[str], row: Row, rows: Sequence[Row]) -> dict[str, Value]:
        ties = [*table.bound, *table.uniques, *(frozenset(reference.columns) for reference in table.references)]
        ties = [tie for tie in ties if tie & unit]
        if not ties:
            (name,) = unit
            return {name: alike(table.column[name], row[name], self._random)}
        uniques = [unique for unique in table.uniques if unique & unit]
        if uniques:
            values = dict(row)
            if not await self._renewed(table, self._random.choice(uniques), values, rows, keeping=table.key):
                return {}
            return {name: value for name, value in values.items() if name in unit and value != row[name]}
        shared = frozenset[str]().union(*ties).intersection(table.key)
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
            if not unique & renewed:
                before = dict(values)
                if not await self._renewed(table, unique, values, rows):
                    return False
                renewed |= {name for name in values if values[name] != before[name]}
        return True

    async def _renewed(
        self,
        table: Table,
        unique: frozenset[str],
        values: dict[str, Value],
        rows: Sequence[Row],
        keeping: Sequence[str] = (),
    ) -> bool:
        """Other values in columns that must be unique: a new one in one of them, or other parents. ``keeping``: columns
        that stay as they are."""
        loose = self._free(table, unique.difference(keeping))
        if loose:
            name = self._random.choice(loose)
            values[name] = fresh(table.column[name], values[name], [row[name] for row in rows], self._random)
            return True
        pointing = [
            reference
            for reference in table.references
            if unique.intersection(reference.columns) and not set(reference.columns) <= set(keeping)
        ]
        taken = {tuple(row[name] for name in sorted(unique)) for row in rows}
        for _ in range(TRIES):
            if not await self._point(table, pointing, values, keeping):
                return False
            if tuple(values[name] for name in sorted(unique)) not in taken:
                return True
        return False

    async def _point(
        self, table: Table, references: Sequence[Reference], values: dict[str, Value], keeping: Sequence[str] = ()
    ) -> bool:
        """Lets ``values`` refer to parents drawn anew, the newest more often. Of keys with columns in common the later
        follow the earlier, and those that are not drawn. Whether there are any."""
        settled = {name for one in table.references if one not in references for name in one.columns} | set(keeping)
        for reference in references:
            parent = self._tables.get(reference.parent)
            pairs = list(zip(reference.columns, reference.parent_columns, strict=True))
            parents = [] if parent is None else await self._rows(parent)
            fitting = [
                row for row in parents if all(row[theirs] == values[ours] for ours, theirs in pairs if ours in settled)
            ]
            if fitting:
                row = fitting[-1] if self._random.random() < 0.3 else self._random.choice(fitting)
                values.update({ours: row[theirs] for ours, theirs in pairs})
            elif any(table.column[name].not_null or name in table.key for name in reference.columns):
                return False
            settled.update(reference.columns)
        return True


def _key(table: Table, row: Row) -> Row:
    return {name: row[name] for name in table.key}
