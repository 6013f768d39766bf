"""What a server session lets a device do, and what it keeps its own side from doing."""

from __future__ import annotations

import pytest
from tests.unit.proto.conversation import DEVICE_ITEMS, ITEMS, Conversation, streaming, writing

from syncline.proto import codec, server_session
from syncline.proto import satellite_pb2 as pb
from syncline.proto.assembly import TransactionLimits
from syncline.proto.errors import ErrorCode, Family, ProtocolError
from syncline.proto.events import (
    AckReceived,
    AckRequested,
    AuthRequested,
    PeerFailed,
    Reached,
    ReachRequested,
    StopRequested,
    SubscribeRequested,
    UnsubscribeRequested,
    WriteReceived,
    WriteStarted,
)
from syncline.proto.ops import Begin, Commit
from syncline.proto.session import ServerSession, State
from syncline.proto.states import ARROWS
from syncline.proto.values import (
    Column,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    Relation,
    RowChange,
    ShapeRequest,
    Transaction,
    Update,
)

ROW = (b"1", b"one")


def transaction(*changes: Insert | Update | Delete | Gone | Compensation | Migrate) -> Transaction:
    return Transaction(1000, b"42", changes, "postgres_1", 42)


def call(method: str, request_id: int, body: bytes = b"") -> bytes:
    return codec.rpc_request(method, request_id, body)


def rpc_error_of(frame: bytes) -> pb.SatErrorResp:
    kind, message = codec.decode(frame)
    assert kind == codec.MessageType.RPC_RESPONSE
    assert isinstance(message, pb.SatRpcResponse)
    assert message.WhichOneof("result") == "error"
    return message.error


def device_log(*ops: bytes) -> bytes:
    return codec.oplog_message(*ops)


BEGIN = codec.encode_begin(500, b"\x00\x00\x00\x07", None, None)
COMMIT = codec.encode_commit(0, b"")
ONE = codec.encode_ops([Insert(0, ROW)])


# --- order of calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["startReplication", "stopReplication", "subscribe", "unsubscribe"])
def test_a_call_before_authentication_is_told_so_as_an_rpc_error(method: str) -> None:
    session = ServerSession()
    with pytest.raises(ProtocolError) as caught:
        session.receive(call(method, 1))
    assert caught.value.code is ErrorCode.AUTH_REQUIRED
    assert caught.value.family is Family.REFUSE
    assert rpc_error_of(session.error_frame(caught.value)).error_type == pb.SatErrorResp.AUTH_REQUIRED


@pytest.mark.parametrize("frame", [device_log(BEGIN, COMMIT), codec.relation_message(ITEMS), codec.ack_message(0, b"")])
def test_any_other_message_before_authentication_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="authentication first") as caught:
        ServerSession().receive(frame)
    assert caught.value.code is ErrorCode.AUTH_REQUIRED


@pytest.mark.parametrize(("client_id", "token"), [("", "t"), ("c", ""), ("c" * 65, "t")])
def test_an_empty_id_or_token_or_an_overlong_id_is_an_invalid_request(client_id: str, token: str) -> None:
    session = ServerSession()
    body = pb.SatAuthReq(id=client_id, token=token).SerializeToString()
    with pytest.raises(ProtocolError) as caught:
        session.receive(call("authenticate", 1, body))
    assert rpc_error_of(session.error_frame(caught.value)).error_type == pb.SatErrorResp.INVALID_REQUEST


def test_a_live_connection_may_authenticate_again() -> None:
    talk = streaming()
    assert talk.server.receive(talk.client.authenticate("c1", "newer")) == [AuthRequested(3, "c1", "newer")]
    talk.client.receive(talk.server.authenticated(3, "server"))
    assert talk.server.state is State.STREAMING


def test_an_unknown_method_is_answered_with_an_rpc_error() -> None:
    session = streaming().server
    with pytest.raises(ProtocolError) as caught:
        session.receive(call("dance", 9))
    error = rpc_error_of(session.error_frame(caught.value))
    assert error.error_type == pb.SatErrorResp.INVALID_REQUEST
    assert "dance" in error.message


def test_an_undecodable_body_is_answered_with_an_rpc_error() -> None:
    session = streaming().server
    with pytest.raises(ProtocolError) as caught:
        session.receive(call("subscribe", 9, b"\xff\xff"))
    assert rpc_error_of(session.error_frame(caught.value)).error_type == pb.SatErrorResp.INVALID_REQUEST


def test_a_session_that_has_failed_hears_nothing_more() -> None:
    talk = streaming()
    with pytest.raises(ProtocolError):
        talk.server.receive(b"\x63")
    assert talk.server.state is State.CLOSED
    assert talk.server.receive(talk.client.unsubscribe(["s1"])) == []


def test_a_second_start_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not possible while streaming"):
        streaming().server.receive(call("startReplication", 9))


