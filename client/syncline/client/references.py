# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
"""Which rows here refer to which, as SQL. Pure; ``keeping`` says what for.

A row is named by its table and its key as the oplog has it (``triggers.key_sql``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from syncline.client.row_sql import table_sql
from syncline.client.schema import ForeignKey, Table, literal, quoted
from syncline.client.triggers import BYTES_FUNCTION, key_sql

CHECKED = "temp._syncline_checked"
CREATE_CHECKED = (
    "CREATE TEMP TABLE _syncline_checked (table_name TEXT, key TEXT, PRIMARY KEY (table_name, key)) WITHOUT ROWID"
)


class GoingSql:
    """Rows of a table that go, or have gone, in the commit under way: as they were, in a temporary table."""

    def __init__(self, table: Table) -> None:
        name, here = literal(table.name), f"main.{quoted(table.name)}"
        going = f"_syncline_going_{table.id}"
        columns = ", ".join(quoted(column) for column in table.columns)
        key = key_sql([f"{here}.{quoted(column)}" for column in table.primary_key])
        tags = f"(SELECT tags FROM _syncline_shadow WHERE table_name = {name} AND key = {key})"
        matches = " AND ".join(f"{quoted(column)} = ?" for column in table.primary_key)
        self._copy = f"INSERT OR REPLACE INTO temp.{going} SELECT {key}, {tags}, {columns} FROM {here} WHERE "
        self.create = f"CREATE TEMP TABLE {going} (_syncline_key TEXT PRIMARY KEY, _syncline_tags, {columns})"
        self.drop = f"DROP TABLE temp.{going}"
        self.copy = self._copy + matches
        """Parameters: a key's values."""
        self.copy_named = self._copy + _is_row(here, table, "?1")
        """Parameters here and below: a key as text."""
        cells = ", ".join(f"?{place + 1}" for place in range(len(table.columns)))
        own_key = key_sql([f"?{index + 1}" for index in table.key_indexes])
        anew = ", ".join(f"{quoted(column)} = excluded.{quoted(column)}" for column in table.columns)
        self.note = (
            f"INSERT INTO temp.{going} (_syncline_key, {columns}) VALUES ({own_key}, {cells}) "
            f"ON CONFLICT (_syncline_key) DO UPDATE SET {anew}"
        )
        """Parameters: a row's values."""
        self.remove = (
            f"DELETE FROM {here} WHERE {_is_row(here, table, '?1')}",
            f"DELETE FROM _syncline_shadow WHERE table_name = {name} AND key = ?1",
            f"DELETE FROM _syncline_leaving WHERE table_name = {name} AND key = ?1",
        )
        named = f"FROM temp.{going} WHERE _syncline_key = ?1"
        self.restore = f"INSERT OR IGNORE INTO {here} ({columns}) SELECT {columns} {named}"
        self.restore_tags = (
            "INSERT OR REPLACE INTO _syncline_shadow (table_name, key, tags) "
            f"SELECT {name}, _syncline_key, _syncline_tags {named} AND _syncline_tags IS NOT NULL"
        )
        self.deleted_here = (
            f"SELECT _syncline_key FROM temp.{going} WHERE _syncline_key IN ({_deleted_here(name)}) "
            f"AND NOT EXISTS (SELECT 1 FROM {here} WHERE {key} = _syncline_key)"
        )

    def copy_where(self, condition: str) -> str:
        return self._copy + condition


