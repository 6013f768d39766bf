"""One connected device.

Three things go on at once, each in order by itself: frames come in and are answered (the message loop), the outbound
stream is carried out step by step (``_pump``), and writes go to Postgres (``_write_up``). ``ServerSession``,
``Outbound`` and ``inbound`` decide; this actor waits.

The actor lives as long as its connection. What must outlive it (subscriptions, the last write applied) is in Postgres.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from syncline.actors.devices.auth import Authenticator, AuthError, Identity
from syncline.actors.devices.bundler import (
    AwaitLsn,
    Followed,
    FollowSet,
    OwnPassed,
    Released,
    ShapeMissing,
    Unfollow,
)
from syncline.actors.devices.inbound import WriteRefused, accept, touched_keys
from syncline.actors.devices.logreader import LogReader
from syncline.actors.devices.outbound import (
    Delivered,
    Echo,
    Follow,
    OpenLog,
    Outbound,
    ReadImage,
    ReadMore,
    Send,
    Step,
    Wait,
)
from syncline.actors.devices.subscriptions import Planned, PlanRefused, plan
from syncline.actors.devices.websocket import JWT_EXPIRED, JWT_EXPIRED_REASON, Connection
from syncline.actors.names import BUNDLER, GATEWAY, SHARD, WRITER
from syncline.actors.postgres.apply import Write
from syncline.actors.postgres.database import CurrentRow, Database
from syncline.actors.postgres.history import UnknownVersion
from syncline.actors.postgres.writer import Written
from syncline.actors.shapes.consumer import NotifyReady, ReadRows, ShapeReady
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shard import EnsureShape, FindShapes, ReadWatermark, ShapePlace
from syncline.cluster import Actor, Exit, Ref
from syncline.proto.errors import ErrorCode, ProtocolError
from syncline.proto.events import (
    AckReceived,
    AuthRequested,
    PeerFailed,
    ServerEvent,
    StartRequested,
    StopRequested,
    SubscribeRequested,
    UnsubscribeRequested,
    WriteReceived,
    WriteStarted,
)
from syncline.proto.flow import WINDOW_TRANSACTIONS, Window
from syncline.proto.session import ServerSession
from syncline.proto.values import Gone, Relation, RowChange, ShapeRequest, Update

log = logging.getLogger(__name__)

PROTOCOL_VIOLATED = 1007
UNEXPECTED = 1011
REPLACED = 4001
# Frames taken from the socket and not yet handled; beyond it the socket is not read.
FRAMES_WAITING_MAX = 16
# Writes sent to the writer and not yet decided; half of what it takes from one device.
WRITES_OUT_MAX = 500
# Writes taken from the socket and not yet sent to the writer.
UP_WAITING_MAX = 1_000
CLIENT_ID_CHARS_MAX = 64
IMAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class FrameArrived:
    data: bytes


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Another connection of the same client has authenticated."""

    by: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Call to the gateway: ``client_id`` is connected as ``device`` from now on; an older one is evicted."""

    client_id: str
    device: Ref
    remote: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a device needs of its host."""

    database: Database
    authenticator: Authenticator
    server_id: str


class _Expired:
    """The token's time is over."""


class DeviceReceiver:
    """What the socket calls: turns callbacks into messages for the device."""

    def __init__(self, device: Ref) -> None:
        self._device = device
        self._waiting = 0

    def frame(self, data: bytes) -> bool:
        self._waiting += 1
        self._device.inform(FrameArrived(data))
        return self._waiting < FRAMES_WAITING_MAX

    def handled(self) -> None:
        """One frame has been handled."""
        self._waiting -= 1

    @property
    def full(self) -> bool:
        return self._waiting >= FRAMES_WAITING_MAX

    def drained(self) -> None:
        self._device.inform(_DRAINED)

    def closed(self, code: int, reason: str) -> None:
        self._device.inform(ConnectionClosed(code, reason))


