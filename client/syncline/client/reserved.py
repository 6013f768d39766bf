# ruff: noqa: S608 - SQL is made of constants; values are parameters.
"""The blocks of sequences' values that the SQLite file holds, and how an insert takes one.

A value is taken by a function in the DEFAULT of its column (``ddl``), on the writer's connection and within the
transaction that inserts the row: so it is used up when the row is committed, whatever happens then, and not before.

That holds as long as the file does not forget. A power failure may take the last commits from it, and with them the
values that they have used: no harm, unless the rows had reached the server. So no transaction is sent before the values
that it has taken are on the disk (``Reserves.flush``).

A copy of the file has the same values. It is told by its number in the file system, which is noted down with each
block: in a file of another number blocks are nobody's. One that is found out later, by the server, drops them too
(``forking``), and so does a device that the server does not let go on where it was: a database that was restored may
give the same values again.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from syncline.client.errors import SequenceExhausted
from syncline.client.schema import Table
from syncline.client.sequences import ColumnName, Held
from syncline.client.store import Store
from syncline.client.triggers import NEXT_FUNCTION
from syncline.proto.blocks import Block


class Reserves:
    """The blocks of an open file. ``tables``: as they are. ``due``: more may be wanted than has been asked for; of some
    columns ``least`` so many. ``received``: how often some have come. ``unflushed``: the disk may not have it yet that
    some were taken."""

    def __init__(self, store: Store) -> None:
        self.tables: Mapping[str, Table] = {}
        self.due = True
        self.least: dict[ColumnName, int] = {}
        self.received = 0
        self._store = store
        self.unflushed = False
        self._missing: ColumnName | None = None

    def open(self, connection: sqlite3.Connection) -> None:
        """The file is opened; ``connection`` is the one that writes. Who had it open before may not have flushed."""
        connection.create_function(NEXT_FUNCTION, 2, partial(self.next_value, connection))
        _drop_copied(connection)
        self.unflushed = bool(held(connection))

    async def held(self) -> dict[ColumnName, Held]:
        return await self._store.read(held)

    def want(self, columns: Mapping[ColumnName, int]) -> None:
        """At least so many of each shall be here."""
        self.least |= columns
        self.due = True

    async def put(self, column: ColumnName, blocks: Iterable[Block], size: int) -> None:
        """These values are ours. ``size``: how many we have then, if none has been used meanwhile."""
        await self._store.write(lambda connection: put(connection, column, blocks, size))
        self.least.pop(column, None)
        self.due = True
        self.received += 1

    async def give_up(self, kept: Collection[ColumnName]) -> dict[ColumnName, list[Block]]:
        """What is here for other columns than these will not be used, not after a power failure either: others may."""
        given_up = await self._store.write(lambda connection: give_up(connection, kept))
        if given_up:
            await self._store.flush()
        return given_up

    async def drop(self) -> None:
        """The server does not let us go on where we were: what it has reserved may be anybody's."""
        await self._store.write(drop)
        self.due = True

    async def flush(self) -> None:
        """Return when the values that have been taken by now are taken for good."""
        self.unflushed = False
        try:
            await self._store.flush()
        except BaseException:
            self.unflushed = True
            raise

    def next_value(self, connection: sqlite3.Connection, table: str, column: str) -> int | None:
        """``NEXT_FUNCTION``. None where the device has none and Postgres may fill it in. Raises LookupError for a key:
        SQLite makes an error of its own of that, and ``telling`` the right one."""
        if column in self.tables[table].lacking:
            return None
        value = take(connection, table, column)
        if value is not None:
            self.unflushed = self.due = True
        elif column in self.tables[table].primary_key:
            self._missing = table, column
            # What this statement has taken comes back. It needs more than that.
            self.least[table, column] = 2 * held(connection).get((table, column), Held()).size
            self.due = True
            raise LookupError
        return value

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raises SequenceExhausted for a statement within that lacks a value."""
        self._missing = None
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._missing is None:
                raise
            raise SequenceExhausted(*self._missing) from error


def take(connection: sqlite3.Connection, table: str, column: str) -> int | None:
    """The next value; None: there is none."""
    row = connection.execute(
        "SELECT id, first, last FROM _syncline_blocks WHERE table_name = ? AND column_name = ? ORDER BY id LIMIT 1",
        (table, column),
    ).fetchone()
    if row is None:
        return None
    id, first, last = row
    if first == last:
        connection.execute("DELETE FROM _syncline_blocks WHERE id = ?", (id,))
    else:
        connection.execute("UPDATE _syncline_blocks SET first = first + step WHERE id = ?", (id,))
    value: int = first
    return value


def put(connection: sqlite3.Connection, column: ColumnName, blocks: Iterable[Block], size: int) -> None:
    """These have been reserved for this file. ``size``: see ``Held``."""
    number = _number_of_file(connection)
    connection.executemany(
        "INSERT INTO _syncline_blocks (table_name, column_name, first, last, step, file) VALUES (?, ?, ?, ?, ?, ?)",
        [(*column, block.first, block.last, block.step, number) for block in blocks],
    )
    connection.execute("INSERT OR REPLACE INTO _syncline_sequences VALUES (?, ?, ?)", (*column, size))


def held(connection: sqlite3.Connection) -> dict[ColumnName, Held]:
    rows = connection.execute(
        "SELECT s.table_name, s.column_name, s.size, coalesce(sum((b.last - b.first) / b.step + 1), 0) "
        "FROM _syncline_sequences s LEFT JOIN _syncline_blocks b USING (table_name, column_name) GROUP BY 1, 2"
    )
    return {(table, column): Held(left, size) for table, column, size, left in rows}


def give_up(connection: sqlite3.Connection, kept: Collection[ColumnName]) -> dict[ColumnName, list[Block]]:
    """What is here for other columns than these goes, and is returned."""
    found: dict[ColumnName, list[Block]] = {}
    for table, column, first, last, step in connection.execute(
        "SELECT table_name, column_name, first, last, step FROM _syncline_blocks ORDER BY id"
    ).fetchall():
        if (table, column) not in kept:
            found.setdefault((table, column), []).append(Block(first, last, step))
    for name in held(connection).keys() - set(kept):
        for rows in ("_syncline_blocks", "_syncline_sequences"):
            connection.execute(f"DELETE FROM {rows} WHERE table_name = ? AND column_name = ?", name)
    return found


def drop(connection: sqlite3.Connection) -> None:
    """Nothing that is here may be used."""
    connection.execute("DELETE FROM _syncline_blocks")
    connection.execute("DELETE FROM _syncline_sequences")


def _drop_copied(connection: sqlite3.Connection) -> None:
    """The same, if this is another file than the one for which they were reserved."""
    number = _number_of_file(connection)
    if connection.execute("SELECT EXISTS (SELECT 1 FROM _syncline_blocks WHERE file <> ?)", (number,)).fetchone()[0]:
        drop(connection)


def _number_of_file(connection: sqlite3.Connection) -> int:
    """Within its file system: another one for each file that there is. 0: it is in memory, and nobody copies it."""
    (path,) = (file for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
    if not path:
        return 0
    number = os.stat(path).st_ino
    return number - (1 << 64) if number >= 1 << 63 else number  # SQLite's integers have a sign
