"""What a device's session sends, and all that it bears from a server."""

from __future__ import annotations

import pytest
from tests.unit.proto.conversation import DEVICE_ITEMS, ITEMS, SHAPES, Conversation, streaming

from syncline.proto import client_session, codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.assembly import TransactionLimits
from syncline.proto.digest import Holdings
from syncline.proto.errors import ErrorCode, Family, ProtocolError, family_of
from syncline.proto.events import (
    AdditionalData,
    Authenticated,
    ClientEvent,
    GoneRows,
    GonesBegun,
    GonesEnded,
    PeerFailed,
    RelationReceived,
    SendFrom,
    ShapeDataBegun,
    ShapeDataEnded,
    ShapeDataFailed,
    ShapeRows,
    StreamRefused,
    StreamStarted,
    StreamStopped,
    Subscribed,
    SubscribeRefused,
    TransactionReceived,
    Unsubscribed,
)
from syncline.proto.session import ClientSession, State
from syncline.proto.values import (
    Column,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    Relation,
    ShapeRequest,
    Transaction,
    Update,
)

ROW = (b"1", b"one")
BEGIN = codec.encode_begin(1000, b"42", "postgres_1", 42)
COMMIT = codec.encode_commit(1000, b"42")
ONE = codec.encode_ops([Insert(ITEMS.id, ROW, ("postgres_1@1000",))])


def events(session: ClientSession, *frames: bytes) -> list[ClientEvent]:
    return [event for frame in frames for event in session.receive(frame)[0]]


def additional(kind: str, ref: int) -> bytes:
    if kind == "begin":
        log = pb.SatOpLog(ops=[pb.SatTransOp(additional_begin=pb.SatOpAdditionalBegin(ref=ref))])
    else:
        log = pb.SatOpLog(ops=[pb.SatTransOp(additional_commit=pb.SatOpAdditionalCommit(ref=ref))])
    return log.SerializeToString()


# --- what it sends ----------------------------------------------------------------------------------------------------


def start_request(frame: bytes) -> pb.SatInStartReplicationReq:
    request = codec.decode(frame)[1]
    assert isinstance(request, pb.SatRpcRequest)
    return pb.SatInStartReplicationReq.FromString(request.message)


def test_of_the_subscriptions_that_a_repair_describes_the_newest_go_that_are_not_too_much() -> None:
    ids = [f"{number:032}" for number in range(1000)]
    described = [(id, [ShapeRequest(id, "items", "x" * 1000)]) for id in ids]
    session = Conversation().authenticate().client
    frame = session.start(b"42", ids, "1", holdings=Holdings(bytes(16), {}), described=described)
    sent = [subscription.subscription_id for subscription in start_request(frame).subscriptions]
    assert sent == ids[-1 : -len(sent) - 1 : -1]
    assert 50 < len(sent) < 70
    assert len(frame) < codec.MESSAGE_BYTES_MAX


def test_call_ids_count_from_one() -> None:
    frame = codec.decode(ClientSession().authenticate("c1", "t"))[1]
    assert isinstance(frame, pb.SatRpcRequest)
    assert frame.request_id == 1


def test_a_resume_names_subscriptions_and_no_schema_version() -> None:
    request = start_request(Conversation().authenticate().client.start(b"42", ["s1"], "2024", "sqlite", [7]))
    assert list(request.subscription_ids) == ["s1"]
    assert list(request.observed_transaction_data) == [7]
    assert not request.HasField("schema_version")


def test_a_first_start_names_the_schema_version_and_no_subscriptions() -> None:
    request = start_request(Conversation().authenticate().client.start(b"", ["s1"], "2024", "postgresql"))
    assert list(request.subscription_ids) == []
    assert request.schema_version == "2024"
    assert request.sql_dialect == pb.SatInStartReplicationReq.POSTGRES


def test_the_dialect_is_written_out_even_when_it_is_the_default() -> None:
    assert start_request(Conversation().authenticate().client.start(b"")).HasField("sql_dialect")