class ReferenceSql:
    """A foreign key of the table ``child``. What its queries give are keys of the table it points to, as text."""

    def __init__(self, child: Table, foreign_key: ForeignKey, parent: Table) -> None:
        self.child = child
        self.parent = parent
        to = dict(zip(foreign_key.parent_columns, foreign_key.columns, strict=True))
        own = [f"child.{quoted(to[column])}" for column in parent.primary_key]
        there = " AND ".join(f"{column} IS NOT NULL" for column in own)
        same = zip(parent.primary_key, own, strict=True)
        found = " AND ".join(f"parent.{quoted(column)} = {value}" for column, value in same)
        key, name = key_sql(own), literal(child.name)
        missing = (
            f"SELECT DISTINCT {key} FROM (%s) AS one CROSS JOIN main.{quoted(child.name)} AS child "
            f"ON {_is_row('child', child, 'one.key')} WHERE {there} "
            f"AND NOT EXISTS (SELECT 1 FROM main.{quoted(parent.name)} AS parent WHERE {found})"
        )
        self.missing_of_pending = missing % f"SELECT DISTINCT key FROM _syncline_oplog WHERE table_name = {name}"
        """What rows with entries in the oplog refer to that is not here."""
        self.missing_of_checked = missing % f"SELECT key FROM {CHECKED} WHERE table_name = {name}"
        """The same of those that are to be checked."""
        referred = f"SELECT {key} FROM main.{quoted(child.name)} AS child WHERE {there}"
        self.missing_of_any = (
            f"SELECT DISTINCT key FROM _syncline_oplog AS entry WHERE table_name = {literal(parent.name)} "
            f"AND key IN ({referred}) AND NOT EXISTS "
            f"(SELECT 1 FROM main.{quoted(parent.name)} AS parent WHERE {_is_row('parent', parent, 'entry.key')})"
        )
        """What any row refers to that has entries in the oplog and is not here."""
        values = zip(own, _values(parent, "?1"), strict=True)
        refers = " AND ".join(f"{column} = {value}" for column, value in values)
        self.refers = f"SELECT EXISTS (SELECT 1 FROM main.{quoted(child.name)} AS child WHERE {refers})"
        """Whether any row refers to a row. Parameter: its key."""


class References:
    """Of ``tables``, by name: those to the primary key of one of them. The server tells of no others."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = tables
        self._going: dict[str, GoingSql] = {}

    @cached_property
    def every(self) -> Sequence[ReferenceSql]:
        return [
            ReferenceSql(child, key, parent)
            for child in self.tables.values()
            for key in child.foreign_keys
            if (parent := self.tables.get(key.parent_table)) is not None
            and set(key.parent_columns) == set(parent.primary_key)
        ]

    @cached_property
    def children(self) -> frozenset[str]:
        """Tables whose rows refer to others."""
        return frozenset(one.child.name for one in self.every)

    @cached_property
    def parents(self) -> frozenset[str]:
        """Tables whose rows are referred to."""
        return frozenset(one.parent.name for one in self.every)

    @cached_property
    def deletes(self) -> Mapping[str, str]:
        """By the statement that deletes a row of one of these: the table."""
        return {table_sql(self.tables[name]).delete: name for name in self.parents}

    def going(self, table: str) -> GoingSql:
        if table not in self._going:
            self._going[table] = GoingSql(self.tables[table])
        return self._going[table]


def _deleted_here(table: str) -> str:
    """Keys of rows whose last change here is a delete."""
    return (
        f"SELECT entry.key FROM _syncline_oplog AS entry WHERE entry.table_name = {table} AND entry.op = 'D' "
        "AND NOT EXISTS (SELECT 1 FROM _syncline_oplog AS later WHERE later.table_name = entry.table_name "
        "AND later.key = entry.key AND later.id > entry.id)"
    )


def _is_row(row: str, table: Table, key: str) -> str:
    """Whether ``row`` of ``table`` has ``key``, an expression of a key as text."""
    pairs = zip(table.primary_key, _values(table, key), strict=True)
    return " AND ".join(f"{row}.{quoted(column)} = {value}" for column, value in pairs)


def _values(table: Table, key: str) -> list[str]:
    """Expressions of the values of ``key``. Where a column is a number, comparing makes one of the text."""
    found = []
    for place, index in enumerate(table.key_indexes):
        text = f"json_extract({key}, '$[{place}]')"
        found.append(f"{BYTES_FUNCTION}({text})" if table.pg_types[index] == "bytea" else text)
    return found
