"""What a Postgres server says on a replication connection: the events of ``walsender``, and the bodies behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import TypeAlias

from syncline.actors.postgres.lsn import Lsn

_INT16 = Struct(">h")


class WalsenderError(Exception):
    """The connection cannot go on: the peer broke the protocol, or asks for what we refuse. Says what to do."""


class ServerError(Exception):
    """An ErrorResponse. ``sqlstate`` is five characters; ``detail`` and ``hint`` may be empty."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.severity = fields.get("V") or fields.get("S", "ERROR")
        self.sqlstate = fields.get("C", "XX000")
        self.message = fields.get("M", "")
        self.detail = fields.get("D", "")
        self.hint = fields.get("H", "")
        text = f"{self.severity} {self.sqlstate}: {self.message}"
        for name, more in (("detail", self.detail), ("hint", self.hint)):
            if more:
                text += f" ({name}: {more})"
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class TlsAccepted:
    """The server agreed: do the handshake now, before another byte is read, then call ``tls_established``."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The server waits for a command: authentication is done, or the last query is."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One result of a simple query, values in text form. ``tag``: the command tag, such as ``SELECT 1``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    tag: str


@dataclass(frozen=True, slots=True)
class CopyStarted:
    """From here on the stream flows."""


@dataclass(frozen=True, slots=True)
class CopyEnded:
    """The server ended the stream in good order, as it does when it shuts down."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """``wal_end``: everything before it has been sent. ``reply_requested``: the server waits for a status."""

    wal_end: Lsn
    reply_requested: bool


Event: TypeAlias = bytes | TlsAccepted | Ready | QueryResult | CopyStarted | CopyEnded | Keepalive | ServerError


def server_error(body: bytes) -> ServerError:
    """An ErrorResponse, whose fields stand behind one-letter codes."""
    parts = body.decode(errors="replace").split("\0")
    return ServerError({part[0]: part[1:] for part in parts if part})


def column_names(body: bytes) -> tuple[str, ...]:
    """Of a RowDescription. Raises ValueError, LookupError or struct.error when it is malformed."""
    (count,) = _INT16.unpack_from(body)
    names = []
    position = 2
    for _ in range(count):
        end = body.index(b"\0", position)
        names.append(body[position:end].decode())
        position = end + 19  # the name's terminator and 18 bytes about the type
    return tuple(names)


def row_values(body: bytes) -> tuple[str | None, ...]:
    """Of a DataRow, in text form. Raises ValueError or struct.error when it is malformed."""
    (count,) = _INT16.unpack_from(body)
    values: list[str | None] = []
    position = 2
    for _ in range(count):
        length = int.from_bytes(body[position : position + 4], "big", signed=True)
        position += 4
        values.append(None if length < 0 else body[position : position + length].decode())
        position += max(length, 0)
    if position != len(body):
        raise ValueError("a row of another length than its columns add up to")
    return tuple(values)
