"""The rows that a tree of tables holds, at which nodes they are, and how to find them by value: an SQLite file.

It says nothing that the log and the images of the shape do not say as well, so it may be lost: then it is made again
from them. It is written behind the log, and whoever starts compares how far both have come.

``moves`` remembers when rows came and left, for those who ask what was held at a position that lies behind.

Of all the files of a process those that were used last are open: a shape at rest costs neither memory nor descriptors.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from syncline.actors.shapes.disk import private
from syncline.actors.shapes.membership import HeldRow, Step
from syncline.actors.shapes.tree import Places, RowId, Tree, Value, value_of
from syncline.proto.values import Insert, Key, Row

FORMAT = 1
CACHE_KIB = 1_000
PAGE_ROWS = 500
OPEN_MAX = 32  # of a process; each takes three descriptors and some 200 KiB

_TABLES = """
CREATE TABLE rows (relation INTEGER, key BLOB, nodes INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY (relation, key))
    WITHOUT ROWID;
CREATE TABLE places (place INTEGER, value BLOB, key BLOB, PRIMARY KEY (place, value, key)) WITHOUT ROWID;
CREATE TABLE moves (relation INTEGER, key BLOB, lsn INTEGER, came INTEGER NOT NULL, PRIMARY KEY (relation, key, lsn))
    WITHOUT ROWID;
