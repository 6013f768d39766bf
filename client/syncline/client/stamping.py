"""The end of a local transaction, in the writer's thread: its entries get their timestamp, or it is refused."""

# ruff: noqa: S608 - SQL is made of constants; values are parameters.
from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from syncline.client.errors import UsageError
from syncline.client.oplog import (
    ENTRY_COLUMNS,
    SIZE_SQL,
    STAMP_SQL,
    UNSTAMPED_TABLES_SQL,
    Size,
    change_of,
    entry_from_row,
    next_commit_ms,
    size_at_most,
    size_of,
    too_large,
)
from syncline.client.schema import Table


@dataclass(frozen=True, slots=True)
class Stamped:
    """A local transaction that has been given its timestamp. ``tables``: the synced tables it wrote."""

    commit_ms: int
    tables: frozenset[str]


def stamp(connection: sqlite3.Connection, client_id: str, now_ms: int) -> Stamped | None:
    """Turn the entries the triggers have written in this SQLite transaction into one device transaction, if any."""
    tables = frozenset(name for (name,) in connection.execute(UNSTAMPED_TABLES_SQL))
    if not tables:
        return None
    (clock_ms,) = connection.execute("SELECT clock_ms FROM _syncline_state").fetchone()
    commit_ms = next_commit_ms(now_ms, clock_ms)
    for sql in STAMP_SQL:
        connection.execute(sql, {"tag": f"{client_id}@{commit_ms}", "commit_ms": commit_ms})
    return Stamped(commit_ms, tables)


def stamp_local(
    connection: sqlite3.Connection, client_id: str, now_ms: int, tables: Mapping[str, Table]
) -> Stamped | None:
    """``stamp`` for a transaction that is not committed yet. ``tables``: the synced ones by name.

    Raises UsageError for one so large that no server would take it; the caller rolls back.
    """
    stamped = stamp(connection, client_id, now_ms)
    if stamped is None:
        return None
    size = Size()
    for name, *counted in connection.execute(SIZE_SQL, (stamped.commit_ms,)):
        size += size_at_most(len(tables[name].columns), *counted)
    reason = too_large(size)
    if reason is not None and too_large(Size(size.operations)) is None:
        # That is an estimate on the safe side; near the limit it has to be exact.
        reason = too_large(_exact_size(connection, stamped.commit_ms, tables))
    if reason is not None:
        raise UsageError(f"the transaction is too large: {reason}", hint="write it as several transactions")
    return stamped


def _exact_size(connection: sqlite3.Connection, commit_ms: int, tables: Mapping[str, Table]) -> Size:
    rows = connection.execute(f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog WHERE commit_ms = ?", (commit_ms,))
    changes = (change_of(entry, tables[entry.table_name]) for entry in map(entry_from_row, rows))
    return sum(map(size_of, changes), Size())
