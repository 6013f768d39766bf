"""What a device is never sent, frame by frame."""

from __future__ import annotations

import pytest
from tests.outgoing_rules import OutgoingRules
from tests.unit.proto.conversation import ITEMS, SHAPES

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.calls import start_body
from syncline.proto.errors import ErrorCode, ProtocolError
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import Change, Compensation, Delete, Gone, Insert, Migrate, RejectionReason, Transaction

ROW = (b"1", b"one")
ROWS = codec.oplog_message(codec.encode_ops([Insert(ITEMS.id, ROW)]))
GONES = codec.oplog_message(codec.encode_ops([Gone(ITEMS.id, (b"1", None))]))
BEGIN = codec.subs_data_begin("s1", b"10")
END = codec.subs_data_end()
SHAPE_END = codec.shape_data_end()
START_WRITE = codec.rpc_request("startReplication", 1, b"\x12\x00\x32\x00")


def transaction(*changes: Change) -> bytes:
    return codec.encode_transaction(Transaction(1000, b"42", changes, "postgres_1", 42))


def answer(method: str, request_id: int, body: bytes = b"") -> bytes:
    return codec.rpc_response(method, request_id, body)


def authenticated(protocol: str = OLD[0]) -> OutgoingRules:
    rules = OutgoingRules(protocol)
    rules.heard(codec.rpc_request("authenticate", 1, pb.SatAuthReq(id="c1", token="t").SerializeToString()))
    rules.check(answer("authenticate", 1))
    return rules


def streaming(*resumed: str, protocol: str = OLD[0]) -> OutgoingRules:
    rules = authenticated(protocol)
    rules.heard(codec.rpc_request("startReplication", 2, start_body(b"1", resumed, None, "sqlite", ())))
    rules.check(answer("startReplication", 2))
    return rules


def subscribed(protocol: str = OLD[0]) -> OutgoingRules:
    rules = streaming(protocol=protocol)
    rules.check(codec.relation_message(ITEMS))
    rules.heard(codec.rpc_request("subscribe", 3, codec.subscribe_body("s1", SHAPES)))
    rules.check(answer("subscribe", 3))
    return rules


def shape(request_id: str) -> bytes:
    return codec.shape_data_begin(request_id)


def never(rules: OutgoingRules, frame: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why) as caught:
        rules.check(frame)
    assert caught.value.code is ErrorCode.INTERNAL


def allowed(rules: OutgoingRules, *frames: bytes) -> OutgoingRules:
    for frame in frames:
        rules.check(frame)
    return rules


def test_a_whole_conversation_is_allowed() -> None:
    rules = allowed(subscribed(), START_WRITE, BEGIN, shape("r2"), SHAPE_END, shape("r1"), ROWS, ROWS, SHAPE_END, END)
    allowed(rules, transaction(Insert(ITEMS.id, ROW), Migrate("1", ())), transaction())
    allowed(rules, codec.unsubs_data_begin(["s1"], b"50"), GONES, codec.unsubs_data_end(), transaction())


def test_an_extension_is_only_sent_to_a_peer_that_takes_it() -> None:
    never(subscribed(), codec.subs_data_begin("s1", b"10", 100), "an extension")
    never(streaming(), codec.ack_request(), "an extension")
    allowed(streaming(protocol=OWN), codec.ack_request())
    why = RejectionReason("23514", "no")
    rejected = codec.encode_transaction(Transaction(1000, b"42", (), "c1", 42, rejection=why))
    never(streaming(), rejected, "why a transaction was rejected")
    allowed(streaming(protocol=OWN), rejected)
    telling = codec.encode_transaction(Transaction(1000, b"42", (), "postgres_1", 42, carried_out=(900,)))
    never(streaming(), telling, "what has been carried out")
    allowed(streaming(protocol=OWN), telling)
    allowed(subscribed(OWN), codec.subs_data_begin("s1", b"10", 100))


def test_a_relation_is_never_sent_before_the_start_is_accepted() -> None:
    never(authenticated(), codec.relation_message(ITEMS), "before the start was accepted")


def test_a_transaction_is_never_sent_before_the_start_is_accepted() -> None:
    never(authenticated(), transaction(), "before the start was accepted")


def test_nothing_is_streamed_after_the_answer_to_a_stop() -> None:
    rules = subscribed()
    rules.heard(codec.rpc_request("stopReplication", 4, b""))
    never(allowed(rules, transaction(), answer("stopReplication", 4)), transaction(), "before the start was accepted")


def test_a_transaction_is_never_sent_inside_a_delivery() -> None:
    rules = allowed(subscribed(), BEGIN)
    never(rules, transaction(), "inside a delivery")
    never(rules, codec.unsubs_data_begin(["s0"], b"10"), "one delivery at a time")


def test_a_delivery_is_never_sent_inside_a_transaction() -> None:
    rules = allowed(subscribed(), codec.oplog_message(codec.encode_begin(1, b"9", "postgres_1", 9)))
    never(rules, BEGIN, "inside a transaction")


def test_two_deliveries_are_never_interleaved() -> None:
    never(allowed(subscribed(), BEGIN), codec.subs_data_begin("s2", b"10"), "one delivery at a time")