def test_a_call_id_may_not_be_reused_while_it_waits_for_its_answer() -> None:
    session = streaming().server
    session.receive(call("unsubscribe", 9))
    with pytest.raises(ProtocolError, match="still being answered"):
        session.receive(call("unsubscribe", 9))


def test_no_more_calls_than_the_limit_wait_for_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_session, "OUTSTANDING_CALLS_MAX", 2)
    session = streaming().server
    session.receive(call("unsubscribe", 7))
    session.receive(call("unsubscribe", 8))
    with pytest.raises(ProtocolError, match="calls at once"):
        session.receive(call("unsubscribe", 9))


def test_a_device_may_stop_and_start_again() -> None:
    talk = streaming()
    assert talk.server.receive(talk.client.stop()) == [StopRequested(3)]
    talk.client.receive(talk.server.stopped(3))
    assert talk.server.state is State.AUTHENTICATED
    talk.server.receive(talk.client.start(b"10"))
    talk.client.receive(talk.server.start_accepted(4, 30))
    assert talk.server.state is talk.client.state is State.STREAMING


def test_every_state_but_closed_is_left_by_some_arrow() -> None:
    assert {state for state, _ in ARROWS} == set(State) - {State.CLOSED}


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "stopReplication"])
def test_any_call_can_be_refused_with_an_rpc_error(method: str) -> None:
    session = streaming().server
    session.receive(call(method, 9))
    assert rpc_error_of(session.rpc_error(9, method, ErrorCode.INTERNAL, "no")).message == "no"


def test_a_refused_token_leaves_the_device_unknown() -> None:
    session = ServerSession()
    session.receive(Conversation().client.authenticate("c1", "bad"))
    session.rpc_error(1, "authenticate", ErrorCode.AUTH_REQUIRED, "no")
    assert session.state is State.CONNECTING


# --- what must not be sent --------------------------------------------------------------------------------------------


def test_malformed_lsn_is_never_sent() -> None:
    talk = Conversation().authenticate()
    talk.server.receive(talk.client.start(b"?"))
    with pytest.raises(ProtocolError, match="connected to nothing"):
        talk.server.start_refused(2, "MALFORMED_LSN", "")
    talk.server.start_refused(2, "BEHIND_WINDOW", "start over")
    assert talk.server.state is State.AUTHENTICATED


def test_writes_are_not_asked_for_before_authentication() -> None:
    with pytest.raises(ProtocolError, match="after authentication"):
        ServerSession().start_write()


def test_only_a_call_that_waits_is_answered() -> None:
    talk = streaming()
    with pytest.raises(ProtocolError, match="waits for an answer"):
        talk.server.subscribed(3, "s1")
    talk.server.receive(talk.client.unsubscribe(["s1"]))
    with pytest.raises(ProtocolError, match="waits for an answer"):
        talk.server.subscribed(3, "s1")


# --- what is sent -----------------------------------------------------------------------------------------------------


def decoded_ops(frame: bytes) -> list[object]:
    kind, ops = codec.decode(frame)
    assert kind == codec.MessageType.OP_LOG
    assert isinstance(ops, list)
    return list(ops)


def test_begin_and_commit_repeat_time_position_and_additional_data() -> None:
    tx = Transaction(1000, b"42", (Insert(ITEMS.id, ROW),), "postgres_1", 42, additional_data_ref=7)
    begin, _, commit = decoded_ops(codec.encode_transaction(tx))
    assert begin == Begin(1000, b"42", "postgres_1", 42, 7, False)
    assert commit == Commit(1000, b"42", 7)


def test_an_empty_echo_is_a_begin_and_a_commit_with_origin_and_milliseconds() -> None:
    begin, commit = decoded_ops(codec.encode_transaction(Transaction(1234, b"42", (), "c1", 3)))
    assert begin == Begin(1234, b"42", "c1", 3, 0, False)
    assert commit == Commit(1234, b"42", 0)


def test_a_transaction_with_a_migration_says_so() -> None:
    begin, *_ = decoded_ops(codec.encode_transaction(transaction(Migrate("1", ((0, "CREATE TABLE t ()"),)))))
    assert isinstance(begin, Begin)
    assert begin.is_migration


def test_primary_key_flags_are_sent() -> None:
    message = codec.decode(codec.relation_message(ITEMS))[1]
    assert isinstance(message, pb.SatRelation)
    assert [column.primaryKey for column in message.columns] == [True, False]
    assert message.table_type == pb.SatRelation.TABLE


# --- what a device writes ---------------------------------------------------------------------------------------------


def test_a_write_before_the_device_has_answered_our_start_is_ignored() -> None:
    talk = streaming()
    assert talk.server.receive(device_log(BEGIN, ONE, COMMIT)) == []
    talk.start_writes()
    assert talk.server.writes_started


