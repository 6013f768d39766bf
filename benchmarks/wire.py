"""One device on the wire. It speaks the protocol as a device must, and keeps a ledger instead of rows.

Over any number of connections: it authenticates, starts from its position, subscribes if it has nothing yet,
acknowledges at 70 % of the window and waits before it tries again as the device library does, and sends the writes
that have no echo yet. Only SQLite is missing. Arrival is noted before decoding: a real device decodes on its own
machine (see also ``shared``).
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from benchmarks.clientsocket import NOBODY, ClientSocket
from benchmarks.ledger import Effect, Ledger
from benchmarks.shared import Read, SharedFrames, edges
from benchmarks.side import now_ms
from benchmarks.stand import TOKEN
from syncline.client.connectivity import backoff_s
from syncline.proto import events
from syncline.proto.codec import MessageType
from syncline.proto.errors import ProtocolError
from syncline.proto.flow import AckPolicy
from syncline.proto.session import ClientSession
from syncline.proto.values import POSTGRES_ORIGIN, Insert, Migrate, Relation, ShapeRequest, Transaction

# From the open socket to the accepted stream, as the device library has it.
START_TIMEOUT_S: Final = 30.0

TRANSACTIONS, DELIVERIES, AGAIN, OTHER = "transactions", "deliveries", "again", "other"
"""What the bytes of the messages were: new transactions, whole tables, transactions it had, and the rest."""


class Watcher(Protocol):
    """Who is told. ``at_ms``: when the frame came (``now_ms``)."""

    def arrived_at(self, device: WireDevice, table: str, number: int, at_ms: float) -> None:
        """A transaction of the load."""

    def applied(self, device: WireDevice, at_ms: float) -> None:
        """Each frame that ended a transaction."""

    def echoed(self, device: WireDevice, after_ms: float) -> None:
        """A write of its own came back, so long after it was made."""


class WireDevice:
    """``tables``: that it asks for whole, or ``requests`` if there are any. ``decodes``: it looks into what it is sent
    first; else it only counts that.

    ``synced``: has all it asked for. ``transactions`` and ``rows``: of direct SQL, applied so far; ``loaded``: the rows
    that it was sent first. ``deliveries``: transactions of anybody. ``writes``: its own, made so far.

    ``last_ms``: when the last frame came. ``failed``: why it gave up, empty while it has not.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tables: Iterable[str],
        watcher: Watcher,
        shared: SharedFrames,
        group: str,
        ledger: Ledger | None,
        requests: Sequence[ShapeRequest] = (),
        *,
        decodes: bool = True,
    ) -> None:
        self.tables = tuple(tables)
        self.requests = tuple(requests)
        self.group = group
        self.ledger = ledger
        self.client_id = str(uuid.uuid4())
        if ledger is not None:
            ledger.client_id = self.client_id
        self.synced = asyncio.Event()
        self.transactions = self.rows = self.deliveries = self.loaded = 0
        self.bytes_of: Counter[str] = Counter()
        self.connections = 0
        self.last_ms = 0.0
        # Why connections ended that the device did not end itself: text -> how often.
        self.ends: Counter[str] = Counter()
        self.failed = ""
        self._host, self._port = host, port
        self._decodes = decodes
        self._watcher = watcher
        self._shared = shared
        self._subscription_id = str(uuid.uuid4())
        self._lsn = b""
        self._relations: dict[str, Relation] = {}
        self._socket: ClientSocket | None = None
        self._session = ClientSession()
        self._acks = AckPolicy()
        self._past_bytes = 0
        self._session_started = False
        self._ended = asyncio.Event()
        self._started = asyncio.Event()
        self._delivering = False
        self._inside = False  # a transaction whose end has not come, perhaps
        self._cut = False
        self._absent = False  # the last time nobody was there
        # Writes without an echo, and when they were made.
        self._unechoed: deque[tuple[Transaction, float]] = deque()
        self.writes = self._write_ms = 0
        self._may_write = False

    @property
    def received_bytes(self) -> int:
        """On all connections, with what frames and answers to an upgrade cost."""
        return self._past_bytes + (self._socket.received_bytes if self._socket is not None else 0)

    @property
    def unechoed(self) -> int:
        return len(self._unechoed)

    # --- connections --------------------------------------------------------------------------------------------------

    async def stay_connected(self, online: asyncio.Event) -> None:
        """Connects while ``online`` is set, again after each end, until cancelled or refused for good."""
        attempt = 0
        try:
            while not self.failed:
                await online.wait()
                if await self._connected_once():
                    attempt = 0
                elif not self._cut:
                    attempt += 1
                    await asyncio.sleep(backoff_s(attempt, random.random(), absent=self._absent))
        finally:
            if self._socket is not None:
                self._socket.abort()

    async def _connected_once(self) -> bool:
        """Until the connection ends; whether it had come as far as the stream."""
        self._past_bytes = self.received_bytes
        self._session, self._delivering, self._cut = ClientSession(), False, False
        self._session_started = self._inside = self._absent = False
        self._ended.clear()
        self._started.clear()
        socket = self._socket = ClientSocket(
            f"{self._host}:{self._port}", self._on_open, self._on_message, self._on_end
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(lambda: socket, self._host, self._port)
                await self._started.wait()
        except (OSError, TimeoutError) as error:
            self.ends[type(error).__name__] += 1
            self._absent = not isinstance(error, TimeoutError)
            socket.abort()
            return False
        await self._ended.wait()
        return self._session_started

    def cut(self) -> None:
        """The connection is gone from one moment to the next, without a word."""
        self._cut = True
        if self._socket is not None:
            self._socket.abort()

    def pause(self) -> None:
        """Stops reading; the service does not hear of it."""
        if self._socket is not None:
            self._socket.pause()

    def resume(self) -> None:
        if self._socket is not None:
            self._socket.resume()

    def _on_open(self) -> None:
        self.connections += 1
        self._send(self._session.authenticate(self.client_id, TOKEN))

    def _on_end(self, why: str) -> None:
        if not self._cut:
            self.ends[why] += 1
            self._absent = why.startswith(NOBODY)
        self._session.close()
        self._may_write = False
        self._ended.set()
        self._started.set()

    def _send(self, frame: bytes) -> None:
        assert self._socket is not None
        self._socket.send(frame)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _on_message(self, frame: bytes) -> None:
        at_ms = self.last_ms = now_ms()
        try:
            kind = DELIVERIES if self._delivering else TRANSACTIONS if frame[0] == MessageType.OP_LOG else OTHER
            news = True
            for transaction, effect in (read := self._read(frame)):
                news = self._apply(transaction, effect, at_ms) and news
            self.bytes_of[kind if news else AGAIN] += len(frame)
        except (ProtocolError, LookupError, ValueError) as error:
            self._fail(f"{type(error).__name__}: {error}")
            return
        if read:
            self._watcher.applied(self, at_ms)

    def _read(self, frame: bytes) -> Read:
        """The transactions that have come to their end with ``frame``; what else it says has been acted upon."""
        if self._delivering and not self._decodes and frame[0] == MessageType.OP_LOG:
            return []
        streamed = frame[0] == MessageType.OP_LOG and not self._delivering
        if streamed and not self._inside and (known := self._shared.get(frame)) is not None:
            return known
        told, answers = self._session.receive(frame)
        for answer in answers:
            self._send(answer)
        read: Read = []
        for event in told:
            if isinstance(event, events.TransactionReceived):
                effect = self.ledger.effect(event.transaction) if self.ledger is not None else None
                read.append((event.transaction, effect))
            else:
                self._on(event)
        if streamed:
            begins, ends = edges(frame)
            if begins and ends and not self._inside:
                self._shared.put(frame, read)
            self._inside = not ends
        return read

    def _on(self, event: object) -> None:
        match event:
            case events.Authenticated():
                held = [self._subscription_id] if self.synced.is_set() else []
                self._send(self._session.start(self._lsn, held, None, "sqlite"))
            case events.StreamStarted(window):
                self._acks = AckPolicy(window)
                self._session_started = True
                self._started.set()
                if not self.synced.is_set():
                    self._subscription_id = str(uuid.uuid4())
                    whole = [ShapeRequest(str(uuid.uuid4()), table) for table in self.tables]
                    self._send(self._session.subscribe(self._subscription_id, self.requests or whole))
            case events.SendFrom():
                self._may_write = True
                self._send_writes([transaction for transaction, _ in self._unechoed])
            case events.RelationReceived(relation):
                self._relations[relation.table] = relation
                if self.ledger is not None:
                    self.ledger.relation(relation)
            case events.ShapeDataBegun():
                self._delivering = True
                if self.ledger is not None:
                    self.ledger.delivery_begins()
            case events.ShapeRows(inserts=inserts):
                self.loaded += len(inserts)
                if self.ledger is not None:
                    self.ledger.delivered(inserts)
            case events.ShapeDataEnded(subscription_id, lsn):
                self._delivering = False
                self._lsn = lsn
                if self.ledger is not None:
                    self.ledger.delivery_ends(self.tables, int(lsn))
                self._ack([subscription_id])
                self.synced.set()
            case events.StreamRefused() | events.SubscribeRefused() | events.ShapeDataFailed() | events.GonesEnded():
                self._fail(f"the service refuses: {event}")
            case events.PeerFailed(code, message):
                self.ends[f"{code}: {message}"] += 1
            case _:
                pass

    def _apply(self, transaction: Transaction, effect: Effect | None, at_ms: float) -> bool:
        """Whether it was news."""
        news = True
        if self.ledger is not None and effect is not None:
            news = self.ledger.applied(effect)
            if news and effect.number is not None:
                self._watcher.arrived_at(self, *effect.number, at_ms)
        migration = any(isinstance(change, Migrate) for change in transaction.changes[:1])
        if transaction.origin == POSTGRES_ORIGIN and not migration:
            self.transactions += 1
            self.rows += len(transaction.changes)
        self.deliveries += 1
        self._lsn = transaction.lsn
        if transaction.origin == self.client_id:
            while self._unechoed and self._unechoed[0][0].commit_ms <= transaction.commit_ms:
                self._watcher.echoed(self, at_ms - self._unechoed.popleft()[1])
        if self._acks.applied(transaction.transaction_id or 0):
            self._ack()
        return news

    def _ack(self, subscription_ids: Iterable[str] = ()) -> None:
        self._send(self._session.ack(self._acks.take() or 0, self._lsn, list(subscription_ids)))

    def ack_what_is_due(self) -> None:
        """A device that receives little acknowledges it all the same, from time to time."""
        if self._acks.due and self._may_write:
            self._ack()

    def _fail(self, why: str) -> None:
        self.failed = self.failed or why
        self._cut = True
        if self._socket is not None:
            self._socket.abort()

    # --- what it writes -----------------------------------------------------------------------------------------------

    def write(self, table: str, cells: dict[str, bytes]) -> None:
        """One new row, in a transaction of its own; sent now, or when there is a stream that wants it."""
        relation = self._relations[table]
        row = tuple(cells.get(name) for name in relation.names)
        self.writes += 1
        self._write_ms = max(self._write_ms + 1, time.time_ns() // 1_000_000)
        transaction = Transaction(self._write_ms, self.writes.to_bytes(4, "big"), (Insert(relation.id, row),))
        self._unechoed.append((transaction, now_ms()))
        if self._may_write:
            self._send_writes([transaction])

    def _send_writes(self, transactions: Iterable[Transaction]) -> None:
        relations = {relation.id: relation for relation in self._relations.values()}
        for frame in self._session.write_all(transactions, relations):
            self._send(frame)
