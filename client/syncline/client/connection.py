"""One connection to the server, from authentication to its end.

What the server sends is handled strictly in its order, each group of events (``grouping``) to its commit before the
next; frames behind it are read meanwhile (``inbox``). The ``Progress`` a connection reports to is the satellite: it
outlives connections and knows who is waiting for what.

A server that refuses a local transaction (INVALID_REQUEST with its position) hangs up, and would do so again. The
connection after that one is told to withhold it and what follows, and stays up for everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from syncline.client.asking import Asking
from syncline.client.connectivity import FORKED, INVALID_AUTH_REQUEST
from syncline.client.grouping import Arrived, TransactionBatch, grouped
from syncline.client.inbox import Inbox
from syncline.client.oplog import Outlines, entry_id_of, transactions
from syncline.client.progress import Progress
from syncline.client.replica import Replica
from syncline.client.reserving import Reserving
from syncline.client.shapes import HELD, Subscription, held, resumable_ids
from syncline.client.store import whole
from syncline.client.transport import Transport
from syncline.proto.events import (
    AckRequested,
    AdditionalData,
    Authenticated,
    GoneRows,
    GonesBegun,
    GonesEnded,
    PeerFailed,
    Reached,
    RelationReceived,
    ReleaseDone,
    RepairBegun,
    RepairEnded,
    Reserved,
    ReserveRefused,
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
    Unsubscribed,
)
from syncline.proto.flow import AckPolicy
from syncline.proto.session import ClientSession
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.values import Relation, Transaction

DIALECT = "sqlite"
BEHIND_WINDOW = "BEHIND_WINDOW"

# Entries read from the oplog at a time when a backlog is sent: enough to fill frames, few enough to hold.
BACKLOG_ENTRIES = 500

# Entries that are sent ahead of their echoes. Our acks follow them on the same socket, of which the server reads only
# so much ahead of Postgres; and without acks it sends nothing.
AHEAD_ENTRIES_MAX = 1_000

# From the open socket to the accepted stream. A server that answers nothing must not hold us for ever.
START_TIMEOUT_S = 30.0

# Applied transactions are acknowledged at the latest after this long, when too few come to fill the window.
ACK_INTERVAL_S = 60.0

# When a send finds the connection closed, what the server had said before may still have to be read.
LAST_WORDS_S = 2.0


class ConnectionEnded(Exception):
    """The server ended it with a protocol message. ``code`` is what ``connectivity.after`` wants to know.

    ``refused_entry``: the last oplog entry of the local transaction that the server will not take, if it was about one.
    """

    def __init__(self, message: str, code: str, refused_entry: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.refused_entry = refused_entry


class Connection:
    """``withhold``: the last oplog entry of a transaction not to be sent on this connection, nor any after it."""

    def __init__(
        self, transport: Transport, replica: Replica, progress: Progress, token: str, withhold: int | None = None
    ) -> None:
        self._transport = transport
        self._replica = replica
        self._progress = progress
        self._token = token
        self._withhold = withhold
        self._session = ClientSession()
        self._relations: dict[int, Relation] = {}
        self._outlines = Outlines()
        self._send_from: int | None = None
        self._something_to_send = asyncio.Event()
        self.live = False
        self._acks = AckPolicy()
        self._asking = Asking(transport, self._session, replica)
        # Of the delivery under way: rows so far, and about how many there will be.
        self._rows = 0
        self._rows_estimate: int | None = None
        # From the digests of what is here until what differs has been put right. The position stays meanwhile.
        self._repairing = False
        self._carried_out: list[int] = []  # by where we stand then
        self._deadline: asyncio.Timeout | None = None
        # Sending rests until something comes back.
        self._ahead = False
        self._reserving = Reserving(transport, self._session, replica)

    async def serve(self) -> None:
        """Run until the connection ends; it always ends with an exception that says why.

        Raises TransportClosed, ConnectionEnded, TimeoutError, ProtocolError; UnknownRelation, ValueError or
        sqlite3.Error when the stream cannot be applied.
        """
        inbox = Inbox(self._transport, self._session)
        reading = asyncio.ensure_future(inbox.fill())
        down = asyncio.ensure_future(self._down(inbox))
        streams = [down, asyncio.ensure_future(self._up()), asyncio.ensure_future(self._ack_idly())]
        try:
            await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({down}, timeout=LAST_WORDS_S)
        finally:
            self._reserving.end()
            for stream in (reading, *streams):
                stream.cancel()
            endings = await asyncio.gather(*streams, reading, return_exceptions=True)
        for ending in endings:
            if isinstance(ending, Exception):
                raise ending

    def wrote(self) -> None:
        """A local transaction has been committed, or somebody waits for others to have one."""
        self._something_to_send.set()

    async def subscribe(self, subscription: Subscription) -> None:
        """Ask for a shape, if the stream is live; else it will be asked for when it is."""
        if self.live:
            await self._asking.request(subscription)

    async def has_values(self) -> None:
        """Wait until the values of sequences that shapes here want have come, as far as they do on this connection."""
        if self.live:
            await self._reserving.settled()

    async def unsubscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Give shapes up, if the stream is live; else they will be given up when it is."""
        if self.live:
            await self._asking.give_up([subscription.subscription_id for subscription in subscriptions])

    # --- down ---------------------------------------------------------------------------------------------------------

    async def _down(self, inbox: Inbox) -> None:
        async with asyncio.timeout(START_TIMEOUT_S) as self._deadline:
            extended = takes_extensions(self._transport.protocol)
            openings = await self._replica.openings() if extended else ()
            await self._transport.send(self._session.authenticate(self._replica.client_id, self._token, openings))
            while True:
                for arrived in grouped(await inbox.take(), self._relations):
                    await self._handle(arrived)
                if self.live:
                    self._answer_within(None)

    def _answer_within(self, delay_s: float | None) -> None:
        """The server has so long to accept the stream; None: it need not hurry."""
        if self._deadline is not None:
            now_s = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if delay_s is None else now_s + delay_s)

    async def _handle(self, arrived: Arrived) -> None:
        act: Callable[[Connection, Arrived], Awaitable[None]] = _ACTIONS[type(arrived)]
        await act(self, arrived)

    async def _on_authenticated(self, event: Authenticated) -> None:
        replica = self._replica
        if takes_extensions(self._transport.protocol):
            await whole(replica.accepted_as_it_is())
        resuming = bool(replica.lsn)
        frame = self._session.start(
            replica.lsn,
            resumable_ids(replica.subscriptions.values()) if resuming else (),
            None if resuming else replica.schema_version,
            DIALECT,
        )
        await self._transport.send(frame)

    async def _on_stream_started(self, event: StreamStarted) -> None:
        self._acks = AckPolicy(event.window)
        await whole(self._replica.renew_requests())
        await self._asking.everything()
        self.live = True
        self._something_to_send.set()
        self._progress.started()
        await self._asking.everything()  # what the application wanted while we asked, before it could send for itself

    async def _on_stream_refused(self, event: StreamRefused) -> None:
        if event.code == BEHIND_WINDOW and takes_extensions(self._transport.protocol) and not self._repairing:
            await self._ask_for_repair()
            return
        raise ConnectionEnded(f"the server does not resume the stream: {event.code} {event.message}", event.code)

    async def _ask_for_repair(self) -> None:
        """What changed since our position is not known any more: ask for what is not as we have it."""
        replica = self._replica
        self._repairing = True
        self._progress.repairing(0, None)
        await whole(replica.reserves.drop())
        self._answer_within(None)  # a large table takes a while to read
        holdings = await replica.holdings()
        subscriptions = replica.subscriptions.values()
        described = [(s.subscription_id, [s.spec.request(s.subscription_id)]) for s in held(subscriptions)]
        frame = self._session.start(
            replica.lsn,
            resumable_ids(subscriptions),
            replica.schema_version,
            DIALECT,
            holdings=holdings,
            described=described,
        )
        self._answer_within(START_TIMEOUT_S)
        await self._transport.send(frame)

    async def _on_stream_stopped(self, event: StreamStopped) -> None:
        """We never ask for that."""

    async def _on_send_from(self, event: SendFrom) -> None:
        self._send_from = entry_id_of(event.lsn)
        self._something_to_send.set()

    async def _on_subscribed(self, event: Subscribed) -> None:
        subscription = self._subscription(event.subscription_id)
        if subscription is not None:
            self._progress.accepted(subscription)
            await self._asking.give_up_replaced(await whole(self._accepted(subscription)))

    async def _accepted(self, subscription: Subscription) -> list[Subscription]:
        replaced = await self._replica.accepted(subscription)
        self._progress.replaced(replaced)
        return replaced

    async def _on_subscribe_refused(self, event: SubscribeRefused) -> None:
        reasons = "; ".join(message for _, _, message in event.errors) or event.message
        code = event.errors[0][1] if event.errors else event.code
        await whole(self._drop(event.subscription_id, code, reasons))
        await self._asking.wanted()

    async def _on_shape_data_failed(self, event: ShapeDataFailed) -> None:
        await whole(self._drop(event.subscription_id, "SHAPE_DELIVERY_ERROR", event.message))
        await self._asking.wanted()

    async def _on_unsubscribed(self, event: Unsubscribed) -> None:
        """Nothing to do yet: the rows leave with the batch that follows."""

    async def _on_relation(self, event: RelationReceived) -> None:
        self._relations[event.relation.id] = event.relation
        await whole(self._replica.announced(event.relation))

    async def _on_transactions(self, batch: TransactionBatch) -> None:
        transactions, moving = batch.transactions, not self._repairing
        if self._repairing:  # what is carried out by where we are not yet
            self._carried_out += (ms for transaction in transactions for ms in transaction.carried_out)
            transactions = tuple(replace(transaction, carried_out=()) for transaction in transactions)
        await whole(self._replica.apply_transactions(transactions, self._relations, moving=moving))
        self._progress.applied()
        if self._ahead:
            self._ahead = False
            self._something_to_send.set()
        full = [self._acks.applied(transaction.transaction_id or 0) for transaction in batch.transactions]
        if full[-1]:
            await self._ack()

    async def _on_shape_data_begun(self, event: ShapeDataBegun) -> None:
        self._replica.begin_delivery()
        self._rows, self._rows_estimate = 0, event.rows_estimate
        self._show_rows(event.subscription_id)

    async def _on_shape_rows(self, event: ShapeRows) -> None:
        await whole(self._replica.stage(event.inserts, self._relations))
        self._rows += len(event.inserts)
        self._show_rows(event.subscription_id)

    def _show_rows(self, subscription_id: str) -> None:
        if not subscription_id:
            self._progress.repairing(self._rows, self._rows_estimate)
            return
        subscription = self._subscription(subscription_id)
        if subscription is not None:
            self._progress.receiving(subscription, self._rows, self._rows_estimate)

    async def _on_shape_data_ended(self, event: ShapeDataEnded) -> None:
        replaced = await whole(self._finish_delivery(event))
        await self._ack(subscription_ids=[event.subscription_id])
        await self._asking.give_up_replaced(replaced)

    async def _finish_delivery(self, event: ShapeDataEnded) -> list[Subscription]:
        subscription = self._subscription(event.subscription_id)
        replaced = await self._replica.apply_shape(subscription, event.lsn)
        self._progress.applied()
        if subscription is not None:
            self._progress.delivered(subscription)
        self._progress.replaced(replaced)
        return replaced

    async def _on_additional_data(self, event: AdditionalData) -> None:
        """Rows that a server of the old line fetched after the transaction which announced them."""
        self._replica.begin_delivery()
        await whole(self._replica.stage(event.inserts, self._relations))
        await whole(self._replica.apply_shape(None, self._replica.lsn))
        self._progress.applied()
        await self._ack(additional_data_refs=[event.ref])

    async def _on_gones_begun(self, event: GonesBegun) -> None:
        self._replica.begin_delivery()

    async def _on_gone_rows(self, event: GoneRows) -> None:
        await whole(self._replica.stage_gone(event.rows, self._relations))

    async def _on_gones_ended(self, event: GonesEnded) -> None:
        cancelled = [s for s in map(self._subscription, event.subscription_ids) if s is not None]
        await whole(self._leave(cancelled, event))
        await self._ack(gone_subscription_ids=event.subscription_ids)

    async def _on_repair_begun(self, event: RepairBegun) -> None:
        self._replica.begin_delivery(repair=True)
        self._rows, self._rows_estimate = 0, event.rows_estimate
        self._progress.repairing(0, event.rows_estimate)
        await whole(self._replica.stage_held(event.tables, self._relations))

    async def _on_repair_ended(self, event: RepairEnded) -> None:
        await whole(self._repair(event))
        await self._ack()

    async def _repair(self, event: RepairEnded) -> None:
        await self._replica.apply_repair(event.lsn, self._carried_out)
        self._repairing = False
        self._progress.applied()
        self._progress.repaired()

    async def _leave(self, cancelled: Sequence[Subscription], event: GonesEnded) -> None:
        await self._replica.apply_gone(cancelled, event.lsn)
        self._progress.applied()
        self._progress.left(cancelled)
        await self._reserving.give_up()

    async def _on_reached(self, event: Reached) -> None:
        self._progress.reached()
        self._something_to_send.set()

    async def _on_reserved(self, event: Reserved) -> None:
        await whole(self._reserving.reserved(event))
        self._something_to_send.set()

    async def _on_reserve_refused(self, event: ReserveRefused) -> None:
        self._reserving.refused(event)

    async def _on_release_done(self, event: ReleaseDone) -> None:
        """Nothing is left to do: what is given up has gone from here before."""

    async def _on_ack_requested(self, event: AckRequested) -> None:
        if self._acks.due:
            await self._ack()

    async def _on_peer_failed(self, event: PeerFailed) -> None:
        if event.parted is not None:
            await whole(self._replica.fork(event.parted))
            raise ConnectionEnded("this database file is a copy: it has another client id now", FORKED)
        unwelcome = (event.method, event.code) == ("authenticate", "INVALID_REQUEST")
        code = INVALID_AUTH_REQUEST if unwelcome else event.code
        about_a_write = event.method is None and event.code == "INVALID_REQUEST" and event.lsn
        raise ConnectionEnded(
            f"the server reports {event.code}: {event.message}",
            code,
            entry_id_of(event.lsn) if about_a_write and event.lsn else None,
        )

    async def _ack(
        self,
        subscription_ids: Sequence[str] = (),
        additional_data_refs: Sequence[int] = (),
        gone_subscription_ids: Sequence[str] = (),
    ) -> None:
        """Ack the last transaction, once; without a new one, id 0 lets the lists travel and moves nothing."""
        frame = self._session.ack(
            self._acks.take() or 0,
            self._replica.lsn,
            subscription_ids,
            additional_data_refs,
            gone_subscription_ids,
        )
        await self._transport.send(frame)

    async def _ack_idly(self) -> None:
        """A device that receives little acknowledges it all the same, so that the server need not keep it for ever."""
        while True:
            await asyncio.sleep(ACK_INTERVAL_S)
            if self.live and self._acks.due:
                await self._ack()

    def _subscription(self, subscription_id: str) -> Subscription | None:
        """None for one that was cancelled before it was delivered."""
        known = self._replica.subscriptions.values()
        return next((s for s in known if s.subscription_id == subscription_id), None)

    async def _drop(self, subscription_id: str, code: str, message: str) -> None:
        """The server does not deliver it. What is here already is not forgotten, whatever a server says of it."""
        subscription = self._subscription(subscription_id)
        if subscription is not None and subscription.state not in HELD:
            await self._replica.forget(subscription)
            self._progress.refused(subscription, code, message)

    # --- up -----------------------------------------------------------------------------------------------------------

    async def _up(self) -> None:
        sent: int | None = None
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            await self._ask_reach()
            if self.live:
                await self._reserving.ask()
            if self._send_from is not None:
                sent, self._send_from = self._send_from, None
            if sent is None:
                continue
            if await self._replica.awaits_echoes(sent, AHEAD_ENTRIES_MAX):
                self._ahead = True
                continue
            entries = await self._replica.backlog(sent, BACKLOG_ENTRIES)
            writes = transactions(entries, self._replica.tables, self._outlines)
            allowed = [write for write in writes if self._may_send(write)]
            if self._replica.reserves.unflushed:
                await whole(self._replica.reserves.flush())
            for frame in self._session.write_all(allowed, self._outlines.relations):
                await self._transport.send(frame)
            if entries:
                sent = entries[-1].id
                self._something_to_send.set()

    async def _ask_reach(self) -> None:
        if not self.live or not self._progress.reach_awaited():
            return
        if takes_extensions(self._transport.protocol):
            await self._transport.send(self._session.reach(self._replica.lsn))
        else:
            self._progress.reach_unknown()

    def _may_send(self, write: Transaction) -> bool:
        return self._withhold is None or entry_id_of(write.lsn) < self._withhold


