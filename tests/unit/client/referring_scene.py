"""A device whose tables refer to one another, in chains, to themselves and by several columns, and its replica.

projects <- issues <- comments        nodes <- nodes        rooms <- beds
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from syncline.client.live import Changes
from syncline.client.replica import Replica, load_replica
from syncline.client.store import Store, open_store
from syncline.proto.values import (
    CREATE_TABLE,
    Change,
    Delete,
    Gone,
    Insert,
    Migrate,
    MigrationColumn,
    MigrationForeignKey,
    MigrationTable,
    Relation,
    Row,
    Transaction,
    Update,
)

Rows: TypeAlias = list[tuple[Any, ...]]
REFERENCES: Mapping[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "issues": (("project",), "projects", ("id",)),
    "comments": (("issue",), "issues", ("id",)),
    "nodes": (("up",), "nodes", ("id",)),
    "beds": (("number", "house"), "rooms", ("number", "house")),
}
COLUMNS = {
    "projects": ("id", "name"),
    "issues": ("id", "project", "title"),
    "comments": ("id", "issue", "body"),
    "nodes": ("id", "up", "title"),
    "rooms": ("title", "number", "house"),
    "beds": ("id", "house", "number"),
}
KEYS = {table: ("house", "number") if table == "rooms" else ("id",) for table in COLUMNS}


def _migration(table: str) -> Migrate:
    types = {column: "INTEGER" if column == "number" else "TEXT" for column in COLUMNS[table]}
    lines = [f"{column} {type}" for column, type in types.items()]
    lines.append(f"PRIMARY KEY ({', '.join(KEYS[table])})")
    told: list[MigrationForeignKey] = []
    if table in REFERENCES:
        columns, parent, there = REFERENCES[table]
        lines.append(f"FOREIGN KEY ({', '.join(columns)}) REFERENCES {parent} ({', '.join(there)}) ON DELETE CASCADE")
        told += [MigrationForeignKey(columns, parent, there)] if len(columns) == 1 else []
    described = tuple(
        MigrationColumn(column, type, "int4" if type == "INTEGER" else "text") for column, type in types.items()
    )
    statement = f"CREATE TABLE {table} ({', '.join(lines)})"
    entity = MigrationTable(table, described, tuple(told), KEYS[table])
    return Migrate(f"make {table}", ((CREATE_TABLE, statement),), entity)


MIGRATIONS = [_migration(table) for table in COLUMNS]


class Referring:
    """The device "me". Its clock stands, and so its transactions have the times 100, 101 and so on."""

    def __init__(self, store: Store, replica: Replica) -> None:
        self.store = store
        self.replica = replica
        self._lsn = 0

    async def write(self, *statements: str) -> int:
        """A local transaction; its time."""

        def work(connection: sqlite3.Connection) -> int:
            for sql in statements:
                connection.execute(sql)
            stamped = self.replica.stamp(connection)
            assert stamped is not None
            return stamped.commit_ms

        return await self.store.write(work)

    async def receive(
        self, *changes: Change, origin: str = "other", ms: int = 1_000, carried_out: tuple[int, ...] = ()
    ) -> None:
        """A transaction of the server's."""
        self._lsn += 1
        lsn = b"%d" % self._lsn
        transaction = Transaction(ms, lsn, changes, origin, self._lsn, carried_out=carried_out)
        await self.replica.apply_transactions([transaction], self.relations)

    async def receive_together(self, *transactions: tuple[Sequence[Change], str, int]) -> None:
        """Several in one commit."""
        made: list[Transaction] = []
        for changes, origin, ms in transactions:
            self._lsn += 1
            made.append(Transaction(ms, b"%d" % self._lsn, tuple(changes), origin, self._lsn))
        await self.replica.apply_transactions(made, self.relations)

    async def echo(self, ms: int, *changes: Change) -> None:
        """The local transaction of that time comes back."""
        await self.receive(*changes, origin="me", ms=ms)

    async def repair(self, *inserts: Insert, gone: Sequence[Gone] = (), carried_out: Sequence[int] = ()) -> None:
        """A delivery that brings ``inserts`` and takes away ``gone``."""
        self.replica.begin_delivery()
        await self.replica.stage_gone(gone, self.relations)
        await self.replica.stage(inserts, self.relations)
        self._lsn += 1
        await self.replica.apply_repair(b"%d" % self._lsn, carried_out)

    async def rows(self, table: str) -> Rows:
        sql = f"SELECT * FROM {table} ORDER BY 1, 2"
        return [tuple(row) for row in await self.store.read(lambda connection: connection.execute(sql).fetchall())]

    async def dangling(self) -> Rows:
        """Rows that refer to one that is not here, as SQLite sees it."""
        found = await self.store.read(lambda connection: connection.execute("PRAGMA foreign_key_check").fetchall())
        return [tuple(row) for row in found]

    async def leaving(self) -> list[tuple[str, str]]:
        sql = "SELECT table_name, key FROM _syncline_leaving ORDER BY 1, 2"
        return [tuple(row) for row in await self.store.read(lambda connection: connection.execute(sql).fetchall())]

    @property
    def relations(self) -> dict[int, Relation]:
        return {table.id: table.relation for table in self.replica.tables.values()}

    def insert(self, table: str, *row: Any, tags: Sequence[str] = ("other@50",)) -> Insert:
        return Insert(self.replica.tables[table].id, _cells(row), tuple(tags))

    def update(self, table: str, old: Sequence[Any], new: Sequence[Any], tags: Sequence[str]) -> Update:
        return Update(self.replica.tables[table].id, _cells(new), _cells(old), tuple(tags))

    def delete(self, table: str, *row: Any) -> Delete:
        return Delete(self.replica.tables[table].id, _cells(row), ())

    def gone(self, table: str, *row: Any) -> Gone:
        described = self.replica.tables[table]
        return Gone(described.id, described.relation.key_row(described.relation.key_of(_cells(row))))


def _cells(row: Sequence[Any]) -> Row:
    return tuple(None if value is None else str(value).encode() for value in row)


@asynccontextmanager
async def referring(folder: Path) -> AsyncIterator[Referring]:
    async with open_store(folder / "me.db") as store:
        await store.write(lambda connection: connection.execute("UPDATE _syncline_state SET client_id = 'me'"))
        replica = await load_replica(store, Changes(), lambda: 100)
        await replica.migrate(MIGRATIONS)
        yield Referring(store, replica)
