"""An edge with stand-ins for everything beyond a device: its socket, the database, the shapes, the writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from tests.catalogs import catalog_of
from tests.tokens import insecure_token

from syncline.actors.devices.auth import Identity
from syncline.actors.devices.device import Device
from syncline.actors.devices.following import Author, Followed, FollowSet, Pinned
from syncline.actors.devices.reception import Claim, Surroundings
from syncline.actors.names import BUNDLER, DEVICES, GATEWAY, ROUTER, SHARD, WRITER
from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.currentrows import CurrentRow, Reading
from syncline.actors.postgres.history import SchemaHistory
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.subscription import Subscription
from syncline.actors.postgres.write import Write
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.messages import EnsureShape, ReadPage, ReadWatermark, ShapePlace
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Context, DynamicSupervisor
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import Probe, spawn
from syncline.proto import events
from syncline.proto.events import ClientEvent
from syncline.proto.session import ClientSession
from syncline.proto.subprotocols import OLD
from syncline.proto.values import Column, Insert, Key, Relation, ShapeRequest, Transaction

WATERMARK = 1_000
SUBSCRIPTION = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a001"
REQUEST = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a002"


def described(oid: int, table: str, *parents: str) -> dict[str, Any]:
    """A table (id, parent) that references ``parents``."""
    columns = [
        {"name": "id", "type": "int8", "not_null": True, "pk": 1, "enum": None},
        {"name": "body", "type": "text", "not_null": False, "pk": None, "enum": None},
        {"name": "n", "type": "int4", "not_null": True, "pk": None, "enum": None},
    ]
    fks = [{"columns": ["body"], "schema": "public", "table": parent, "ref_columns": ["id"]} for parent in parents]
    return {"schema": "public", "table": table, "oid": oid, "columns": columns, "fks": fks, "indexes": []}


DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("body", "TEXT"), Column("n", "INTEGER")))
CATALOG = catalog_of([described(7, "items"), described(8, "notes", "items")])


class FakeDatabase:
    """What devices use of ``Database``. ``away``: raised by everything from now on. ``reading``: cleared, it reads no
    rows. ``asked``: the keys of each reading."""

    def __init__(self) -> None:
        self.catalog: Catalog = CATALOG
        self.history = SchemaHistory()
        self.away: Exception | None = None
        self.known: dict[str, Subscription] = {}
        self.another_history = False
        self.flushed = Lsn(10_000)
        self.current: list[CurrentRow] = []
        self.asked: list[list[tuple[int, Key]]] = []
        self.began, self.reading = asyncio.Event(), asyncio.Event()
        self.reading.set()

    def table(self, name: str) -> Any:
        return self.catalog.named(name)

    async def read(self) -> None:
        self._reach()

    async def device_seen(self, client_id: str, user_id: str, *, proven: bool) -> bool:
        self._reach()
        return True

    async def subscriptions(self, client_id: str) -> dict[str, Subscription]:
        self._reach()
        return dict(self.known)

    async def add_subscription(self, client_id: str, subscription_id: str, shapes: Iterable[ShapeRequest]) -> None:
        self._reach()
        self.known[subscription_id] = Subscription(subscription_id, tuple(shapes), cancelled=False)

    async def cancel_subscriptions(self, client_id: str, ids: Iterable[str]) -> None:
        self._reach()
        for id in set(ids) & self.known.keys():
            self.known[id] = Subscription(id, self.known[id].shapes, cancelled=True)

    async def forget_others(self, client_id: str, held: Iterable[str]) -> None:
        self._reach()
        self.known = {id: self.known[id] for id in held if id in self.known}

    async def forget_subscriptions(self, client_id: str) -> None:
        self._reach()
        self.known.clear()

    async def of_this_history(self, client_id: str) -> bool:
        self._reach()
        return not self.another_history

    async def begin_history(self, client_id: str) -> None:
        self._reach()
        self.known.clear()
        self.another_history = False

    async def join_history(self, client_id: str) -> None:
        self._reach()
        self.another_history = False

    async def current_rows(self, keys: Iterable[tuple[int, Key]]) -> Reading:
        self.began.set()
        await self.reading.wait()
        self._reach()
        self.asked.append(list(keys))
        return Reading(tuple(self.current), self.flushed, Visibility(1, 2, frozenset()))

    async def wal_position(self) -> Lsn:
        self._reach()
        return self.flushed

    def _reach(self) -> None:
        if self.away is not None:
            raise self.away


class FakeConnection:
    """A socket whose other end is a client session. ``writable`` False: what is sent stays in its buffer."""

    remote = "192.0.2.1:4711"

    def __init__(self, protocol: str = OLD[0]) -> None:
        self.protocol = protocol
        self.closed_by_peer = False
        self.client = ClientSession()
        self.closed: tuple[int, str] | None = None
        self.writable = True
        self.reading = True
        self.events: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self.answers: list[bytes] = []
        self.over = asyncio.Event()
        self.held, self.resumed = asyncio.Event(), asyncio.Event()

    def send(self, frame: bytes | Sequence[bytes]) -> bool:
        if self.closed is not None:
            return False
        for message in (frame,) if isinstance(frame, bytes) else frame:
            told, answers = self.client.receive(message)
            self.answers += answers
            for event in told:
                self.events.put_nowait(event)
        return self.writable

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closed is None:
            self.closed = code, reason
            self.over.set()

    @property
    def open(self) -> bool:
        return self.closed is None

    def pause_reading(self) -> None:
        self.reading = False
        self.held.set()

    async def paused(self) -> None:
        """Returns when nobody reads the socket any more."""
        async with asyncio.timeout(5):
            await self.held.wait()

    def resume_reading(self) -> None:
        self.reading = True
        self.resumed.set()

    async def read(self) -> None:
        """Returns when somebody reads the socket."""
        async with asyncio.timeout(5):
            await self.resumed.wait()

    async def expect(self, kind: Any) -> Any:
        """The next event of that kind; others before it are dropped."""
        async with asyncio.timeout(5):
            while not isinstance(event := await self.events.get(), kind):
                pass
        return event

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(5):
            await self.over.wait()
        assert self.closed is not None
        return self.closed


class Anyone:
    """Every token is good, for the user it names."""

    def authenticate(self, token: str, now_s: float) -> Identity:
        return Identity("user", {}, None, proven=True)


class EdgeScene:
    """Everything around devices. ``ready``: where new shapes stand; None while they are being read. ``shown``: whether
    the next readings of rows show all that was streamed; yes when it is empty."""

    def __init__(self) -> None:
        self.context = Context()
        self.database = FakeDatabase()
        self.around = Surroundings(
            self.database,  # type: ignore[arg-type]
            Anyone(),
            "server",
            Shards({SHARD: self.context.registry.ref(SHARD)}),
        )
        self.ready: int | None = WATERMARK
        self.shapes: dict[str, Probe] = {}
        self.ensured: dict[str, Any] = {}
        self.released = WATERMARK
        self.shard = Probe(self._shard)
        self.bundler = AnsweringBundler(self)
        self.writer = Probe()
        self.shown: deque[bool] = deque()
        self.router = Probe(lambda message: self.shown.popleft() if self.shown else True)
        self.gateway = Probe(lambda message: None)

    async def start(self, *, gateway: bool = True) -> EdgeScene:
        await spawn(self.shard, self.context, name=SHARD)
        await spawn(self.bundler, self.context, name=BUNDLER)
        await spawn(self.writer, self.context, name=WRITER)
        await spawn(self.router, self.context, name=ROUTER)
        if gateway:
            await spawn(self.gateway, self.context, name=GATEWAY)
        await spawn(DynamicSupervisor(), self.context, name=DEVICES, shutdown_s=None)
        self.shape = Probe(self._shape)
        await spawn(self.shape, self.context)
        return self

    async def bundler_followed(self, count: int) -> None:
        """Returns when the bundler has been asked to follow that many sets."""
        async with asyncio.timeout(5):
            while len(self.bundler.followed) < count:
                self.bundler.asked.clear()
                await self.bundler.asked.wait()

    def _shard(self, message: object) -> object:
        match message:
            case ReadWatermark():
                return self.released
            case EnsureShape(shape, _):
                self.ensured[shape.hash] = shape
                ready = WATERMARK // 2 if shape.kind == "schema" else self.ready
                return ShapePlace(self.shape.ref, ready)
            case _:
                raise AssertionError(message)

    def _shape(self, message: object) -> object:
        return Page((), more=False) if isinstance(message, ReadPage) else (None, 0)  # no changes, no rows


class AnsweringBundler(Probe):
    """Answers a ``FollowSet`` at once, unless ``silent``."""

    def __init__(self, scene: EdgeScene) -> None:
        super().__init__()
        self._scene = scene
        self.silent = False
        self.asked = asyncio.Event()
        self.followed: list[FollowSet] = []
        self.authors: list[Author] = []
        self.pinned: list[int | None] = []
        self.unpinned = asyncio.Event()

    async def handle_cast(self, message: Any) -> None:
        match message:
            case FollowSet(device, generation, _):
                self.followed.append(message)
                self.asked.set()
                if not self.silent:
                    device.cast(Followed(generation, self._scene.released))
            case Author():
                self.authors.append(message)
            case Pinned():
                self.pinned.append(message.lsn)
                (self.unpinned.set if message.lsn is None else self.unpinned.clear)()
            case _:
                await super().handle_cast(message)


class OneDevice:
    """A device and the client at the other end of its socket."""

    def __init__(self, scene: EdgeScene, client_id: str = "client", protocol: str = OLD[0]) -> None:
        self.scene = scene
        self.client_id = client_id
        self.connection = FakeConnection(protocol)
        self.device = Device(self.connection, scene.around)  # type: ignore[arg-type]

    @classmethod
    async def streaming(cls, scene: EdgeScene) -> OneDevice:
        """Authenticated and started afresh."""
        device = cls(scene)
        await device.authenticate()
        await device.start()
        return device

    async def authenticate(self) -> None:
        self.ref: LocalRef = await spawn(self.device, self.scene.context)
        self.say(self.connection.client.authenticate(self.client_id, insecure_token("user")))
        await self.connection.expect(events.Authenticated)
        claim = await self.scene.gateway.next()
        assert isinstance(claim, Claim)

    async def start(self, lsn: bytes = b"", *subscriptions: str) -> None:
        self.say(self.connection.client.start(lsn, list(subscriptions), None, "sqlite"))
        await self.connection.expect(events.StreamStarted)
        await self.connection.expect(events.SendFrom)
        for answer in self.connection.answers:
            self.say(answer)
        self.connection.answers.clear()

    def say(self, frame: bytes) -> None:
        self.device.receiver.frame(frame)

    def subscribe(self, subscription_id: str = SUBSCRIPTION, table: str = "items") -> None:
        request = ShapeRequest(REQUEST, table)
        self.say(self.connection.client.subscribe(subscription_id, [request]))

    def unsubscribe(self, *ids: str) -> None:
        self.say(self.connection.client.unsubscribe(list(ids)))


async def written(scene: EdgeScene, device: OneDevice, number: int = 1, rows: int = 1) -> Write:
    """The device writes, and the writer gets it."""
    inserts = tuple(Insert(0, (b"%d" % row, b"x", b"2")) for row in range(1, rows + 1))
    transaction = Transaction(number, number.to_bytes(4, "big"), inserts)
    for frame in device.connection.client.write(transaction, {0: DEVICE_ITEMS}):
        device.say(frame)
    write = await scene.writer.next()
    assert isinstance(write, Write)
    return write
