"""The replication stream: pgoutput messages from a slot, for as long as anyone iterates.

This is the shell around ``walsender``: sockets, TLS, timers, reconnects. What it promises:

- **One seamless sequence.** After a lost connection Postgres starts again at the confirmed position. Transactions
  already passed on are skipped, and inside the one that was cut so are the messages already passed on (decoding is
  deterministic), so the consumer sees every row once. Relation definitions may repeat. Over a restart of the process
  the consumer sees transactions again that it had not confirmed.
- **Back-pressure.** Nothing is read while the consumer is busy: TCP slows the server down. The standby status goes out
  on a timer of its own, so a slow consumer is not taken for a dead one.
- **Confirmation.** ``confirm(lsn)`` says that every transaction whose commit position is at or below ``lsn`` is safe.
  The slot is told ``lsn + 1``: Postgres sends again what commits at or after the position it was told. Nothing else is
  ever told. ``idle_lsn`` is the position up to which the stream held nothing but what was passed on; it follows the
  server's keepalives, so a consumer that confirms it once all it was given is safe (see ``flush``) lets the slot of an
  idle database follow the WAL that other databases and vacuum write.
- **Dead peers.** A server that has been silent is asked for a keepalive; one that stays silent is given up, at once
  where Postgres says on another connection that it has nothing else to do. Its process may still hold the slot, not
  knowing that we left, so the next connection ends it by its id.

Whose fault decides: the world's (network, restart, slot still held by somebody) is retried with backoff and shown in
``last_error``; what only the operator can mend (password, rights, a missing or invalidated slot) is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from syncline.actors.postgres.dsn import Endpoint, parse_dsn
from syncline.actors.postgres.lookout import SERVER_KEEPALIVES
from syncline.actors.postgres.lsn import ZERO, Lsn
from syncline.actors.postgres.ownership import HOST_SUPERSEDED, SERVICE_SUPERSEDED, Ownership
from syncline.actors.postgres.pgoutput import (
    Begin,
    Commit,
    Message,
    PgoutputError,
    RelationMessage,
    TypeMessage,
    decode,
)
from syncline.actors.postgres.replication_link import ReplicationLink
from syncline.actors.postgres.server_messages import CopyEnded, Event, Keepalive, ServerError, WalsenderError
from syncline.actors.postgres.session import keeper_of
from syncline.actors.postgres.typemap import SESSION_SETTINGS

log = logging.getLogger(__name__)

STATUS_INTERVAL_S: Final = 2.0  # well below our wal_sender_timeout, and soon enough for the slot to follow
SILENCE_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 15.0
CONNECT_FIRST_S: Final = 4.0  # for the first try: its link may be lost, and nobody is there yet who could be asked
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0  # one connection a server: trying often harms nobody, and devices wait
WAL_SENDER_TIMEOUT_MS: Final = 10_000  # how long the server lets a dead connection of ours hold the slot

SLOT_IN_USE: Final = "55006"
# Classes and codes a retry cannot mend: authentication, unknown database, unknown slot or publication, bad option,
# unsupported feature, a slot whose WAL is gone (55000, object_not_in_prerequisite_state), a claim that is over.
_OPERATOR_CLASSES: Final = frozenset({"28", "3D", "42", "22", "0A"})
_OPERATOR_STATES: Final = frozenset({"55000", SERVICE_SUPERSEDED, HOST_SUPERSEDED})


class StreamError(Exception):
    """The stream cannot go on until somebody mends its cause, which is ``__cause__``. The message says what to do."""


def needs_operator(error: Exception) -> bool:
    """Whether retrying is pointless."""
    if isinstance(error, ServerError):
        return error.sqlstate[:2] in _OPERATOR_CLASSES or error.sqlstate in _OPERATOR_STATES
    return isinstance(error, WalsenderError | PgoutputError | ssl.SSLCertVerificationError)


def backoff_s(attempt: int, jitter: float) -> float:
    """Seconds before retry number ``attempt`` (0 the first). ``jitter`` in [0, 1) spreads it over the upper half."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(attempt, 16))
    return ceiling * (0.5 + jitter / 2)


