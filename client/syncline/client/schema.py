"""The tables the library keeps beside the application's, and its description of each synced table. Pure.

``_syncline_state`` is one row: who we are, how far the server's stream has been applied (``lsn``), the newest timestamp
used (``clock_ms``), the latest time of a tag of Postgres that has come (``seen_ms``), that of the latest transaction of
our own that has come back (``echoed_ms``), a number that a transaction changes for it to have something to write
(``flushes``), and ``capture``, which the triggers read: 0 only inside the transaction that applies incoming changes, so
that a crash in the middle rolls the switch back together with the rows.

``_syncline_oplog`` holds the local changes the server has not echoed yet; ``_syncline_shadow`` the causal tags of rows.
A row without shadow entry, when it exists, carries a single tag of Postgres': most rows of most databases were there
before anyone synced them, and cost no second row here. Whatever Postgres had written to it by ``seen_ms`` is in it,
since changes come in their order: so ``postgres_1@seen_ms`` is what a write to it has observed. ``_syncline_leaving``
names the rows that have left the device's shapes and stay for as long as the oplog has entries of theirs, or a row that
stays refers to them (see ``keeping``).
``_syncline_relations`` has the sets of columns (JSON, sorted) under which rows have come of tables that some shape has
not all columns of (see ``columns``). ``_syncline_rejections`` has the local transactions that the server has rejected,
by their ``commit_ms``, and ``_syncline_rejected`` what they had written (see ``rejections``). ``_syncline_openings``
are the times at which this file was opened, and ``origin`` of an entry the client id it is of, if that is another (see
``forking``). ``lost`` has the columns of an entry in which a later write by somebody else has been seen (JSON, see
``merging``), and ``carried_out`` is 1 where what has come has the entry in it, and what follows, too.
``_syncline_blocks`` are the values of sequences that this device may use and has not, and ``_syncline_sequences`` how
many it had when some were last reserved (see ``reserved``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from syncline.client.cells import INTEGER_TYPES, Decode, Encode, Values, decoder, encoder
from syncline.proto.values import POSTGRES_ORIGIN, Column, MigrationCheck, MigrationTable, Relation

OF_POSTGRES = f"{POSTGRES_ORIGIN}@"
UNTRACKED_TAG = f"{OF_POSTGRES}0"
# Columns of these types are declared INTEGER.
_INTEGERS = INTEGER_TYPES | {"bool"}

_FIRST: tuple[str, ...] = (
    """CREATE TABLE _syncline_state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        client_id TEXT NOT NULL,
        lsn BLOB NOT NULL DEFAULT x'',
        clock_ms INTEGER NOT NULL DEFAULT 0,
        capture INTEGER NOT NULL DEFAULT 1)""",
    """CREATE TABLE _syncline_oplog (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        table_name TEXT NOT NULL,
        op TEXT NOT NULL CHECK (op IN ('I', 'U', 'D', 'C')),
        key TEXT NOT NULL,
        new_row TEXT,
        old_row TEXT,
        commit_ms INTEGER,
        clear_tags TEXT NOT NULL DEFAULT '[]')""",
    "CREATE INDEX _syncline_oplog_key ON _syncline_oplog (table_name, key)",
    "CREATE INDEX _syncline_oplog_commit ON _syncline_oplog (commit_ms)",
    """CREATE TABLE _syncline_shadow (
        table_name TEXT NOT NULL,
        key TEXT NOT NULL,
        tags TEXT NOT NULL,
        PRIMARY KEY (table_name, key)) WITHOUT ROWID""",
    """CREATE TABLE _syncline_tables (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        description TEXT NOT NULL)""",
    """CREATE TABLE _syncline_migrations (
        position INTEGER PRIMARY KEY,
        version TEXT NOT NULL UNIQUE)""",
    """CREATE TABLE _syncline_subscriptions (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        subscription_id TEXT NOT NULL UNIQUE,
        shape TEXT NOT NULL,
        state TEXT NOT NULL)""",
)

STORE_STEPS: tuple[tuple[str, ...], ...] = (
    _FIRST,
    ("ALTER TABLE _syncline_subscriptions ADD COLUMN key TEXT",),
    (
        """CREATE TABLE _syncline_leaving (
            table_name TEXT NOT NULL,
            key TEXT NOT NULL,
            PRIMARY KEY (table_name, key)) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE _syncline_relations (
            table_name TEXT NOT NULL,
            columns TEXT NOT NULL,
            PRIMARY KEY (table_name, columns)) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE _syncline_rejections (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            transaction_id INTEGER NOT NULL UNIQUE,
            sqlstate TEXT NOT NULL,
            message TEXT NOT NULL,
            detail TEXT,
            hint TEXT,
            table_name TEXT,
            constraint_name TEXT,
            columns TEXT NOT NULL,
            key TEXT NOT NULL,
            dismissed INTEGER NOT NULL DEFAULT 0)""",
        """CREATE TABLE _syncline_rejected (
            transaction_id INTEGER NOT NULL,
            entry_id INTEGER NOT NULL,
            table_name TEXT NOT NULL,
            op TEXT NOT NULL,
            new_row TEXT,
            old_row TEXT,
            PRIMARY KEY (transaction_id, entry_id)) WITHOUT ROWID""",
    ),
    ("ALTER TABLE _syncline_state ADD COLUMN flushes INTEGER NOT NULL DEFAULT 0",),
    (
        """CREATE TABLE _syncline_openings (
            place INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL,
            first_entry INTEGER NOT NULL)""",
        "ALTER TABLE _syncline_oplog ADD COLUMN origin TEXT",
    ),
    ("ALTER TABLE _syncline_oplog ADD COLUMN lost TEXT NOT NULL DEFAULT '{}'",),
    ("ALTER TABLE _syncline_state ADD COLUMN seen_ms INTEGER NOT NULL DEFAULT 0",),
    (),
    ("ALTER TABLE _syncline_state ADD COLUMN echoed_ms INTEGER NOT NULL DEFAULT 0",),
    ("ALTER TABLE _syncline_oplog ADD COLUMN carried_out INTEGER NOT NULL DEFAULT 0",),
    (
        "ALTER TABLE _syncline_rejections ADD COLUMN winner TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE _syncline_rejections ADD COLUMN follows INTEGER",
    ),
    (
        """CREATE TABLE _syncline_blocks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            table_name TEXT NOT NULL,
            column_name TEXT NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            step INTEGER NOT NULL,
            file INTEGER NOT NULL)""",
        "CREATE INDEX _syncline_blocks_column ON _syncline_blocks (table_name, column_name, id)",
        """CREATE TABLE _syncline_sequences (
            table_name TEXT NOT NULL,
            column_name TEXT NOT NULL,
            size INTEGER NOT NULL,
            PRIMARY KEY (table_name, column_name)) WITHOUT ROWID""",
    ),
)
"""What makes each version of the store out of the one before; the first out of nothing."""

STORE_VERSION = len(STORE_STEPS)
REJECTIONS = "_syncline_rejections"
OPENINGS = "_syncline_openings"
RELAXED_VERSION = 4
"""The first whose tables have no NOT NULL but in their keys (see ``relaxing``)."""
LINKED_VERSION = 10
"""The first whose tables know their foreign keys of several columns (see ``foreign_keys``)."""


def quoted(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class ForeignKey:
    columns: tuple[str, ...]
    parent_table: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A synced table as the device stores it. ``id`` is the relation id under which the device sends its writes.

    ``required``: columns that are NOT NULL to the application, though not in SQLite (see ``ddl``). ``lacking``: those
    that the shapes of this device do not hold (see ``columns``): NULL in every row, and not to be written.
    ``sequences``: those that take the values of sequences (see ``reserved``). ``checks``: what the application's writes
    have to meet. ``registers``: columns that the server merges as one.
    """

    id: int
    name: str
    columns: tuple[str, ...]
    pg_types: tuple[str, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    required: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    checks: tuple[MigrationCheck, ...] = ()
    registers: tuple[tuple[str, ...], ...] = ()

    def __hash__(self) -> int:
        # Without the columns: it is looked up for every change.
        return hash((self.id, self.name))

    @cached_property
    def held(self) -> tuple[str, ...]:
        """The columns that are not lacking."""
        return tuple(column for column in self.columns if column not in self.lacking)

    @cached_property
    def decoders(self) -> tuple[Decode, ...]:
        return tuple(decoder(pg_type) for pg_type in self.pg_types)

    @cached_property
    def encoders(self) -> tuple[Encode, ...]:
        return tuple(encoder(pg_type) for pg_type in self.pg_types)

    @cached_property
    def key_indexes(self) -> tuple[int, ...]:
        """Positions of the primary-key columns in ``columns``, in the order of the key."""
        return tuple(self.columns.index(name) for name in self.primary_key)

    @cached_property
    def numbered(self) -> int | None:
        """The place of the column that may be SQLite's number of a row, as the only one of a key is that is an INTEGER;
        such a column takes nothing but integers."""
        (index, *others) = self.key_indexes
        return index if not others and self.pg_types[index] in _INTEGERS else None

    def can_hold(self, values: Values) -> bool:
        """Whether SQLite takes a row of these values. Of a key of integers that has become one of texts in Postgres the
        texts are not among them."""
        return self.numbered is None or isinstance(values[self.numbered], int)

    @cached_property
    def tied(self) -> tuple[frozenset[int], ...]:
        """Of the columns outside the key, by their places, those that registers and foreign keys of several columns tie
        together: who writes one of such a set writes all of it, so that two writes never make a reference that nobody
        has made, nor a row that is not valid."""
        sets: list[frozenset[int]] = []
        for names in (*self.registers, *(key.columns for key in self.foreign_keys)):
            outside = (name for name in names if name in self.columns and name not in self.primary_key)
            places = frozenset(map(self.columns.index, outside))
            if len(places) > 1:
                sets = [
                    places.union(*(one for one in sets if one & places)),
                    *(one for one in sets if not one & places),
                ]
        return tuple(sets)

    @cached_property
    def relation(self) -> Relation:
        """The table as the wire names it. All columns are declared nullable: the server judges by its own catalogue."""
        columns = tuple(
            Column(name, pg_type, primary_key=name in self.primary_key, nullable=True)
            for name, pg_type in zip(self.columns, self.pg_types, strict=True)
        )
        return Relation(self.id, "public", self.name, columns)

    def only(self, columns: Collection[str], table_id: int | None = None) -> Table:
        """The table as if it had no other columns; ``columns`` include its key. ``table_id``: None: as it is."""
        kept = [index for index, column in enumerate(self.columns) if column in columns]
        return replace(
            self,
            id=self.id if table_id is None else table_id,
            columns=tuple(self.columns[index] for index in kept),
            pg_types=tuple(self.pg_types[index] for index in kept),
        )


def described(
    table_id: int, migrated: MigrationTable, required: Collection[str] = (), known: Table | None = None
) -> Table:
    """The table a migration step leaves behind. ``required``: the columns it makes so. ``known``: the table before it.

    Raises ValueError for a table without primary key: rows without one cannot be told apart across replicas.
    """
    if not migrated.primary_key:
        raise ValueError(f"table {migrated.name} has no primary key, so its rows cannot be synced")
    return Table(
        id=table_id,
        name=migrated.name,
        columns=tuple(column.name for column in migrated.columns),
        pg_types=tuple(column.pg_type.lower() for column in migrated.columns),
        primary_key=migrated.primary_key,
        foreign_keys=tuple(
            ForeignKey(key.columns, key.parent_table, key.parent_columns) for key in migrated.foreign_keys
        ),
        required=(() if known is None else known.required) + tuple(required),
        lacking=() if known is None else known.lacking,
        sequences=tuple(column.name for column in migrated.columns if column.sequence),
        checks=migrated.checks,
        registers=migrated.registers,
    )


def table_to_json(table: Table) -> str:
    return json.dumps(
        {
            "columns": table.columns,
            "pg_types": table.pg_types,
            "primary_key": table.primary_key,
            "foreign_keys": [[key.columns, key.parent_table, key.parent_columns] for key in table.foreign_keys],
            "required": table.required,
            "lacking": table.lacking,
            "sequences": table.sequences,
            "checks": [[check.name, check.columns, check.condition, check.message] for check in table.checks],
            "registers": table.registers,
        }
    )


def table_from_json(table_id: int, name: str, text: str) -> Table:
    described_as: Mapping[str, Any] = json.loads(text)
    return Table(
        id=table_id,
        name=name,
        columns=tuple(described_as["columns"]),
        pg_types=tuple(described_as["pg_types"]),
        primary_key=tuple(described_as["primary_key"]),
        foreign_keys=tuple(
            ForeignKey(tuple(columns), parent, tuple(parent_columns))
            for columns, parent, parent_columns in described_as["foreign_keys"]
        ),
        required=tuple(described_as.get("required", ())),
        lacking=tuple(described_as.get("lacking", ())),
        sequences=tuple(described_as.get("sequences", ())),
        checks=tuple(
            MigrationCheck(check, tuple(columns), condition, message)
            for check, columns, condition, message in described_as.get("checks", ())
        ),
        registers=tuple(map(tuple, described_as.get("registers", ()))),
    )


def by_name(tables: Iterable[Table]) -> dict[str, Table]:
    return {table.name: table for table in tables}