_DRAINED = object()


class Device(Actor):
    """See the module."""

    def __init__(self, connection: Connection, around: Surroundings) -> None:
        self._connection = connection
        self._around = around
        self._session = ServerSession()
        self._identity: Identity | None = None
        self._client_id = ""
        self._dialect = "sqlite"
        self._outbound: Outbound | None = None
        self._subscriptions: dict[str, Planned] = {}
        self._preparing: dict[str, set[str]] = {}
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._follow_answer: asyncio.Future[int] | None = None
        self._log: LogReader | None = None
        self._up: deque[WriteReceived] = deque()
        self._up_changed = asyncio.Event()
        self._writes_out: dict[tuple[int, int], WriteReceived] = {}
        self._pumping: asyncio.Task[None] | None = None
        self._expiry: Callable[[], None] | None = None

    async def init(self) -> None:
        self.receiver = DeviceReceiver(self.ref)
        registry = self.context.registry
        self._bundler, self._shard = registry.ref(BUNDLER), registry.ref(SHARD)
        self._writer, self._gateway = registry.ref(WRITER), registry.ref(GATEWAY)

    async def terminate(self, reason: Exit) -> None:
        if self._expiry is not None:
            self._expiry()
        if self._outbound is not None:
            self._bundler.cast(Unfollow(self.ref))
        if reason.abnormal:
            self._connection.close(UNEXPECTED, "internal error")
        else:
            self._connection.close()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Released(generation, frames, upto):
                if self._outbound is not None:
                    self._outbound.released(generation, frames, upto)
                    self._changed.set()
            case Followed(_, released):
                if self._follow_answer is not None and not self._follow_answer.done():
                    self._follow_answer.set_result(released)
            case OwnPassed(lsn, commit_ms):
                self._echo(Echo(lsn, commit_ms))
            case ShapeReady(shape):
                self._shape_ready(shape)
            case Written():
                await self._written(message)
            case ShapeMissing():
                self._close(UNEXPECTED, "a shape has to be rebuilt")
            case Evict(by):
                log.info("device %s: replaced by a connection from %s", self._client_id, by)
                self._close(REPLACED, f"another connection of this client took over, from {by}")
            case _:
                raise TypeError(f"a device does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case FrameArrived(data):
                await self._frame(data)
                self.receiver.handled()
                self._steer_reading()
            case ConnectionClosed():
                self.stop()
            case _Expired():
                self._close(JWT_EXPIRED, JWT_EXPIRED_REASON)
            case _ if message is _DRAINED:
                self._drained.set()
            case _:
                pass

    # --- frames in ----------------------------------------------------------------------------------------------------

    async def _frame(self, data: bytes) -> None:
        try:
            for event in self._session.receive(data):
                await self._on(event)
        except ProtocolError as error:
            log.info("device %s at %s: %s", self._client_id or "?", self._connection.remote, error)
            self._connection.send(self._session.error_frame(error))
            self._close(PROTOCOL_VIOLATED, error.message[:100])

    async def _on(self, event: ServerEvent) -> None:
        match event:
            case WriteReceived():
                self._up.append(event)
                self._up_changed.set()
            case AckReceived(transaction_id=transaction_id):
                if self._outbound is not None and self._outbound.window.acked(transaction_id):
                    self._changed.set()
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
            case WriteStarted():
                pass
            case PeerFailed(code, message):
                log.info("device %s gave up: %s %s", self._client_id, code, message)
                self._close(1000, "")

    async def _authenticate(self, event: AuthRequested) -> None:
        try:
            if not event.client_id or len(event.client_id) > CLIENT_ID_CHARS_MAX:
                raise AuthError(f"a client id has 1 to {CLIENT_ID_CHARS_MAX} characters")
            identity = self._around.authenticator.authenticate(event.token, self.clock.wall_ms() / 1000)
            if self._identity is not None:
                if (event.client_id, identity.user_id) != (self._client_id, self._identity.user_id):
                    raise AuthError("a renewed token must be for the same client and user")
        except AuthError as refused:
            log.info("device at %s: %s", self._connection.remote, refused.reason)
            code = ErrorCode.AUTH_REQUIRED if self._identity is None and event.token else ErrorCode.INVALID_REQUEST
            self._connection.send(
                self._session.rpc_error(event.request_id, "authenticate", code, "authentication failed")
            )
            self._close(PROTOCOL_VIOLATED, "authentication failed")
            return
        renewed = self._identity is not None
        self._identity, self._client_id = identity, event.client_id
        self._expire_at(identity.expires_at)
        if not renewed:
            await self._gateway.call(Claim(self._client_id, self.ref, str(self._connection.remote)))
            await self._around.database.device_seen(self._client_id, identity.user_id)
            self.background(self._write_up())
        self._connection.send(self._session.authenticated(event.request_id, self._around.server_id))

    def _expire_at(self, expires_at_s: float | None) -> None:
        if self._expiry is not None:
            self._expiry()
            self._expiry = None
        if expires_at_s is not None:
            self._expiry = self.send_after(max(0.0, expires_at_s - self.clock.wall_ms() / 1000), _Expired()).cancel

    # --- the stream out -----------------------------------------------------------------------------------------------

    async def _start(self, event: StartRequested) -> None:
        self._dialect = event.dialect
        try:
            self._outbound = await (self._resume(event) if event.lsn else self._fresh(event))
        except StartRefused as refused:
            log.info("device %s cannot start: %s %s", self._client_id, refused.code, refused.message)
            if refused.code != "UNKNOWN_SCHEMA_VSN":
                await self._around.database.forget_subscriptions(self._client_id)
            self._connection.send(self._session.start_refused(event.request_id, refused.code, refused.message))
            self._close(PROTOCOL_VIOLATED, refused.code)
            return
        self._connection.send((self._session.start_accepted(event.request_id, WINDOW_TRANSACTIONS),))
        self._connection.send(self._session.start_write())
        self._pumping = self.background(self._pump(self._outbound))

    async def _fresh(self, event: StartRequested) -> Outbound:
        """A device that has nothing, or starts over: it gets the migrations it lacks and waits for subscriptions."""
        if event.subscription_ids:
            raise StartRefused("INVALID_POSITION", "subscriptions without a position")
        await self._around.database.forget_subscriptions(self._client_id)
        self._subscriptions.clear()
        position = await self._shard.call(ReadWatermark())
        assert isinstance(position, int)
        try:
            lacking = self._around.database.history.after(event.schema_version)
        except UnknownVersion as unknown:
            raise StartRefused("UNKNOWN_SCHEMA_VSN", str(unknown)) from unknown
        migrations = [
            (migration.created_ms, migration.steps[self._dialect])
            for migration in lacking
            if migration.steps[self._dialect]
        ]
        relations = {relation.id: relation for migration in lacking for relation in migration.relations}
        return Outbound(
            self._client_id,
            max(1, position),
            {schema_shape(self._dialect).hash: None},
            Window(WINDOW_TRANSACTIONS),
            migrations,
            tuple(relations.values()),
        )

    async def _resume(self, event: StartRequested) -> Outbound:
        if not event.lsn.isdigit():
            raise StartRefused("BEHIND_WINDOW", "not a position of this server")
        position = int(event.lsn)
        database = self._around.database
        known = await database.subscriptions(self._client_id)
        shapes: dict[str, Shape] = {schema_shape(self._dialect).hash: schema_shape(self._dialect)}
        relations: dict[str, Relation | None] = {schema_shape(self._dialect).hash: None}
        for subscription_id in event.subscription_ids:
            subscription = known.get(subscription_id)
            if subscription is None:
                raise StartRefused("SUBSCRIPTION_NOT_FOUND", f"no subscription {subscription_id}")
            if subscription.cancelled:
                continue
            try:
                planned = plan(subscription.shapes, database.catalog)
            except PlanRefused as refused:
                raise StartRefused("SUBSCRIPTION_NOT_FOUND", refused.message) from refused
            self._subscriptions[subscription_id] = planned
            shapes.update(planned.shapes)
            relations.update(planned.relations)
        if position > await database.wal_position():
            raise StartRefused("BEHIND_WINDOW", f"position {position} lies ahead of this database")
        for shape in shapes.values():
            place = await self._shard.call(EnsureShape(shape, relations[shape.hash]))
            assert isinstance(place, ShapePlace)
            if place.ready_lsn is None or place.ready_lsn > position:
                raise StartRefused("BEHIND_WINDOW", f"what changed since {position} is no longer known")
        return Outbound(self._client_id, position, relations, Window(WINDOW_TRANSACTIONS))

    async def _stop_stream(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)
            self._pumping = None
        self._bundler.cast(Unfollow(self.ref))
        self._outbound = None

    async def _pump(self, outbound: Outbound) -> None:
        steps = outbound.steps()
        answer: object = None
        while True:
            step = steps.send(answer)
            answer = await self._carry_out(step, outbound)

    async def _carry_out(self, step: Step, outbound: Outbound) -> object:
        match step:
            case Send(messages):
                self._drained.clear()
                if messages and not self._connection.send(messages):
                    await self._drained.wait()
            case Wait():
                if outbound.awaited_lsn is not None:
                    self._bundler.cast(AwaitLsn(self.ref, outbound.awaited_lsn))
                await self._changed.wait()
                self._changed.clear()
            case Follow(shapes, generation):
                self._follow_answer = asyncio.get_running_loop().create_future()
                await self._bundler.send(FollowSet(self.ref, self._client_id, generation, shapes))
                return await self._follow_answer
            case OpenLog(shapes, after, upto):
                self._log = LogReader(await self._refs(shapes), after, upto)
            case ReadMore():
                assert self._log is not None
                return await self._log.read()
            case ReadImage(shape, lsn, cursor):
                refs = await self._refs(frozenset((shape,)))
                return await refs[shape].call(ReadRows(lsn, cursor), IMAGE_TIMEOUT_S)
            case Delivered(delivery, lsn):
                log.debug("device %s: delivered %s at %d", self._client_id, delivery.subscription_ids, lsn)
        return None

    async def _refs(self, shapes: frozenset[str]) -> dict[str, Ref]:
        found = await self._shard.call(FindShapes(shapes))
        assert isinstance(found, dict)
        if missing := shapes - found.keys():
            raise ConnectionError(f"shapes have gone: {', '.join(sorted(missing))}")
        return found

    # --- subscriptions ------------------------------------------------------------------------------------------------

    async def _subscribe(self, event: SubscribeRequested) -> None:
        try:
            if event.subscription_id in self._subscriptions:
                raise PlanRefused("SUBSCRIPTION_ID_ALREADY_EXISTS", f"{event.subscription_id} is active already")
            planned = await self._plan(event.shapes)
        except PlanRefused as refused:
            self._connection.send(
                self._session.subscribe_refused(
                    event.request_id, event.subscription_id, refused.code, refused.message, refused.errors
                )
            )
            return
        await self._around.database.add_subscription(self._client_id, event.subscription_id, event.shapes)
        self._subscriptions[event.subscription_id] = planned
        self._connection.send(self._session.subscribed(event.request_id, event.subscription_id))
        waiting: set[str] = set()
        for shape in planned.shapes.values():
            place = await self._shard.call(EnsureShape(shape, planned.relations[shape.hash]))
            assert isinstance(place, ShapePlace)
            if place.ready_lsn is None:
                waiting.add(shape.hash)
                place.ref.cast(NotifyReady(self.ref))
        self._preparing[event.subscription_id] = waiting
        self._deliver_ready()

    async def _plan(self, requests: tuple[ShapeRequest, ...]) -> Planned:
        """A table opened a moment ago may not have passed the stream yet: who asks for it is not refused for that."""
        try:
            return plan(requests, self._around.database.catalog)
        except PlanRefused:
            await self._around.database.read()
            return plan(requests, self._around.database.catalog)

    def _shape_ready(self, shape: str) -> None:
        for waiting in self._preparing.values():
            waiting.discard(shape)
        self._deliver_ready()

    def _deliver_ready(self) -> None:
        if self._outbound is None:
            return
        for subscription_id in [id for id, waiting in self._preparing.items() if not waiting]:
            del self._preparing[subscription_id]
            planned = self._subscriptions[subscription_id]
            shapes = {**self._outbound.target_shapes, **planned.relations}
            self._outbound.deliver(planned.delivery(subscription_id, shapes))
            self._changed.set()

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
        if not leaving:
            return
        kept: dict[str, Relation | None] = {schema_shape(self._dialect).hash: None}
        for id, planned in self._subscriptions.items():
            if id not in self._preparing:
                kept.update(planned.relations)
        self._outbound.deliver(Planned.leaving(tuple(event.subscription_ids), kept))
        self._changed.set()

    # --- writes up ----------------------------------------------------------------------------------------------------

    async def _write_up(self) -> None:
        while True:
            while not self._up or len(self._writes_out) >= WRITES_OUT_MAX:
                self._up_changed.clear()
                await self._up_changed.wait()
            event = self._up.popleft()
            self._steer_reading()
            lsn = int.from_bytes(event.lsn, "big")
            self._writes_out[(lsn, event.commit_ms)] = event
            try:
                changes = accept(event.changes, self._around.database.table)
                write = Write(self._client_id, lsn, event.commit_ms, changes, self.ref)
            except WriteRefused as refused:
                write = Write(self._client_id, lsn, event.commit_ms, (), self.ref, refused.rejection)
            await self._writer.send(write)

    async def _written(self, written: Written) -> None:
        event = self._writes_out.pop((written.lsn, written.ms), None)
        self._up_changed.set()
        if written.status == "overloaded":
            self._close(UNEXPECTED, "too many writes at once")
        elif written.status == "duplicate":
            self._echo(Echo(written.position - 1, written.ms))  # what committed before a position lies below it
        elif written.status == "rejected" and event is not None:
            log.warning(
                "device %s: its transaction %d was rejected: %s", self._client_id, written.lsn, written.rejection
            )
            rows, position = await self._around.database.current_rows(
                touched_keys(event.changes, self._around.database.table)
            )
            at = max(int(position), written.position) - 1
            self._echo(Echo(at, written.ms, self._healing(rows)))

    def _healing(self, rows: list[CurrentRow]) -> tuple[RowChange, ...]:
        """What puts the device's rows back to what they are in Postgres."""
        held = self._outbound.target_shapes if self._outbound is not None else {}
        tables = {relation.id for relation in held.values() if relation is not None}
        changes: list[RowChange] = []
        for current in rows:
            relation = current.table.relation
            if current.row is not None and relation.id in tables:
                changes.append(Update(relation.id, current.row, None, current.tags))
            else:
                changes.append(Gone(relation.id, relation.key_row(current.key)))
        return tuple(changes)

    def _echo(self, echo: Echo) -> None:
        if self._outbound is not None:
            self._outbound.note_echo(echo)
            self._changed.set()

    def _steer_reading(self) -> None:
        """The socket is read only while what it brings can be taken: TCP then slows the device down."""
        if self.receiver.full or len(self._up) >= UP_WAITING_MAX:
            self._connection.pause_reading()
        else:
            self._connection.resume_reading()

    def _close(self, code: int, reason: str) -> None:
        self._connection.close(code, reason)
        self.stop()


class StartRefused(Exception):
    """``code``: a ReplicationError.Code name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