def test_a_whole_transaction_of_the_npm_client_arrives() -> None:
    session = writing().server
    assert session.receive(codec.relation_message(DEVICE_ITEMS)) == []
    changes: list[RowChange] = [
        Compensation(0, (b"1", None), ("c1@500", "postgres_1@4")),
        Insert(0, ROW),
        Update(0, (b"1", b"uno"), ROW, ("c1@500",)),
        Delete(0, (b"1", b"uno"), ("c1@500",)),
    ]
    (event,) = session.receive(device_log(BEGIN, codec.encode_ops(changes), COMMIT))
    assert event == WriteReceived(500, b"\x00\x00\x00\x07", tuple((DEVICE_ITEMS, change) for change in changes))


def test_a_transaction_may_span_logs_and_a_log_may_hold_several() -> None:
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    assert session.receive(device_log(BEGIN, ONE)) == []
    assert session.receive(device_log(ONE)) == []
    events = session.receive(device_log(COMMIT, BEGIN, ONE, COMMIT, BEGIN))
    assert [len(event.changes) for event in events if isinstance(event, WriteReceived)] == [2, 1]


def test_a_transaction_without_changes_is_dropped() -> None:
    assert writing().server.receive(device_log(BEGIN, COMMIT)) == []


def test_a_device_may_send_a_relation_again_with_other_columns() -> None:
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    wider = Relation(0, "public", "items", (*DEVICE_ITEMS.columns, Column("rank", "INTEGER")))
    session.receive(device_log(BEGIN, ONE))
    session.receive(codec.relation_message(wider))
    (event,) = session.receive(device_log(codec.encode_ops([Insert(0, (*ROW, None))]), COMMIT))
    assert isinstance(event, WriteReceived)
    assert [relation for relation, _ in event.changes] == [DEVICE_ITEMS, wider]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (device_log(ONE), "an insert outside a transaction"),
        (device_log(COMMIT), "a commit without a begin"),
        (device_log(BEGIN, BEGIN), "begins inside another"),
        (device_log(BEGIN, codec.encode_ops([Insert(3, ROW)])), "unknown relation 3"),
        (device_log(BEGIN, codec.encode_ops([Insert(0, (b"1",))])), "does not have its 2 columns"),
        (device_log(BEGIN, codec.encode_ops([Update(0, ROW, (b"1",))])), "does not have its 2 columns"),
        (device_log(BEGIN, codec.encode_ops([Gone(0, ROW)])), "does not send Gone"),
        (device_log(BEGIN, codec.encode_ops([Migrate("1", ())])), "does not send Migrate"),
    ],
)
def test_a_malformed_write_is_an_invalid_request(log: bytes, message: str) -> None:
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    with pytest.raises(ProtocolError, match=message) as caught:
        session.receive(log)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    kind, error = codec.decode(session.error_frame(caught.value))
    assert kind == codec.MessageType.ERROR
    assert isinstance(error, pb.SatErrorResp)
    assert error.error_type == pb.SatErrorResp.INVALID_REQUEST


def test_an_invalid_write_names_the_transaction_at_fault() -> None:
    session = writing().server
    with pytest.raises(ProtocolError) as caught:
        session.receive(device_log(BEGIN, ONE, COMMIT))
    error = codec.decode(session.error_frame(caught.value))[1]
    assert isinstance(error, pb.SatErrorResp)
    assert error.lsn == b"\x00\x00\x00\x07"


LARGE = codec.encode_ops([Insert(0, (b"1", bytes(90)))])


@pytest.mark.parametrize(
    ("log", "excess"),
    [(device_log(*[ONE] * 5), "more than 10 operations"), (device_log(LARGE), "more than 300 bytes")],
)
def test_a_transaction_beyond_the_limits_loses_its_operations_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, log: bytes, excess: str
) -> None:
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=10, bytes_max=300))
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    session.receive(device_log(BEGIN))
    for _ in range(5):
        assert session.receive(log) == []
    (refused,) = session.receive(device_log(COMMIT))
    assert isinstance(refused, WriteReceived)
    assert (refused.lsn, refused.changes) == (b"\x00\x00\x00\x07", ())
    assert excess in refused.excess
    (whole,) = session.receive(device_log(BEGIN, ONE, COMMIT))
    assert isinstance(whole, WriteReceived)
    assert (len(whole.changes), whole.excess) == (1, "")


def test_a_long_message_is_read_in_parts_whose_transactions_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    log = device_log(BEGIN, *[ONE] * 3_000, COMMIT, BEGIN, ONE, COMMIT)
    parts = list(session.receive_in_parts(log))
    assert len(parts) == 4
    assert [len(written.changes) for part in parts for written in part if isinstance(written, WriteReceived)] == [
        3_000,
        1,
    ]
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2_000, bytes_max=1 << 20))
    with pytest.raises(ProtocolError, match="more than 2000 operations in one message"):
        session.receive(device_log(*[BEGIN, ONE, COMMIT] * 4_000))


