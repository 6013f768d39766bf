"""The bodies inside RPCs: what a device asks for, and what a server answers, as events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.blocks import RELEASED_BLOCKS_MAX, Block, check_block, check_reserved
from syncline.proto.bounds import check_client_id, check_ids
from syncline.proto.digest import Holdings, check_holdings
from syncline.proto.errors import invalid
from syncline.proto.events import (
    AuthRequested,
    ReachRequested,
    ReleaseRequested,
    Reserved,
    ReserveRefused,
    ReserveRequested,
    ServerEvent,
    StartRequested,
    StopRequested,
    StreamRefused,
    StreamStarted,
    Subscribed,
    SubscribeRefused,
    SubscribeRequested,
    UnsubscribeRequested,
)
from syncline.proto.flow import WINDOW_TRANSACTIONS
from syncline.proto.forks import OPENINGS_MAX, Opening
from syncline.proto.values import ShapeRequest

# Of the subscriptions in a start, which has 128 KB of sums besides and is to be a message.
DESCRIBED_BYTES_MAX: Final = 64 << 10
_DIALECTS: Final = {"sqlite": "SQLITE", "postgresql": "POSTGRES"}


def read_call(method: str, request_id: int, body: bytes) -> ServerEvent:
    """What a device asks for. Raises ProtocolError for a body that does not decode or lacks what it must have."""
    match method:
        case "authenticate":
            auth = codec.decode_body(pb.SatAuthReq, body)
            if not auth.id or not auth.token:
                raise invalid("authenticate needs a client id and a token")
            check_client_id(auth.id)
            check_ids("opening", (opening.id for opening in auth.openings))
            if len(auth.openings) > OPENINGS_MAX:
                raise invalid(f"more than {OPENINGS_MAX} openings")
            openings = tuple(Opening(opening.id, opening.first) for opening in auth.openings)
            return AuthRequested(request_id, auth.id, auth.token, openings)
        case "startReplication":
            start = codec.decode_body(pb.SatInStartReplicationReq, body)
            check_ids("subscription", start.subscription_ids)
            holdings = _holdings_of(start.holdings) if start.HasField("holdings") else None
            return StartRequested(
                request_id,
                start.lsn,
                tuple(start.subscription_ids),
                start.schema_version if start.HasField("schema_version") else None,
                "postgresql" if start.sql_dialect == pb.SatInStartReplicationReq.POSTGRES else "sqlite",
                tuple(start.observed_transaction_data),
                holdings,
                {} if holdings is None else dict(map(_subscription_of, start.subscriptions)),
            )
        case "subscribe":
            return SubscribeRequested(request_id, *_subscription_of(codec.decode_body(pb.SatSubsReq, body)))
        case "unsubscribe":
            unsubscribe = codec.decode_body(pb.SatUnsubsReq, body)
            check_ids("subscription", unsubscribe.subscription_ids)
            return UnsubscribeRequested(request_id, tuple(unsubscribe.subscription_ids))
        case "reach":
            return ReachRequested(request_id, codec.decode_body(pb.SatReachReq, body).lsn)
        case "reserve":
            reserve = codec.decode_body(pb.SatReserveReq, body)
            check_reserved(reserve.count, reserve.left)
            return ReserveRequested(request_id, reserve.table, reserve.column, reserve.count, reserve.left)
        case "release":
            release = codec.decode_body(pb.SatReleaseReq, body)
            if len(release.blocks) > RELEASED_BLOCKS_MAX:
                raise invalid(f"more than {RELEASED_BLOCKS_MAX} blocks are given back")
            return ReleaseRequested(request_id, release.table, release.column, _blocks_of(release.blocks))
    codec.decode_body(pb.SatInStopReplicationReq, body)
    return StopRequested(request_id)


def start_body(
    lsn: bytes,
    subscription_ids: Sequence[str],
    schema_version: str | None,
    dialect: str,
    observed_additional_data: Sequence[int],
    holdings: Holdings | None = None,
    described: Sequence[tuple[str, Sequence[ShapeRequest]]] = (),
) -> bytes:
    """A device's startReplication; see ``ClientSession.start``. The dialect is always written out."""
    request = pb.SatInStartReplicationReq(lsn=lsn, sql_dialect=_DIALECTS[dialect])
    if lsn:
        request.subscription_ids.extend(subscription_ids)
        request.observed_transaction_data.extend(observed_additional_data)
    if schema_version is not None and (not lsn or holdings is not None):
        request.schema_version = schema_version
    if holdings is not None:
        tables = [pb.SatHoldings.Table(table_name=name, sums=sums) for name, sums in holdings.tables.items()]
        request.holdings.CopyFrom(pb.SatHoldings(salt=holdings.salt, tables=tables))
        room = DESCRIBED_BYTES_MAX
        for id, shapes in reversed(described):
            subscription = codec.subscribe_message(id, shapes)
            room -= subscription.ByteSize()
            if room < 0:
                break
            request.subscriptions.append(subscription)
    return request.SerializeToString()


