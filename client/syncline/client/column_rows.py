"""What the device durably knows of the columns it holds, written inside an SQLite transaction. Its meaning is
``columns``'s."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from syncline.client.apply import Plan
from syncline.client.columns import Columns, lacking, narrowed, unexplained
from syncline.client.schema import Table
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shapes import HELD, WANTED, Subscription
from syncline.client.triggers import create_triggers, drop_triggers


def load_announced(connection: sqlite3.Connection) -> dict[str, set[Columns]]:
    found: dict[str, set[Columns]] = {}
    for table, columns in connection.execute("SELECT table_name, columns FROM _syncline_relations"):
        names = json.loads(columns)
        found.setdefault(table, set()).add(None if names is None else frozenset(names))
    return found


def announce(connection: sqlite3.Connection, table: str, columns: Columns) -> None:
    connection.execute("INSERT OR IGNORE INTO _syncline_relations VALUES (?, ?)", (table, _text(columns)))


def drop_announced(connection: sqlite3.Connection, specs: Sequence[ShapeSpec], tables: Mapping[str, Table]) -> None:
    """After subscriptions are gone, what their relations said is forgotten. ``specs``: of those that remain."""
    kept, whole_gone = narrowed(specs), unexplained(specs, tables)
    for table, sets in load_announced(connection).items():
        stale: Iterable[Columns] = sets if table not in kept else {None} if table in whole_gone else ()
        connection.executemany(
            "DELETE FROM _syncline_relations WHERE table_name = ? AND columns = ?",
            [(table, _text(columns)) for columns in stale],
        )


def _text(columns: Columns) -> str:
    return json.dumps(None if columns is None else sorted(columns))


def follow(connection: sqlite3.Connection, plan: Plan, subscriptions: Iterable[Subscription]) -> None:
    """Let the tables of ``plan``, which has been run, lack what the shapes of ``subscriptions`` do not bring.

    That is what those lack whose rows are here, and what those lack that the application wants: the server judges a
    write by the shapes that it knows of when the write arrives, and may know of those that are on their way.
    """
    every = list(subscriptions)
    here, wanted = ([s.spec for s in every if s.state in states] for states in (HELD, WANTED))
    concerned = narrowed((*here, *wanted)).union(table.name for table in plan.tables.values() if table.lacking)
    announced = load_announced(connection) if concerned else {}
    for name in concerned & plan.tables.keys():
        table = plan.tables[name]
        sets = announced.get(name, ())
        lacks = {*lacking(table, here, sets), *lacking(table, wanted, sets)}
        now = replace(table, lacking=tuple(column for column in table.columns if column in lacks))
        if now != table:
            plan.tables[name] = plan.redescribed[name] = now
            for sql in (*drop_triggers(table), *create_triggers(now, plan.tables)):
                connection.execute(sql)
