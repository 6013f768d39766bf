"""The rows of the delivery under way, in the temporary tables of ``staging``, and their move to where they belong.

Everything here runs in the writer's thread, inside a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from syncline.client.apply import Bindings, plan_rows, tags_from_json, tags_json
from syncline.client.cells import Values, encode_row
from syncline.client.execution import pending_of, put_staged, run, tracked
from syncline.client.keeping import Keeping
from syncline.client.schema import OF_POSTGRES, Table
from syncline.client.staging import GoneSql, StagingSql
from syncline.proto.values import Gone, Insert


class Staged:
    """Rows that come, and keys of rows that leave unless they come too; by the names of their temporary tables."""

    def __init__(self) -> None:
        self._coming: dict[str, StagingSql] = {}
        self._leaving: dict[str, GoneSql] = {}
        self.replacing = False

    def begin(self, *, replacing: bool = False) -> None:
        """Nothing of what was put before counts any more. ``replacing``: of a row that comes with some of its columns
        we have no others."""
        self._coming, self._leaving = {}, {}
        self.replacing = replacing

    @property
    def tables(self) -> set[str]:
        """Those that have something here."""
        coming = {sql.table.name for sql in self._coming.values()}
        return coming | {sql.table.name for sql in self._leaving.values()}

    def put(self, connection: sqlite3.Connection, inserts: Iterable[Insert], bindings: Bindings) -> None:
        """Rows that come. Raises UnknownRelation."""
        for relation_id, group in groupby(inserts, key=lambda insert: insert.relation_id):
            binding = bindings.of(relation_id)
            present = (True,) * len(binding.present) if self.replacing else binding.present
            sql = StagingSql(binding.table, present)
            if sql.name not in self._coming:
                connection.execute(sql.drop)
                connection.execute(sql.create)
                self._coming[sql.name] = sql
            rows = [sql.values(tags_json(i.tags), binding.row(i.row)) for i in group]
            put_staged(connection, sql, [values for values in rows if sql.can_hold(values)])

    def put_gone(self, connection: sqlite3.Connection, gones: Iterable[Gone], bindings: Bindings) -> None:
        """Rows that leave. Raises the same."""
        for relation_id, group in groupby(gones, key=lambda gone: gone.relation_id):
            binding = bindings.of(relation_id)
            self.put_keys(connection, binding.table, [binding.key(binding.row(gone.row)) for gone in group])

    def put_keys(self, connection: sqlite3.Connection, table: Table, keys: Sequence[Values]) -> None:
        """The same, by their keys."""
        sql = GoneSql(table)
        if sql.name not in self._leaving:
            connection.execute(sql.drop)
            connection.execute(sql.create)
            self._leaving[sql.name] = sql
        connection.executemany(sql.put, keys)

    def move(
        self, connection: sqlite3.Connection, client_id: str, tables: Mapping[str, Table], keeping: Keeping
    ) -> None:
        """What leaves is deleted, what comes is put in its place. ``keeping``: of the commit."""
        for gone in self._leaving.values():
            self._remove(connection, gone, keeping)
        for sql in self._coming.values():
            self._place(connection, client_id, sql, tables, keeping)
        keeping.came_at_large()

    def _remove(self, connection: sqlite3.Connection, sql: GoneSql, keeping: Keeping) -> None:
        for coming in self._coming.values():
            if coming.table.name == sql.table.name:
                connection.execute(sql.keep(coming))
        connection.execute(sql.leave)
        keeping.going_where(sql.table, sql.at_rest)
        if tracked(connection, [sql.table.name]):
            connection.execute(sql.drop_tags)
        connection.execute(sql.delete)
        connection.execute(sql.drop)

    def _place(
        self,
        connection: sqlite3.Connection,
        client_id: str,
        sql: StagingSql,
        tables: Mapping[str, Table],
        keeping: Keeping,
    ) -> None:
        table = sql.staged
        (some_pending,) = connection.execute(sql.has_pending).fetchone()
        if some_pending:
            # Whoever writes after this has seen what Postgres had written: it stays among the row's tags.
            (seen_ms,) = connection.execute("SELECT seen_ms FROM _syncline_state").fetchone()
            of_postgres = (f"{OF_POSTGRES}{seen_ms}",)
            inserts = [
                Insert(
                    table.id, encode_row(values, table.encoders), of_postgres if tags is None else tags_from_json(tags)
                )
                for tags, *values in connection.execute(sql.pending).fetchall()
            ]
            relations = {table.id: table.relation}
            pending = pending_of(connection, client_id, inserts, relations, tables, {})
            have_tags = tracked(connection, [table.name])
            plan = plan_rows(inserts, relations, tables, pending=pending, tracked=have_tags)
            keeping.going(plan)
            run(connection, plan)
            connection.execute(sql.drop_pending)
        connection.execute(sql.move)
        if tracked(connection, [table.name]):
            connection.execute(sql.drop_tags)
        connection.execute(sql.move_tags)
        connection.execute(sql.drop)