def test_a_delivery_is_never_sent_before_the_answer_to_its_subscribe() -> None:
    rules = streaming("resumed")
    rules.heard(codec.rpc_request("subscribe", 3, codec.subscribe_body("s1", SHAPES)))
    never(rules, BEGIN, "before the answer")
    allowed(rules, codec.subs_data_begin("resumed", b"10"), shape("any"), SHAPE_END, END)
    never(rules, codec.subs_data_begin("resumed", b"10"), "before the answer")


def test_a_refused_subscription_has_no_delivery() -> None:
    rules = streaming()
    rules.heard(codec.rpc_request("subscribe", 3, codec.subscribe_body("s1", SHAPES)))
    error = pb.SatSubsResp.SatSubsError(code="SHAPE_REQUEST_ERROR")
    rules.check(answer("subscribe", 3, pb.SatSubsResp(subscription_id="s1", err=error).SerializeToString()))
    never(rules, BEGIN, "before the answer")


def test_a_delivery_is_not_closed_before_every_request_had_its_begin_and_end() -> None:
    rules = allowed(subscribed(), BEGIN, shape("r1"), SHAPE_END)
    never(rules, END, "left out: r2")
    never(rules, shape("r1"), "twice")
    never(rules, shape("r3"), "not asked for")
    allowed(rules, shape("r2"), SHAPE_END, END)


def test_rows_stay_between_the_begin_and_the_end_of_their_shape() -> None:
    rules = subscribed()
    never(rules, ROWS, "outside a transaction and a delivery")
    never(rules, shape("r1"), "no delivery is open")
    never(allowed(rules, BEGIN), ROWS, "outside a shape")
    never(rules, SHAPE_END, "no shape has begun")
    never(allowed(rules, shape("r1")), shape("r2"), "has not ended")
    never(rules, END, "has not ended")


def test_a_delivery_is_inserts_alone_and_a_batch_that_leaves_gones_alone() -> None:
    rules = allowed(subscribed(), BEGIN, shape("r1"))
    never(rules, GONES, "inserts alone")
    never(allowed(subscribed(), codec.unsubs_data_begin(["s1"], b"9")), ROWS, "gones alone")


def test_an_empty_lsn_is_never_sent() -> None:
    rules = subscribed()
    never(rules, codec.subs_data_begin("s1", b""), "empty lsn")
    never(rules, codec.unsubs_data_begin(["s1"], b""), "empty lsn")
    never(rules, codec.encode_transaction(Transaction(1, b"", (), "o", 1)), "needs origin")


@pytest.mark.parametrize(("origin", "transaction_id"), [(None, 1), ("o", None)])
def test_a_transaction_never_lacks_its_origin_or_its_id(origin: str | None, transaction_id: int | None) -> None:
    never(streaming(), codec.encode_transaction(Transaction(1, b"1", (), origin, transaction_id)), "needs origin")


def test_a_row_is_never_sent_before_its_relation_or_with_another_width() -> None:
    never(subscribed(), transaction(Insert(5, ROW)), "unknown relation 5")
    never(subscribed(), transaction(Delete(ITEMS.id, (b"1",))), "2 columns")


def test_a_compensation_is_never_sent_to_a_device() -> None:
    never(subscribed(), transaction(Compensation(ITEMS.id, ROW)), "ignores compensations")


def test_malformed_lsn_is_never_sent() -> None:
    rules = authenticated()
    rules.heard(codec.rpc_request("startReplication", 2, start_body(b"?", (), None, "sqlite", ())))
    error = pb.SatInStartReplicationResp.ReplicationError(code="MALFORMED_LSN")
    never(
        rules,
        answer("startReplication", 2, pb.SatInStartReplicationResp(err=error).SerializeToString()),
        "connected to nothing",
    )


def test_writes_are_asked_for_after_authentication_and_all_of_them() -> None:
    never(OutgoingRules(), START_WRITE, "after authentication")
    never(authenticated(), codec.rpc_request("startReplication", 1, start_body(b"7", (), None, "sqlite", ())), "echoed")


def test_only_a_call_that_waits_is_answered() -> None:
    never(streaming(), answer("subscribe", 3), "waits for an answer")


def test_a_device_that_uses_a_request_id_again_is_answered_for_each_call() -> None:
    rules = streaming()
    for subscription in ("s1", "s2"):
        rules.heard(codec.rpc_request("subscribe", 3, codec.subscribe_body(subscription, SHAPES)))
    rules.heard(codec.rpc_request("unsubscribe", 3, b""))
    allowed(rules, codec.relation_message(ITEMS), answer("subscribe", 3))
    allowed(rules, BEGIN, shape("r1"), SHAPE_END, shape("r2"), SHAPE_END, END)
    allowed(rules, answer("subscribe", 3), answer("unsubscribe", 3))
    allowed(rules, codec.subs_data_begin("s2", b"10"), shape("r1"), SHAPE_END, shape("r2"), SHAPE_END, END)
    never(rules, answer("subscribe", 3), "waits for an answer")


def test_a_delivery_may_be_on_its_way_while_the_device_starts_once_more() -> None:
    rules = subscribed()
    rules.heard(codec.rpc_request("startReplication", 4, start_body(b"1", (), None, "sqlite", ())))
    allowed(rules, BEGIN, shape("r1"), SHAPE_END, shape("r2"), SHAPE_END, END)
