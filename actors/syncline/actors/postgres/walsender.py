"""A replication connection to Postgres without the connection: bytes in, events and bytes out.

The client side of the frontend/backend protocol, version 3.0, as far as a replication stream needs it: the TLS request,
startup, ``authentication``, simple queries, and the CopyBoth mode in which WAL flows one way and standby status
messages the other. What the server says is in ``server_messages``. A shell owns the socket:

    send what ``start`` returns; feed what arrives to ``receive``; after each call send what ``outgoing`` holds;
    on ``TlsAccepted`` do the handshake and call ``tls_established``; on ``Ready`` issue a ``query`` or a command.

``receive`` takes any split of the bytes. It returns what happened in order; an error of the server is one of the
events (``ServerError``), so that what came before it is not lost; a peer that breaks the protocol raises
``WalsenderError``. Inside CopyBoth the payload of each XLogData message is returned as plain ``bytes``: that is the
path every row takes, and an object around each would cost as much as finding it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from struct import Struct
from struct import error as StructError
from typing import Final

from syncline.actors.postgres.authentication import Authentication
from syncline.actors.postgres.lsn import ZERO, Lsn
from syncline.actors.postgres.pgoutput import POSTGRES_EPOCH_MS
from syncline.actors.postgres.server_messages import (
    CopyEnded,
    CopyStarted,
    Event,
    Keepalive,
    QueryResult,
    Ready,
    TlsAccepted,
    WalsenderError,
    column_names,
    row_values,
    server_error,
)

PROTOCOL_VERSION: Final = 196608  # 3.0
SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"

HANDSHAKE_MESSAGE_BYTES_MAX = 1 << 20  # errors and notices at most; a stranger must not make us buffer more
MESSAGE_BYTES_MAX = (1 << 30) + 64  # what Postgres itself can build, with the header of an XLogData message


class TlsMode(Enum):
    """libpq's ``sslmode``. ``allow`` counts as ``prefer``."""

    DISABLE = "disable"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"

    @property
    def must(self) -> bool:
        """Whether the connection may not go on without TLS."""
        return self not in (TlsMode.DISABLE, TlsMode.PREFER)


class Phase(Enum):
    NEW = auto()
    TLS_ASKED = auto()
    TLS_HANDSHAKE = auto()
    AUTHENTICATING = auto()
    IDLE = auto()
    QUERYING = auto()
    COPYING = auto()
    CLOSED = auto()


_UINT32 = Struct(">I")
_WAL_HEAD = Struct(">QQq")
_KEEPALIVE = Struct(">QqB")
_STATUS = Struct(">cIcQQQqB")
_COPY_DATA, _XLOG_DATA, _KEEPALIVE_KIND = b"dwk"
_XLOG_HEADER_BYTES = 5 + 1 + _WAL_HEAD.size


def _frame(kind: bytes, body: bytes) -> bytes:
    return kind + _UINT32.pack(len(body) + 4) + body


