"""Messages of the Satellite protocol to bytes and back.

Every function that returns bytes returns one whole message, type byte first, ready to be sent; except ``encode_ops``,
``encode_inserts``, ``encode_begin`` and ``encode_commit`` (module ``ops``), which return pieces of a SatOpLog for
``oplog_message`` to join. Nothing here knows the order in which messages may come: that is the session's.

``decode`` is the one door for bytes from outside. Whatever it is given, it returns a message or raises ProtocolError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from syncline.proto import satellite_pb2 as pb
from syncline.proto.digest import TableDifference, check_buckets
from syncline.proto.errors import ErrorCode, invalid
from syncline.proto.forks import Opening, Parted
from syncline.proto.op_reader import CARRIED_OUT_MAX as CARRIED_OUT_MAX
from syncline.proto.op_reader import COLUMNS_MAX as COLUMNS_MAX
from syncline.proto.op_reader import OPS_PER_LOG_MAX as OPS_PER_LOG_MAX
from syncline.proto.op_reader import cut_ops as cut_ops
from syncline.proto.op_reader import decode_changes as decode_changes
from syncline.proto.op_reader import decode_ops as decode_ops
from syncline.proto.op_reader import decode_row as decode_row
from syncline.proto.op_reader import read_ops as read_ops
from syncline.proto.ops import Op as Op
from syncline.proto.ops import encode_begin as encode_begin
from syncline.proto.ops import encode_commit as encode_commit
from syncline.proto.ops import encode_inserts as encode_inserts
from syncline.proto.ops import encode_migrate as encode_migrate
from syncline.proto.ops import encode_ops as encode_ops
from syncline.proto.ops import encode_row as encode_row
from syncline.proto.ops import without_extensions as without_extensions
from syncline.proto.values import Column, Migrate, Relation, ShapeRequest, Transaction

# A message other than a SatOpLog. Protobuf's parser makes an object of tens of bytes out of two, so this bounds what a
# frame can cost; six thousand subscription ids, or a relation of 1,664 columns, still fit.
MESSAGE_BYTES_MAX: Final = 256 << 10
# Shapes in one subscription. The clients in the field ask for one.
SHAPES_PER_SUBSCRIPTION_MAX: Final = 1000


class MessageType(IntEnum):
    """The type byte of a frame."""

    ERROR = 0
    OP_LOG = 9
    RELATION = 10
    SUBS_DATA_ERROR = 14
    SUBS_DATA_BEGIN = 15
    SUBS_DATA_END = 16
    SHAPE_DATA_BEGIN = 17
    SHAPE_DATA_END = 18
    RPC_REQUEST = 21
    RPC_RESPONSE = 22
    OP_LOG_ACK = 23
    UNSUBS_DATA_BEGIN = 24
    UNSUBS_DATA_END = 25
    # Extensions.
    REPAIR_BEGIN = 64
    REPAIR_END = 65
    ACK_REQUEST = 66


_MESSAGES: Final[dict[int, type[Message]]] = {
    MessageType.ERROR: pb.SatErrorResp,
    MessageType.RELATION: pb.SatRelation,
    MessageType.SUBS_DATA_ERROR: pb.SatSubsDataError,
    MessageType.SUBS_DATA_BEGIN: pb.SatSubsDataBegin,
    MessageType.SUBS_DATA_END: pb.SatSubsDataEnd,
    MessageType.SHAPE_DATA_BEGIN: pb.SatShapeDataBegin,
    MessageType.SHAPE_DATA_END: pb.SatShapeDataEnd,
    MessageType.RPC_REQUEST: pb.SatRpcRequest,
    MessageType.RPC_RESPONSE: pb.SatRpcResponse,
    MessageType.OP_LOG_ACK: pb.SatOpLogAck,
    MessageType.UNSUBS_DATA_BEGIN: pb.SatUnsubsDataBegin,
    MessageType.UNSUBS_DATA_END: pb.SatUnsubsDataEnd,
    MessageType.REPAIR_BEGIN: pb.SatRepairBegin,
    MessageType.REPAIR_END: pb.SatRepairEnd,
    MessageType.ACK_REQUEST: pb.SatAckReq,
}
_TYPE_BYTES: Final = {message: bytes((kind,)) for kind, message in _MESSAGES.items()}
_OP_LOG_BYTE: Final = bytes((MessageType.OP_LOG,))

_M = TypeVar("_M", bound=Message)
Decoded: TypeAlias = tuple[MessageType, Message | list[Op]]


# --- reading ----------------------------------------------------------------------------------------------------------


def decode(frame: bytes, ops_max: int = OPS_PER_LOG_MAX, message_bytes_max: int = MESSAGE_BYTES_MAX) -> Decoded:
    """The type and the message of a frame: a list of operations for a SatOpLog, a protobuf message for all others.

    Raises ProtocolError (INVALID_REQUEST) for an empty frame, an unknown type, a body that does not decode, or a limit
    passed.
    """
    if not frame:
        raise invalid("an empty message")
    kind = frame[0]
    if kind == MessageType.OP_LOG:
        return MessageType.OP_LOG, decode_ops(frame[1:], ops_max)
    message = _MESSAGES.get(kind)
    if message is None:
        raise invalid(f"a message of unknown type {kind}")
    if len(frame) > message_bytes_max:
        raise invalid(f"a message of type {kind} with more than {message_bytes_max} bytes")
    return MessageType(kind), _parse(message, frame[1:])


def decode_body(message: type[_M], body: bytes) -> _M:
    """The request or answer inside an RPC. Raises ProtocolError when ``body`` does not decode."""
    return _parse(message, body)


def expect(message_type: type[_M], message: object) -> _M:
    """What ``decode`` returned, as the message its type byte promised."""
    assert isinstance(message, message_type)
    return message


def enum_name(enum: Any, number: int) -> str:
    """The name of a protobuf enum's value; a number new to us reads as UNKNOWN, as newer peers may send one."""
    return str(enum.Name(number)) if number in enum.values() else "UNKNOWN"


