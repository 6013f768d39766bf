# ruff: noqa: S608 - SQL is made of constants; values are parameters.
"""Tables that an earlier release has made lose their NOT NULL (see ``ddl``), once, when the file is opened.

It is the way that SQLite documents for this: the text in the schema is replaced, which changes nothing in the rows.
Both texts are tried out beside the file before. Should SQLite not take them for the same table but for NOT NULL, the
table stays as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from typing import Any

from syncline.client.ddl import without_not_null
from syncline.client.schema import Table, by_name, quoted, table_from_json, table_to_json
from syncline.client.triggers import create_triggers, drop_triggers


def relax_tables(connection: sqlite3.Connection) -> None:
    """Inside a transaction. The triggers that enforce NOT NULL instead are made, too."""
    rows = connection.execute("SELECT id, name, description FROM _syncline_tables").fetchall()
    tables = by_name(table_from_json(*row) for row in rows)
    relaxed = [now for table in tables.values() if (now := _relax(connection, table)) is not None]
    if not relaxed:
        return
    (cookie,) = connection.execute("PRAGMA schema_version").fetchone()
    connection.execute(f"PRAGMA schema_version = {cookie + 1}")
    connection.execute("PRAGMA writable_schema = RESET")  # and read the schema again
    connection.executemany(
        "UPDATE _syncline_tables SET description = ? WHERE id = ?",
        [(table_to_json(table), table.id) for table in relaxed],
    )
    for table in relaxed:
        for sql in (*drop_triggers(table), *create_triggers(table, tables)):
            connection.execute(sql)


def _relax(connection: sqlite3.Connection, table: Table) -> Table | None:
    """The table with what it requires from now on; None if it stays as it is."""
    by_its_name = "type = 'table' AND name = ? COLLATE NOCASE"
    row = connection.execute(f"SELECT sql FROM sqlite_master WHERE {by_its_name}", (table.name,)).fetchone()
    if row is None:
        return None
    relaxed, names = without_not_null(row[0], table.primary_key)
    if not names or not _differ_by_not_null(row[0], relaxed, names, table):
        return None
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute(f"UPDATE sqlite_master SET sql = ? WHERE {by_its_name}", (relaxed, table.name))
    finally:
        connection.execute("PRAGMA writable_schema = OFF")
    required = {name.lower() for name in names}
    return replace(table, required=tuple(column for column in table.columns if column.lower() in required))


def _differ_by_not_null(before: str, after: str, names: Collection[str], table: Table) -> bool:
    """Whether that is all, so far as SQLite says."""
    try:
        expected = [(*c[:3], c[3] and c[1] not in names, *c[4:]) for c in _columns(before, table)]
        return _columns(after, table) == expected
    except sqlite3.Error:
        return False


def _columns(sql: str, table: Table) -> list[tuple[Any, ...]]:
    """Per column its place, name, type, NOT NULL, default, place in the key, and whether it is hidden."""
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.execute(sql)
        return scratch.execute(f"PRAGMA table_xinfo({quoted(table.name)})").fetchall()
