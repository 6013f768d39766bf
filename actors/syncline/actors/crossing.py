"""The messages that carry rows from host to host, in a form that costs a microsecond a row.

A link packs a declared dataclass field by field, which is fine for all that is small. A stretch of the stream is
thousands of rows: here it becomes nested tuples of numbers and bytes, which msgpack packs by itself. What is made of
them on the other side equals what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import RelationColumn, RelationMessage
from syncline.actors.postgres.transaction import (
    MigrationNotice,
    StreamChange,
    TransactionChunk,
    TransactionHead,
    Truncated,
)
from syncline.actors.shapes.consumer import Piece
from syncline.actors.shapes.log import Record, record_fields
from syncline.cluster import Form, Forms
from syncline.proto.values import Delete, Insert, Update

INSERT: Final = 0
UPDATE: Final = 1
DELETE: Final = 2
TRUNCATED: Final = 3


def _plain_changes(changes: Iterable[StreamChange]) -> list[tuple[object, ...]]:
    plain: list[tuple[object, ...]] = []
    for change in changes:
        if isinstance(change, Insert):
            plain.append((INSERT, change.relation_id, change.row, change.tags))
        elif isinstance(change, Update):
            plain.append((UPDATE, change.relation_id, change.row, change.old_row, change.tags))
        elif isinstance(change, Delete):
            plain.append((DELETE, change.relation_id, change.old_row, change.tags))
        elif isinstance(change, Truncated):
            plain.append((TRUNCATED, change.relation_ids))
        else:
            raise TypeError(f"the stream of Postgres has no {type(change).__name__}")
    return plain


_MAKE: Final[tuple[Callable[..., StreamChange], ...]] = (Insert, Update, Delete, Truncated)


def _changes(plain: Iterable[tuple[Any, ...]]) -> list[StreamChange]:
    return [_MAKE[kind](*fields) for kind, *fields in plain]


def _plain_head(head: TransactionHead) -> tuple[object, ...]:
    return (int(head.lsn), head.commit_ms, head.xid, head.origin, head.client_ms, head.client_lsn)


def _head(lsn: int, *rest: Any) -> TransactionHead:
    return TransactionHead(Lsn(lsn), *rest)


def _plain_chunk(chunk: TransactionChunk) -> object:
    return (
        _plain_head(chunk.head),
        _plain_changes(chunk.changes),
        chunk.first,
        chunk.last,
        [(notice.id, notice.version) for notice in chunk.migrations],
        chunk.marks,
        [_plain_relation(relation) for relation in chunk.relations],
    )


def _chunk(plain: Any) -> TransactionChunk:
    head, changes, first, last, migrations, marks, relations = plain
    return TransactionChunk(
        _head(*head),
        _changes(changes),
        first,
        last,
        tuple(MigrationNotice(*notice) for notice in migrations),
        marks,
        tuple(_relation(*relation) for relation in relations),
    )


def _plain_relation(relation: RelationMessage) -> tuple[object, ...]:
    columns = [(column.name, column.type_oid, column.type_modifier, column.identity) for column in relation.columns]
    return (relation.oid, relation.schema, relation.table, relation.replica_identity, columns)


def _relation(oid: int, schema: str, table: str, identity: str, columns: Iterable[Any]) -> RelationMessage:
    return RelationMessage(oid, schema, table, identity, tuple(RelationColumn(*column) for column in columns))


def _plain_piece(piece: Piece) -> object:
    return (_plain_head(piece.head), _plain_changes(piece.changes), piece.first, piece.last)


def _piece(plain: Any) -> Piece:
    head, changes, first, last = plain
    return Piece(_head(*head), _changes(changes), first, last)


FORMS: Final[Forms] = {
    TransactionChunk: Form(_plain_chunk, _chunk),
    Piece: Form(_plain_piece, _piece),
    Record: Form(record_fields, lambda plain: Record(*plain)),
}
