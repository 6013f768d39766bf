from __future__ import annotations

import hashlib
from collections.abc import Iterable
from struct import pack

import pytest
from scramp import ScramMechanism

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.server_messages import (
    CopyEnded,
    CopyStarted,
    Event,
    Keepalive,
    QueryResult,
    Ready,
    ServerError,
    TlsAccepted,
    WalsenderError,
)
from syncline.actors.postgres.walsender import SSL_REQUEST, Phase, TlsMode, Walsender


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + pack(">I", len(body) + 4) + body


def authentication(code: int, data: bytes = b"") -> bytes:
    return frame(b"R", pack(">I", code) + data)


def error(sqlstate: str, message: str, hint: str = "") -> bytes:
    fields = f"SFEHLER\0VERROR\0C{sqlstate}\0M{message}\0" + (f"H{hint}\0" if hint else "")
    return frame(b"E", fields.encode() + b"\0")


AUTHENTICATED = authentication(0)
READY = frame(b"Z", b"I")
COPY_BOTH = frame(b"W", b"\0\0\0")


def xlog(payload: bytes) -> bytes:
    return frame(b"d", b"w" + pack(">QQq", 100, 200, 0) + payload)


def keepalive(wal_end: int, reply: int = 0) -> bytes:
    return frame(b"d", b"k" + pack(">QqB", wal_end, 0, reply))


def started(password: str | None = "secret", tls: TlsMode = TlsMode.DISABLE) -> Walsender:
    link = Walsender({"user": "me", "database": "db"}, password, tls)
    link.start()
    return link


def authenticated() -> Walsender:
    link = started()
    link.receive(AUTHENTICATED + READY)
    link.outgoing()
    return link


def streaming() -> Walsender:
    link = authenticated()
    link.query("START_REPLICATION")
    link.receive(COPY_BOTH)
    link.outgoing()
    return link


def bytewise(link: Walsender, data: bytes) -> list[Event]:
    return [event for i in range(len(data)) for event in link.receive(data[i : i + 1])]


def reprs(events: Iterable[Event]) -> list[str]:
    return [repr(event) for event in events]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_without_tls_the_startup_message_comes_first() -> None:
    link = started()
    out = link.outgoing()
    assert int.from_bytes(out[:4], "big") == len(out)
    assert out[4:8] == b"\0\x03\0\0"
    assert out.endswith(b"user\0me\0database\0db\0replication\0database\0\0")
    assert link.outgoing() == b""


def test_with_tls_nothing_but_the_request_goes_out_in_the_clear() -> None:
    link = started(tls=TlsMode.REQUIRE)
    assert link.outgoing() == SSL_REQUEST
    assert link.receive(b"S") == [TlsAccepted()]
    assert link.outgoing() == b""
    link.tls_established()
    assert b"user\0me\0" in link.outgoing()


def test_preferring_tls_goes_on_without_it() -> None:
    link = started(tls=TlsMode.PREFER)
    link.outgoing()
    assert link.receive(b"N") == []
    assert b"user\0me\0" in link.outgoing()


@pytest.mark.parametrize("mode", [TlsMode.REQUIRE, TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL])
def test_requiring_tls_does_not_go_on_without_it(mode: TlsMode) -> None:
    with pytest.raises(WalsenderError, match="does not offer TLS"):
        started(tls=mode).receive(b"N")


def test_bytes_slipped_in_before_the_handshake_are_noticed() -> None:
    with pytest.raises(WalsenderError, match="tampering"):
        started(tls=TlsMode.REQUIRE).receive(b"S" + AUTHENTICATED)


