"""The messages of Postgres' ``pgoutput`` plugin, protocol version 1 in text format, from bytes.

Layouts are those of the manual's chapter "Logical Replication Message Formats". Every function here is pure and takes
one whole message (the payload of one XLogData). Values stay the bytes that the type's output function printed.

``decode`` is called once per changed row, so speed shapes the code: one loop reads a tuple, nothing is checked inside
it, and truncation is caught once per message by comparing where the reading ended with where the bytes end (a slice
past the end is merely short, so the end position overshoots). Message classes have slots but are not frozen, which
would double the cost of making one; treat them as values all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from syncline.actors.postgres.lsn import Lsn

POSTGRES_EPOCH_MS: Final = 946_684_800_000
"""2000-01-01T00:00Z, from which Postgres counts microseconds, in Unix milliseconds."""


class PgoutputError(ValueError):
    """The bytes are no pgoutput message of version 1: a newer protocol was asked for, or the link is broken."""


class Unchanged:
    """The value of a TOASTed column that an UPDATE did not touch and that therefore was not sent."""

    _one: Unchanged | None = None

    def __new__(cls) -> Unchanged:
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()
TupleCell: TypeAlias = bytes | Unchanged | None
TupleData: TypeAlias = tuple[TupleCell, ...]


@dataclass(slots=True)
class Begin:
    """``final_lsn``: position of the commit record. ``commit_us``: microseconds since 2000. ``xid``: 32 bits."""

    final_lsn: Lsn
    commit_us: int
    xid: int

    @property
    def commit_ms(self) -> int:
        """Commit time in Unix milliseconds."""
        return self.commit_us // 1000 + POSTGRES_EPOCH_MS


@dataclass(slots=True)
class Commit:
    """``end_lsn`` is where the commit record ends: the first position after the transaction."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_us: int


@dataclass(slots=True)
class Origin:
    """The transaction was replayed from elsewhere by a subscription or another replication tool."""

    lsn: Lsn
    name: str


@dataclass(slots=True)
class RelationColumn:
    """``identity``: the column is part of the replica identity (all are, when that is FULL)."""

    name: str
    type_oid: int
    type_modifier: int
    identity: bool


@dataclass(slots=True)
class RelationMessage:
    """Sent before the first row of a table on a connection and again after its definition changed.

    ``replica_identity``: ``d`` default, ``n`` nothing, ``f`` full, ``i`` index.
    """

    oid: int
    schema: str
    table: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(slots=True)
class TypeMessage:
    oid: int
    schema: str
    name: str


@dataclass(slots=True)
class InsertMessage:
    """``size``, here and below: bytes of the whole message, what holding on to it costs."""

    relation: int
    row: TupleData
    size: int = field(default=0, compare=False)


@dataclass(slots=True)
class UpdateMessage:
    """``old_kind``: ``O`` when ``old`` is the whole old row, ``K`` when only the replica identity's key columns are in
    it (and only sent when they changed), None when there is no old image."""

    relation: int
    row: TupleData
    old: TupleData | None
    old_kind: str | None
    size: int = field(default=0, compare=False)


@dataclass(slots=True)
class DeleteMessage:
    relation: int
    old: TupleData
    old_kind: str
    size: int = field(default=0, compare=False)


@dataclass(slots=True)
class TruncateMessage:
    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(slots=True)