class Walsender:
    """One connection, from the first byte to the last.

    ``parameters``: startup parameters, ``user`` and ``database`` among them (``replication=database`` is added).
    """

    def __init__(self, parameters: Mapping[str, str], password: str | None, tls: TlsMode = TlsMode.PREFER) -> None:
        self._parameters = dict(parameters)
        self._who = Authentication(self._parameters.get("user", ""), password)
        self._tls = tls
        self._encrypted = False
        self._phase = Phase.NEW
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = 1
        self._out = bytearray()
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[str | None, ...]] = []
        self.server_parameters: dict[str, str] = {}
        self.backend_pid: int | None = None
        """The server's process for this connection."""
        self.wal_end = ZERO
        """The end of WAL on the server, as the last keepalive had it."""

    @property
    def phase(self) -> Phase:
        return self._phase

    def outgoing(self) -> bytes:
        """Takes the bytes that wait to be sent."""
        out = bytes(self._out)
        self._out.clear()
        return out

    # --- commands -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the conversation."""
        self._expect(Phase.NEW)
        if self._tls is TlsMode.DISABLE:
            self._startup()
        else:
            self._out += SSL_REQUEST
            self._phase = Phase.TLS_ASKED

    def tls_established(self) -> None:
        """The handshake that ``TlsAccepted`` asked for is done."""
        self._expect(Phase.TLS_HANDSHAKE)
        self._encrypted = True
        self._startup()

    def query(self, sql: str) -> None:
        """A simple query or replication command; results follow as events, then ``Ready`` or ``CopyStarted``."""
        self._expect(Phase.IDLE)
        self._out += _frame(b"Q", sql.encode() + b"\0")
        self._phase = Phase.QUERYING

    def status(self, written: int, flushed: int, now_us: int, *, reply: bool = False) -> None:
        """A standby status. ``flushed``: WAL before it may be forgotten. ``now_us``: Unix microseconds.

        ``reply`` asks the server for a keepalive in return.
        """
        self._expect(Phase.COPYING)
        clock = now_us - POSTGRES_EPOCH_MS * 1000
        self._out += _STATUS.pack(b"d", _STATUS.size - 1, b"r", written, flushed, flushed, clock, reply)

    def terminate(self) -> None:
        """Says goodbye. Nothing can be sent afterwards."""
        if self._phase is Phase.COPYING:
            self._out += _frame(b"c", b"")
        if self._phase not in (Phase.NEW, Phase.TLS_ASKED, Phase.TLS_HANDSHAKE, Phase.CLOSED):
            self._out += _frame(b"X", b"")
        self._phase = Phase.CLOSED

    def _expect(self, phase: Phase) -> None:
        if self._phase is not phase:
            raise AssertionError(f"not in {phase.name} but in {self._phase.name}")

    def _startup(self) -> None:
        parameters = {**self._parameters, "replication": "database"}
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
        self._out += _UINT32.pack(len(body) + 8) + _UINT32.pack(PROTOCOL_VERSION) + body
        self._phase = Phase.AUTHENTICATING
        self._needed = 5

    # --- bytes in -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes complete. Raises WalsenderError."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._needed:
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        events: list[Event] = []
        position = 0 if self._phase is not Phase.TLS_ASKED else self._tls_answer(buffer, events)
        if self._phase is not Phase.TLS_HANDSHAKE:
            position = self._messages(buffer, position, events)
        rest = buffer[position:]
        self._pieces = [rest] if rest else []
        self._held = len(rest)
        return events

    def _tls_answer(self, buffer: bytes, events: list[Event]) -> int:
        answer = buffer[:1]
        if answer == b"S":
            if len(buffer) > 1:
                raise WalsenderError("the server sent data before the TLS handshake: somebody is tampering")
            self._phase = Phase.TLS_HANDSHAKE
            events.append(TlsAccepted())
        elif answer == b"N" and not self._tls.must:
            self._startup()
        elif answer == b"N":
            raise WalsenderError(
                f"the server does not offer TLS, which sslmode={self._tls.value} requires: "
                "enable ssl on the server, or use sslmode=disable on a network you trust"
            )
        else:
            raise WalsenderError("the other end does not answer as Postgres does: check host and port")
        return 1

    def _messages(self, buffer: bytes, position: int, events: list[Event]) -> int:
        """Takes all complete messages from ``position`` on; returns where the first incomplete one begins."""
        from_bytes = int.from_bytes
        append = events.append
        end = len(buffer)
        self._needed = 5
        while end - position >= 5:
            kind = buffer[position]
            stop = position + 1 + from_bytes(buffer[position + 1 : position + 5], "big")
            if stop > end or stop < position + 5:
                self._needed = self._checked(stop - position, kind)
                break
            data = kind == _COPY_DATA and stop - position >= _XLOG_HEADER_BYTES
            if data and buffer[position + 5] == _XLOG_DATA and self._phase is Phase.COPYING:
                append(buffer[position + _XLOG_HEADER_BYTES : stop])
            else:
                self._message(kind, buffer[position + 5 : stop], events)
            position = stop
        return position

    def _checked(self, size: int, kind: int) -> int:
        """The size of an incomplete message, when it is one we would wait for."""
        limit = MESSAGE_BYTES_MAX if self._phase is Phase.COPYING else HANDSHAKE_MESSAGE_BYTES_MAX
        if not 5 <= size <= limit:
            raise WalsenderError(f"a message of type {chr(kind)!r} claims {size} bytes: this is no Postgres connection")
        return size

    def _message(self, kind: int, body: bytes, events: list[Event]) -> None:
        handle = _MESSAGES.get(kind)
        if handle is None:
            raise WalsenderError(f"unexpected message of type {chr(kind)!r} while {self._phase.name}")
        try:
            handle(self, body, events)
        except (ValueError, LookupError, StructError) as cause:
            raise WalsenderError(f"malformed message of type {chr(kind)!r}") from cause

    def _copy_data(self, body: bytes, events: list[Event]) -> None:
        if self._phase is not Phase.COPYING or not body or body[0] != _KEEPALIVE_KIND or len(body) != 18:
            raise WalsenderError(f"unexpected copy data ({body[:1]!r}, {len(body)} bytes) while {self._phase.name}")
        end, _, reply = _KEEPALIVE.unpack_from(body, 1)
        self.wal_end = max(self.wal_end, Lsn(end))
        events.append(Keepalive(Lsn(end), reply == 1))

    def _copy_started(self, body: bytes, events: list[Event]) -> None:
        if self._phase is not Phase.QUERYING:
            raise WalsenderError(f"a stream nobody asked for while {self._phase.name}")
        self._phase = Phase.COPYING
        events.append(CopyStarted())

    def _copy_done(self, body: bytes, events: list[Event]) -> None:
        self._out += _frame(b"c", b"")
        self._phase = Phase.QUERYING
        events.append(CopyEnded())

    def _ready(self, body: bytes, events: list[Event]) -> None:
        self._phase = Phase.IDLE
        events.append(Ready())

    def _error(self, body: bytes, events: list[Event]) -> None:
        events.append(server_error(body))
        if self._phase is Phase.COPYING:
            self._phase = Phase.QUERYING

    def _authentication(self, body: bytes, events: list[Event]) -> None:
        if self._phase is not Phase.AUTHENTICATING:
            raise WalsenderError(f"a request to authenticate while {self._phase.name}")
        answer = self._who.answer(body, encrypted=self._encrypted)
        if answer is not None:
            self._out += _frame(b"p", answer)

    def _parameter(self, body: bytes, events: list[Event]) -> None:
        name, value, _ = body.decode(errors="replace").split("\0")
        self.server_parameters[name] = value

    def _key_data(self, body: bytes, events: list[Event]) -> None:
        (self.backend_pid,) = _UINT32.unpack(body[:4])

    def _ignore(self, body: bytes, events: list[Event]) -> None:
        """Notices and empty answers say nothing we act on."""

    def _row_description(self, body: bytes, events: list[Event]) -> None:
        self._columns = column_names(body)

    def _data_row(self, body: bytes, events: list[Event]) -> None:
        self._rows.append(row_values(body))

    def _command_complete(self, body: bytes, events: list[Event]) -> None:
        events.append(QueryResult(self._columns, tuple(self._rows), body.rstrip(b"\0").decode()))
        self._columns = ()
        self._rows = []


_MESSAGES: dict[int, Callable[[Walsender, bytes, list[Event]], None]] = {
    ord("d"): Walsender._copy_data,
    ord("W"): Walsender._copy_started,
    ord("c"): Walsender._copy_done,
    ord("Z"): Walsender._ready,
    ord("E"): Walsender._error,
    ord("R"): Walsender._authentication,
    ord("S"): Walsender._parameter,
    ord("K"): Walsender._key_data,
    ord("N"): Walsender._ignore,
    ord("I"): Walsender._ignore,
    ord("T"): Walsender._row_description,
    ord("D"): Walsender._data_row,
    ord("C"): Walsender._command_complete,
}