CREATE TABLE position (lsn INTEGER NOT NULL);
INSERT INTO position VALUES (0);
"""


_packer = msgpack.Packer().pack


def _pack(cells: tuple[object, ...]) -> bytes:
    packed: bytes = _packer(cells)
    return packed


def _unpack(data: bytes) -> Row:
    row: Row = msgpack.unpackb(data, use_list=False)
    return row


_open: OrderedDict[int, Holdings] = OrderedDict()  # by id(); the one not used for longest is first


class Holdings:
    """The file at ``path``, which is made if it is not there or not ours to read. Not thread-safe.

    ``lsn``: it has what the shape holds after that transaction (0: nothing yet).
    """

    def __init__(self, path: Path, tree: Tree) -> None:
        self._path = path
        self._tree = tree
        self._places = {
            (relation_id, places): number
            for number, (relation_id, places) in enumerate(
                (relation_id, places)
                for relation_id, all in sorted(tree.looked_up.items())
                for places in sorted(all)
                if not tree.is_key(relation_id, places)
            )
        }
        self._of = {
            relation_id: [(number, places) for (id, places), number in self._places.items() if id == relation_id]
            for relation_id in tree.relations
        }
        self._kept: sqlite3.Connection | None = None
        self._known = False  # what is in the file
        self._empty = False  # made by us, and nothing was written to it since
        self.lsn: int = self._connection.execute("SELECT lsn FROM position").fetchone()[0]
        self._known = True

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._kept is None:
            self._kept = self._opened()
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
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        self._empty = True
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
        if self._empty:
            return
        self.close()
        self.remove()
        self._known = False
        self.lsn = 0

    # --- Held ---------------------------------------------------------------------------------------------------------

    def get(self, id: RowId) -> HeldRow | None:
        found = self._connection.execute(
            "SELECT row, nodes FROM rows WHERE relation = ? AND key = ?", (id[0], _pack(id[1]))
        ).fetchone()
        return None if found is None else HeldRow(_unpack(found[0]), found[1])

    def find(self, relation_id: int, places: Places, value: Value) -> list[Key]:
        number = self._places.get((relation_id, places))
        if number is None:
            key = self._tree.key_at(relation_id, places, value)
            return [key] if self.get((relation_id, key)) is not None else []
        keys = self._connection.execute(
            "SELECT key FROM places WHERE place = ? AND value = ?", (number, _pack(value))
        ).fetchall()
        return [_unpack(key) for (key,) in keys]

    def nodes_of(self, relation_id: int, keys: Collection[Key]) -> dict[Key, int]:
        """At which nodes those of the rows are that are held."""
        found = self._chosen("SELECT key, nodes FROM rows WHERE relation = ? AND key", relation_id, keys)
        return {_unpack(key): nodes for key, nodes in found}

    def values_held(self, relation_id: int, places: Places, values: Collection[Value]) -> set[Value]:
        """Those of ``values`` that held rows have at ``places``."""
        number = self._places.get((relation_id, places))
        if number is not None:
            found = self._chosen("SELECT DISTINCT value FROM places WHERE place = ? AND value", number, values)
            return {_unpack(value) for (value,) in found}
        keys = {self._tree.key_at(relation_id, places, value): value for value in values}
        return {keys[key] for key in self.nodes_of(relation_id, keys)}

    def _chosen(self, select: str, first: int, chosen: Collection[tuple[object, ...]]) -> Iterator[Sequence[Any]]:
        packed = list(map(_pack, chosen))
        for at in range(0, len(packed), PAGE_ROWS):
            page = packed[at : at + PAGE_ROWS]
            yield from self._connection.execute(f"{select} IN ({', '.join('?' * len(page))})", (first, *page))

    # --- all of it ----------------------------------------------------------------------------------------------------

    def rows_of(self, relation_id: int) -> Iterator[tuple[RowId, Row]]:
        """Every held row of a table. Nothing may be written meanwhile."""
        for part in self.parts_of(relation_id):
            yield from part

    def parts_of(self, relation_id: int) -> Iterator[list[tuple[RowId, Row]]]:
        """The same, some at a time. What is written between two parts may be among them or not."""
        last = b""
        while page := self._connection.execute(
            "SELECT key, row FROM rows WHERE relation = ? AND key > ? ORDER BY key LIMIT ?",
            (relation_id, last, PAGE_ROWS),
        ).fetchall():
            yield [((relation_id, _unpack(key)), _unpack(row)) for key, row in page]
            last = page[-1][0]

    def moved(self) -> Iterator[list[RowId]]:
        """Every row of which it is remembered that it came or left, some at a time, as ``parts_of`` gives them."""
        last: tuple[int, bytes, int] = (-1, b"", 0)
        while page := self._connection.execute(
            "SELECT relation, key, lsn FROM moves WHERE (relation, key, lsn) > (?, ?, ?) "
            "ORDER BY relation, key, lsn LIMIT ?",
            (*last, PAGE_ROWS),
        ).fetchall():
            yield [(relation_id, _unpack(key)) for relation_id, key, _ in page]
            last = page[-1]

    def held_at(self, id: RowId, lsn: int) -> bool:
        """Whether the row was held after the transaction at ``lsn``, which is not beyond ours."""
        next_move = self._connection.execute(
            "SELECT came FROM moves WHERE relation = ? AND key = ? AND lsn > ? ORDER BY lsn LIMIT 1",
            (id[0], _pack(id[1]), lsn),
        ).fetchone()
        return self.get(id) is not None if next_move is None else not next_move[0]

    # --- writing ------------------------------------------------------------------------------------------------------

    def apply(self, step: Step, lsn: int) -> None:
        """The shape has come to ``lsn``, and ``step`` happened there. 0: it is being filled."""
        connection = self._connection
        connection.execute("BEGIN")
        self._empty = False
        try:
            for id, held in step.held.items():
                self._put(id, held, lsn)
            for id in step.left:
                self._remove(id, lsn)
            connection.execute("UPDATE position SET lsn = ?", (lsn,))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        self.lsn = lsn

    def fill(
        self, relation_id: int, fresh: Sequence[tuple[Key, Row, int]], moved: Sequence[tuple[Key, int]] = ()
    ) -> None:
        """The shape is being filled: ``fresh`` rows (key, row, nodes) of a table, which were not held, are held, and
        those of ``moved`` (key, nodes) are at other nodes."""
        packed = [(_pack(key), row, nodes) for key, row, nodes in fresh]
        connection = self._connection
        connection.execute("BEGIN")
        self._empty = False
        try:
            connection.executemany(
                "INSERT INTO rows (relation, key, nodes, row) VALUES (?, ?, ?, ?)",
                [(relation_id, key, nodes, _pack(row)) for key, row, nodes in packed],
            )
            for number, places in self._of[relation_id]:
                connection.executemany(
                    "INSERT INTO places (place, value, key) VALUES (?, ?, ?)",
                    [
                        (number, _pack(value), key)
                        for key, row, _ in packed
                        if (value := value_of(row, places)) is not None
                    ],
                )
            connection.executemany(
                "UPDATE rows SET nodes = ? WHERE relation = ? AND key = ?",
                [(nodes, relation_id, _pack(key)) for key, nodes in moved],
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def fill_all(self, rows: Iterable[object]) -> None:
        """The same for inserts of any of the tables; they are at no node."""
        of_tables: dict[int, list[tuple[Key, Row, int]]] = {}
        for change in rows:
            if isinstance(change, Insert):
                key = self._tree.relations[change.relation_id].key_of(change.row)
                of_tables.setdefault(change.relation_id, []).append((key, change.row, 0))
        for relation_id, fresh in of_tables.items():
            self.fill(relation_id, fresh)

    def forget_moves(self, upto: int) -> None:
        """Nobody asks any more what was held at a position below ``upto``."""
        self._connection.execute("DELETE FROM moves WHERE lsn <= ?", (upto,))

    def _put(self, id: RowId, held: HeldRow, lsn: int) -> None:
        key = _pack(id[1])
        before = self.get(id)
        self._connection.execute(
            "INSERT OR REPLACE INTO rows (relation, key, nodes, row) VALUES (?, ?, ?, ?)",
            (id[0], key, held.nodes, _pack(held.row)),
        )
        for number, places in self._of[id[0]]:
            old = None if before is None else value_of(before.row, places)
            new = value_of(held.row, places)
            if old == new:
                continue
            if old is not None:
                self._forget(number, old, key)
            if new is not None:
                self._connection.execute(
                    "INSERT OR IGNORE INTO places (place, value, key) VALUES (?, ?, ?)", (number, _pack(new), key)
                )
        if before is None and lsn:
            self._moved(id[0], key, lsn, came=True)

    def _remove(self, id: RowId, lsn: int) -> None:
        key, before = _pack(id[1]), self.get(id)
        if before is None:
            return
        self._connection.execute("DELETE FROM rows WHERE relation = ? AND key = ?", (id[0], key))
        for number, places in self._of[id[0]]:
            value = value_of(before.row, places)
            if value is not None:
                self._forget(number, value, key)
        self._moved(id[0], key, lsn, came=False)

    def _forget(self, number: int, value: Value, key: bytes) -> None:
        self._connection.execute(
            "DELETE FROM places WHERE place = ? AND value = ? AND key = ?", (number, _pack(value), key)
        )

    def _moved(self, relation_id: int, key: bytes, lsn: int, *, came: bool) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO moves (relation, key, lsn, came) VALUES (?, ?, ?, ?)", (relation_id, key, lsn, came)
        )
