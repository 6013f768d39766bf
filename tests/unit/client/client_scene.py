"""A small schema, and a real SQLite database that captures writes to it, for tests of the device's parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import chain

from syncline.client.oplog import ENTRY_COLUMNS, STAMP_SQL, Entry, entry_from_row
from syncline.client.schema import STORE_STEPS, ForeignKey, Table, by_name, quoted
from syncline.client.triggers import REAL_FUNCTION, create_triggers

PROJECTS = Table(0, "projects", ("id", "name"), ("uuid", "text"), ("id",))
ITEMS = Table(
    1,
    "items",
    ("id", "project_id", "title", "done", "rank", "weight", "data"),
    ("uuid", "uuid", "text", "bool", "int8", "float8", "bytea"),
    ("id",),
    (ForeignKey(("project_id",), "projects", ("id",)),),
)
MEMBERS = Table(2, "members", ("team", "number", "boss"), ("text", "int4", "int4"), ("team", "number"))
TABLES = by_name([PROJECTS, ITEMS, MEMBERS])

SQLITE_TYPES = {"bool": "INTEGER", "int4": "INTEGER", "int8": "INTEGER", "float8": "REAL", "bytea": "BLOB"}


def table_ddl(table: Table) -> str:
    columns = [f"{quoted(n)} {SQLITE_TYPES.get(t, 'TEXT')}" for n, t in zip(table.columns, table.pg_types, strict=True)]
    keys = ", ".join(quoted(name) for name in table.primary_key)
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(columns)}, PRIMARY KEY ({keys}))"


def captured_database(tables: Iterable[Table] = TABLES.values(), client_id: str = "me") -> sqlite3.Connection:
    """An open database in memory with the store's tables and the synced ones, capturing."""
    known = by_name(tables)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.create_function(REAL_FUNCTION, 1, repr, deterministic=True)
    connection.execute("PRAGMA recursive_triggers = ON")
    for sql in chain.from_iterable(STORE_STEPS):
        connection.execute(sql)
    connection.execute("INSERT INTO _syncline_state (one, client_id) VALUES (1, ?)", (client_id,))
    for table in known.values():
        connection.execute(table_ddl(table))
    for table in known.values():
        for sql in create_triggers(table, known):
            connection.execute(sql)
    return connection


def stamp_at(connection: sqlite3.Connection, commit_ms: int, client_id: str = "me") -> None:
    """End a local transaction at ``commit_ms``."""
    for sql in STAMP_SQL:
        connection.execute(sql, {"tag": f"{client_id}@{commit_ms}", "commit_ms": commit_ms})


def entries_of(connection: sqlite3.Connection) -> list[Entry]:
    stamped = connection.execute(f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog WHERE commit_ms IS NOT NULL ORDER BY id")
    return [entry_from_row(row) for row in stamped]
