"""HTTP/1.1 as far as the edge speaks it, without a socket: a request head in, a response's bytes out.

One request a connection: it either becomes a WebSocket or gets one answer and ``Connection: close``. So there is no
pipelining, no body and no chunking to get wrong; a request that announces a body is refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

from syncline.proto.subprotocols import OLD, OWN

HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 64

# RFC 6455, section 1.3: what a server appends to the key before hashing it.
_ACCEPT_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

# In the order of our preference, where a peer offers several.
SUBPROTOCOLS = (OWN, *OLD)


class RequestRefused(Exception):
    """The request is answered with ``status`` and the short ``text``, then the connection is closed."""

    def __init__(self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.response = Response(status, text.encode(), headers=headers or {})


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` is percent-decoded; ``query`` keeps the last value of a name; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    status: HTTPStatus
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, *, head_only: bool = False) -> bytes:
        """The whole answer; ``head_only`` leaves the body out, as HEAD wants it."""
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", "Connection: close"]
        if self.status != HTTPStatus.NO_CONTENT:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head if head_only else head + self.body


def parse_head(head: bytes) -> Request:
    """``head``: the request up to, without, the empty line. Raises RequestRefused."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]):
        raise _bad("Malformed request line")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "Only HTTP/1.1 is spoken here")
    if not target.startswith("/") or not target.isascii() or not _VALUE.fullmatch(target):
        raise _bad("Malformed request target")
    headers = _parse_headers(lines[1:])
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise _bad("A request body is not expected here")
    path, _, search = target.partition("?")
    query = {name: values[-1] for name, values in parse_qs(search, keep_blank_values=True).items()}
    return Request(method, unquote(path, errors="replace"), query, headers)


def accept_upgrade(request: Request) -> tuple[str, bytes]:
    """The agreed subprotocol and the bytes of the 101 answer, which declines every extension. Raises RequestRefused."""
    headers = request.headers
    if request.method != "GET" or "websocket" not in _tokens(headers.get("upgrade", "")):
        raise _bad("Not a WebSocket upgrade request")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise _bad("Not a WebSocket upgrade request: the Connection header does not say Upgrade")
    if headers.get("sec-websocket-version") != "13":
        refusal = "Unsupported WebSocket version, 13 is spoken here"
        raise RequestRefused(HTTPStatus.BAD_REQUEST, refusal, {"Sec-WebSocket-Version": "13"})
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise _bad("Malformed Sec-WebSocket-Key")
    protocol = _choose(headers.get("sec-websocket-protocol", ""))
    accept = base64.b64encode(hashlib.sha1((key + _ACCEPT_SUFFIX).encode()).digest()).decode()  # noqa: S324 - RFC 6455
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        f"Sec-WebSocket-Protocol: {protocol}",
    )
    return protocol, ("\r\n".join(lines) + "\r\n\r\n").encode()


def _choose(offer: str) -> str:
    offered = [value.strip() for value in offer.split(",") if value.strip()]
    for protocol in SUBPROTOCOLS:
        if protocol in offered:
            return protocol
    supported = ", ".join(SUBPROTOCOLS)
    if not offered:
        raise _bad(f"Missing subprotocol; one of {supported} is needed")
    raise _bad(f"Incompatible client version; one of {supported} is needed")


def _parse_headers(lines: list[str]) -> dict[str, str]:
    if len(lines) > HEADERS_MAX:
        raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"More than {HEADERS_MAX} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _bad("Malformed header")
        name = name.lower()
        # Repeated headers are one list (RFC 9110, 5.3); a second length can only be an attack.
        if name == "content-length" and name in headers:
            raise _bad("More than one Content-Length")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _bad(text: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.BAD_REQUEST, text)
