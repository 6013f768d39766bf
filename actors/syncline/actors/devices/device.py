"""One connected device.

Two things go on at once, each in order by itself: frames come in and are answered, writes passed on (the message loop),
and the outbound stream is carried out step by step (``_pump``). ``ServerSession`` and ``Outbound`` decide; this waits.

The actor lives as long as its connection. What must outlive it (subscriptions, the last write applied) is in Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

import asyncpg

from syncline.actors.devices.admission import FAILED, NotAdmitted, admit, may_write_as, readmit
from syncline.actors.devices.auth import Identity
from syncline.actors.devices.carrying import Carrier
from syncline.actors.devices.edge import LEAVING
from syncline.actors.devices.following import Author, Followed, OwnPassed, Released, Unfollow
from syncline.actors.devices.framing import SERVICE_RESTART
from syncline.actors.devices.inbound import RowNamer
from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.reaching import AskReach, ReachAsked, Reached, ReachTold
from syncline.actors.devices.reception import (
    Claim,
    ConnectionClosed,
    DeviceReceiver,
    Drained,
    Evict,
    FrameArrived,
    Socket,
    Surroundings,
)
from syncline.actors.devices.rowreader import RowReader
from syncline.actors.devices.starting import LSN_CHARS_MAX, Places, StartRefused, plan_now, start
from syncline.actors.devices.steps import (
    Delivery,
    Echo,
)
from syncline.actors.devices.subscriptions import (
    Planned,
    SubscriptionRefused,
    check_ids,
    check_relations,
    check_room,
    relations_of,
)
from syncline.actors.devices.uplink import Uplink
from syncline.actors.devices.websocket import JWT_EXPIRED, JWT_EXPIRED_REASON
from syncline.actors.names import BUNDLER, GATEWAY, ROUTER, WRITER
from syncline.actors.postgres.writer import Written
from syncline.actors.shapes.messages import NotifyReady, ShapeGone, ShapeReady
from syncline.cluster import Actor, ActorDown, Exit, Refusal
from syncline.proto.errors import ProtocolError, invalid
from syncline.proto.events import (
    AckReceived,
    AuthRequested,
    PeerFailed,
    ReachRequested,
    ServerEvent,
    StartRequested,
    StopRequested,
    SubscribeRequested,
    UnsubscribeRequested,
    WriteReceived,
    WriteStarted,
)
from syncline.proto.flow import WINDOW_TRANSACTIONS
from syncline.proto.session import ServerSession
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.values import Relation

log = logging.getLogger(__name__)

PROTOCOL_VIOLATED = 1007
UNEXPECTED = 1011
TRY_AGAIN_LATER = 1013
REPLACED = 4001
NO_TABLE = 0  # no relation has this id
# A longer frame is read with pauses.
PART_BYTES = 64 << 10
# As long as a device waits for its stream: it hears at once of a gateway that ends, and of a busy one a little later.
CLAIM_TIMEOUT_S = 30.0
# What is raised when Postgres, or a part of this service, is away: nobody's fault here, and it passes.
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ActorDown, Refusal)


class _Expired:
    """The token's time is over."""


class _HealAgain:
    """Rows that a commit under way may have changed can be read once more."""


class _LetGo:
    """The write under way was the largest when all of them together took too much."""