def test_another_protocol_on_the_port_is_named() -> None:
    with pytest.raises(WalsenderError, match="check host and port"):
        started(tls=TlsMode.PREFER).receive(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(WalsenderError, match="no Postgres connection"):
        started().receive(b"HTTP/1.1 400 Bad Request\r\n")


# --- authentication ---------------------------------------------------------------------------------------------------


def converse(link: Walsender, password: str, *, honest: bool = True) -> list[Event]:
    """The server's side of SCRAM, played by scramp."""
    mechanism = ScramMechanism("SCRAM-SHA-256")
    server = mechanism.make_server(lambda user: mechanism.make_auth_info(password, iteration_count=4096))
    link.receive(authentication(10, b"SCRAM-SHA-256\0\0"))
    first = link.outgoing().rpartition(b"SCRAM-SHA-256\0")[2][4:]
    server.set_client_first(first.decode())
    link.receive(authentication(11, server.get_server_first().encode()))
    server.set_client_final(link.outgoing()[5:].decode())
    if honest:
        link.receive(authentication(12, server.get_server_final().encode()))
    return link.receive(AUTHENTICATED + READY)


def test_scram_proves_both_sides() -> None:
    link = started(password="pencil")
    link.outgoing()
    assert converse(link, "pencil") == [Ready()]
    assert link.phase is Phase.IDLE


def test_a_server_that_skips_its_own_proof_is_refused() -> None:
    link = started(password="pencil")
    link.outgoing()
    with pytest.raises(WalsenderError, match="without proving"):
        converse(link, "pencil", honest=False)


def test_a_server_with_a_false_proof_is_refused() -> None:
    link = started()
    link.receive(authentication(10, b"SCRAM-SHA-256\0\0"))
    with pytest.raises(WalsenderError, match="SCRAM"):
        link.receive(authentication(11, b"r=somebodyelse,s=c2FsdA==,i=4096"))


def test_md5_hashes_password_user_and_salt() -> None:
    link = started()
    link.outgoing()
    link.receive(authentication(5, b"salt"))
    inner = hashlib.md5(b"secretme").hexdigest().encode()
    assert link.outgoing() == frame(b"p", b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode() + b"\0")


def test_a_password_is_never_sent_in_the_clear() -> None:
    with pytest.raises(WalsenderError, match="in the clear"):
        started().receive(authentication(3))


def test_inside_tls_a_plain_password_will_do() -> None:
    link = started(tls=TlsMode.REQUIRE)
    link.receive(b"S")
    link.tls_established()
    link.outgoing()
    link.receive(authentication(3))
    assert link.outgoing() == frame(b"p", b"secret\0")


def test_a_missing_password_is_named() -> None:
    with pytest.raises(WalsenderError, match="wants a password for 'me'"):
        started(password=None).receive(authentication(10, b"SCRAM-SHA-256\0\0"))


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(WalsenderError, match="method 7"):
        started().receive(authentication(7))


def test_a_refusal_carries_state_and_hint() -> None:
    (refusal,) = started().receive(error("28P01", "password authentication failed", "ask the admin"))
    assert isinstance(refusal, ServerError)
    assert (refusal.sqlstate, refusal.hint) == ("28P01", "ask the admin")
    assert str(refusal) == "ERROR 28P01: password authentication failed (hint: ask the admin)"


# --- queries and the stream -------------------------------------------------------------------------------------------


def test_a_simple_query_gives_rows() -> None:
    link = authenticated()
    link.query("IDENTIFY_SYSTEM")
    assert link.outgoing() == frame(b"Q", b"IDENTIFY_SYSTEM\0")
    description = frame(b"T", pack(">h", 2) + b"a\0" + bytes(18) + b"b\0" + bytes(18))
    row = frame(b"D", pack(">hI", 2, 1) + b"1" + pack(">i", -1))
    assert link.receive(description + row + frame(b"C", b"SELECT 1\0") + READY) == [
        QueryResult(("a", "b"), (("1", None),), "SELECT 1"),
        Ready(),
    ]


def test_after_a_failed_query_the_next_one_may_follow() -> None:
    link = authenticated()
    link.query("nonsense")
    assert reprs(link.receive(error("42601", "syntax error") + READY))[1] == "Ready()"
    link.query("SELECT 1")


def test_payloads_of_the_stream_are_plain_bytes() -> None:
    link = streaming()
    events = link.receive(xlog(b"one") + keepalive(0x10, 1) + xlog(b""))
    assert events == [b"one", Keepalive(Lsn(0x10), True), b""]
    assert link.wal_end == 0x10


def test_any_split_of_the_bytes_gives_the_same_events() -> None:
    data = AUTHENTICATED + frame(b"S", b"server_version\x0016\0") + READY
    stream = COPY_BOTH + xlog(b"x" * 300) + keepalive(5) + xlog(b"y") + frame(b"c") + frame(b"C", b"COPY 0\0") + READY
    whole, split = started(), started()
    for feed, link in ((Walsender.receive, whole), (bytewise, split)):
        assert feed(link, data) == [Ready()]
        link.query("START_REPLICATION")
        assert feed(link, stream) == [
            CopyStarted(),
            b"x" * 300,
            Keepalive(Lsn(5), False),
            b"y",
            CopyEnded(),
            QueryResult((), (), "COPY 0"),
            Ready(),
        ]
    assert whole.server_parameters == split.server_parameters == {"server_version": "16"}
    assert whole.outgoing() == split.outgoing()


def test_a_large_message_in_small_pieces_is_put_together_once() -> None:
    link = streaming()
    data = xlog(bytes(3_000_000))
    pieces = [data[i : i + 1_000] for i in range(0, len(data), 1_000)]
    assert [len(event) for piece in pieces for event in link.receive(piece) if isinstance(event, bytes)] == [3_000_000]


def test_a_status_tells_what_is_flushed() -> None:
    link = streaming()
    link.status(30, 20, 946_684_800_000_007, reply=True)
    assert link.outgoing() == frame(b"d", b"r" + pack(">QQQqB", 30, 20, 20, 7, 1))


def test_an_error_inside_the_stream_comes_after_what_preceded_it() -> None:
    link = streaming()
    payload, failure = link.receive(xlog(b"row") + error("57P01", "terminating connection"))
    assert payload == b"row"
    assert isinstance(failure, ServerError)
    assert failure.sqlstate == "57P01"


def test_goodbye_ends_the_stream_first() -> None:
    link = streaming()
    link.terminate()
    assert link.outgoing() == frame(b"c") + frame(b"X")
    assert link.phase is Phase.CLOSED


@pytest.mark.parametrize(
    "data",
    [
        xlog(b"row"),
        COPY_BOTH,
        frame(b"?"),
        frame(b"R", b"\0"),
        frame(b"S", b"no terminator"),
        frame(b"T", b"\0\x01name"),
        frame(b"D", b"\0\x01"),
        b"d\0\0\0\0",
        b"d\x7f\xff\xff\xff",
    ],
)
def test_what_breaks_the_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(WalsenderError):
        authenticated().receive(data)


@pytest.mark.parametrize("data", [frame(b"d", b"k"), frame(b"d", b"z" + bytes(30)), frame(b"d"), b"d\xff\xff\xff\xff"])
def test_what_breaks_the_stream_is_refused(data: bytes) -> None:
    with pytest.raises(WalsenderError):
        streaming().receive(data)
