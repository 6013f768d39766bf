"""What a device shows: everything in its database after a commit, as a reader may find it; read once for all checks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property, lru_cache

from tests.sim.device import SimDevice
from tests.sim.schema import (
    FOREIGN_KEYS,
    NAMES,
    RELATIONS,
    TABLES,
    TIED,
    ForeignKey,
    RowKey,
    closure,
    on_device,
)

from syncline.client.cells import Values
from syncline.client.oplog import ENTRY_COLUMNS, Entry, change_of, entry_from_row
from syncline.client.schema import UNTRACKED_TAG, Table, table_from_json
from syncline.client.shapes import ShapeState
from syncline.client.subscription_rows import load
from syncline.proto.merge import RowWrite, write_of
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.values import POSTGRES_ORIGIN, Row

Tags = frozenset[str]


class Shown:
    """Made after a commit of ``device`` and used before the next one. ``lsn``: 0 when it has no position."""

    def __init__(self, device: SimDevice) -> None:
        self.device = device
        self._connection = device.store.connection
        (lsn,) = self._connection.execute("SELECT lsn FROM _syncline_state").fetchone()
        self.lsn = int(lsn or 0)

    @cached_property
    def held(self) -> frozenset[int]:
        """The tables of the delivered shapes."""
        delivered = (s for s in load(self._connection).values() if s.state is ShapeState.DELIVERED)
        return frozenset(closure(TABLES[subscription.spec.table] for subscription in delivered))

    @cached_property
    def rows(self) -> dict[RowKey, Values]:
        """Of all tables."""
        return {key: row for name in self._tables for key, row in self._rows_of(TABLES[name])}

    @cached_property
    def _tables(self) -> dict[str, Table]:
        described = self._connection.execute("SELECT id, name, description FROM _syncline_tables")
        return {name: table_from_json(id, name, text) for id, name, text in described}

    def _rows_of(self, relation_id: int) -> Iterable[tuple[RowKey, Values]]:
        indexes = RELATIONS[relation_id].key_indexes
        for row in self._connection.execute(f"SELECT * FROM {NAMES[relation_id]}"):
            yield (relation_id, tuple(str(row[index]).encode() for index in indexes)), row

    @cached_property
    def referred(self) -> frozenset[RowKey]:
        """What any row refers to."""
        found = (parent_of(fk, row) for fk in FOREIGN_KEYS for key, row in self.rows.items() if key[0] == fk.child)
        return frozenset(parent for parent in found if parent is not None)

    def tied(self, relation_id: int) -> Iterable[Iterable[int]]:
        """The columns of a table that the device knows to be one register. One of the old line is told of its foreign
        keys alone, unless it has come with the migrations."""
        if takes_extensions(self.device.protocol):
            return TIED[relation_id]
        return self._tables[NAMES[relation_id]].tied

    def keeps(self, key: RowKey, content: Row | None) -> bool:
        """Whether a row that nobody else has any more is here, with its content, for one that refers to it: as Postgres
        will keep it when that has arrived."""
        known = content is not None and self.rows.get(key) == on_device(key[0], content)
        return known and key in self.referred

    @cached_property
    def entries(self) -> list[Entry]:
        """The oplog."""
        rows = self._connection.execute(f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog ORDER BY id")
        return [entry_from_row(row) for row in rows]

    @cached_property
    def told(self) -> frozenset[int]:
        """The times of the transactions on the way of which the device knows that they are carried out."""
        rows = self._connection.execute("SELECT commit_ms FROM _syncline_oplog WHERE carried_out")
        return frozenset(ms for (ms,) in rows)

    @cached_property
    def pending(self) -> dict[RowKey, list[RowWrite]]:
        """The writes on the way, by row, oldest first."""
        found: dict[RowKey, list[RowWrite]] = {}
        for entry in self.entries:
            change = change_of(entry, self._tables[entry.table_name])
            write = write_of(change, self.device.name, entry.commit_ms)
            relation_id = TABLES[entry.table_name]
            found.setdefault((relation_id, RELATIONS[relation_id].key_of(write.row)), []).append(write)
        return found

    @cached_property
    def tags(self) -> dict[RowKey, Tags]:
        rows = self._connection.execute("SELECT table_name, key, tags FROM _syncline_shadow")
        return {(TABLES[table], key_of(key)): plain_json(tags) for table, key, tags in rows}


def parent_of(fk: ForeignKey, row: Values) -> RowKey | None:
    """What a row of a device refers to by ``fk``; None when it refers to nothing."""
    cells = tuple(row[column] for column in fk.columns)
    return None if None in cells else (fk.parent, tuple(str(cell).encode() for cell in cells))


@lru_cache(maxsize=10_000)
def key_of(key: str) -> tuple[bytes, ...]:
    """A key as the device stores it."""
    return tuple(part.encode() for part in json.loads(key))


@lru_cache(maxsize=10_000)
def plain_json(tags: str) -> Tags:
    return plain(tuple(json.loads(tags)))


@lru_cache(maxsize=10_000)
def plain(tags: tuple[str, ...]) -> Tags:
    """Tags with all of Postgres as one."""
    return frozenset(UNTRACKED_TAG if tag.startswith(f"{POSTGRES_ORIGIN}@") else tag for tag in tags)


def named(key: RowKey) -> str:
    return f"{NAMES[key[0]]} {'/'.join((part or b'').decode() for part in key[1])}"
