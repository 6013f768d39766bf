# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
"""What a device shows has what it refers to: in every state that a reader of the file can see.

The server's own states hold together. What is shown differs from them by local changes that are on their way, so a
reference can lead nowhere in two cases. Both are mended before the commit that would show them:

* **A row goes that one refers to which stays here**, for changes to that one are pending. The triggers have written a
  compensation for what the row refers to, which keeps it (``merging``); there is none for what *that* refers to, nor
  for what somebody else has made the row refer to since. In Postgres whoever keeps a row keeps all that is above it,
  and so it is here: what goes is kept as it was.
* **A row comes that refers to one which is being deleted here.** Postgres keeps what others refer to if the author of
  the delete had not seen them, so here the delete is shown undone. So it is where the delete has come back already, and
  without the row: that comes with the last echo of what was written to it here, which may be that of an earlier write.

These are predictions. So each such row is noted down as leaving (``schema``). One that has entries in the oplog goes,
as all of those do, with the echo of the last, unless that brings it. One that has none is looked at with each commit
that brings something, and stays while a row that stays refers to it.

A reference to a row that the device never had is none to be kept: its shapes may be a part of the database. And where
nothing is pending and nothing leaves, nothing is looked at.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TypeAlias

from syncline.client.apply import Plan, RowId, tags_json
from syncline.client.cells import Values
from syncline.client.oplog import ENTRY_COLUMNS, entry_from_row
from syncline.client.references import CHECKED, CREATE_CHECKED, GoingSql, References
from syncline.client.schema import Table, quoted
from syncline.client.triggers import key_sql

NamedRow: TypeAlias = tuple[str, str]
"""A table, and a key as the oplog has it."""


class Keeping:
    """Of one commit, in which rows come and go. Used within its transaction; ``end`` comes last."""

    def __init__(self, connection: sqlite3.Connection, client_id: str, references: References) -> None:
        self._connection = connection
        self._client_id = client_id
        self._references = references
        self._going: dict[str, GoingSql] = {}  # by table, of rows that go or have gone
        self._let_go: set[NamedRow] = set()
        self._checking = False
        self._at_large = False
        (some,) = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM _syncline_oplog) OR EXISTS (SELECT 1 FROM _syncline_leaving)"
        ).fetchone()
        self.needed = bool(some)
        """Whether there is anything that could be kept, or keep something."""
        if self.needed:
            self._release()

    def _release(self) -> None:
        """What was kept for other rows goes. It is kept again if these are still here at the end."""
        kept = self._connection.execute(
            "SELECT table_name, key FROM _syncline_leaving AS kept WHERE NOT EXISTS (SELECT 1 FROM _syncline_oplog "
            "AS entry WHERE entry.table_name = kept.table_name AND entry.key = kept.key)"
        ).fetchall()
        for table, key in kept:
            going = self._noting(table)
            for sql in (going.copy_named, *going.remove):
                self._connection.execute(sql, (key,))
        self._let_go.update(kept)

    # --- what happens -------------------------------------------------------------------------------------------------

    def going(self, plan: Plan) -> None:
        """``plan`` is about to be run."""
        if self.needed:
            for statement, rows in plan.steps:
                table = self._references.deletes.get(statement)
                if table is not None:
                    self._connection.executemany(self._noting(table).copy, rows)

    def went(self, rows: Iterable[tuple[str, Values]]) -> None:
        """These rows of a table are deleted by the transaction whose plan ``going`` was told of: as they were in the
        end, which it may have brought about itself, and as which they come back. Or they were deleted here, by one that
        comes back."""
        for table, values in rows:
            if table in self._references.parents:
                self._connection.execute(self._noting(table).note, values)

    def going_where(self, table: Table, condition: str) -> None:
        """All rows of ``table`` for which ``condition``, SQL, holds are about to go."""
        if self.needed and table.name in self._references.parents:
            self._connection.execute(self._noting(table.name).copy_where(condition))

    def came(self, rows: Iterable[RowId]) -> None:
        """These may have come, or refer to others than before."""
        if self.needed:
            concerned: dict[str, list[Values]] = {}
            for name, values in rows:
                if name in self._references.children:
                    concerned.setdefault(name, []).append((name, *values))
            for name, named in concerned.items():
                width = len(self._references.tables[name].primary_key)
                self._check(f"?1, {key_sql([f'?{number + 2}' for number in range(width)])}", named)

    def came_at_large(self) -> None:
        """Too many rows to be named have come."""
        self._at_large = True

    def _check(self, row: str, rows: Iterable[Values]) -> None:
        """``row``: the expressions of a table and a key."""
        if not self._checking:
            self._connection.execute(CREATE_CHECKED)
            self._checking = True
        self._connection.executemany(f"INSERT OR IGNORE INTO {CHECKED} VALUES ({row})", rows)

    def _noting(self, table: str) -> GoingSql:
        if table not in self._going:
            self._going[table] = self._references.going(table)
            self._connection.execute(self._going[table].create)
        return self._going[table]

    # --- before the commit --------------------------------------------------------------------------------------------

    def end(self) -> set[str]:
        """Keep what has to be kept. Returns the tables that this has changed."""
        if not self.needed:
            return set()
        kept = self._kept_for_pending() | self._undeleted()
        new = kept
        while new:
            if self._checking:
                self._connection.execute(f"DELETE FROM {CHECKED}")
            self._check("?1, ?2", new)
            new = {row for row in self._missing_of_checked() if self._keep(row) or self._undelete(row)}
            kept |= new
        self._connection.executemany("INSERT OR IGNORE INTO _syncline_leaving (table_name, key) VALUES (?, ?)", kept)
        for going in self._going.values():
            self._connection.execute(going.drop)
        if self._checking:
            self._connection.execute(f"DROP TABLE {CHECKED}")
        return {table for table, _ in kept ^ self._let_go}

    def _kept_for_pending(self) -> set[NamedRow]:
        """What goes while rows refer to it that have changes pending."""
        found: set[NamedRow] = set()
        for reference in self._references.every:
            if reference.parent.name in self._going:
                found |= self._named(reference.parent, reference.missing_of_pending)
        return {row for row in found if self._keep(row)}

    def _undeleted(self) -> set[NamedRow]:
        """What is being deleted here while rows refer to it that have come, or that were here when it was kept."""
        found: set[NamedRow] = set()
        if self._at_large:
            for reference in self._references.every:
                found |= self._named(reference.parent, reference.missing_of_any)
        else:
            if self._checking:
                found |= self._missing_of_checked()
            for name, going in self._going.items():
                for _, key in self._named(self._references.tables[name], going.deleted_here):
                    if self._is_referred_to(name, key):
                        found.add((name, key))
        return {row for row in found if self._undelete(row)}

    def _missing_of_checked(self) -> set[NamedRow]:
        found: set[NamedRow] = set()
        for reference in self._references.every:
            found |= self._named(reference.parent, reference.missing_of_checked)
        return found

    def _named(self, table: Table, sql: str) -> set[NamedRow]:
        return {(table.name, key) for (key,) in self._connection.execute(sql)}

    def _is_referred_to(self, table: str, key: str) -> bool:
        queries = [one.refers for one in self._references.every if one.parent.name == table]
        return any(self._connection.execute(sql, (key,)).fetchone()[0] for sql in queries)

    def _keep(self, row: NamedRow) -> bool:
        """The row as it was before it went. False: it did not, or is here."""
        table, key = row
        going = self._going.get(table)
        if going is None or self._connection.execute(going.restore, (key,)).rowcount < 1:
            return False
        self._connection.execute(going.restore_tags, (key,))
        return True

    def _undelete(self, row: NamedRow) -> bool:
        """The row that is being deleted here as it was before; if the delete has come back, as the last write that has
        not says that it is. False: nothing is pending that tells, or it is here."""
        table = self._references.tables[row[0]]
        last = self._connection.execute(
            f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog WHERE table_name = ? AND key = ? "
            "AND commit_ms IS NOT NULL ORDER BY op = 'C', id DESC LIMIT 1",
            row,
        ).fetchone()
        if last is None:
            return False
        entry = entry_from_row(tuple(last))
        # It has the tags that the author of the delete had seen, if it has come with none; or that of the write.
        own = f"{entry.origin or self._client_id}@{entry.commit_ms}"
        image, tags = entry.new, [own]
        if entry.op == "D":
            image, tags = entry.old, [tag for tag in entry.clear_tags if tag != own]
        if not self._keep(row):
            if image is None or entry.op == "C":
                return False
            columns = ", ".join(map(quoted, image))
            marks = ", ".join("?" for _ in image)
            insert = f"INSERT OR IGNORE INTO main.{quoted(table.name)} ({columns}) VALUES ({marks})"
            if self._connection.execute(insert, tuple(image.values())).rowcount < 1:
                return False
        stored = tags_json(tags)
        if stored is not None:
            put = "INSERT OR IGNORE INTO _syncline_shadow (table_name, key, tags) VALUES (?, ?, ?)"
            self._connection.execute(put, (*row, stored))
        return True