def test_a_device_does_not_subscribe_before_its_stream_has_started() -> None:
    with pytest.raises(ProtocolError, match="not possible while authenticated") as caught:
        Conversation().authenticate().client.subscribe("s1", SHAPES)
    assert caught.value.code is ErrorCode.INTERNAL


def test_a_device_does_not_start_before_it_is_authenticated() -> None:
    with pytest.raises(ProtocolError, match="not possible while connecting"):
        ClientSession().start(b"")


def test_a_relation_is_sent_once_per_connection_and_again_when_it_changed() -> None:
    client = streaming().client
    tx = Transaction(1, b"\x00\x00\x00\x01", (Insert(0, ROW), Insert(0, ROW)))
    assert len(client.write(tx, {0: DEVICE_ITEMS})) == 2
    assert len(client.write(tx, {0: DEVICE_ITEMS})) == 1
    renamed = Relation(0, "public", "items", (*DEVICE_ITEMS.columns[:1], Column("name", "TEXT")))
    assert len(client.write(tx, {0: renamed})) == 2


def test_a_write_without_its_relation_or_of_another_width_stays_here() -> None:
    client = streaming().client
    with pytest.raises(ProtocolError, match="unknown relation 1") as caught:
        client.write(Transaction(1, b"1", (Insert(1, ROW),)), {0: DEVICE_ITEMS})
    assert caught.value.code is ErrorCode.INTERNAL
    with pytest.raises(ProtocolError, match="2 columns"):
        client.write(Transaction(1, b"1", (Insert(0, (b"1",)),)), {0: DEVICE_ITEMS})


@pytest.mark.parametrize("change", [Gone(0, ROW), Migrate("1", ())])
def test_a_device_sends_row_writes_alone(change: Gone | Migrate) -> None:
    with pytest.raises(ProtocolError, match="does not send"):
        streaming().client.write(Transaction(1, b"1", (change,)), {0: DEVICE_ITEMS})


def test_a_closed_session_says_and_hears_nothing() -> None:
    client = streaming().client
    client.close()
    assert client.receive(codec.oplog_message(BEGIN, COMMIT)) == ([], [])
    with pytest.raises(ProtocolError, match="not possible while closed"):
        client.unsubscribe(["s1"])


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_conversation_as_a_legacy_server_holds_it() -> None:
    talk = Conversation()
    server = talk.server
    server.receive(talk.client.authenticate("c1", "t"))
    assert events(talk.client, server.authenticated(1, "srv")) == [Authenticated("srv")]
    # The request for writes may come before the answer to our start.
    assert talk.client.receive(server.start_write())[0] == [SendFrom(b"")]
    server.receive(talk.client.start(b""))
    assert events(talk.client, server.start_accepted(2, 12)) == [StreamStarted(12)]
    server.receive(talk.client.subscribe("s1", SHAPES))
    assert events(talk.client, server.subscribed(3, "s1")) == [Subscribed("s1")]
    frames = [codec.relation_message(ITEMS), codec.subs_data_begin("s1", b"40")]
    rows = codec.oplog_message(codec.encode_ops([Insert(ITEMS.id, ROW)]))
    for request_id in ("r1", "r2"):
        frames += [codec.shape_data_begin(request_id), rows, codec.shape_data_end()]
    assert events(talk.client, *frames, codec.subs_data_end()) == [
        RelationReceived(ITEMS),
        ShapeDataBegun("s1", b"40"),
        ShapeRows("s1", "r1", (Insert(ITEMS.id, ROW),)),
        ShapeRows("s1", "r2", (Insert(ITEMS.id, ROW),)),
        ShapeDataEnded("s1", b"40"),
    ]
    server.receive(talk.client.unsubscribe(["s1"]))
    assert events(talk.client, server.unsubscribed(4)) == [Unsubscribed(("s1",))]
    gone = Gone(ITEMS.id, (b"1", None))
    frames = [codec.unsubs_data_begin(["s1"], b"42"), codec.oplog_message(codec.encode_ops([gone]))]
    assert events(talk.client, *frames, codec.unsubs_data_end()) == [
        GonesBegun(("s1",), b"42"),
        GoneRows((gone,)),
        GonesEnded(("s1",), b"42"),
    ]
    server.receive(talk.client.stop())
    assert events(talk.client, server.stopped(5)) == [StreamStopped()]