class ReplicationStream:
    """Messages of ``slot``, which must exist, filtered by ``publication``.

    Iterate it (one message at a time) or call ``receive`` (all that arrived together); both reconnect by themselves
    and raise StreamError when that is pointless. Only one consumer at a time. Close it with ``aclose`` or
    ``async with``. ``owner``: for whom it is read, where that can end. ``status_interval_s``: how often the server is
    told what is confirmed. ``silence_s``: how long it may say nothing.
    """

    def __init__(
        self,
        dsn: str,
        slot: str,
        publication: str,
        *,
        owner: Ownership | None = None,
        status_interval_s: float = STATUS_INTERVAL_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._endpoint: Endpoint = parse_dsn(dsn)
        self._dsn = dsn
        self._slot = slot
        self._publication = publication
        self._owner = owner
        self._status_interval_s = status_interval_s
        self._silence_s = silence_s
        self._link: ReplicationLink | None = None
        self._attempt = 0
        self._previous_pid: int | None = None
        self._ready: deque[Message] = deque()
        self._confirmed = ZERO
        self._idle = ZERO
        self._last_commit = ZERO
        self._transaction: Begin | None = None
        self._passed = 0
        self._skip_transaction = False
        self._skip_messages = 0
        self._fault: Exception | None = None
        self._closing = asyncio.Event()
        self.last_error: Exception | None = None
        """Why the stream is not connected, None while it is."""
        self.connects = 0
        """How often the stream has been started."""

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def advice(self) -> str | None:
        """``last_error`` in words for the operator."""
        return None if self.last_error is None else _advice(self.last_error, self._slot)

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    @property
    def idle_lsn(self) -> Lsn:
        """Up to and including this position the stream holds nothing but the messages passed on. Never falls."""
        return max(self._idle, self._last_commit)

    @property
    def flush_position(self) -> Lsn:
        """What the slot is told: WAL before it is no longer needed."""
        return Lsn(self._confirmed + 1) if self._confirmed else ZERO

    def confirm(self, lsn: int) -> None:
        """Every transaction whose commit position is at or below ``lsn`` is safe elsewhere. Never goes back."""
        if lsn > self._confirmed:
            self._confirmed = Lsn(lsn)

    # --- consuming ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._ready:
            if self._closing.is_set():
                raise StopAsyncIteration
            self._ready.extend(await self.receive())
        return self._ready.popleft()

    async def receive(self) -> list[Message]:
        """The next messages, in order. None of them when only ``idle_lsn`` moved, or the stream was closed.

        Raises StreamError.
        """
        while not self._closing.is_set():
            try:
                if self._fault is not None:
                    fault, self._fault = self._fault, None
                    raise fault
                if self._link is None:
                    self._link = await self._connect()
                    self.last_error = None
                    self.connects += 1
                idle = self._idle
                messages = self._accept(await self._link.read())
            except (OSError, EOFError, ServerError, WalsenderError, PgoutputError) as error:
                await self._lost(error)
                continue
            if messages or self._idle > idle:
                self._attempt = 0
                return messages
        return []

    async def aclose(self) -> None:
        """Ends the stream; a waiting ``receive`` returns."""
        self._closing.set()
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _accept(self, events: Iterable[Event]) -> list[Message]:
        """Keeps the books on what passes and leaves out what has passed before."""
        messages: list[Message] = []
        for event in events:
            if type(event) is bytes:
                self._pass(decode(event), messages)
            elif isinstance(event, Keepalive):
                if self._transaction is None:  # the next commit may stand exactly at wal_end
                    self._idle = max(self._idle, Lsn(event.wal_end - 1))
                if event.reply_requested and self._link is not None:
                    self._link.report()
            elif isinstance(event, ServerError):
                self._fault = event
            elif isinstance(event, CopyEnded):
                self._fault = self._fault or ConnectionError("the server ended the stream")
        return messages

    def _pass(self, message: Message, messages: list[Message]) -> None:
        kind = type(message)
        if kind is RelationMessage or kind is TypeMessage:
            messages.append(message)
            return
        if isinstance(message, Begin):
            if self._transaction is not None and self._transaction.final_lsn != message.final_lsn:
                self._skip_messages = self._passed = 0
            self._skip_transaction = message.final_lsn <= self._last_commit
            if not self._skip_transaction and not self._skip_messages:
                self._transaction = message
                self._passed = 0
        if self._skip_transaction:
            self._skip_transaction = not isinstance(message, Commit)
            return
        if self._skip_messages:
            self._skip_messages -= 1
            return
        self._passed += 1
        messages.append(message)
        if isinstance(message, Commit):
            self._last_commit = message.commit_lsn
            self._idle = max(self._idle, Lsn(message.end_lsn - 1))  # nothing else lies within a commit record
            self._transaction = None
            self._passed = 0

    # --- connecting ---------------------------------------------------------------------------------------------------

    async def _connect(self) -> ReplicationLink:
        settings = {
            **SERVER_KEEPALIVES,
            **SESSION_SETTINGS,
            "application_name": "syncline" if self._owner is None else self._owner.application_name("stream"),
            "client_encoding": "UTF8",
            "wal_sender_timeout": str(WAL_SENDER_TIMEOUT_MS),
        }
        link = ReplicationLink(
            self._endpoint,
            keeper_of(self._dsn),
            settings,
            lambda: self.flush_position,
            self._status_interval_s,
            self._silence_s,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S if self._attempt else CONNECT_FIRST_S):
                await link.open()
                if self._owner is not None:
                    await link.admit(self._owner.fence)
                if self._previous_pid is not None:
                    await link.terminate(self._previous_pid)
                await link.start_replication(self._slot, self._publication, self.flush_position)
        except BaseException:
            await link.close()
            raise
        self._previous_pid = link.backend_pid
        self._skip_transaction = False
        self._skip_messages = self._passed if self._transaction is not None else 0
        return link

    async def _lost(self, error: Exception) -> None:
        """Takes the connection down and waits before the next attempt. Raises StreamError when none can help."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        if self._closing.is_set():
            return
        self.last_error = error
        if self._owner is not None and isinstance(error, ServerError):
            self._owner.refused(error.sqlstate, error.message)
        if needs_operator(error):
            raise StreamError(f"replication from slot {self._slot!r} stopped: {_advice(error, self._slot)}") from error
        delay_s = backoff_s(self._attempt, random.random())  # noqa: S311 - spreads load, protects nothing
        self._attempt += 1
        log.warning("replication stream: %s; again in %.1f s", _advice(error, self._slot), delay_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._closing.wait()


def _advice(error: Exception, slot: str) -> str:
    """The error with what to make of it."""
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{text}: name the certificate of the server's authority with sslrootcert, and the host as it is certified"
        )
    if not isinstance(error, ServerError):
        return text
    if error.sqlstate == SLOT_IN_USE:
        return f"{text}: another Syncline serves this database, or Postgres has not noticed yet that its link is dead"
    if error.sqlstate == "42704":
        return f"{text}: the slot or publication was dropped; devices must start over from a new one"
    if error.sqlstate == "55000":
        return f"{text}: the slot {slot!r} lost its WAL (max_slot_wal_keep_size); drop it and start over"
    if error.sqlstate.startswith("28"):
        return f"{text}: check user, password and pg_hba.conf, and that the role has REPLICATION"
    return text
