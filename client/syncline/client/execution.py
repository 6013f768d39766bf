# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
"""Plans of incoming changes (``apply``) meet SQLite: what they must know is looked up here, and here they are run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

from syncline.client.apply import Bindings, Plan, RowId, plan_transaction, touched_rows
from syncline.client.cells import Value, Values
from syncline.client.keeping import Keeping
from syncline.client.merging import Pending, PendingWrite, write_from
from syncline.client.oplog import ENTRY_COLUMNS, Entry, entry_from_row
from syncline.client.rejections import record
from syncline.client.row_sql import table_sql
from syncline.client.schema import REJECTIONS, Table, literal, quoted
from syncline.client.staging import StagingSql
from syncline.client.triggers import key_sql
from syncline.proto.values import POSTGRES_ORIGIN, Change, Delete, Migrate, Relation, Transaction

# Rows one statement puts; more of them gain nothing.
STAGED_AT_ONCE = 100

Written: TypeAlias = dict[tuple[str, Values], PendingWrite]
"""What the rows of the oplog have come to, by table and row: of one commit, whose transactions meet the same ones again
and again."""


def pending_of(
    connection: sqlite3.Connection,
    client_id: str,
    changes: Iterable[Change],
    relations: Mapping[int, Relation],
    tables: Mapping[str, Table],
    written: Written,
) -> dict[RowId, Pending]:
    """What is pending on each row that ``changes`` touch, found by key; of one that has nothing but what is in these
    changes already, nothing. ``written`` is used, and added to."""
    (some,) = connection.execute("SELECT EXISTS (SELECT 1 FROM _syncline_oplog)").fetchone()
    pending: dict[RowId, Pending] = {}
    if some:
        for row_id in touched_rows(changes, relations, tables):
            table = tables[row_id[0]]
            writes = []
            for row in connection.execute(table_sql(table).pending, row_id[1]):
                place = (table.name, tuple(row))
                write = written.get(place)
                if write is None:
                    write = written[place] = write_from(entry_from_row(row), table, client_id)
                writes.append(write)
            if writes or connection.execute(table_sql(table).has_entries, row_id[1]).fetchone()[0]:
                pending[row_id] = tuple(writes)
    return pending


def apply_transaction(
    connection: sqlite3.Connection,
    client_id: str,
    transaction: Transaction,
    relations: Mapping[int, Relation],
    tables: Mapping[str, Table],
    known_versions: Iterable[str],
    keeping: Keeping,
    written: Written,
) -> tuple[Plan, bool]:
    """The plan, which has been run, and whether the transaction is one of our own, coming back. Its oplog entries are
    released then; if it was rejected, they are kept as a rejection. ``keeping``, ``written``: of the commit. Raises
    as ``plan_transaction`` does."""
    left: list[RowId] = []
    narrower: list[RowId] = []
    came_back = False
    if keeping.needed:
        note_carried_out(connection, transaction.carried_out)
        if transaction.origin not in (client_id, POSTGRES_ORIGIN):
            note_carried_out(connection, [transaction.commit_ms], transaction.origin)
    rejected = transaction.rejection if transaction.origin == client_id else None
    if rejected is not None:
        record(connection, transaction.commit_ms, rejected, tables)
    if transaction.origin == client_id:
        if keeping.needed:
            keeping.went(deleted_before(connection, transaction.commit_ms, tables))
        left = leaving(connection, transaction.commit_ms, tables)
        narrower = outlasting(connection, transaction.commit_ms, tables)
        came_back = release(connection, transaction.commit_ms)
        connection.execute("UPDATE _syncline_state SET echoed_ms = max(echoed_ms, ?)", (transaction.commit_ms,))
    # What is carried out and not brought back by its own transaction comes as Postgres', with our time and tags.
    is_ours = transaction.origin == POSTGRES_ORIGIN and transaction.commit_ms in transaction.carried_out
    plan = plan_transaction(
        replace(transaction, origin=client_id) if is_ours else transaction,
        relations,
        tables,
        pending=pending_of(connection, client_id, transaction.changes, relations, tables, written),
        tracked=tracked(connection, named(transaction.changes, relations) | {table for table, _ in left}),
        known_versions=frozenset(known_versions),
        leaving=left,
        narrower=narrower,
    )
    if plan.redescribed:
        written.clear()  # a table has other columns now
    keeping.going(plan)
    run(connection, plan)
    if keeping.needed:
        keeping.went(deleted_rows(transaction.changes, relations, tables))
        keeping.came(touched_rows(transaction.changes, relations, tables))
    if rejected is not None:
        plan.changed.add(REJECTIONS)
    return plan, came_back


def note_carried_out(connection: sqlite3.Connection, times: Iterable[int], origin: str | None = None) -> None:
    """What was written here at these times is in what comes from now on. ``origin``: the id that the file had as a copy
    when it was written: it comes by as another device's, and is known by that. Of our own the server tells."""
    sql = "UPDATE _syncline_oplog SET carried_out = 1 WHERE commit_ms = ? AND origin IS ?"
    connection.executemany(sql, [(commit_ms, origin) for commit_ms in times])