@pytest.mark.parametrize(
    ("code", "family"),
    [
        ("BEHIND_WINDOW", Family.RESET),
        ("INVALID_POSITION", Family.RESET),
        ("SUBSCRIPTION_NOT_FOUND", Family.RESET),
        ("UNKNOWN_SCHEMA_VSN", Family.REFUSE),
        ("CODE_UNSPECIFIED", Family.RETRY),
    ],
)
def test_a_refused_start_names_its_code_and_has_a_family(code: str, family: Family) -> None:
    talk = Conversation().authenticate()
    talk.server.receive(talk.client.start(b"42"))
    assert events(talk.client, talk.server.start_refused(2, code, "why")) == [StreamRefused(code, "why")]
    assert talk.client.state is State.AUTHENTICATED
    assert family_of(code) is family


def test_a_refused_subscription_lists_the_shapes_at_fault() -> None:
    talk = streaming()
    talk.server.receive(talk.client.subscribe("s1", SHAPES))
    errors = (("r1", "INVALID_WHERE_CLAUSE", "at 3"),)
    frame = talk.server.subscribe_refused(3, "s1", "SHAPE_REQUEST_ERROR", "no", errors)
    assert events(talk.client, frame) == [SubscribeRefused("s1", "SHAPE_REQUEST_ERROR", "no", errors)]


def test_a_code_of_a_newer_server_reads_as_unknown() -> None:
    talk = streaming()
    talk.client.subscribe("s1", SHAPES)
    body = pb.SatSubsResp.FromString(b"\x0a\x02s1\x12\x02\x10\x63").SerializeToString()
    assert events(talk.client, codec.rpc_response("subscribe", 3, body)) == [SubscribeRefused("s1", "UNKNOWN", "")]
    assert events(talk.client, b"\x00\x08\x07") == [PeerFailed("UNKNOWN", "")]


def test_an_rpc_error_is_reported_with_its_method() -> None:
    client = ClientSession()
    client.authenticate("c1", "bad")
    frame = codec.rpc_error("authenticate", 1, ErrorCode.AUTH_REQUIRED, "token expired")
    assert events(client, frame) == [PeerFailed("AUTH_REQUIRED", "token expired", "authenticate")]
    assert client.state is State.CONNECTING


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    client = streaming().client
    assert client.receive(codec.rpc_response("subscribe", 99, b"\xff")) == ([], [])
    assert client.receive(codec.rpc_response("subscribe", 0, b"")) == ([], [])


def test_an_answer_of_another_method_is_ignored() -> None:
    client = streaming().client
    client.unsubscribe(["s1"])
    assert client.receive(codec.rpc_response("subscribe", 3, b"")) == ([], [])
    assert events(client, codec.rpc_response("unsubscribe", 3, b"")) == [Unsubscribed(("s1",))]


def test_an_empty_answer_that_was_left_out_reads_as_empty() -> None:
    client = streaming().client
    client.unsubscribe(["s1"])
    absent = codec.message_bytes(pb.SatRpcResponse(method="unsubscribe", request_id=3))
    assert events(client, absent) == [Unsubscribed(("s1",))]


def test_a_start_without_a_window_has_the_usual_one() -> None:
    client = Conversation().authenticate().client
    client.start(b"")
    assert events(client, codec.rpc_response("startReplication", 2, b"")) == [StreamStarted(30)]


# --- calls of the server ----------------------------------------------------------------------------------------------


def test_every_start_of_the_server_is_answered_and_names_its_position() -> None:
    client = streaming().client
    body = pb.SatInStartReplicationReq(lsn=b"\x00\x00\x00\x05").SerializeToString()
    for request_id in (0, 1):
        happened, answers = client.receive(codec.rpc_request("startReplication", request_id, body))
        assert happened == [SendFrom(b"\x00\x00\x00\x05")]
        assert answers == [codec.rpc_response("startReplication", request_id, b"")]


