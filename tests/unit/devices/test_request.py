"""Request heads: what is understood, what is refused, and that nothing else happens."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.devices.request import HEADERS_MAX, Request, RequestRefused, Response, accept_upgrade, parse_head

UPGRADE = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "electric.0.12",
}


def test_a_request_is_taken_apart() -> None:
    head = b"GET /api/migrations?dialect=sqlite&version=&x=a%20b HTTP/1.1\r\nHost: x\r\nX-One:  1 \r\nx-one: 2"
    assert parse_head(head) == Request(
        "GET",
        "/api/migrations",
        {"dialect": "sqlite", "version": "", "x": "a b"},
        {"host": "x", "x-one": "1, 2"},
    )


@pytest.mark.parametrize("target", ["//proxy", "/a:b", "/%2e%2e"])
def test_a_target_is_a_path_whatever_it_looks_like(target: str) -> None:
    assert parse_head(f"GET {target} HTTP/1.1".encode()).path == target.replace("%2e", ".")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /", 400),
        (b"GET / HTTP/2.0", 505),
        (b"GET http://other/ HTTP/1.1", 400),
        (b"G@T / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\nHost : x", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nA: b\nB: c", 400),
        (b"GET / HTTP/1.1\r\nA: \x00", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0", 400),
        (b"GET / HTTP/1.1" + b"\r\nA: b" * (HEADERS_MAX + 1), 431),
    ],
)
def test_what_is_malformed_or_has_a_body_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        parse_head(head)
    assert caught.value.response.status == status


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"GET /ws HTTP/1.1\r\n" + tail))
def test_any_bytes_are_a_request_or_a_refusal(head: bytes) -> None:
    try:
        request = parse_head(head)
        accept_upgrade(request)
    except RequestRefused as refused:
        refused.response.encode()


def test_the_answer_to_an_upgrade_is_the_rfcs_example() -> None:
    protocol, answer = accept_upgrade(Request("GET", "/ws", headers=UPGRADE))
    assert protocol == "electric.0.12"
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer


def test_an_answer_tells_its_length_and_that_the_connection_ends() -> None:
    response = Response(HTTPStatus.OK, b"up", headers={"X-A": "b"})
    head, body = response.encode().split(b"\r\n\r\n")
    assert body == b"up"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Connection: close",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 2",
        b"X-A: b",
    ]
    assert response.encode(head_only=True) == head + b"\r\n\r\n"
    assert Response(HTTPStatus.NO_CONTENT).encode() == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
