"""The file of what a tree holds while it is filled: rows are only put behind each other, and the indexes come last.

It is a file of its own, which nobody misses if it is never finished. So nothing here waits for the disk or keeps what
was there before, until the end. What has to be looked up meanwhile (rows that may come a second time, and what rows
refer to) is in temporary tables, which SQLite writes to the disk as they grow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgpack

from syncline.actors.shapes.disk import private, sync_file
from syncline.actors.shapes.heldfile import HeldFile, insert_sql, row_of
from syncline.actors.shapes.tree import Tree, Value
from syncline.proto.values import Row

CACHE_KIB = 8_000  # also what is sorted in memory for an index
INSERTED_AT_ONCE = 50
LOOKED_UP_AT_ONCE = 500
PAGE_ROWS = 1_000
REFERRED_REMEMBERED_MAX = 20_000

_TEMPORARY = (
    "CREATE TEMP TABLE met (key BLOB PRIMARY KEY, place INTEGER NOT NULL, nodes INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TEMP TABLE referred (number INTEGER PRIMARY KEY, value BLOB NOT NULL UNIQUE)",
)

_pack = msgpack.Packer().pack


class Bulk:
    """A file at ``path``, which is made anew, for the rows of ``tree``. Not thread-safe, but ``finish`` may run in any
    thread. Close it in the end."""

    def __init__(self, path: Path, tree: Tree) -> None:
        self.path = path
        file = HeldFile(tree)
        self._encoding = {id: file.encoding(id) for id in tree.relations}
        self._indexes = file.indexes
        self._recent: set[bytes] = set()  # of what is referred to
        self._taken = 0  # of it
        path.unlink(missing_ok=True)
        with open(path, "xb", opener=private):
            pass
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(f"PRAGMA temp.cache_size = -{CACHE_KIB}")
        for statement in ("BEGIN", *file.tables, *_TEMPORARY):
            connection.execute(statement)
        self._connection = connection
        self._next = 1  # the place of the next row

    def add(self, relation_id: int, keys: Sequence[bytes], nodes: int, rows: Sequence[Row], *, once: bool) -> None:
        """``rows`` of a table, with their keys, are held at ``nodes``, and were not. Unless they come ``once`` only,
        ``nodes_of`` finds them again."""
        encode = self._encoding[relation_id]
        cells = [cell for key, row in zip(keys, rows, strict=True) for cell in encode(key, nodes, row)]
        # Many rows in a statement take SQLite less than a statement each.
        columns = len(cells) // len(rows)
        for at in range(0, len(cells), columns * INSERTED_AT_ONCE):
            part = cells[at : at + columns * INSERTED_AT_ONCE]
            self._connection.execute(insert_sql(columns, len(part) // columns), part)
        if not once:
            self._connection.executemany(
                "INSERT INTO met VALUES (?, ?, ?)",
                [(key, place, nodes) for place, key in enumerate(keys, self._next)],
            )
        self._next += len(rows)

    def nodes_of(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """At which nodes those of the rows are that are held, of tables whose rows may come again."""
        nodes: dict[bytes, int] = {}
        for at in range(0, len(keys), LOOKED_UP_AT_ONCE):
            page = keys[at : at + LOOKED_UP_AT_ONCE]
            wanted = ", ".join("?" * len(page))
            nodes.update(self._connection.execute(f"SELECT key, nodes FROM met WHERE key IN ({wanted})", page))  # noqa: S608
        return nodes

    def move(self, rows: Iterable[tuple[bytes, int]]) -> None:
        """``rows`` (key, nodes), which are held, are at other nodes."""
        for key, nodes in rows:
            self._connection.execute("UPDATE met SET nodes = ? WHERE key = ?", (nodes, key))
            self._connection.execute(
                "UPDATE rows SET nodes = ? WHERE rowid = (SELECT place FROM met WHERE key = ?)", (nodes, key)
            )

    def rows_at(self, node: int) -> Iterator[list[Row]]:
        """The rows at ``node``, some at a time; none may come to it meanwhile."""
        last, bit = 0, 1 << node
        while page := self._connection.execute(
            f"SELECT rowid, row FROM rows WHERE rowid > ? AND nodes & {bit} ORDER BY rowid LIMIT {PAGE_ROWS}",  # noqa: S608
            (last,),
        ).fetchall():
            yield [row_of(row) for _, row in page]
            last = page[-1][0]

    # --- references ---------------------------------------------------------------------------------------------------

    def refer(self, way: int, values: Iterable[Value]) -> None:
        """Rows that are held refer to ``values`` in one of the ways in which they can, which have numbers."""
        fresh = {_pack((way, *value)) for value in values} - self._recent
        if len(self._recent) + len(fresh) > REFERRED_REMEMBERED_MAX:
            self._recent.clear()
        self._recent |= fresh
        self._connection.executemany("INSERT OR IGNORE INTO referred (value) VALUES (?)", [(one,) for one in fresh])

    def referred(self) -> list[tuple[int, Value]]:
        """Some of what was referred to, each (way, value) once; none when that was all so far."""
        page = self._connection.execute(
            f"SELECT number, value FROM referred WHERE number > ? ORDER BY number LIMIT {PAGE_ROWS}",  # noqa: S608
            (self._taken,),
        ).fetchall()
        if page:
            self._taken = page[-1][0]
        unpacked = [msgpack.unpackb(value, use_list=False) for _, value in page]
        return [(one[0], one[1:]) for one in unpacked]

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """It is whole, with its indexes, and on the disk; nothing may be done with it any more. Raises OSError, and
        sqlite3.Error."""
        try:
            for statement in (*self._indexes, "COMMIT"):
                self._connection.execute(statement)
        finally:
            self.close()
        sync_file(self.path)

    def close(self) -> None:
        """Repeats are harmless."""
        self._connection.close()

    def remove(self) -> None:
        """It is not needed any more."""
        self.close()
        self.path.unlink(missing_ok=True)