_ACTIONS: dict[type, Callable[..., Awaitable[None]]] = {
    Authenticated: Connection._on_authenticated,
    StreamStarted: Connection._on_stream_started,
    StreamRefused: Connection._on_stream_refused,
    StreamStopped: Connection._on_stream_stopped,
    SendFrom: Connection._on_send_from,
    Subscribed: Connection._on_subscribed,
    SubscribeRefused: Connection._on_subscribe_refused,
    Unsubscribed: Connection._on_unsubscribed,
    RelationReceived: Connection._on_relation,
    TransactionBatch: Connection._on_transactions,
    ShapeDataBegun: Connection._on_shape_data_begun,
    ShapeRows: Connection._on_shape_rows,
    AdditionalData: Connection._on_additional_data,
    ShapeDataEnded: Connection._on_shape_data_ended,
    ShapeDataFailed: Connection._on_shape_data_failed,
    GonesBegun: Connection._on_gones_begun,
    GoneRows: Connection._on_gone_rows,
    GonesEnded: Connection._on_gones_ended,
    RepairBegun: Connection._on_repair_begun,
    RepairEnded: Connection._on_repair_ended,
    Reached: Connection._on_reached,
    Reserved: Connection._on_reserved,
    ReserveRefused: Connection._on_reserve_refused,
    ReleaseDone: Connection._on_release_done,
    AckRequested: Connection._on_ack_requested,
    PeerFailed: Connection._on_peer_failed,
}