class Device(Actor):
    """See the module."""

    def __init__(self, connection: Socket, around: Surroundings) -> None:
        self._connection = connection
        self._around = around
        self._session = ServerSession(
            around.open_transactions,
            lambda: self.ref.inform(_LetGo()),
            RowNamer(around.database.table),
            extensions=takes_extensions(connection.protocol),
        )
        self._identity: Identity | None = None
        self._client_id = ""
        self._outbound: Outbound | None = None
        self._joins = False  # it is of another history until it has been repaired
        self._subscriptions: dict[str, Planned] = {}
        self._relations: dict[int, Relation] = {}  # of these, by id
        # Subscriptions whose shapes are not all ready, with the hashes of those that are not.
        self._preparing: dict[str, set[str]] = {}
        self._uplink: Uplink | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._expiry: Callable[[], None] | None = None
        self._origins: set[str] = set()  # other client ids under which it has written
        self._reach_asked: list[ReachAsked] = []  # who wants to know how far it has come

    async def init(self) -> None:
        self.receiver = DeviceReceiver(self.ref)
        registry = self.context.registry
        self._bundler, self._places = registry.ref(BUNDLER), Places(self._around.shards, self._around.places)
        self._writer, self._gateway = registry.ref(WRITER), registry.ref(GATEWAY)
        rows = RowReader(self._around.database, registry.ref(ROUTER), self._heal_after)
        self._carrier = Carrier(
            self.ref,
            self._connection,
            self._bundler,
            self._places,
            self._around.pages,
            self._around.images,
            rows,
            self.clock,
            self._forget,
            self._start_over,
        )

    async def terminate(self, reason: Exit) -> None:
        self._session.close()
        if self._expiry is not None:
            self._expiry()
        if reason.abnormal:
            self._connection.close(UNEXPECTED, "internal error")
        else:
            self._connection.close(SERVICE_RESTART, LEAVING)  # if it is not closed yet: a part of the service restarts

    async def handle_cast(self, message: object) -> None:
        if isinstance(message, Released):  # what all devices get at the same time
            if self._outbound is not None:
                self._outbound.released(message.generation, message.frames, message.upto)
                self._carrier.released(self._outbound)
                if self._reach_asked:
                    self._tell_reach()
            return
        with self._retreating():
            match message:
                case Followed(generation, released):
                    self._carrier.followed(generation, released)
                case OwnPassed(lsn, commit_ms):
                    self._echo(Echo(lsn, commit_ms))
                case Written():
                    await self._written(message)
                case _:
                    raise TypeError(f"a device does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        with self._retreating():
            match message:
                case FrameArrived(data):
                    await self._frame(data)
                    self.receiver.handled(data)
                    self._steer_reading()
                case ShapeReady(shape):
                    self._shape_ready(shape)
                case ShapeGone(shape):
                    self._close(TRY_AGAIN_LATER, "a table was dropped meanwhile, ask again")
                case ConnectionClosed():
                    self.stop()
                case Evict(by):
                    log.info("device %s: replaced by a connection from %s", self._client_id, by)
                    self._close(REPLACED, f"another connection of this client took over, from {by}")
                case _Expired():
                    self._close(JWT_EXPIRED, JWT_EXPIRED_REASON)
                case _LetGo():
                    self._close(TRY_AGAIN_LATER, "too many large writes at once, try again")
                case Drained():
                    self._carrier.drained.set()
                case ReachAsked():
                    self._reach_asked.append(message)
                    self._tell_reach()
                    self._carrier.changed.set()
                case Reached(request_id):
                    self._connection.send(self._session.reached(request_id))
                case _HealAgain():
                    if self._outbound is not None:
                        self._outbound.heal_again()
                        self._carrier.changed.set()
                case _:
                    pass

    @contextlib.contextmanager
    def _retreating(self) -> Iterator[None]:
        """What cannot be done at the moment ends the connection, in order: the device comes back and tries again."""
        try:
            yield
        except AWAY as error:
            reason = str(error) or type(error).__name__  # a timeout says nothing of itself
            log.warning("device %s has to come back later: %s", self._client_id or self._connection.remote, reason)
            self._close(TRY_AGAIN_LATER, "not possible at the moment, try again")

    # --- frames in ----------------------------------------------------------------------------------------------------

    async def _frame(self, data: bytes) -> None:
        try:
            for part in self._session.receive_in_parts(data):
                for event in part:
                    await self._on(event)
                if len(data) > PART_BYTES:
                    await asyncio.sleep(0)
        except ProtocolError as error:
            log.info("device %s at %s: %s", self._client_id or "?", self._connection.remote, error)
            self._connection.send(self._session.error_frame(error))
            self._close(PROTOCOL_VIOLATED, error.message[:100])

    async def _on(self, event: ServerEvent) -> None:
        match event:
            case WriteReceived():
                await self._check_origin(event)
                if self._uplink is not None:
                    self._uplink.take(event)
                if self._outbound is not None:
                    self._outbound.wrote(event, self._tables_of(event))
            case AckReceived(transaction_id, lsn):
                if self._outbound is not None and self._outbound.window.acked(transaction_id):
                    self._carrier.changed.set()
                    self._tell_reach()
                if self._joins and self._outbound is not None and self._outbound.has_repaired(lsn):
                    await self._around.database.join_history(self._client_id)
                    self._joins = False
            case AuthRequested():
                await self._authenticate(event)
            case StartRequested():
                await self._start(event)
            case SubscribeRequested():
                await self._subscribe(event)
            case UnsubscribeRequested():
                await self._unsubscribe(event)
            case StopRequested(request_id):
                await self._stop_stream()
                self._connection.send(self._session.stopped(request_id))
            case ReachRequested(request_id, lsn):
                self._ask_reach(request_id, lsn)
            case WriteStarted():
                pass
            case PeerFailed(code, message):
                log.info("device %s gave up: %s %s", self._client_id, code, message)
                self._close(1000, "")

    async def _authenticate(self, event: AuthRequested) -> None:
        known = self._identity
        try:
            if known is None:
                async with self._around.admissions:
                    if not self._connection.open:
                        return  # it waited long enough to give up, and will come again
                    now_s = self.clock.wall_ms() / 1000
                    identity = await admit(event.client_id, event.token, self._around, now_s, event.openings)
                    claim = Claim(event.client_id, self.ref, str(self._connection.remote))
                    await self._gateway.call(claim, CLAIM_TIMEOUT_S)
            else:
                now_s = self.clock.wall_ms() / 1000
                identity = readmit(event.client_id, event.token, (self._client_id, known), self._around, now_s)
        except NotAdmitted as refused:
            log.info("device at %s: %s", self._connection.remote, refused.reason)
            self._connection.send(
                self._session.rpc_error(event.request_id, "authenticate", refused.code, refused.message, refused.parted)
            )
            self._close(PROTOCOL_VIOLATED, FAILED)
            return
        self._identity, self._client_id = identity, event.client_id
        self._expire_at(identity.expires_at)
        if known is None:
            database = self._around.database
            self._uplink = Uplink(
                self._client_id,
                self._writer,
                self.ref,
                database.table,
                database.read,
                self._steer_reading,
                self._columns_held,
            )
            self.background(self._send_up(self._uplink))
        self._connection.send(self._session.authenticated(event.request_id, self._around.server_id))

    def _expire_at(self, expires_at_s: float | None) -> None:
        if self._expiry is not None:
            self._expiry()
            self._expiry = None
        if expires_at_s is not None:
            self._expiry = self.send_after(max(0.0, expires_at_s - self.clock.wall_ms() / 1000), _Expired()).cancel

    # --- the stream out -----------------------------------------------------------------------------------------------

    async def _start(self, event: StartRequested) -> None:
        try:
            started = await start(
                self._client_id,
                event,
                self._around.database,
                self._places,
                self._carrier.generation,
                extensions=self._session.extensions,
            )
        except StartRefused as refused:
            log.info("device %s cannot start: %s %s", self._client_id, refused.code, refused.message)
            if refused.code == "BEHIND_WINDOW" and self._session.extensions and event.holdings is None:
                # It says next what it holds; its subscriptions are as they were.
                self._connection.send(self._session.start_refused(event.request_id, refused.code, refused.message))
                return
            if refused.code != "UNKNOWN_SCHEMA_VSN":
                await self._around.database.forget_subscriptions(self._client_id)
            self._connection.send(self._session.start_refused(event.request_id, refused.code, refused.message))
            self._close(PROTOCOL_VIOLATED, refused.code)
            return
        self._outbound, self._subscriptions, self._joins = started.outbound, started.subscriptions, started.joins
        self._relations = relations_of(self._subscriptions.values())
        for shape in started.loading:
            shape.inform(NotifyReady(self.ref))
        # Before any write is asked for, so that none of them can pass the bundler unnoticed.
        await self._bundler.send(Author(self.ref, self._client_id))
        self._connection.send((self._session.start_accepted(event.request_id, WINDOW_TRANSACTIONS),))
        self._connection.send(self._session.start_write())
        self._pumping = self.background(self._pump(self._outbound))

    async def _stop_stream(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
            self._pumping = None
        self._outbound = None
        self._tell_reach()
        self._subscriptions.clear()
        self._relations.clear()
        self._preparing.clear()
        await self._bundler.send(Unfollow(self.ref))

    async def _pump(self, outbound: Outbound) -> None:
        steps = outbound.steps()
        answer: object = None
        with self._retreating():
            while True:
                step = steps.send(answer)
                if self._reach_asked:
                    self._tell_reach()
                answer = await self._carrier.carry_out(step, outbound)

    def _ask_reach(self, request_id: int, lsn: bytes) -> None:
        """A device knows no position beyond what it was sent."""
        sent = None if self._outbound is None else self._outbound.position
        if not (lsn.isdigit() and len(lsn) <= LSN_CHARS_MAX) or sent is None or int(lsn) > sent:
            raise invalid("a position that was not sent")
        self._gateway.inform(AskReach(request_id, int(lsn), self.ref))

    def _tell_reach(self) -> None:
        """Those who ask how far it has come are told once it is there. A stream that has not begun has nothing."""
        outbound, waiting = self._outbound, []
        for asked in self._reach_asked:
            if outbound is None or outbound.has_reached(asked.lsn):
                asked.reply_to.inform(ReachTold(asked.number, self.ref))
            else:
                waiting.append(asked)
        self._reach_asked = waiting
        if outbound is not None:
            outbound.reach = min((asked.lsn for asked in waiting), default=None)

    async def _check_origin(self, event: WriteReceived) -> None:
        """What a device has written under an id that it does not have any more is of the same user."""
        origin = event.origin
        if origin is None or origin in self._origins:
            return
        assert self._identity is not None, "it writes"
        if not await may_write_as(origin, self._identity, self._around):
            raise invalid(f"{origin} is not a client id of this user", lsn=event.lsn)
        self._origins.add(origin)

    def _columns_held(self, table_id: int) -> Collection[str] | None:
        return None if self._outbound is None else self._outbound.columns_held(table_id)

    async def _forget(self) -> None:
        await self._around.database.forget_subscriptions(self._client_id)

    def _start_over(self) -> None:
        self._close(TRY_AGAIN_LATER, "a transaction was too large, start over")

    # --- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe(self, event: SubscribeRequested) -> None:
        try:
            if event.subscription_id in self._subscriptions:
                raise SubscriptionRefused(
                    "SUBSCRIPTION_ID_ALREADY_EXISTS", f"{event.subscription_id} is active already"
                )
            check_ids(event.subscription_id, event.shapes)
            check_room(self._subscriptions, event.shapes)
            planned = await plan_now(event.shapes, self._around.database)
            check_relations(self._relations, planned)
        except SubscriptionRefused as refused:
            self._connection.send(
                self._session.subscribe_refused(
                    event.request_id, event.subscription_id, refused.code, refused.message, refused.errors
                )
            )
            return
        await self._around.database.add_subscription(self._client_id, event.subscription_id, event.shapes)
        self._subscriptions[event.subscription_id] = planned
        self._relations.update(relations_of((planned,)))
        self._connection.send(self._session.subscribed(event.request_id, event.subscription_id))
        waiting = await self._places.prepare(planned, self.ref)
        self._preparing[event.subscription_id] = waiting
        self._expect()
        self._deliver_ready()

    def _shape_ready(self, shape: str) -> None:
        for waiting in self._preparing.values():
            waiting.discard(shape)
        self._deliver_ready()

    def _deliver_ready(self) -> None:
        if self._outbound is None:
            return
        ready = [id for id, waiting in self._preparing.items() if not waiting]
        for subscription_id in ready:
            del self._preparing[subscription_id]
            self._outbound.deliver(self._subscriptions[subscription_id].delivery(subscription_id))
        if ready:
            self._expect()

    def _expect(self) -> None:
        """Rows of which tables cannot be delivered yet."""
        if self._outbound is not None:
            planned = [self._subscriptions[subscription_id] for subscription_id in self._preparing]
            shapes = (relations for one in planned for relations in one.relations.values())
            self._outbound.expect({relation.table_id for relations in shapes for relation in relations})
            self._carrier.changed.set()

    async def _unsubscribe(self, event: UnsubscribeRequested) -> None:
        await self._around.database.cancel_subscriptions(self._client_id, event.subscription_ids)
        self._connection.send(self._session.unsubscribed(event.request_id))
        if self._outbound is None:
            return
        leaving: list[str] = []
        for subscription_id in event.subscription_ids:
            undelivered = self._preparing.pop(subscription_id, None) is not None
            known = self._subscriptions.pop(subscription_id, None) is not None
            if not undelivered and not (known and self._outbound.cancel(subscription_id)):
                leaving.append(subscription_id)
        self._relations = relations_of(self._subscriptions.values())
        self._expect()
        if not leaving:
            return
        self._outbound.deliver(Delivery(tuple(event.subscription_ids)))
        self._carrier.changed.set()

    # --- writes up ----------------------------------------------------------------------------------------------------

    async def _send_up(self, uplink: Uplink) -> None:
        with self._retreating():
            await uplink.run()

    async def _written(self, written: Written) -> None:
        assert self._uplink is not None, "answers come to what was sent"
        event = self._uplink.decided(written)
        if written.status == "overloaded":
            self._close(UNEXPECTED, "too many writes at once")
        elif written.status == "applied" and self._outbound is not None:
            # What is of another client id comes by in the stream as another's.
            foreign = event is not None and event.origin is not None
            if (foreign or not self._outbound.applied(written.ms, written.position)) and event is not None:
                await self._heal(event, written, self._uplink)
        elif written.status == "duplicate" and event is not None:
            await self._heal(event, written, self._uplink)
        elif written.status == "rejected" and event is not None:
            log.warning("device %s: transaction %d rejected: %s", self._client_id, written.lsn, written.rejection)
            await self._heal(event, written, self._uplink)

    async def _heal(self, event: WriteReceived, written: Written, uplink: Uplink) -> None:
        if self._outbound is not None:
            self._bounded(self._outbound.heal(await uplink.heal_of(event, written)))

    def _tables_of(self, event: WriteReceived) -> frozenset[int]:
        """Relation ids; those of tables that are unknown here are none."""
        tables = map(self._around.database.table, {relation.table for relation, _ in event.changes})
        return frozenset(NO_TABLE if table is None else table.relation.id for table in tables)

    def _heal_after(self, delay_s: float) -> None:
        self.send_after(delay_s, _HealAgain())

    def _echo(self, echo: Echo) -> None:
        if self._outbound is not None:
            self._bounded(self._outbound.note_echo(echo))

    def _bounded(self, within: bool) -> None:
        """One more echo waits; ``within`` False: and they are too many."""
        if not within:
            self._close(TRY_AGAIN_LATER, "too many writes wait to be acknowledged")
        self._carrier.changed.set()

    def _steer_reading(self) -> None:
        """The socket is read only while what it brings can be taken: TCP then slows the device down."""
        if self.receiver.full or (self._uplink is not None and self._uplink.full):
            self._connection.pause_reading()
        else:
            self._connection.resume_reading()

    def _close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)
        self.stop()
