"""The bytes of a SatOpLog to operations: the half of the codec that meets whatever a peer sends.

Reading is fastest with protobuf's own parser, but what it allocates can be many times what it is given. So a log is
walked entry by entry first, which counts the operations, and is parsed in chunks of bounded size. An operation larger
than a chunk must be a row with large cells and is read by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from syncline.proto import satellite_pb2 as pb
from syncline.proto.errors import invalid
from syncline.proto.ops import AdditionalBegin, AdditionalCommit, Begin, Commit, Op
from syncline.proto.values import (
    Cell,
    Change,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    MigrationCheck,
    MigrationColumn,
    MigrationEnum,
    MigrationForeignKey,
    MigrationTable,
    RejectionReason,
    Row,
    RowChange,
    Update,
)

# Postgres has no wider row than this (its MaxTupleAttributeNumber).
COLUMNS_MAX: Final = 1664
# Operations in one SatOpLog. The smallest takes four bytes and becomes an object, so bytes alone are no bound.
OPS_PER_LOG_MAX: Final = 2_000_000
# What protobuf's parser is given at once. It turns two bytes into an object of tens, so this bounds what it can use.
CHUNK_BYTES_MAX: Final = 1 << 20
CHUNK_OPS_MAX: Final = 1000
# Tags of one operation that is larger than a chunk; there is about one per device that writes the row at the same time.
TAGS_MAX: Final = 10_000
# Transactions of which one says that they have been carried out.
CARRIED_OUT_MAX: Final = 10_000
_NO_NULLS: Final = tuple(bytes((columns + 7) // 8) for columns in range(COLUMNS_MAX + 1))


class _UnusualError(Exception):
    """Not the layout the reader of large operations knows."""


def decode_ops(body: bytes, ops_max: int = OPS_PER_LOG_MAX) -> list[Op]:
    """The operations of a SatOpLog's body, in order.

    Raises ProtocolError (INVALID_REQUEST) for anything that is not such a body or holds more than ``ops_max`` of them.
    """
    ops: list[Op] = []
    for part, _ in read_ops(body):
        if len(ops) + len(part) > ops_max:
            raise invalid(f"a SatOpLog of more than {ops_max} operations")
        ops += part
    return ops


def read_ops(body: bytes) -> Iterator[tuple[list[Op], int]]:
    """The same, in parts that take a few milliseconds to read, each with its size in bytes; as many as there are."""
    chunk_start = chunk_ops = pos = 0
    end = len(body)
    while pos < end:
        start = pos
        try:
            if body[pos] != 0x0A:
                raise invalid("a SatOpLog holds something that is not an operation")
            n = body[pos + 1]
            if n < 0x80:
                pos += 2
            else:
                n, pos = _read_varint(body, pos + 1)
        except IndexError:
            raise invalid("a SatOpLog is cut off") from None
        content, pos = pos, pos + n
        if pos > end:
            raise invalid("an operation claims to be longer than its SatOpLog")
        chunk_ops += 1
        if n > CHUNK_BYTES_MAX:
            yield [*_read_chunk(body[chunk_start:start]), _read_large_op(body, content, pos)], pos - chunk_start
        elif chunk_ops < CHUNK_OPS_MAX and pos - chunk_start < CHUNK_BYTES_MAX:
            continue
        else:
            yield _read_chunk(body[chunk_start:pos]), pos - chunk_start
        chunk_start, chunk_ops = pos, 0
    if chunk_start < end:
        yield _read_chunk(body[chunk_start:]), end - chunk_start


def decode_changes(body: bytes) -> Iterator[Change]:
    """The changes of a SatOpLog's body in order, however many, but for what begins or ends a transaction.

    Raises ProtocolError (INVALID_REQUEST) for anything that is not such a body.
    """
    for part, _ in read_ops(body):
        for op in part:
            if not isinstance(op, Begin | Commit | AdditionalBegin | AdditionalCommit):
                yield op


def cut_ops(body: bytes, ops_max: int) -> Iterator[bytes]:
    """``body`` in parts of at most ``ops_max`` operations each, for those who cannot read a long one at a stretch.

    Raises ProtocolError (INVALID_REQUEST) for what is not a row of whole operations.
    """
    start = pos = count = 0
    try:
        while pos < len(body):
            if body[pos] != 0x0A:
                raise invalid("a SatOpLog holds something that is not an operation")
            length, pos = _read_varint(body, pos + 1)
            pos += length
            count += 1
            if count == ops_max:
                yield body[start:pos]
                start, count = pos, 0
    except IndexError:
        raise invalid("a SatOpLog is cut off") from None
    if pos > len(body):
        raise invalid("an operation claims to be longer than its SatOpLog")
    if start < pos:
        yield body[start:]


def _read_chunk(body: bytes) -> list[Op]:
    """The operations of ``body``, which is small enough for protobuf's parser."""
    try:
        log = pb.SatOpLog.FromString(body)
    except DecodeError:
        raise invalid("an operation cannot be decoded") from None
    ops: list[Op] = []
    append = ops.append
    for op in log.ops:
        kind = op.WhichOneof("op")
        if kind == "insert":
            insert = op.insert
            append(Insert(insert.relation_id, decode_row(insert.row_data), tuple(insert.tags)))
        else:
            append(_op_of(op, kind))
    return ops