def _subscription_of(message: pb.SatSubsReq) -> tuple[str, tuple[ShapeRequest, ...]]:
    """Its id and what it asks for. Raises ProtocolError for ids that are none, and for too many shapes."""
    shapes = codec.shape_requests_of(message)
    check_ids("subscription", (message.subscription_id,))
    check_ids("shape request", (shape.request_id for shape in shapes))
    return message.subscription_id, shapes


def _holdings_of(message: pb.SatHoldings) -> Holdings:
    """Raises ProtocolError for what no device of ours sends."""
    holdings = Holdings(message.salt, {table.table_name: table.sums for table in message.tables})
    check_holdings(holdings)
    return holdings


def read_start_answer(body: bytes) -> StreamStarted | StreamRefused:
    """A server's answer to startReplication. Raises ProtocolError for a body that does not decode."""
    answer = codec.decode_body(pb.SatInStartReplicationResp, body)
    if answer.HasField("err"):
        codes = pb.SatInStartReplicationResp.ReplicationError.Code
        return StreamRefused(codec.enum_name(codes, answer.err.code), answer.err.message)
    return StreamStarted(answer.unacked_window_size or WINDOW_TRANSACTIONS)


def read_subscribe_answer(body: bytes, subscription_id: str) -> Subscribed | SubscribeRefused:
    """A server's answer to the subscribe of ``subscription_id``. Raises ProtocolError if it does not decode."""
    answer = codec.decode_body(pb.SatSubsResp, body)
    subscription_id = answer.subscription_id or subscription_id
    if not answer.HasField("err"):
        return Subscribed(subscription_id)
    codes = pb.SatSubsResp.SatSubsError.Code
    shape_codes = pb.SatSubsResp.SatSubsError.ShapeReqError.Code
    errors = tuple(
        (error.request_id, codec.enum_name(shape_codes, error.code), error.message)
        for error in answer.err.shape_request_error
    )
    return SubscribeRefused(subscription_id, codec.enum_name(codes, answer.err.code), answer.err.message, errors)


def block_messages(blocks: Iterable[Block]) -> list[pb.SatBlock]:
    return [pb.SatBlock(first=block.first, last=block.last, step=block.step) for block in blocks]


def _blocks_of(messages: Iterable[pb.SatBlock]) -> tuple[Block, ...]:
    """Raises ProtocolError for what is none."""
    blocks = tuple(Block(message.first, message.last, message.step) for message in messages)
    for block in blocks:
        check_block(block)
    return blocks


def read_reserve_answer(body: bytes, table: str, column: str) -> Reserved | ReserveRefused:
    """A server's answer to the reserve for that column. Raises ProtocolError if it does not decode."""
    answer = codec.decode_body(pb.SatReserveResp, body)
    if answer.HasField("err"):
        code = codec.enum_name(pb.SatReserveResp.ReserveError.Code, answer.err.code)
        return ReserveRefused(table, column, code, answer.err.message)
    return Reserved(table, column, _blocks_of(answer.blocks))
