"""Frames as the published npm client sends them, and our answers byte for byte as it is known to accept them."""

from __future__ import annotations

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.events import AuthRequested, SendFrom, StartRequested, SubscribeRequested, WriteStarted
from syncline.proto.session import ClientSession, ServerSession
from syncline.proto.values import Column, Gone, Insert, Relation, ShapeRequest

CLIENT_ID = "00000000-0000-4000-8000-0000000000c1"
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2VyLTEifQ."
SUBSCRIPTION = "11111111-1111-4111-8111-111111111111"
REQUEST = "22222222-2222-4222-8222-222222222222"

AUTHENTICATE = bytes.fromhex(
    "150a0c61757468656e74696361746510011a530a2430303030303030302d303030302d343030302d383030302d303030303030303030306331"
    "122b65794a68624763694f694a756232356c496e302e65794a7a645749694f694a31633256794c54456966512e"
)
AUTHENTICATED = bytes.fromhex("160a0c61757468656e74696361746510011a0f0a0d737475622d696e7374616e6365")
START_HEAD = bytes.fromhex("150a10") + b"startReplication" + bytes.fromhex("1002")
START_ACCEPTED = bytes.fromhex("160a1073746172745265706c69636174696f6e10021a02101e")
START_WRITE = bytes.fromhex("150a1073746172745265706c69636174696f6e10011a0412003200")
WRITE_STARTED = bytes.fromhex("160a1073746172745265706c69636174696f6e10011a00")


def authenticated() -> ServerSession:
    session = ServerSession()
    session.receive(AUTHENTICATE)
    session.authenticated(1, "stub-instance")
    return session


def streaming() -> ServerSession:
    session = authenticated()
    session.receive(START_HEAD + bytes.fromhex("1a06120032003800"))
    session.start_accepted(2)
    return session


def start(body_hex: str) -> StartRequested:
    body = bytes.fromhex(body_hex)
    (event,) = authenticated().receive(START_HEAD + b"\x1a" + bytes([len(body)]) + body)
    assert isinstance(event, StartRequested)
    return event


def test_the_npm_client_authenticates() -> None:
    session = ServerSession()
    assert session.receive(AUTHENTICATE) == [AuthRequested(1, CLIENT_ID, TOKEN)]
    assert session.authenticated(1, "stub-instance") == AUTHENTICATED


def test_our_client_authenticates_with_the_same_bytes() -> None:
    assert ClientSession().authenticate(CLIENT_ID, TOKEN) == AUTHENTICATE


def test_a_fresh_client_with_migrations_starts() -> None:
    event = start("1200" + "2a12" + b"20240601120000_001".hex() + "3200" + "3800")
    assert event == StartRequested(2, b"", (), "20240601120000_001", "sqlite")


def test_a_fresh_client_without_migrations_starts() -> None:
    assert start("120032003800") == StartRequested(2, b"", (), None, "sqlite")


def test_a_fresh_client_of_the_postgres_dialect_starts() -> None:
    assert start("1200" + "2a12" + b"20240601120000_001".hex() + "3200" + "3801").dialect == "postgresql"


def test_a_client_resumes() -> None:
    event = start("0a03" + b"103".hex() + "1200" + "2224" + SUBSCRIPTION.encode().hex() + "3200" + "3800")
    assert event == StartRequested(2, b"103", (SUBSCRIPTION,), None, "sqlite")


def test_the_answer_to_a_start_names_the_window() -> None:
    session = authenticated()
    session.receive(START_HEAD + bytes.fromhex("1a06120032003800"))
    assert session.start_accepted(2, 30) == START_ACCEPTED


def test_the_request_for_writes_is_the_one_old_clients_answer() -> None:
    assert authenticated().start_write() == START_WRITE


def test_an_empty_answer_is_present_with_length_zero() -> None:
    session = streaming()
    session.start_write()
    assert session.receive(WRITE_STARTED) == [WriteStarted()]
    client = ClientSession()
    assert client.receive(START_WRITE) == ([SendFrom(b"")], [WRITE_STARTED])
    assert codec.rpc_response("unsubscribe", 4, b"").endswith(b"\x1a\x00")


def test_the_npm_client_subscribes() -> None:
    select = b"\x0a\x08projects" + b"\x12\x14" + b"this.\"owner\" = 'ann'"
    definition = b"\x0a\x20" + select
    request = b"\x0a\x24" + REQUEST.encode() + b"\x12\x22" + definition
    body = b"\x0a\x24" + SUBSCRIPTION.encode() + b"\x12\x4a" + request
    frame = b"\x15\x0a\x09subscribe\x10\x03\x1a\x72" + body
    shape = ShapeRequest(REQUEST, "projects", "this.\"owner\" = 'ann'")
    assert streaming().receive(frame) == [SubscribeRequested(3, SUBSCRIPTION, (shape,))]
    assert codec.rpc_request("subscribe", 3, codec.subscribe_body(SUBSCRIPTION, [shape])) == frame


def test_columns_travel_in_a_field_that_others_do_not_know() -> None:
    select = b"\x0a\x05items" + b"\xc2\x3e\x02id" + b"\xc2\x3e\x05title"
    assert codec.subscribe_body("", [ShapeRequest("", "items", columns=("id", "title"))]) == (
        b"\x12"
        + bytes([4 + len(select)])
        + b"\x12"
        + bytes([2 + len(select)])
        + b"\x0a"
        + bytes([len(select)])
        + select
    )
    assert codec.subscribe_body("", [ShapeRequest("", "items")]) == b"\x12\x0b\x12\x09\x0a\x07\x0a\x05items"


def test_the_npm_client_includes_a_related_table() -> None:
    link = b"\x0a\x0aproject_id\x12\x07\x0a\x05items"
    select = b"\x0a\x08projects\x1a\x15" + link
    definition = b"\x0a" + bytes([len(select)]) + select
    message = pb.SatSubsReq(
        subscription_id=SUBSCRIPTION,
        shape_requests=[
            pb.SatShapeReq(request_id=REQUEST, shape_definition=pb.SatShapeDef.FromString(definition)),
        ],
    )
    (shape,) = codec.shape_requests_of(message)
    assert shape.include == ((("project_id",), ShapeRequest(REQUEST, "items")),)
    assert codec.subscribe_body(SUBSCRIPTION, [shape]) == message.SerializeToString()


def test_a_row_with_a_null_has_its_bit_and_an_empty_value() -> None:
    assert codec.encode_row((b"a", None, b"")) == bytes.fromhex("0a0140" + "120161" + "1200" + "1200")


def test_a_key_row_of_three_columns_has_the_mask_60() -> None:
    relation = Relation(7, "public", "t", (Column("id", "int4", True, False), Column("a", "text"), Column("b", "text")))
    body = codec.encode_ops([Gone(7, relation.key_row((b"1",)))])
    assert bytes.fromhex("0a0160" + "120131" + "1200" + "1200") in body


def test_a_log_of_one_insert() -> None:
    frame = codec.oplog_message(codec.encode_ops([Insert(1, (b"7",), ("a@5",))]))
    assert frame.hex() == "09" + "0a11" + "220f" + "0801" + "1206" + "0a0100" + "120137" + "1a03" + b"a@5".hex()