def test_relations_and_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_session, "RELATIONS_MAX", 1)
    monkeypatch.setattr(server_session, "FRAME_BYTES_MAX", 1000)
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    session.receive(codec.relation_message(DEVICE_ITEMS))
    with pytest.raises(ProtocolError, match="more than 1 relations"):
        session.receive(codec.relation_message(ITEMS))
    with pytest.raises(ProtocolError, match="more than 1000 bytes"):
        writing().server.receive(bytes(1001))


def test_a_device_that_refuses_our_start_is_reported() -> None:
    session = streaming().server
    session.start_write()
    frame = codec.rpc_error("startReplication", 1, ErrorCode.INTERNAL, "no")
    assert session.receive(frame) == [PeerFailed("INTERNAL", "no", "startReplication")]


def test_our_start_may_be_answered_before_the_device_starts() -> None:
    session = Conversation().authenticate().server
    session.start_write()
    assert session.receive(codec.rpc_response("startReplication", 1, b"")) == [WriteStarted()]


def test_an_answer_to_a_call_that_was_not_made_is_refused() -> None:
    with pytest.raises(ProtocolError, match="was not made"):
        streaming().server.receive(codec.rpc_response("startReplication", 1, b""))


def test_an_error_of_the_device_is_reported() -> None:
    frame = codec.error_message(ErrorCode.INTERNAL, "disk full")
    assert streaming().server.receive(frame) == [PeerFailed("INTERNAL", "disk full")]
    unknown = codec.message_bytes(pb.SatErrorResp.FromString(b"\x08\x07"))
    assert streaming().server.receive(unknown) == [PeerFailed("UNKNOWN", "")]


def test_an_ack_is_reported_whatever_it_names() -> None:
    frame = codec.ack_message(0, b"", 5, ["s1"], [3], ["s2"])
    assert streaming().server.receive(frame) == [AckReceived(0, b"", ("s1",), (3,), ("s2",))]


@pytest.mark.parametrize(
    "frame",
    [codec.subs_data_begin("s", b"1"), codec.subs_data_end(), codec.shape_data_end(), codec.unsubs_data_end()],
)
def test_a_servers_message_is_refused_from_a_device(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="is a server's message"):
        streaming().server.receive(frame)


@pytest.mark.parametrize("type_byte", [1, 8, 11, 13, 19, 20, 26, 255])
def test_a_retired_or_unknown_type_is_refused(type_byte: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown type {type_byte}"):
        streaming().server.receive(bytes([type_byte]))


# --- subscriptions ----------------------------------------------------------------------------------------------------


def test_a_shape_without_a_select_reads_as_an_empty_table() -> None:
    body = pb.SatSubsReq(subscription_id="s", shape_requests=[pb.SatShapeReq(request_id="r")]).SerializeToString()
    assert streaming().server.receive(call("subscribe", 9, body)) == [
        SubscribeRequested(9, "s", (ShapeRequest("r", ""),))
    ]


def test_too_many_shapes_are_refused() -> None:
    shapes = [ShapeRequest(str(n), "t") for n in range(codec.SHAPES_PER_SUBSCRIPTION_MAX + 1)]
    with pytest.raises(ProtocolError, match="more than 1000 shapes"):
        streaming().server.receive(call("subscribe", 9, codec.subscribe_body("s", shapes)))


def test_a_refused_subscription_leaves_the_connection_streaming() -> None:
    talk = streaming()
    talk.server.receive(talk.client.subscribe("s1", [ShapeRequest("r1", "nope")]))
    talk.server.subscribe_refused(3, "s1", "SHAPE_REQUEST_ERROR", "", [("r1", "TABLE_NOT_FOUND", "no table nope")])
    assert talk.server.state is State.STREAMING


def test_an_unsubscribe_of_unknown_ids_is_reported_and_answered() -> None:
    talk = streaming()
    assert talk.server.receive(talk.client.unsubscribe(["never-seen"])) == [UnsubscribeRequested(3, ("never-seen",))]
    assert talk.server.unsubscribed(3).endswith(b"\x1a\x00")


@pytest.mark.parametrize("extensions", [True, False])
def test_who_has_what_is_asked_by_a_device_that_takes_extensions_alone(extensions: bool) -> None:
    talk = streaming()
    talk.server.extensions = extensions
    question = talk.client.reach(b"41")
    if not extensions:
        with pytest.raises(ProtocolError, match="no method 'reach'"):
            talk.server.receive(question)
        return
    assert talk.server.receive(question) == [ReachRequested(3, b"41")]
    assert talk.client.receive(talk.server.reached(3)) == ([Reached()], [])
    assert talk.client.receive(codec.ack_request()) == ([AckRequested()], [])