class LogicalMessage:
    """What ``pg_logical_emit_message`` wrote. A transactional one arrives inside its transaction."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


Message: TypeAlias = (
    Begin
    | Commit
    | Origin
    | RelationMessage
    | TypeMessage
    | InsertMessage
    | UpdateMessage
    | DeleteMessage
    | TruncateMessage
    | LogicalMessage
)

_TUPLE_HEAD = Struct(">BIcH").unpack_from  # type byte, relation, kind of tuple, number of columns
_COLUMNS = Struct(">H").unpack_from
_BEGIN = Struct(">xQqI")
_COMMIT = Struct(">xBQQq")
_ORIGIN = Struct(">xQ")
_OID = Struct(">xI")
_COLUMN_TAIL = Struct(">Ii")
_TRUNCATE = Struct(">xIB")
_MESSAGE = Struct(">xBQ")
_UINT32 = Struct(">I")

_TEXT, _NULL, _UNCHANGED = b"tnu"


def decode(data: bytes) -> Message:
    """One message. Raises PgoutputError for anything that is not exactly one."""
    try:
        return _DECODERS[data[0]](data)
    except KeyError:
        raise PgoutputError(f"unknown message type {data[:1]!r}") from None
    except (IndexError, StructError, UnicodeDecodeError) as cause:
        raise PgoutputError(f"malformed message of type {data[:1]!r}, {len(data)} bytes") from cause


def _tuple(data: bytes, position: int, columns: int) -> tuple[TupleData, int]:
    """The cells of one tuple whose first column starts at ``position``, and the position after it."""
    cells: list[TupleCell] = []
    append = cells.append
    from_bytes = int.from_bytes
    for _ in range(columns):
        kind = data[position]
        if kind == _TEXT:
            start = position + 5
            position = start + from_bytes(data[position + 1 : start], "big")
            append(data[start:position])
        elif kind == _NULL:
            append(None)
            position += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            position += 1
        else:
            raise PgoutputError(f"unknown column kind {kind:#x}: only the text format is asked for")
    return tuple(cells), position


def _insert(data: bytes) -> InsertMessage:
    _, relation, kind, columns = _TUPLE_HEAD(data)
    row, end = _tuple(data, 8, columns)
    if end != len(data) or kind != b"N":
        raise PgoutputError("malformed INSERT")
    return InsertMessage(relation, row, end)


def _update(data: bytes) -> UpdateMessage:
    _, relation, kind, columns = _TUPLE_HEAD(data)
    first, end = _tuple(data, 8, columns)
    if kind == b"N":
        if end != len(data):
            raise PgoutputError("malformed UPDATE")
        return UpdateMessage(relation, first, None, None, end)
    if kind not in (b"O", b"K") or data[end] != 0x4E:
        raise PgoutputError("malformed UPDATE")
    (columns,) = _COLUMNS(data, end + 1)
    row, end = _tuple(data, end + 3, columns)
    if end != len(data):
        raise PgoutputError("malformed UPDATE")
    return UpdateMessage(relation, row, first, "O" if kind == b"O" else "K", end)


def _delete(data: bytes) -> DeleteMessage:
    _, relation, kind, columns = _TUPLE_HEAD(data)
    old, end = _tuple(data, 8, columns)
    if end != len(data) or kind not in (b"O", b"K"):
        raise PgoutputError("malformed DELETE")
    return DeleteMessage(relation, old, "O" if kind == b"O" else "K", end)


def _whole(layout: Struct, data: bytes) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise PgoutputError(f"message of type {data[:1]!r} has {len(data)} bytes instead of {layout.size}")
    return layout.unpack(data)


def _begin(data: bytes) -> Begin:
    final_lsn, commit_us, xid = _whole(_BEGIN, data)
    return Begin(Lsn(final_lsn), commit_us, xid)


def _commit(data: bytes) -> Commit:
    _, commit_lsn, end_lsn, commit_us = _whole(_COMMIT, data)
    return Commit(Lsn(commit_lsn), Lsn(end_lsn), commit_us)


def _string(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\0", position)
    if end < 0:
        raise PgoutputError("unterminated string")
    return data[position:end].decode(), end + 1


def _end(data: bytes, position: int) -> None:
    if position != len(data):
        raise PgoutputError(f"message of type {data[:1]!r}: {len(data) - position} bytes left over")


def _origin(data: bytes) -> Origin:
    (lsn,) = _ORIGIN.unpack_from(data)
    name, end = _string(data, _ORIGIN.size)
    _end(data, end)
    return Origin(Lsn(lsn), name)


def _relation(data: bytes) -> RelationMessage:
    (oid,) = _OID.unpack_from(data)
    schema, position = _string(data, _OID.size)
    table, position = _string(data, position)
    replica_identity = chr(data[position])
    (count,) = _COLUMNS(data, position + 1)
    position += 3
    columns = []
    for _ in range(count):
        flags = data[position]
        name, position = _string(data, position + 1)
        type_oid, type_modifier = _COLUMN_TAIL.unpack_from(data, position)
        position += _COLUMN_TAIL.size
        columns.append(RelationColumn(name, type_oid, type_modifier, bool(flags & 1)))
    _end(data, position)
    return RelationMessage(oid, schema or "pg_catalog", table, replica_identity, tuple(columns))


def _type(data: bytes) -> TypeMessage:
    (oid,) = _OID.unpack_from(data)
    schema, position = _string(data, _OID.size)
    name, position = _string(data, position)
    _end(data, position)
    return TypeMessage(oid, schema or "pg_catalog", name)


def _truncate(data: bytes) -> TruncateMessage:
    count, options = _TRUNCATE.unpack_from(data)
    if len(data) != _TRUNCATE.size + 4 * count:
        raise PgoutputError("malformed TRUNCATE")
    relations = tuple(oid for (oid,) in _UINT32.iter_unpack(data[_TRUNCATE.size :]))
    return TruncateMessage(relations, bool(options & 1), bool(options & 2))


def _logical_message(data: bytes) -> LogicalMessage:
    flags, lsn = _MESSAGE.unpack_from(data)
    prefix, position = _string(data, _MESSAGE.size)
    (length,) = _UINT32.unpack_from(data, position)
    start = position + 4
    _end(data, start + length)
    return LogicalMessage(bool(flags & 1), Lsn(lsn), prefix, data[start:])


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("B"): _begin,
    ord("C"): _commit,
    ord("O"): _origin,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("T"): _truncate,
    ord("M"): _logical_message,
}