def deleted_rows(
    changes: Iterable[Change], relations: Mapping[int, Relation], tables: Mapping[str, Table]
) -> Iterator[tuple[str, Values]]:
    """Table and SQLite values of each row that is deleted, as it was, as far as all its columns have come."""
    bindings = Bindings(relations, tables)
    for change in changes:
        if isinstance(change, Delete):
            binding = bindings.find(change.relation_id)
            if binding is not None and binding.whole:
                yield binding.table.name, binding.values(change.old_row)


def run(connection: sqlite3.Connection, plan: Plan) -> None:
    for sql, rows in (*plan.steps, *plan.tag_steps):
        if len(rows) == 1:
            connection.execute(sql, rows[0])
        else:
            connection.executemany(sql, rows)


def leaving(connection: sqlite3.Connection, commit_ms: int, tables: Mapping[str, Table]) -> list[RowId]:
    """The rows that stay for nothing but the local transaction of ``commit_ms``; they are noted down no longer."""
    (some,) = connection.execute("SELECT EXISTS (SELECT 1 FROM _syncline_leaving)").fetchone()
    if not some:
        return []
    rows: dict[RowId, str] = {}
    noted = "(table_name, key) IN (SELECT table_name, key FROM _syncline_leaving)"
    for key, entry in _only_of(connection, commit_ms, noted):
        rows[entry.table_name, _key_of(entry, tables[entry.table_name])] = key
    left = [(table_name, key) for (table_name, _), key in rows.items()]
    connection.executemany("DELETE FROM _syncline_leaving WHERE table_name = ? AND key = ?", left)
    return list(rows)


def outlasting(connection: sqlite3.Connection, commit_ms: int, tables: Mapping[str, Table]) -> list[RowId]:
    """The rows that may have columns which no shape holds any more, for nothing but local writes having been made when
    one did, of which that of ``commit_ms`` is the last."""
    names = ", ".join(literal(table.name) for table in tables.values() if table.lacking)
    entries = _only_of(connection, commit_ms, f"table_name IN ({names})") if names else []
    return list({(entry.table_name, _key_of(entry, tables[entry.table_name])) for _, entry in entries})


def deleted_before(
    connection: sqlite3.Connection, commit_ms: int, tables: Mapping[str, Table]
) -> Iterator[tuple[str, Values]]:
    """Table and SQLite values of each row that the local transaction of ``commit_ms`` has deleted, as it was, and that
    others, which have not come back, have written, too: the row may come only with these."""
    entries = connection.execute(
        f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog AS entry WHERE commit_ms = ? AND op = 'D' AND EXISTS "
        "(SELECT 1 FROM _syncline_oplog AS other WHERE other.table_name = entry.table_name AND other.key = entry.key "
        "AND other.commit_ms IS NOT entry.commit_ms) ORDER BY id",
        (commit_ms,),
    ).fetchall()
    for row in entries:
        entry = entry_from_row(tuple(row))
        table, old = tables[entry.table_name], entry.old or {}
        yield table.name, tuple(old.get(column) for column in table.columns)


