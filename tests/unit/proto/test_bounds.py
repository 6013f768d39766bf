"""The values a device may send, at their ends and one step beyond."""

from __future__ import annotations

import pytest
from tests.unit.proto.conversation import DEVICE_ITEMS, Conversation, streaming, writing

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.errors import ErrorCode, ProtocolError
from syncline.proto.events import AuthRequested, WriteReceived
from syncline.proto.ops import Begin
from syncline.proto.session import ServerSession
from syncline.proto.values import Insert

ROW = (b"1", b"one")


def sent(lsn: bytes = b"\x07", ms: int = 500, tags: tuple[str, ...] = ()) -> WriteReceived:
    """What comes of a device transaction with these values."""
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    row = (*ROW, *[None] * (len(DEVICE_ITEMS.columns) - 2))
    log = codec.oplog_message(
        codec.encode_begin(ms, lsn, None, None), codec.encode_ops((Insert(0, row, tags),)), codec.encode_commit(0, b"")
    )
    (event,) = session.receive(log)
    assert isinstance(event, WriteReceived)
    return event


@pytest.mark.parametrize("lsn", [b"", b"\x00" * 8, b"\x7f" + b"\xff" * 7, b"\x01"])
def test_positions_that_a_bigint_holds_pass(lsn: bytes) -> None:
    assert sent(lsn=lsn).lsn == lsn


@pytest.mark.parametrize("lsn", [b"\x80" + b"\x00" * 7, b"\x00" * 9, b"\xff" * 2000])
def test_other_positions_are_refused(lsn: bytes) -> None:
    with pytest.raises(ProtocolError, match="below 2\\^63"):
        sent(lsn=lsn)


@pytest.mark.parametrize("ms", [1, 2**53 - 1])
def test_times_that_javascript_holds_pass(ms: int) -> None:
    assert sent(ms=ms).commit_ms == ms


@pytest.mark.parametrize("ms", [0, 2**53, 2**64 - 1])
def test_other_times_are_refused(ms: int) -> None:
    with pytest.raises(ProtocolError, match="no time in milliseconds"):
        sent(ms=ms)


@pytest.mark.parametrize("tag", ["a@0", "a@b@12", "x" * 64 + "@" + "9" * 18, "ä ö@1", "postgres_1@0"])
def test_tags_that_are_an_origin_and_a_time_pass(tag: str) -> None:
    ((_, change),) = sent(tags=(tag,)).changes
    assert isinstance(change, Insert)
    assert change.tags == (tag,)


@pytest.mark.parametrize(
    "tag", ["", "a", "@1", "a@", "a@-1", "a@1 ", "a@1\n", "a\x00b@1", "x" * 65 + "@1", "a@" + "9" * 19]
)
def test_other_tags_are_refused(tag: str) -> None:
    with pytest.raises(ProtocolError, match="not a tag") as refused:
        sent(tags=("a@1", tag))
    assert refused.value.lsn == b"\x07"


def authenticated_as(client_id: str) -> str:
    (event,) = ServerSession().receive(
        codec.rpc_request("authenticate", 1, pb.SatAuthReq(id=client_id, token="t").SerializeToString())
    )
    assert isinstance(event, AuthRequested)
    return event.client_id


@pytest.mark.parametrize("client_id", ["a", "x" * 64, "Jörg's tablet @home"])
def test_client_ids_of_printable_characters_pass(client_id: str) -> None:
    assert authenticated_as(client_id) == client_id


@pytest.mark.parametrize("client_id", ["x" * 65, "a\x00", "a\nb", "\u202ea", "postgres_1", "postgres_1@5"])
def test_other_client_ids_are_refused(client_id: str) -> None:
    with pytest.raises(ProtocolError, match=r"device|client id"):
        authenticated_as(client_id)


def asking(conversation: Conversation, method: str, id: str) -> None:
    bodies = {
        "subscribe": pb.SatSubsReq(
            subscription_id=id,
            shape_requests=[
                pb.SatShapeReq(
                    request_id=id, shape_definition=pb.SatShapeDef(selects=[pb.SatShapeDef.Select(tablename="items")])
                )
            ],
        ),
        "unsubscribe": pb.SatUnsubsReq(subscription_ids=[id]),
    }
    conversation.server.receive(codec.rpc_request(method, 9, bodies[method].SerializeToString()))


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
def test_ids_of_subscriptions_and_requests_are_bounded(method: str) -> None:
    asking(streaming(), method, "x" * 64)
    for id in ("x" * 65, "a\x00b", "\x7f"):
        with pytest.raises(ProtocolError, match="printable") as refused:
            asking(streaming(), method, id)
        assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_ids_in_an_ack_are_bounded() -> None:
    with pytest.raises(ProtocolError, match="printable"):
        streaming().server.receive(codec.ack_message(1, b"1", gone_subscription_ids=("a\x00",)))


def test_a_begin_says_of_no_more_than_so_many_that_they_are_carried_out() -> None:
    times = range(1, codec.CARRIED_OUT_MAX + 1)
    (begin,) = codec.decode_ops(codec.encode_begin(1, b"1", "postgres_1", 1, carried_out=times))
    assert isinstance(begin, Begin)
    assert begin.carried_out == tuple(times)
    with pytest.raises(ProtocolError, match="carried out"):
        codec.decode_ops(codec.encode_begin(1, b"1", "postgres_1", 1, carried_out=(*times, 7)))