def _read_large_op(data: bytes, pos: int, end: int) -> RowChange:
    """A row operation too large for protobuf's parser: most of it must be cells, and few of them."""
    try:
        return _read_row_op(data, pos, end)
    except (_UnusualError, IndexError):
        raise invalid(f"an operation of more than {CHUNK_BYTES_MAX} bytes that is not a plain row") from None


def _read_varint(data: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7
        if shift > 63:
            raise invalid("a number of more than 64 bits")


def _read_row_op(data: bytes, pos: int, end: int) -> RowChange:
    kind = data[pos]
    n = data[pos + 1]
    if n < 0x80:
        pos += 2
    else:
        n, pos = _read_varint(data, pos + 1)
    if pos + n != end or kind not in _ROW_OPS:
        raise _UnusualError
    relation_id = 0
    if data[pos] == 0x08:
        relation_id, pos = _read_varint(data, pos + 1)
        if relation_id > 0xFFFFFFFF:
            raise _UnusualError
    row, pos = _read_row(data, pos, end, 0x12)
    if kind == 0x22:
        return Insert(relation_id, row, _read_tags(data[pos:end], 0x1A))
    if kind == 0x1A:
        old_row = None
        if pos < end and data[pos] == 0x1A:
            old_row, pos = _read_row(data, pos, end, 0x1A)
        return Update(relation_id, row, old_row, _read_tags(data[pos:end], 0x22))
    if kind == 0x2A:
        return Delete(relation_id, row, _read_tags(data[pos:end], 0x1A))
    if kind == 0x3A:
        return Compensation(relation_id, row, _read_tags(data[pos:end], 0x22))
    if pos != end:
        raise _UnusualError
    return Gone(relation_id, row)


_ROW_OPS: Final = frozenset((0x1A, 0x22, 0x2A, 0x3A, 0x42))


def _read_row(data: bytes, pos: int, limit: int, tag: int) -> tuple[Row, int]:
    if pos >= limit or data[pos] != tag:
        raise _UnusualError
    n = data[pos + 1]
    if n < 0x80:
        pos += 2
    else:
        n, pos = _read_varint(data, pos + 1)
    end = pos + n
    if not n:
        return (), pos
    if end > limit or data[pos] != 0x0A:
        raise _UnusualError
    n = data[pos + 1]
    if n < 0x80:
        pos += 2
    else:
        n, pos = _read_varint(data, pos + 1)
    mask = data[pos : pos + n]
    pos += n
    cells: list[Cell] = []
    for _ in range(COLUMNS_MAX + 1):
        if pos >= end:
            break
        if data[pos] != 0x12:
            raise _UnusualError
        n = data[pos + 1]
        if n < 0x80:
            pos += 2
        else:
            n, pos = _read_varint(data, pos + 1)
        stop = pos + n
        cells.append(data[pos:stop])
        pos = stop
    else:
        raise invalid(f"a row of more than {COLUMNS_MAX} columns")
    if pos != end:
        raise _UnusualError
    return _apply_mask(mask, cells), end


@lru_cache(maxsize=4096)
def _null_columns(mask: bytes, columns: int) -> tuple[int, ...]:
    if len(mask) != (columns + 7) >> 3:
        raise invalid(f"a row of {columns} values has a null mask of {len(mask)} bytes")
    if int.from_bytes(mask, "big") & ((1 << (len(mask) * 8 - columns)) - 1):
        raise invalid("a null mask marks columns beyond the last")
    return tuple(i for i in range(columns) if mask[i >> 3] & (0x80 >> (i & 7)))


def _apply_mask(mask: bytes, cells: list[Cell]) -> Row:
    for i in _null_columns(mask, len(cells)):
        if cells[i]:
            raise invalid(f"column {i} of a row is marked as null and has a value")
        cells[i] = None
    return tuple(cells)


def _read_tags(data: bytes, tag: int) -> tuple[str, ...]:
    tags: list[str] = []
    pos, end = 0, len(data)
    while pos < end:
        if data[pos] != tag:
            raise _UnusualError
        n, pos = _read_varint(data, pos + 1)
        if pos + n > end:
            raise _UnusualError
        if len(tags) >= TAGS_MAX:
            raise invalid(f"an operation with more than {TAGS_MAX} tags")
        try:
            tags.append(data[pos : pos + n].decode())
        except UnicodeDecodeError:
            raise invalid("a tag is not UTF-8") from None
        pos += n
    return tuple(tags)


def _op_of(op: pb.SatTransOp, kind: str | None) -> Op:
    match kind:
        case "begin":
            begin = op.begin
            if len(begin.carried_out) > CARRIED_OUT_MAX:
                raise invalid(f"a transaction that says of more than {CARRIED_OUT_MAX} that they are carried out")
            return Begin(
                begin.commit_timestamp,
                begin.lsn,
                begin.origin if begin.HasField("origin") else None,
                begin.transaction_id if begin.HasField("transaction_id") else None,
                begin.additional_data_ref,
                begin.is_migration,
                _rejection_of(begin.rejection) if begin.HasField("rejection") else None,
                tuple(begin.carried_out),
            )
        case "commit":
            return Commit(op.commit.commit_timestamp, op.commit.lsn, op.commit.additional_data_ref)
        case "update":
            old = decode_row(op.update.old_row_data) if op.update.HasField("old_row_data") else None
            return Update(op.update.relation_id, decode_row(op.update.row_data), old, tuple(op.update.tags))
        case "delete":
            return Delete(op.delete.relation_id, decode_row(op.delete.old_row_data), tuple(op.delete.tags))
        case "compensation":
            compensation = op.compensation
            return Compensation(compensation.relation_id, decode_row(compensation.pk_data), tuple(compensation.tags))
        case "gone":
            return Gone(op.gone.relation_id, decode_row(op.gone.pk_data))
        case "migrate":
            return _migrate_of(op.migrate)
        case "additional_begin":
            return AdditionalBegin(op.additional_begin.ref)
        case "additional_commit":
            return AdditionalCommit(op.additional_commit.ref)
    raise invalid("an operation of a kind we do not know")


def _rejection_of(message: pb.SatRejection) -> RejectionReason:
    return RejectionReason(
        message.sqlstate,
        message.message,
        message.detail if message.HasField("detail") else None,
        message.hint if message.HasField("hint") else None,
        message.table_name if message.HasField("table_name") else None,
        message.constraint if message.HasField("constraint") else None,
        tuple(message.columns),
        tuple((cell.column, cell.value) for cell in message.key),
        tuple((cell.column, cell.value) for cell in message.winner),
        message.follows if message.HasField("follows") else None,
    )


def decode_row(message: pb.SatOpRow) -> Row:
    """The cells of a SatOpRow. Raises ProtocolError when mask and values do not fit each other."""
    cells = tuple(message.values)
    columns = len(cells)
    if columns > COLUMNS_MAX:
        raise invalid(f"a row of more than {COLUMNS_MAX} columns")
    mask = message.nulls_bitmask
    return cells if mask == _NO_NULLS[columns] else _apply_mask(mask, list(cells))


def _migrate_of(message: pb.SatOpMigrate) -> Migrate:
    table: MigrationTable | None = None
    enum: MigrationEnum | None = None
    match message.WhichOneof("affected_entity"):
        case "table":
            table = MigrationTable(
                message.table.name,
                tuple(
                    MigrationColumn(c.name, c.sqlite_type, c.pg_type.name, c.sequence) for c in message.table.columns
                ),
                tuple(
                    MigrationForeignKey(tuple(fk.fk_cols), fk.pk_table, tuple(fk.pk_cols)) for fk in message.table.fks
                ),
                tuple(message.table.pks),
                tuple(MigrationCheck(c.name, tuple(c.columns), c.condition, c.message) for c in message.table.checks),
                tuple(tuple(register.columns) for register in message.table.registers),
            )
        case "enum_type":
            enum = MigrationEnum(message.enum_type.name, tuple(message.enum_type.values))
    return Migrate(message.version, tuple((int(stmt.type), stmt.sql) for stmt in message.stmts), table, enum)
