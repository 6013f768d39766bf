"""The values both ends of the wire talk about: relations, rows, changes, transactions.

A row is a tuple of cells in the column order of its relation. A cell is ``None`` (SQL NULL) or the bytes that travel
in a Satellite row: Postgres text output for almost every type, raw bytes for bytea, ``t``/``f`` for bool, and a ``Z``
instead of ``+00`` for timestamptz. Nothing here parses a cell: bytes stay bytes until someone needs them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

Cell: TypeAlias = bytes | None
Row: TypeAlias = tuple[Cell, ...]
Key: TypeAlias = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a relation. ``type_name`` is the Postgres type name in lower case (``int4``, an enum's name)."""

    name: str
    type_name: str
    primary_key: bool = False
    nullable: bool = True


@dataclass(frozen=True)
class Relation:
    """A table as the wire names it. ``id`` is stable per schema version and unique per peer (a uint32)."""

    id: int
    schema: str
    table: str
    columns: tuple[Column, ...]

    def __hash__(self) -> int:
        # Without the columns: it is looked up for every change.
        return hash((self.id, self.table))

    @property
    def table_id(self) -> int:
        """The id of the relation that has all columns of the table."""
        return self.id

    @property
    def whole(self) -> Relation:
        """The relation that has all columns of the table."""
        return self

    def narrowed(self, row: Row) -> Row:
        """Of a row of the whole table what this relation has of it."""
        return row

    @cached_property
    def key_indexes(self) -> tuple[int, ...]:
        """Positions of the primary-key columns, in column order."""
        return tuple(i for i, column in enumerate(self.columns) if column.primary_key)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def key_of(self, row: Row) -> Key:
        return tuple([row[i] for i in self.key_indexes])

    def key_row(self, key: Key) -> Row:
        """A full-width row with only the key filled, as ``gone`` and ``compensation`` carry it."""
        cells: list[Cell] = [None] * len(self.columns)
        for index, cell in zip(self.key_indexes, key, strict=True):
            cells[index] = cell
        return tuple(cells)


@dataclass(frozen=True, slots=True)
class Insert:
    relation_id: int
    row: Row
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """Both images are whole rows. Without an old image (``old_row`` None) every column counts as changed."""

    relation_id: int
    row: Row
    old_row: Row | None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    relation_id: int
    old_row: Row
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compensation:
    """Keeps or revives the row with this key without changing a column. ``row`` is full width, key cells only."""

    relation_id: int
    row: Row
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """The row leaves the device's shapes; it may well live on elsewhere. ``row`` is full width, key cells only."""

    relation_id: int
    row: Row


@dataclass(frozen=True, slots=True)
class MigrationColumn:
    """``sequence``: an insert that leaves it out takes the next value of one, of which blocks can be reserved."""

    name: str
    sqlite_type: str
    pg_type: str
    sequence: bool = False


@dataclass(frozen=True, slots=True)
class MigrationForeignKey:
    columns: tuple[str, ...]
    parent_table: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationCheck:
    """What a write has to meet. ``condition``: SQL over the row ``new``; false: ``message`` is said of the write.
    ``columns``: all that it names. ``name``: the constraint's, empty where it is the type of a column."""

    name: str
    columns: tuple[str, ...]
    condition: str
    message: str


@dataclass(frozen=True, slots=True)
class MigrationTable:
    """The whole table as it stands after the statement, from which a device builds its triggers. ``registers``:
    sets of columns of which a write of one is one of all. Both are for peers that take extensions."""

    name: str
    columns: tuple[MigrationColumn, ...]
    foreign_keys: tuple[MigrationForeignKey, ...]
    primary_key: tuple[str, ...]
    checks: tuple[MigrationCheck, ...] = ()
    registers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationEnum:
    name: str
    labels: tuple[str, ...]


# SatOpMigrate.Stmt.type on the wire.
CREATE_TABLE = 0
CREATE_INDEX = 1
CREATE_ENUM_TYPE = 2
ALTER_ADD_COLUMN = 6


@dataclass(frozen=True, slots=True)
class Migrate:
    """One step of a migration: ``statements`` are (kind, SQL in the device's dialect)."""

    version: str
    statements: tuple[tuple[int, str], ...]
    table: MigrationTable | None = None
    enum: MigrationEnum | None = None


RowChange: TypeAlias = Insert | Update | Delete | Compensation | Gone
Change: TypeAlias = RowChange | Migrate


@dataclass(frozen=True, slots=True)
class RejectionReason:
    """Why a device's transaction was rejected. ``sqlstate``: Postgres' five-character code.

    What is at fault is in ``table``: ``columns`` of it, and the row with ``key``, (column, cell) of each in it.
    ``winner``: of the row there that has what was to be unique. ``follows``: the time of an earlier transaction of the
    device, which was rejected and had made the row that this one is about. None or empty for what is not known.
    """

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    table: str | None = None
    constraint: str | None = None
    columns: tuple[str, ...] = ()
    key: tuple[tuple[str, bytes], ...] = ()
    winner: tuple[tuple[str, bytes], ...] = ()
    follows: int | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """All of a transaction or, while it is still being read, nothing: peers never see half of one.

    ``commit_ms``: milliseconds since the epoch. ``lsn``: opaque position in the sender's stream, never empty from a
    server. ``origin``: the client id of the device that wrote it, else the Postgres origin (``postgres_1``); None only
    from a device, whose origin the server knows. ``transaction_id``: what acks name; required from a server.
    ``latest_ms``: nothing in it is of a later time; what stands for several has that of the last. ``rejection``: it is
    the device's own, and was rejected; the changes are what sets it right. ``carried_out``: the times of others of the
    device's own that are still to come back, and are in what this one says and in all that come later.
    """

    commit_ms: int
    lsn: bytes
    changes: tuple[Change, ...]
    origin: str | None = None
    transaction_id: int | None = None
    additional_data_ref: int = 0
    latest_ms: int = field(default=0, compare=False)
    rejection: RejectionReason | None = None
    carried_out: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShapeRequest:
    """One ``select`` of a subscription. ``include`` pairs foreign-key columns with the select on the other side.

    ``where``: empty for every row; ``columns``: empty for all of them.
    """

    request_id: str
    table: str
    where: str = ""
    include: tuple[tuple[tuple[str, ...], ShapeRequest], ...] = field(default=())
    columns: tuple[str, ...] = ()


POSTGRES_ORIGIN = "postgres_1"
FINAL_MS = 1
"""The commit time of a transaction of Postgres' that stands for several. It is that early since nobody knows which
column was written when: what waits for its echo stands. The commit says the latest of its times."""