def _parse(message: type[_M], body: bytes) -> _M:
    try:
        return message.FromString(body)
    except DecodeError:
        raise invalid(f"a {message.DESCRIPTOR.name} cannot be decoded") from None


def relation_of(message: pb.SatRelation) -> Relation:
    """Raises ProtocolError for more columns than any table has."""
    if len(message.columns) > COLUMNS_MAX:
        raise invalid(f"a relation of more than {COLUMNS_MAX} columns")
    columns = tuple(Column(c.name, c.type, c.primaryKey, c.is_nullable) for c in message.columns)
    return Relation(message.relation_id, message.schema_name, message.table_name, columns)


def differences_of(message: pb.SatRepairBegin) -> tuple[TableDifference, ...]:
    """Raises ProtocolError for a bitmap that does not fit the buckets."""
    for table in message.tables:
        check_buckets(table.buckets)
        if len(table.differing) != -(-table.buckets // 8):
            raise invalid(f"a bitmap of {len(table.differing)} bytes for {table.buckets} buckets")
    return tuple(TableDifference(table.relation_id, table.buckets, table.differing) for table in message.tables)


def shape_requests_of(message: pb.SatSubsReq) -> tuple[ShapeRequest, ...]:
    """The shapes asked for. One without a select has an empty table; a second select repeats the request id.

    Raises ProtocolError for too many of them.
    """
    if len(message.shape_requests) > SHAPES_PER_SUBSCRIPTION_MAX:
        raise invalid(f"a subscription of more than {SHAPES_PER_SUBSCRIPTION_MAX} shapes")
    shapes: list[ShapeRequest] = []
    for request in message.shape_requests:
        selects = request.shape_definition.selects or (pb.SatShapeDef.Select(),)
        shapes.extend(_shape_of(request.request_id, select) for select in selects)
    return tuple(shapes)


def _shape_of(request_id: str, select: pb.SatShapeDef.Select) -> ShapeRequest:
    # Protobuf refuses to parse more than a hundred levels, so this recursion is bounded.
    include = tuple((tuple(link.foreign_key), _shape_of(request_id, link.select)) for link in select.include)
    return ShapeRequest(request_id, select.tablename, select.where, include, tuple(select.columns))


# --- writing ----------------------------------------------------------------------------------------------------------


def message_bytes(message: Message) -> bytes:
    """A whole frame of any message but a SatOpLog."""
    return _TYPE_BYTES[type(message)] + message.SerializeToString()


def rpc_request(method: str, request_id: int, body: bytes) -> bytes:
    return message_bytes(pb.SatRpcRequest(method=method, request_id=request_id, message=body))


def rpc_response(method: str, request_id: int, body: bytes) -> bytes:
    """The answer to a call; an empty ``body`` is still written out, for a missing one reads as a failure."""
    return message_bytes(pb.SatRpcResponse(method=method, request_id=request_id, message=body))


def rpc_error(
    method: str,
    request_id: int,
    code: ErrorCode,
    message: str,
    lsn: bytes | None = None,
    parted: Parted | None = None,
) -> bytes:
    """``parted``: only for a device that takes extensions."""
    error = pb.SatErrorResp(error_type=code.name, message=message, lsn=lsn)
    if parted is not None:
        error.parted.CopyFrom(pb.SatParted(openings=opening_messages(parted.openings)))
    return message_bytes(pb.SatRpcResponse(method=method, request_id=request_id, error=error))


def opening_messages(openings: Iterable[Opening]) -> list[pb.SatOpening]:
    return [pb.SatOpening(id=opening.id, first=opening.first) for opening in openings]


def error_message(code: ErrorCode, message: str, lsn: bytes | None = None) -> bytes:
    return message_bytes(pb.SatErrorResp(error_type=code.name, message=message, lsn=lsn))


def relation_message(relation: Relation) -> bytes:
    columns = [
        pb.SatRelationColumn(name=c.name, type=c.type_name, primaryKey=c.primary_key, is_nullable=c.nullable)
        for c in relation.columns
    ]
    return message_bytes(
        pb.SatRelation(schema_name=relation.schema, table_name=relation.table, relation_id=relation.id, columns=columns)
    )


def oplog_message(*bodies: bytes) -> bytes:
    """A SatOpLog of pieces that ``encode_ops``, ``encode_begin`` and ``encode_commit`` made."""
    return b"".join((_OP_LOG_BYTE, *bodies))


def encode_transaction(tx: Transaction) -> bytes:
    """A SatOpLog that holds the whole of ``tx``."""
    is_migration = any(isinstance(change, Migrate) for change in tx.changes)
    return oplog_message(
        encode_begin(
            tx.commit_ms,
            tx.lsn,
            tx.origin,
            tx.transaction_id,
            tx.additional_data_ref,
            is_migration,
            tx.rejection,
            tx.carried_out,
        ),
        encode_ops(tx.changes),
        encode_commit(tx.commit_ms, tx.lsn, tx.additional_data_ref),
    )


def ack_message(
    transaction_id: int,
    lsn: bytes,
    ack_ms: int = 0,
    subscription_ids: Sequence[str] = (),
    additional_data_refs: Sequence[int] = (),
    gone_subscription_ids: Sequence[str] = (),
) -> bytes:
    return message_bytes(
        pb.SatOpLogAck(
            ack_timestamp=ack_ms,
            lsn=lsn,
            transaction_id=transaction_id,
            subscription_ids=subscription_ids,
            additional_data_source_ids=additional_data_refs,
            gone_subscription_ids=gone_subscription_ids,
        )
    )


def subs_data_begin(subscription_id: str, lsn: bytes, rows_estimate: int | None = None) -> bytes:
    """``rows_estimate``: only for a device that takes extensions."""
    return message_bytes(pb.SatSubsDataBegin(subscription_id=subscription_id, lsn=lsn, rows_estimate=rows_estimate))


def subs_data_end() -> bytes:
    return message_bytes(pb.SatSubsDataEnd())


def shape_data_begin(request_id: str) -> bytes:
    return message_bytes(pb.SatShapeDataBegin(request_id=request_id))


def shape_data_end() -> bytes:
    return message_bytes(pb.SatShapeDataEnd())


def unsubs_data_begin(subscription_ids: Iterable[str], lsn: bytes) -> bytes:
    return message_bytes(pb.SatUnsubsDataBegin(subscription_ids=subscription_ids, lsn=lsn))


def unsubs_data_end() -> bytes:
    return message_bytes(pb.SatUnsubsDataEnd())


def repair_begin(lsn: bytes, tables: Iterable[TableDifference], rows_estimate: int) -> bytes:
    """``tables``: of all tables of the device's shapes."""
    parts = [
        pb.SatRepairBegin.Table(relation_id=table.relation_id, buckets=table.buckets, differing=table.differing)
        for table in tables
    ]
    return message_bytes(pb.SatRepairBegin(lsn=lsn, tables=parts, rows_estimate=rows_estimate))


def repair_end() -> bytes:
    return message_bytes(pb.SatRepairEnd())


def ack_request() -> bytes:
    """Only for a device that takes extensions."""
    return message_bytes(pb.SatAckReq())


def subscribe_body(subscription_id: str, shapes: Iterable[ShapeRequest]) -> bytes:
    """The body of a subscribe call."""
    return subscribe_message(subscription_id, shapes).SerializeToString()


def subscribe_message(subscription_id: str, shapes: Iterable[ShapeRequest]) -> pb.SatSubsReq:
    """One shape definition with one select per request."""
    return pb.SatSubsReq(
        subscription_id=subscription_id,
        shape_requests=[
            pb.SatShapeReq(
                request_id=shape.request_id, shape_definition=pb.SatShapeDef(selects=[_select_message(shape)])
            )
            for shape in shapes
        ],
    )


def _select_message(shape: ShapeRequest) -> pb.SatShapeDef.Select:
    return pb.SatShapeDef.Select(
        tablename=shape.table,
        where=shape.where,
        include=[
            pb.SatShapeDef.Relation(foreign_key=columns, select=_select_message(child))
            for columns, child in shape.include
        ],
        columns=shape.columns,
    )