def test_a_stop_of_the_server_is_answered() -> None:
    happened, answers = streaming().client.receive(codec.rpc_request("stopReplication", 2, b""))
    assert (happened, answers) == ([], [codec.rpc_response("stopReplication", 2, b"")])


def test_an_unknown_method_is_refused_and_the_connection_goes_on() -> None:
    client = streaming().client
    happened, (answer,) = client.receive(codec.rpc_request("resetDatabase", 2, b""))
    assert happened == []
    response = codec.decode(answer)[1]
    assert isinstance(response, pb.SatRpcResponse)
    assert response.error.error_type == pb.SatErrorResp.INVALID_REQUEST
    assert client.state is State.STREAMING


# --- the stream -------------------------------------------------------------------------------------------------------


def test_a_transaction_may_be_cut_anywhere() -> None:
    client = streaming().client
    body = BEGIN + ONE + ONE + COMMIT
    whole = events(client, codec.oplog_message(body))
    cut = events(client, *(codec.oplog_message(piece) for piece in (BEGIN, b"", ONE, ONE + COMMIT)))
    assert whole == cut
    (event,) = whole
    assert isinstance(event, TransactionReceived)
    assert event.transaction.transaction_id == 42
    assert len(event.transaction.changes) == 2


def test_a_log_may_hold_several_transactions() -> None:
    log = codec.oplog_message(BEGIN, ONE, COMMIT, BEGIN, COMMIT)
    assert [type(event) for event in events(streaming().client, log)] == [TransactionReceived] * 2


def test_a_migration_arrives_before_its_relations() -> None:
    migrate = Migrate("2024", ((0, "CREATE TABLE t ()"),))
    tx = Transaction(1, b"42", (migrate,), "postgres_1", 1)
    (event,) = events(streaming().client, codec.encode_transaction(tx))
    assert event == TransactionReceived(tx)


def test_additional_data_is_reported_with_the_ref_that_announced_it() -> None:
    client = streaming().client
    tx = Transaction(1, b"42", (), "postgres_1", 1, additional_data_ref=7)
    (announced,) = events(client, codec.encode_transaction(tx))
    assert announced == TransactionReceived(tx)
    frames = [codec.oplog_message(additional("begin", 7), ONE), codec.oplog_message(ONE, additional("commit", 7))]
    insert = Insert(ITEMS.id, ROW, ("postgres_1@1000",))
    assert events(client, *frames) == [AdditionalData(7, (insert, insert))]


def test_the_ref_of_additional_data_is_read_from_the_commit() -> None:
    log = codec.oplog_message(BEGIN, codec.encode_commit(1000, b"42", additional_data_ref=9))
    (event,) = events(streaming().client, log)
    assert isinstance(event, TransactionReceived)
    assert event.transaction.additional_data_ref == 9


def test_the_latest_time_is_read_from_the_commit() -> None:
    for commit_ms, latest_ms in ((3_000, 3_000), (0, 1_000)):
        (event,) = events(streaming().client, codec.oplog_message(BEGIN, codec.encode_commit(commit_ms, b"42")))
        assert isinstance(event, TransactionReceived)
        assert (event.transaction.commit_ms, event.transaction.latest_ms) == (1_000, latest_ms)


def test_a_compensation_from_the_server_is_ignored() -> None:
    log = codec.oplog_message(BEGIN, codec.encode_ops([Compensation(1, (b"?",))]), COMMIT)
    (event,) = events(streaming().client, log)
    assert isinstance(event, TransactionReceived)
    assert event.transaction.changes == ()


def test_all_row_changes_arrive_as_they_were_sent() -> None:
    changes = (
        Insert(ITEMS.id, (b"1", None), ("a@1", "b@2")),
        Update(ITEMS.id, (b"1", b""), (b"1", None), ("a@1",)),
        Update(ITEMS.id, (b"1", b""), None),
        Delete(ITEMS.id, ROW),
        Gone(ITEMS.id, (b"1", None)),
    )
    tx = Transaction(1000, b"42", changes, "postgres_1", 42)
    assert events(streaming().client, codec.encode_transaction(tx)) == [TransactionReceived(tx)]


