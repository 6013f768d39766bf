"""One connected device.

Two things go on at once, each in order by itself: frames come in and are answered, writes passed on (the message loop),
and the outbound stream is carried out step by step (``_pump``). ``ServerSession`` and ``Outbound`` decide; this waits.

The actor lives as long as its connection. What must outlive it (subscriptions, the last write applied) is in Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

from syncline.actors.devices.admission import FAILED, Admission, NotAdmitted
from syncline.actors.devices.carrying import Carrier
from syncline.actors.devices.contests import Displaced
from syncline.actors.devices.edge import LEAVING
from syncline.actors.devices.following import Author, Followed, OwnPassed, Released, Unfollow
from syncline.actors.devices.framing import SERVICE_RESTART
from syncline.actors.devices.inbound import HeldColumns, RowNamer
from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.reaching import ReachAnswers, ReachAsked, Reached
from syncline.actors.devices.reception import (
    ConnectionClosed,
    DeviceReceiver,
    Drained,
    Evict,
    FrameArrived,
    Socket,
    Surroundings,
)
from syncline.actors.devices.reserving import reserve_or_release
from syncline.actors.devices.rowreader import RowReader
from syncline.actors.devices.starting import Places, StartRefused, start, window_transactions
from syncline.actors.devices.subscribing import Subscribing
from syncline.actors.devices.uplink import Uplink
from syncline.actors.devices.websocket import JWT_EXPIRED, JWT_EXPIRED_REASON
from syncline.actors.names import BUNDLER, GATEWAY, ROUTER, WRITER
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.writer import Written
from syncline.actors.shapes.messages import NotifyReady, ShapeGone, ShapeReady
from syncline.cluster import Actor, ActorDown, Exit, Refusal
from syncline.proto.errors import ProtocolError, invalid
from syncline.proto.events import (
    AckReceived,
    AuthRequested,
    PeerFailed,
    ReachRequested,
    ReleaseRequested,
    ReserveRequested,
    ServerEvent,
    StartRequested,
    StopRequested,
    SubscribeRequested,
    UnsubscribeRequested,
    WriteReceived,
    WriteStarted,
)
from syncline.proto.session import ServerSession
from syncline.proto.subprotocols import takes_extensions

log = logging.getLogger(__name__)

PROTOCOL_VIOLATED = 1007
UNEXPECTED = 1011
TRY_AGAIN_LATER = 1013
REPLACED = 4001
NO_TABLE = 0  # no relation has this id
# A longer frame is read with pauses.
PART_BYTES = 64 << 10
# What is raised when Postgres, or a part of this service, is away: nobody's fault here, and it passes.
PASSING: Final = (*AWAY, ActorDown, Refusal)


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
        self._outbound: Outbound | None = None
        self._joins = False  # it is of another history until it has been repaired
        self._uplink: Uplink | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._expiry: Callable[[], None] | None = None

    async def init(self) -> None:
        self.receiver = DeviceReceiver(self.ref)
        registry = self.context.registry
        self._bundler, self._places = registry.ref(BUNDLER), Places(self._around.shards, self._around.places)
        self._writer, self._gateway = registry.ref(WRITER), registry.ref(GATEWAY)
        self._admission = Admission(self._around, self.clock, self._gateway)
        self._reach = ReachAnswers(self.ref)
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
            lambda: self._around.database.forget_subscriptions(self._client_id),
            lambda: self._close(TRY_AGAIN_LATER, "a transaction was too large, start over"),
        )
        self._subscribing = Subscribing(
            self.ref, self._connection, self._session, self._around.database, self._places, self._carrier.changed.set
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
                self._reach.tell(self._outbound)
            return
        with self._retreating():
            match message:
                case Followed(generation, released):
                    self._carrier.followed(generation, released)
                case OwnPassed(lsn, commit_ms):
                    if self._outbound is not None:
                        self._bounded(self._outbound.own_passed(lsn, commit_ms))
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
                    self._subscribing.shape_ready(shape)
                case ShapeGone(shape):
                    self._close(TRY_AGAIN_LATER, "a table was dropped meanwhile, ask again")
                case ConnectionClosed():
                    self.stop()
                case Evict(by, contested):
                    self._replaced(by, contested)
                case _Expired():
                    self._close(JWT_EXPIRED, JWT_EXPIRED_REASON)
                case _LetGo():
                    self._close(TRY_AGAIN_LATER, "too many large writes at once, try again")
                case Drained():
                    self._carrier.drained.set()
                case ReachAsked():
                    self._reach.asked(message, self._outbound)
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
        except PASSING as error:
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
                await self._admission.check_origin(event)
                if self._uplink is not None:
                    self._uplink.take(event)
                if self._outbound is not None:
                    self._outbound.wrote(event, self._tables_of(event))
            case AckReceived(transaction_id, lsn):
                if self._outbound is not None and self._outbound.window.acked(transaction_id):
                    self._carrier.changed.set()
                    self._reach.tell(self._outbound)
                if self._joins and self._outbound is not None and self._outbound.has_repaired(lsn):
                    await self._around.database.join_history(self._client_id)
                    self._joins = False
            case AuthRequested():
                await self._authenticate(event)
            case StartRequested():
                await self._start(event)
            case SubscribeRequested():
                await self._subscribing.subscribe(event)
            case UnsubscribeRequested():
                await self._subscribing.unsubscribe(event)
            case StopRequested(request_id):
                await self._stop_stream()
                self._connection.send(self._session.stopped(request_id))
            case ReachRequested(request_id, lsn):
                self._gateway.inform(self._reach.question(request_id, lsn, self._outbound))
            case ReserveRequested() | ReleaseRequested():
                self._connection.send(
                    await reserve_or_release(event, self._client_id, self._around.database, self._session)
                )
            case WriteStarted():
                pass
            case PeerFailed(code, message):
                log.info("device %s gave up: %s %s", self._client_id, code, message)
                self._close(1000, "")

    async def _authenticate(self, event: AuthRequested) -> None:
        first = self._admission.identity is None
        try:
            identity = await self._admission.authenticate(event, self.ref, self._connection)
        except NotAdmitted as refused:
            log.info("device at %s: %s", self._connection.remote, refused.reason)
            self._connection.send(
                self._session.rpc_error(event.request_id, "authenticate", refused.code, refused.message, refused.parted)
            )
            self._close(PROTOCOL_VIOLATED, FAILED)
            return
        if identity is None:
            return
        self._expire_at(identity.expires_at)
        if first:
            database = self._around.database
            self._uplink = Uplink(
                self._client_id,
                self._writer,
                self.ref,
                database.table,
                database.read,
                self._steer_reading,
                self._columns_held,
                self._spelled_otherwise,
            )
            self.background(self._send_up(self._uplink))
        self._connection.send(self._session.authenticated(event.request_id, self._around.server_id))

    @property
    def _client_id(self) -> str:
        return self._admission.client_id

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
        self._outbound, self._joins = started.outbound, started.joins
        self._subscribing.begin(self._client_id, started.outbound, started.subscriptions)
        for shape in started.loading:
            shape.inform(NotifyReady(self.ref))
        # Before any write is asked for, so that none of them can pass the bundler unnoticed.
        await self._bundler.send(Author(self.ref, self._client_id))
        window = window_transactions(extensions=self._session.extensions)
        self._connection.send((self._session.start_accepted(event.request_id, window),))
        self._connection.send(self._session.start_write())
        self._pumping = self.background(self._pump(self._outbound))

    async def _stop_stream(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
            self._pumping = None
        self._outbound = None
        self._reach.tell(None)
        self._subscribing.end()
        await self._bundler.send(Unfollow(self.ref))

    async def _pump(self, outbound: Outbound) -> None:
        steps = outbound.steps()
        answer: object = None
        with self._retreating():
            while True:
                step = steps.send(answer)
                self._reach.tell(outbound)
                answer = await self._carrier.carry_out(step, outbound)

    def _columns_held(self, table_id: int) -> HeldColumns | None:
        return None if self._outbound is None else self._outbound.columns_held(table_id)

    def _spelled_otherwise(self, commit_ms: int) -> None:
        if self._outbound is not None:
            self._outbound.spelled_otherwise(commit_ms)

    # --- writes up ----------------------------------------------------------------------------------------------------

    async def _send_up(self, uplink: Uplink) -> None:
        with self._retreating():
            await uplink.run()

    async def _written(self, written: Written) -> None:
        assert self._uplink is not None, "answers come to what was sent"
        if written.status == "overloaded":
            if not self._uplink.overloaded(written):
                self._close(UNEXPECTED, "too many writes at once")
            return
        event = self._uplink.decided(written)
        if written.status == "applied" and self._outbound is not None:
            # What is of another client id comes by in the stream as another's.
            foreign = event is not None and event.origin is not None
            if (foreign or not self._outbound.applied(written.ms, written.position)) and event is not None:
                await self._heal(event, written, self._uplink)
        elif written.status in ("duplicate", "unheeded") and event is not None:
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

    def _replaced(self, by: str, contested: str | None) -> None:
        """``contested``: what to say where that happens over and over."""
        log.info("device %s: replaced by a connection from %s", self._client_id, by)
        if contested is not None:
            self._connection.send(self._session.error_frame(invalid(contested)))
        self.receiver.on_closed = lambda: self._displaced(by)
        self._close(REPLACED, f"another connection of this client took over, from {by}")

    def _displaced(self, by: str) -> None:
        """The connection is over. One whose peer has answered was alive."""
        if self._connection.closed_by_peer:
            self._gateway.inform(Displaced(self._client_id, self._connection.remote, by))

    def _close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)
        self.stop()
