"""The messages that cross from host to host, and those that carry rows in a form that costs a microsecond a row.

A link packs a declared dataclass field by field, which is fine for all that is small. A stretch of the stream is
thousands of rows: here it becomes nested tuples of numbers and bytes, which msgpack packs by itself. What is made of
them on the other side equals what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from syncline.actors.devices.claims import ReadConnected, ReadContested
from syncline.actors.devices.contests import Displaced
from syncline.actors.devices.forwarding import BytesLeft, Close, FrameTaken, Sent, TakeSeat
from syncline.actors.devices.reaching import AskReach, ReachAsked, Reached, ReachTold
from syncline.actors.devices.reception import Claim, ConnectionClosed, Evict, FrameArrived
from syncline.actors.postgres.apply import Held
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import RelationColumn, RelationMessage
from syncline.actors.postgres.replicator import Confirm, ReadStreamState, StreamState
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.streamed import (
    MigrationNotice,
    StreamChange,
    TransactionChunk,
    TransactionHead,
    Truncated,
)
from syncline.actors.postgres.write import Encoded, Rejection, RowOperation, Write
from syncline.actors.postgres.writer import ReadHeld, Written
from syncline.actors.shapes.census import Census, ReadCensus
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.log import Page, Record, record_fields
from syncline.actors.shapes.messages import (
    Arrived,
    AskHeld,
    CountImage,
    Dispatch,
    EnsureShape,
    FollowWatermark,
    HeldBelow,
    Join,
    Joined,
    Leave,
    LiveShapes,
    NotifyReady,
    OwnTransaction,
    Piece,
    ReadPage,
    ReadReleased,
    ReadRows,
    ReadWatermark,
    ShapeGone,
    ShapePlace,
    ShapeReady,
    Watermark,
)
from syncline.actors.shapes.reaping import Idle, IdleShape, ReadIdle, RemoveShape
from syncline.actors.shapes.rereading import GiveUp
from syncline.actors.shapes.router import AddRoutes, ShownUpTo, Streamed
from syncline.actors.shapes.shape import Included, Reference, Shape
from syncline.cluster import Form, Forms
from syncline.proto.values import Column, Delete, Insert, Relation, Update

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
    return (int(head.lsn), head.commit_ms, head.xid, head.origin, head.client_ms, head.client_lsn, head.unheeded)


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
        chunk.direct,
    )


def _chunk(plain: Any) -> TransactionChunk:
    head, changes, first, last, migrations, marks, relations, direct = plain
    return TransactionChunk(
        _head(*head),
        _changes(changes),
        first,
        last,
        tuple(MigrationNotice(*notice) for notice in migrations),
        marks,
        tuple(_relation(*relation) for relation in relations),
        direct,
    )


def _plain_relation(relation: RelationMessage) -> tuple[object, ...]:
    columns = [(column.name, column.type_oid, column.type_modifier, column.identity) for column in relation.columns]
    return (relation.oid, relation.schema, relation.table, relation.replica_identity, columns)


def _relation(oid: int, schema: str, table: str, identity: str, columns: Iterable[Any]) -> RelationMessage:
    return RelationMessage(oid, schema, table, identity, tuple(RelationColumn(*column) for column in columns))


def _plain_piece(piece: Piece) -> object:
    return (
        _plain_head(piece.head),
        _plain_changes(piece.changes),
        piece.first,
        piece.last,
        piece.since,
        piece.until,
    )


def _piece(plain: Any) -> Piece:
    head, changes, *rest = plain
    return Piece(_head(*head), _changes(changes), *rest)


def _plain_operation(operation: RowOperation) -> object:
    return (operation.relation_id, operation.op, operation.row, operation.modified, operation.tags, operation.absent)


FORMS: Final[Forms] = {
    TransactionChunk: Form(_plain_chunk, _chunk),
    Piece: Form(_plain_piece, _piece),
    Record: Form(record_fields, lambda plain: Record(*plain)),
    ImageChunk: Form(lambda chunk: (chunk.keys, chunk.ops), lambda plain: ImageChunk(*plain)),
    RowOperation: Form(_plain_operation, lambda plain: RowOperation(*plain)),
    Sent: Form(lambda sent: sent.messages, Sent),
    FrameArrived: Form(lambda arrived: arrived.data, FrameArrived),
}

# From the ingest host to the origin, and back.
STREAM: Final = (Streamed, Confirm, ReadStreamState, StreamState, Lsn)
# Between the origin and the shapes' hosts.
SHAPES: Final = (
    *(AddRoutes, LiveShapes, Shape, Included, Reference, Dispatch, OwnTransaction),
    *(ReadIdle, Idle, IdleShape, RemoveShape, GiveUp, ReadCensus, Census),
)
# Between the shapes' hosts and the edges.
EDGES: Final = (
    *(EnsureShape, ShapePlace, ReadWatermark, FollowWatermark, Watermark, Relation, Column),
    *(Join, Leave, Joined, Arrived, NotifyReady, ShapeReady, ShapeGone, ReadPage, Page, ReadRows, AskHeld, HeldBelow),
    *(CountImage, ReadReleased),
)
# Between the edges and the origin.
REACH: Final = (AskReach, Reached, ReachAsked, ReachTold)
CONNECTIONS: Final = (Claim, Evict, Displaced, ReadConnected, ReadContested)
WRITES: Final = (Write, Encoded, Rejection, Written, ReadHeld, Held, ShownUpTo, Visibility)
# Between the edges and devices on hosts of their own.
DEVICES: Final = (TakeSeat, FrameTaken, BytesLeft, Close, ConnectionClosed)

TYPES: Final[tuple[type, ...]] = (*STREAM, *SHAPES, *EDGES, *CONNECTIONS, *WRITES, *REACH, *DEVICES)
