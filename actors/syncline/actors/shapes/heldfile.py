"""How the rows that a tree holds are written into its SQLite file. Pure.

The rows of all tables of a tree are in one, for there may be very many trees, and each table takes a page of the disk:
``rows``, with the table's id in the key. Each row has the values by which it is looked for beside it, in columns
``v0``, ``v1``, ... that are indexed. ``moves`` remembers when rows came and left, ``position`` how far the shape had
come.

The indexes are made when a file has been filled. To keep them while rows come takes several times as long, and longer
the larger they are, where keys come in no order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgpack

from syncline.actors.shapes.image import key_bytes
from syncline.actors.shapes.tree import Places, RowId, Tree, Value
from syncline.proto.values import Key, Row

FORMAT = 2
# Of a key more than bytes in MessagePack begin with.
_KEYS_END = b"\xff"

_packer = msgpack.Packer().pack
_unpack = msgpack.unpackb


def row_of(data: bytes) -> Row:
    row: Row = _unpack(data, use_list=False)
    return row


def id_of(key: bytes) -> RowId:
    """The inverse of ``key_bytes``."""
    relation_id, *cells = _unpack(key)
    return relation_id, tuple(cells)


def key_of(key: bytes) -> Key:
    """The key in ``key_bytes`` of a row."""
    cells: Key = _unpack(key, use_list=False)[1:]
    return cells


@cache
def insert_sql(columns: int, rows: int) -> str:
    """Of so many rows, as ``HeldFile.encoding`` spells them, one behind the other."""
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO rows VALUES {', '.join([row] * rows)}"  # noqa: S608 - marks only


class HeldFile:
    """Of the rows of ``tree``. ``width``: how many columns of values there are."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # Of each table: where its rows are looked for by value, apart from the key. Numbers tell all of these apart.
        self._numbers: dict[tuple[int, Places], tuple[int, int]] = {}
        self._of: dict[int, list[tuple[int, Places]]] = {}
        for relation_id, all in sorted(tree.looked_up.items()):
            of = self._of[relation_id] = []
            for places in sorted(all):
                if not tree.is_key(relation_id, places):
                    self._numbers[relation_id, places] = len(of), len(self._numbers)
                    of.append((len(self._numbers) - 1, places))
        self.width = max(map(len, self._of.values()), default=0)
        names = ["key", "nodes", "row", *(f"v{column}" for column in range(self.width))]
        self.put = f"{insert_sql(len(names), 1)} ON CONFLICT (key) DO UPDATE SET " + ", ".join(
            f"{name} = excluded.{name}" for name in names[1:]
        )
        columns = "".join(f", {name} BLOB" for name in names[3:])
        self.tables = (
            f"CREATE TABLE rows (key BLOB NOT NULL, nodes INTEGER NOT NULL, row BLOB NOT NULL{columns})",
            "CREATE TABLE moves (key BLOB, lsn INTEGER, came INTEGER NOT NULL, PRIMARY KEY (key, lsn)) WITHOUT ROWID",
            "CREATE TABLE position (lsn INTEGER NOT NULL)",
            "INSERT INTO position VALUES (0)",
            f"PRAGMA user_version = {FORMAT}",
        )
        self.indexes = (
            "CREATE UNIQUE INDEX keys ON rows (key)",
            *(f"CREATE INDEX {name}s ON rows ({name}) WHERE {name} IS NOT NULL" for name in names[3:]),
        )

    def encoding(self, relation_id: int) -> Callable[[bytes, int, Row], tuple[object, ...]]:
        """What a row of a table is in the file, by its key as bytes, its nodes and itself."""
        of, pack = self._of[relation_id], _packer
        rest = (None,) * (self.width - len(of))
        if len(of) == 1 and len(of[0][1]) == 1:  # the most frequent
            ((number, (place,)),) = of

            def encode_one(key: bytes, nodes: int, row: Row) -> tuple[object, ...]:
                cell = row[place]
                return (key, nodes, pack(row), None if cell is None else pack((number, cell)), *rest)

            return encode_one

        def encode(key: bytes, nodes: int, row: Row) -> tuple[object, ...]:
            values = []
            for number, places in of:
                value = [row[place] for place in places]
                values.append(None if None in value else pack((number, *value)))
            return (key, nodes, pack(row), *values, *rest)

        return encode

    def column(self, relation_id: int, places: Places, value: Value) -> tuple[str, bytes] | None:
        """The column in which rows with ``value`` at ``places`` have it, and how it is spelled; None: it is the key."""
        found = self._numbers.get((relation_id, places))
        return None if found is None else (f"v{found[0]}", _packer((found[1], *value)))

    def keys_of(self, relation_id: int) -> tuple[bytes, bytes]:
        """Between these two are the keys of a table and no others."""
        cells = len(self._tree.relations[relation_id].key_indexes)
        before = key_bytes(relation_id, (None,) * cells)[:-cells]
        return before, before + _KEYS_END
