"""The rows that a tree of tables holds, at which nodes they are, and how to find them by value: an SQLite file.

It says nothing that the log and the images of the shape do not say as well, so it may be lost: then it is made again
from them. It is written behind the log, and whoever starts compares how far both have come.

``moves`` remembers when rows came and left, for those who ask what was held at a position that lies behind.

Of all the files of a process those that were used last are open: a shape at rest costs neither memory nor descriptors.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path

from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.disk import private
from syncline.actors.shapes.heldfile import FORMAT, HeldFile, id_of, row_of
from syncline.actors.shapes.image import key_bytes
from syncline.actors.shapes.tree import Places, RowId, Tree, Value
from syncline.actors.shapes.treevalues import HeldRow, Step
from syncline.proto.values import Key, Row

CACHE_KIB = 1_000
PAGE_ROWS = 500
WRITTEN_ROWS = 500  # between two pauses: some milliseconds' worth
UNFINISHED = -1  # as position: some of what a transaction did is there
OPEN_MAX = 32  # of a process; each takes three descriptors and some 200 KiB

_open: OrderedDict[int, Holdings] = OrderedDict()  # by id(); the one not used for longest is first


class Holdings:
    """The file at ``path``, which is made if it is not there or not ours to read. Not thread-safe.

    ``lsn``: it has what the shape holds after that transaction (0: nothing yet).
    """

    def __init__(self, path: Path, tree: Tree) -> None:
        self._path = path
        self._tree = tree
        self._file = HeldFile(tree)
        self._encoding = {id: self._file.encoding(id) for id in tree.relations}
        self._kept: sqlite3.Connection | None = None
        self._known = False  # what is in the file
        self.lsn = 0
        if path.exists():
            self.lsn = self._connection.execute("SELECT lsn FROM position").fetchone()[0]

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._kept is None:
            self._kept = self._opened()
            self._known = True
            while len(_open) >= OPEN_MAX:
                _, longest = _open.popitem(last=False)
                longest.close()
            _open[id(self)] = self
        _open.move_to_end(id(self))
        return self._kept

    def _opened(self) -> sqlite3.Connection:
        """The file as it is. Only when nobody has asked what it holds yet is it made anew, if it is not there or not
        ours to read: later that would be forgotten. Raises sqlite3.DatabaseError then."""
        if self._known:
            return self._connect()
        try:
            connection = self._connect()
            if connection.execute("PRAGMA user_version").fetchone()[0] == FORMAT:
                return connection
            connection.close()
        except sqlite3.DatabaseError:
            pass
        self.remove()
        connection = self._connect()
        for statement in ("BEGIN", *self._file.tables, *self._file.indexes, "COMMIT"):
            connection.execute(statement)
        return connection

    def _connect(self) -> sqlite3.Connection:
        with open(self._path, "ab", opener=private):
            pass
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # never torn; what is missing is found out by ``lsn``
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection

    def close(self) -> None:
        """It is opened again when it is used again."""
        connection, self._kept = self._kept, None
        _open.pop(id(self), None)
        if connection is not None:
            connection.close()

    def remove(self) -> None:
        """Delete the files; it has to be closed."""
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def clear(self) -> None:
        """Nothing is held any more."""
        self.close()
        self.remove()
        self._known = False
        self.lsn = 0

    def filled(self, bulk: Bulk) -> None:
        """What ``bulk``, which is finished, has is held from now on, and nothing else."""
        self.clear()
        bulk.path.rename(self._path)

    # --- Held ---------------------------------------------------------------------------------------------------------

    def get(self, id: RowId) -> HeldRow | None:
        found = self._connection.execute("SELECT row, nodes FROM rows WHERE key = ?", (key_bytes(*id),)).fetchone()
        return None if found is None else HeldRow(row_of(found[0]), found[1])

    def find(self, relation_id: int, places: Places, value: Value) -> list[Key]:
        column = self._file.column(relation_id, places, value)
        if column is None:
            key = self._tree.key_at(relation_id, places, value)
            return [key] if self._has(key_bytes(relation_id, key)) else []
        name, spelled = column
        keys = self._connection.execute(f"SELECT key FROM rows WHERE {name} = ?", (spelled,)).fetchall()  # noqa: S608
        return [id_of(key)[1] for (key,) in keys]

    def _has(self, key: bytes) -> bool:
        return self._connection.execute("SELECT 1 FROM rows WHERE key = ?", (key,)).fetchone() is not None

    # --- all of it ----------------------------------------------------------------------------------------------------

    def rows_of(self, relation_id: int) -> Iterator[tuple[RowId, Row]]:
        """Every held row of a table. Nothing may be written meanwhile."""
        for part in self.parts_of(relation_id):
            yield from part

    def parts_of(self, relation_id: int) -> Iterator[list[tuple[RowId, Row]]]:
        """The same, some at a time, as ``parts`` gives them."""
        return self._parts(*self._file.keys_of(relation_id))

    def parts(self) -> Iterator[list[tuple[RowId, Row]]]:
        """Every held row, some at a time. What is written between two parts may be among them or not."""
        return self._parts(b"", None)

    def _parts(self, last: bytes, end: bytes | None) -> Iterator[list[tuple[RowId, Row]]]:
        upto = "" if end is None else "AND key < ?2"
        while page := self._connection.execute(
            f"SELECT key, row FROM rows WHERE key > ?1 {upto} ORDER BY key LIMIT {PAGE_ROWS}",  # noqa: S608
            (last,) if end is None else (last, end),
        ).fetchall():
            yield [(id_of(key), row_of(row)) for key, row in page]
            last = page[-1][0]

    def moved(self) -> Iterator[list[RowId]]:
        """Every row of which it is remembered that it came or left, some at a time, as ``parts`` gives them."""
        last: tuple[bytes, int] = (b"", 0)
        while page := self._connection.execute(
            "SELECT key, lsn FROM moves WHERE (key, lsn) > (?, ?) ORDER BY key, lsn LIMIT ?", (*last, PAGE_ROWS)
        ).fetchall():
            yield [id_of(key) for key, _ in page]
            last = page[-1]

    def held_at(self, id: RowId, lsn: int) -> bool:
        """Whether the row was held after the transaction at ``lsn``, which is not beyond ours."""
        next_move = self._connection.execute(
            "SELECT came FROM moves WHERE key = ? AND lsn > ? ORDER BY lsn LIMIT 1", (key_bytes(*id), lsn)
        ).fetchone()
        return self._has(key_bytes(*id)) if next_move is None else not next_move[0]

    # --- writing ------------------------------------------------------------------------------------------------------

    def apply(self, step: Step, lsn: int) -> None:
        """The shape has come to ``lsn``, and ``step`` happened there."""
        for _ in self.applying(step, lsn):
            pass

    def applying(self, step: Step, lsn: int) -> Generator[None, None, None]:
        """``apply``, which yields between some rows and the next. Meanwhile nothing else may be applied; what was held
        at a position before ``lsn`` can be asked.

        Some rows are a transaction of the file. Whoever finds that not all of them are there has to make it again.
        """
        held, left = iter(step.held.items()), iter(step.left)
        while True:
            put, removed = tuple(islice(held, WRITTEN_ROWS)), tuple(islice(left, WRITTEN_ROWS))
            last = len(put) < WRITTEN_ROWS and len(removed) < WRITTEN_ROWS
            self._write(put, removed, lsn, last=last)
            if last:
                self.lsn = lsn
                return
            yield

    def _write(self, put: Sequence[tuple[RowId, HeldRow]], removed: Sequence[RowId], lsn: int, *, last: bool) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            self._put(put, lsn)
            self._remove(removed, lsn)
            connection.execute("UPDATE position SET lsn = ?", (lsn if last else UNFINISHED,))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def forget_moves(self, upto: int) -> None:
        """Nobody asks any more what was held at a position below ``upto``."""
        self._connection.execute("DELETE FROM moves WHERE lsn <= ?", (upto,))

    def _put(self, rows: Sequence[tuple[RowId, HeldRow]], lsn: int) -> None:
        spelled = [self._encoding[id[0]](key_bytes(*id), held.nodes, held.row) for id, held in rows]
        self._connection.executemany(
            "INSERT OR REPLACE INTO moves (key, lsn, came) SELECT ?1, ?2, 1 "
            "WHERE NOT EXISTS (SELECT 1 FROM rows WHERE key = ?1)",
            [(one[0], lsn) for one in spelled],
        )
        self._connection.executemany(self._file.put, spelled)

    def _remove(self, ids: Sequence[RowId], lsn: int) -> None:
        keys = [key_bytes(*id) for id in ids]
        self._connection.executemany(
            "INSERT OR REPLACE INTO moves (key, lsn, came) SELECT ?1, ?2, 0 "
            "WHERE EXISTS (SELECT 1 FROM rows WHERE key = ?1)",
            [(key, lsn) for key in keys],
        )
        self._connection.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in keys])