def _only_of(connection: sqlite3.Connection, commit_ms: int, condition: str) -> list[tuple[str, Entry]]:
    """Keys and entries of the local transaction, of rows that no other has entries of."""
    entries = connection.execute(
        f"SELECT key, {ENTRY_COLUMNS} FROM _syncline_oplog AS entry WHERE commit_ms = ? AND {condition} AND NOT EXISTS "
        "(SELECT 1 FROM _syncline_oplog AS other WHERE other.table_name = entry.table_name AND other.key = entry.key "
        "AND other.commit_ms IS NOT entry.commit_ms)",
        (commit_ms,),
    ).fetchall()
    return [(key, entry_from_row(tuple(row))) for key, *row in entries]


def _key_of(entry: Entry, table: Table) -> Values:
    image = entry.new or entry.old or {}
    return tuple(image[column] for column in table.primary_key)


def awaits_echoes(connection: sqlite3.Connection, up_to_id: int, entries: int) -> bool:
    """Whether more than ``entries`` entries up to ``up_to_id`` have not come back."""
    sql = "SELECT 1 FROM _syncline_oplog WHERE id <= ? ORDER BY id LIMIT 1 OFFSET ?"
    return connection.execute(sql, (up_to_id, entries)).fetchone() is not None


def backlog(connection: sqlite3.Connection, after_id: int, entries_max: int) -> list[Entry]:
    """Whole transactions after the entry ``after_id``, in order: about ``entries_max`` entries, none when done."""
    select = f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog"
    rows = connection.execute(
        f"{select} WHERE id > ? AND commit_ms IS NOT NULL ORDER BY id LIMIT ?", (after_id, entries_max)
    ).fetchall()
    if len(rows) == entries_max:
        last_id, commit_ms = rows[-1][0], rows[-1][5]
        rows += connection.execute(f"{select} WHERE commit_ms = ? AND id > ? ORDER BY id", (commit_ms, last_id))
    return [entry_from_row(tuple(row)) for row in rows]


def clear(connection: sqlite3.Connection, table: Table, keeping: Keeping) -> None:
    """Delete the rows without pending local changes."""
    key = key_sql([quoted(column) for column in table.primary_key])
    pending = f"SELECT key FROM _syncline_oplog WHERE table_name = {literal(table.name)}"
    at_rest = f"{key} NOT IN ({pending})"
    keeping.going_where(table, at_rest)
    connection.execute(f"DELETE FROM {quoted(table.name)} WHERE {at_rest}")
    connection.execute(f"DELETE FROM _syncline_shadow WHERE table_name = ? AND key NOT IN ({pending})", (table.name,))


def release(connection: sqlite3.Connection, commit_ms: int) -> bool:
    return connection.execute("DELETE FROM _syncline_oplog WHERE commit_ms = ?", (commit_ms,)).rowcount > 0


def named(changes: Iterable[Change], relations: Mapping[int, Relation]) -> set[str]:
    """The tables whose rows are among ``changes``."""
    ids = {change.relation_id for change in changes if not isinstance(change, Migrate)}
    return {relations[relation_id].table for relation_id in ids & relations.keys()}


def tracked(connection: sqlite3.Connection, tables: Iterable[str]) -> frozenset[str]:
    """Those of ``tables`` that have shadow entries."""
    probe = "SELECT EXISTS (SELECT 1 FROM _syncline_shadow WHERE table_name = ?)"
    return frozenset(name for name in tables if connection.execute(probe, (name,)).fetchone()[0])


def put_staged(connection: sqlite3.Connection, sql: StagingSql, rows: Sequence[Sequence[Value]]) -> None:
    """Put rows of a delivery, as their parameters, where they wait."""
    limit = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    at_once = max(1, min(STAGED_AT_ONCE, limit // sql.parameters))
    whole = len(rows) - len(rows) % at_once
    statement = sql.put(at_once)
    for start in range(0, whole, at_once):
        connection.execute(statement, list(chain.from_iterable(rows[start : start + at_once])))
    connection.executemany(sql.put(1), rows[whole:])