def test_a_relation_may_be_repeated_and_replaced() -> None:
    client = streaming().client
    wider = Relation(ITEMS.id, "public", "items", (*ITEMS.columns, Column("rank", "int4")))
    assert events(client, codec.relation_message(ITEMS)) == [RelationReceived(ITEMS)]
    assert events(client, codec.relation_message(wider)) == [RelationReceived(wider)]
    assert events(client, codec.oplog_message(BEGIN, codec.encode_ops([Insert(ITEMS.id, (*ROW, b"1"))]), COMMIT))


def test_a_delivery_for_a_subscription_we_have_not_heard_of_is_reported() -> None:
    assert events(streaming().client, codec.subs_data_begin("s9", b"1"), codec.subs_data_end()) == [
        ShapeDataBegun("s9", b"1"),
        ShapeDataEnded("s9", b"1"),
    ]


def test_a_failed_delivery_is_reported_and_over() -> None:
    client = streaming().client
    error = pb.SatSubsDataError(subscription_id="s1", message="too large")
    failed = events(client, codec.subs_data_begin("s1", b"1"), codec.message_bytes(error))
    assert failed[1:] == [ShapeDataFailed("s1", "too large")]
    assert events(client, codec.oplog_message(BEGIN, COMMIT))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([codec.oplog_message(ONE)], "outside a transaction"),
        ([codec.oplog_message(COMMIT)], "without a begin"),
        ([codec.oplog_message(BEGIN, BEGIN)], "inside another"),
        ([codec.oplog_message(BEGIN, codec.encode_ops([Insert(9, ROW)]))], "unknown relation 9"),
        ([codec.oplog_message(BEGIN, codec.encode_ops([Delete(ITEMS.id, ())]))], "2 columns"),
        ([codec.subs_data_begin("s", b"1"), codec.oplog_message(BEGIN)], "Begin inside a delivery"),
        ([codec.subs_data_begin("s", b"1"), codec.subs_data_begin("t", b"1")], "a delivery begins inside"),
        ([codec.oplog_message(BEGIN), codec.subs_data_begin("s", b"1")], "a delivery begins inside"),
        ([codec.unsubs_data_begin(["s"], b"1"), codec.oplog_message(ONE)], "Insert inside a batch"),
        ([codec.unsubs_data_end()], "without its begin"),
        ([codec.subs_data_end()], "outside a delivery"),
        ([codec.shape_data_begin("r")], "outside a delivery"),
        ([codec.oplog_message(additional("commit", 7))], "without having begun"),
        ([codec.oplog_message(additional("begin", 7), additional("commit", 8))], "without having begun"),
        ([codec.oplog_message(BEGIN, additional("begin", 7))], "begin inside"),
        ([codec.ack_message(1, b"1")], "a device's message"),
        ([b"\x63"], "unknown type 99"),
        ([b""], "an empty message"),
    ],
)
def test_what_no_server_may_send_is_an_invalid_request(frames: list[bytes], message: str) -> None:
    client = streaming().client
    with pytest.raises(ProtocolError, match=message) as caught:
        events(client, *frames)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert client.state is State.CLOSED


def test_what_waits_for_its_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_session, "TRANSACTION_LIMITS", TransactionLimits(ops_max=2, bytes_max=1000))
    monkeypatch.setattr(client_session, "BATCH_ROWS_MAX", 2)
    monkeypatch.setattr(client_session, "RELATIONS_MAX", 1)
    monkeypatch.setattr(client_session, "FRAME_BYTES_MAX", 1000)
    for frames, message in (
        ([codec.oplog_message(BEGIN, ONE, ONE, ONE)], "more than 2 operations"),
        ([codec.oplog_message(additional("begin", 7), ONE, ONE, ONE)], "more than 2 additional rows"),
        ([codec.relation_message(DEVICE_ITEMS)], "more than 1 relations"),
        ([bytes(1001)], "more than 1000 bytes"),
    ):
        with pytest.raises(ProtocolError, match=message):
            events(streaming().client, *frames)
