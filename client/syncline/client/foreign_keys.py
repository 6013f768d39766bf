"""Foreign keys of several columns.

No message names them: the published client cannot read one that did. But the statement that made a table has them, so
SQLite is asked. They count like the others from then on: the triggers keep the row that a child refers to alive.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

from syncline.client.apply import Plan
from syncline.client.schema import ForeignKey, Table, by_name, quoted, table_from_json, table_to_json
from syncline.client.triggers import create_triggers, drop_triggers


def link(connection: sqlite3.Connection, plan: Plan) -> None:
    """To the tables of ``plan``, which has been run, add those that they have in SQLite besides."""
    for table, linked in _linked(connection, plan.tables):
        plan.tables[table.name] = plan.redescribed[table.name] = linked


def link_tables(connection: sqlite3.Connection) -> None:
    """Inside a transaction: to tables that an earlier release has made, once, when the file is opened."""
    rows = connection.execute("SELECT id, name, description FROM _syncline_tables").fetchall()
    for table, linked in _linked(connection, by_name(table_from_json(*row) for row in rows)):
        update = "UPDATE _syncline_tables SET description = ? WHERE id = ?"
        connection.execute(update, (table_to_json(linked), table.id))


def _linked(connection: sqlite3.Connection, tables: Mapping[str, Table]) -> list[tuple[Table, Table]]:
    """Each table that lacks some, and what it is with them. Its triggers know them."""
    found: list[tuple[Table, Table]] = []
    for table in tables.values():
        known = {_meaning(key) for key in table.foreign_keys}
        more = [key for key in _of_several(connection, table, tables) if _meaning(key) not in known]
        if more:
            linked = replace(table, foreign_keys=(*table.foreign_keys, *more))
            found.append((table, linked))
            for sql in (*drop_triggers(table), *create_triggers(linked, tables)):
                connection.execute(sql)
    return found


def _of_several(connection: sqlite3.Connection, table: Table, tables: Mapping[str, Table]) -> Iterable[ForeignKey]:
    pairs: dict[int, list[tuple[str, str | None]]] = {}
    parents: dict[int, str] = {}
    for id, _, parent, child_column, parent_column, *_ in connection.execute(
        f"PRAGMA foreign_key_list({quoted(table.name)})"
    ):
        parents[id] = parent
        pairs.setdefault(id, []).append((child_column, parent_column))
    for id, columns in sorted(pairs.items(), reverse=True):  # SQLite tells the last first
        parent_table = tables.get(parents[id])
        if len(columns) == 1 or parent_table is None:
            continue
        there = tuple(name for _, name in columns if name is not None) or parent_table.primary_key
        yield ForeignKey(tuple(name for name, _ in columns), parent_table.name, there)


def _meaning(key: ForeignKey) -> tuple[str, frozenset[tuple[str, str]]]:
    return key.parent_table, frozenset(zip(key.columns, key.parent_columns, strict=True))
