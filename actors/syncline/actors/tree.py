"""The whole supervision tree on one page.

root  one_for_one
├── origin  rest_for_one         one database; each needs those above it, and starts again when one of them does
│   ├── writer                   device transactions into Postgres
│   ├── consumers                dynamic: one consumer a live shape
│   ├── shard, or several        its shapes, their watermark; a crashed shape takes it down with it
│   ├── absorber                 what direct SQL did, from the stream into Postgres
│   ├── router                   transaction -> shapes
│   └── replicator               the slot; a crash resumes from the confirmed position
├── pruner                       what was deleted long ago, out of Postgres
├── reaper                       shapes that nobody needs
├── rereader                     shapes whose tables have changed otherwise than the stream says
└── edge  rest_for_one           devices lose their connection when something here crashes, and resume
    ├── bundler                  shapes' records -> frames, one bundle a set of shapes
    ├── devices                  dynamic: one device a connection
    └── gateway                  new sockets, one device a client id

That is ``root``, all in one process. Spread over hosts, each has its part of it (``origin_root`` and so on), and a
*tether* where a part relies on another host's: the router on the shards, the replicator on the router, the edges on the
writer and on *claims*, which knows the devices of all edges. What ends there ends here, and starts again when it is
back. Where each device has a host of its own, an edge has relays in place of devices, and such a host the rest of that
part: a bundler, and a seat in place of the gateway; what the shards have passed is then told by *watermarks*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg

from syncline.actors.datadir import lineage_of
from syncline.actors.devices.auth import Authenticator
from syncline.actors.devices.bundler import Bundler
from syncline.actors.devices.claims import Claims
from syncline.actors.devices.forwarder import Forwarder
from syncline.actors.devices.gateway import Gateway
from syncline.actors.devices.line import Seat
from syncline.actors.devices.reaper import Reaper
from syncline.actors.devices.reception import Surroundings
from syncline.actors.layout import Layout
from syncline.actors.names import (
    ABSORBER,
    BUNDLER,
    CLAIMS,
    CONSUMERS,
    DEVICES,
    GATEWAY,
    PRUNER,
    REAPER,
    REPLICATOR,
    REREADER,
    ROUTER,
    SHARD,
    WATERMARKS,
    WRITER,
    shard_names,
)
from syncline.actors.postgres.absorber import Absorber
from syncline.actors.postgres.catalog import TableGone, TableInfo
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.homes import Homes
from syncline.actors.postgres.pruning import Pruner
from syncline.actors.postgres.replicator import Confirm, Replicator
from syncline.actors.postgres.snapshot import Seen, Visibility, emit_mark
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.subtree import Subtree, open_subtree
from syncline.actors.postgres.where_sql import evaluate
from syncline.actors.postgres.writer import SESSION, SKEW_MS, Writer
from syncline.actors.shapes.clauses import Clauses, clauses_of
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.loading import Loading
from syncline.actors.shapes.reaping import Policy
from syncline.actors.shapes.rereading import Rereader
from syncline.actors.shapes.router import AddRoutes, Router, ShownUpTo, new_mark
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.shard import Shard
from syncline.actors.shapes.shards import AssignedShards, Shards
from syncline.actors.shapes.store import ShapeStore
from syncline.actors.shapes.treeconsumer import Around, TreeConsumer
from syncline.actors.shapes.watermarks import Watermarks
from syncline.cluster import ChildSpec, DynamicSupervisor, Ref, Strategy, Supervisor
from syncline.cluster.host import Host, LocalHost
from syncline.cluster.tether import tethered
from syncline.proto.values import Relation

# The router's and the shard's messages are whole stretches of the stream: few of them are much.
STREAM_MAILBOX = 16
# At a time, of shapes that need rows they do not hold; each takes a connection, and another for a moment.
FETCHING_MAX = 2
ADD_ROUTE_TIMEOUT_S = 60.0  # it waits its turn in the stream
PUBLICATION = "electric_publication"
# Restarts in a minute, after which a part is not going to recover by itself and the process ends.
RESTARTS_MAX = 10
RESTARTS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the tree is built from. ``start_lsn``: the slot's confirmed position at start. ``shards``: how many the
    shapes are spread over; each has a folder of its own. ``shapes_dedicated``: each shape is alone, as far as there are
    any. ``epoch``: of the service, see ``ownership``. ``policy``: of what is removed. ``clock_skew_max_ms``: see
    ``WriteLoop``."""

    dsn: str
    slot: str
    start_lsn: int
    shapes_dir: Path
    server_id: str
    shards: int = 1
    shapes_dedicated: bool = False
    epoch: int = 0
    policy: Policy = field(default_factory=Policy)
    clock_skew_max_ms: int = SKEW_MS

    @property
    def lineage(self) -> str:
        """The history that the shapes are of."""
        return lineage_of(self.shapes_dir)

    @property
    def shard_folders(self) -> dict[str, Path]:
        """Shard name -> its folder."""
        if self.shards == 1:
            return {SHARD: self.shapes_dir}
        return {name: self.shapes_dir / name for name in shard_names(self.shards)}


def root(settings: Settings, database: Database, authenticator: Authenticator, host: Host) -> ChildSpec:
    """Of a host that has everything."""
    shards = _shards(settings, database, host)
    origin = [
        _writer(settings, database),
        *shapes(settings, database, host, shards, settings.shard_folders),
        _absorber(settings, database, host),
        _router(database, host, shards),
        _replicator(settings, database),
    ]
    return _root(
        _subtree("origin", origin),
        _pruner(settings, database),
        _reaper(settings, database, host, shards, GATEWAY),
        _rereader(database, shards),
        _subtree("edge", edge(settings, database, authenticator, shards)),
    )


def origin_root(settings: Settings, database: Database, host: LocalHost, layout: Layout) -> ChildSpec:
    """Of the host with what there is once for a database."""
    shards = _shards(settings, database, host)
    homes = {name: host.peer(home) for name, home in layout.shard_hosts.items()}
    claims = ChildSpec(id=CLAIMS, name=CLAIMS, start=Claims)
    stream = _subtree("stream", [_absorber(settings, database, host), _router(database, host, shards)])
    children = [_writer(settings, database), claims, tethered(homes, stream), _pruner(settings, database)]
    children += [_reaper(settings, database, host, shards, CLAIMS), _rereader(database, shards)]
    if layout.connections:
        watermarks = ChildSpec(id=WATERMARKS, name=WATERMARKS, start=lambda: Watermarks(WATERMARKS, shards))
        children.append(tethered(homes, watermarks))
    return _root(*children)


def ingest_root(settings: Settings, database: Database, host: LocalHost, layout: Layout) -> ChildSpec:
    """Of the host that reads the slot, and does nothing else."""
    return _root(tethered({ROUTER: host.peer(layout.homes[ROUTER])}, _replicator(settings, database)))


def shapes_root(settings: Settings, database: Database, host: LocalHost, layout: Layout) -> ChildSpec:
    """Of a host with one of the shards."""
    shards = _shards(settings, database, host)
    (name,) = (name for name, home in layout.shard_hosts.items() if home == host.id)
    return _root(_subtree("shapes", shapes(settings, database, host, shards, (name,))))


def edge_root(
    settings: Settings, database: Database, authenticator: Authenticator, host: LocalHost, layout: Layout
) -> ChildSpec:
    """Of a host with devices."""
    shards = _shards(settings, database, host)
    if layout.connections:
        children = forwarding({id: host.peer(id).ref(GATEWAY) for id in layout.connection_hosts})
    else:
        children = edge(settings, database, authenticator, shards, host.ref(CLAIMS))
    needs = {name: host.peer(layout.homes[name]) for name in (WRITER, CLAIMS)}
    return _root(tethered(needs, _subtree("edge", children)))


def connection_root(
    settings: Settings, database: Database, authenticator: Authenticator, host: LocalHost, layout: Layout
) -> ChildSpec:
    """Of a host with one device at a time."""
    shards = _shards(settings, database, host)
    around = Surroundings(database, authenticator, settings.server_id, shards)
    gateway = ChildSpec(id=GATEWAY, name=GATEWAY, start=lambda: Seat(around, host.ref(CLAIMS)))
    needs = {name: host.peer(layout.homes[name]) for name in (WRITER, CLAIMS, WATERMARKS)}
    bundler = _bundler(Shards({WATERMARKS: host.ref(WATERMARKS)}))
    return _root(tethered(needs, _subtree("connection", [bundler, _devices(), gateway])))


def shapes(settings: Settings, database: Database, host: Host, shards: Shards, names: Iterable[str]) -> list[ChildSpec]:
    """The shards of these ``names``, and the consumers of their shapes."""

    # See ``Loading``.
    taking = asyncio.Lock()
    fetching = asyncio.Semaphore(FETCHING_MAX)

    async def route(added: Sequence[Shape]) -> Sequence[int]:
        routes = tuple([(shape, await shards.found(shape.hash)) for shape in added])
        streamed: Sequence[int] = await host.ref(ROUTER).call(AddRoutes(routes), ADD_ROUTE_TIMEOUT_S)
        return streamed

    loading = Loading(database, route, taking)

    async def subtree(pool: asyncpg.Pool, shape: Shape, seen: Seen) -> tuple[Subtree, str]:
        async def open(tables: Mapping[int, TableInfo]) -> Subtree:
            return await open_subtree(pool, tables, seen)

        try:
            opened = await database.reading(shape.tables, open)
        except TableGone:
            left = shape.tables.keys() & database.catalog.tables.keys()
            if not left:
                raise
            opened = await database.reading(left, open)
        try:
            mark = new_mark(shape)
            await emit_mark(pool, mark)
        except BaseException:
            await opened.aclose()
            raise
        return opened, mark

    def around(shape: Shape) -> Around:
        async def first(shown: Callable[[Visibility], object]) -> tuple[Subtree, str]:
            return await loading.subtree(shape, shown)

        async def later(lsn: int) -> tuple[Subtree, str]:
            async def seen(visibility: Visibility) -> bool:
                return bool(await host.ref(ROUTER).call(ShownUpTo(visibility, lsn), ADD_ROUTE_TIMEOUT_S))

            # Not from the pool of those who read whole tables: this one holds up the stream.
            async with fetching:
                return await subtree(database.pool, shape, seen)

        return Around(first, later)

    async def clauses(store: ShapeStore) -> Clauses:
        evaluating = partial(evaluate, database.pool, on_error=store.noted.failed)
        made = clauses_of(store.shape, await database.tables(store.shape.tables), evaluating)
        store.noted.slow = made.slow
        return made

    def consumer(store: ShapeStore, relations: Sequence[Relation], shard: Ref) -> Consumer:
        shape = store.shape
        store.buried_kept_s = settings.policy.devices_kept_s
        if shape.is_tree:
            return TreeConsumer(store, relations, loading.snapshot, shard, partial(clauses, store), around(shape))
        return Consumer(store, relations, loading.snapshot, shard, partial(clauses, store) if shape.where else None)

    def shard(name: str, folder: Path) -> ChildSpec:
        def confirm(lsn: int) -> None:
            host.ref(REPLICATOR).cast(Confirm(name, lsn))

        return ChildSpec(
            id=name,
            name=name,
            start=lambda: Shard(name, shards, folder, consumer, _relation_of(database), settings.start_lsn, confirm),
            mailbox_capacity=STREAM_MAILBOX,
            init_s=600.0,
            shutdown_s=60.0,
        )

    folders = settings.shard_folders
    return [
        ChildSpec(id=CONSUMERS, name=CONSUMERS, start=DynamicSupervisor, shutdown_s=None),
        *(shard(name, folders[name]) for name in names),
    ]


def edge(
    settings: Settings,
    database: Database,
    authenticator: Authenticator,
    shards: Shards,
    claims: Ref | None = None,
) -> list[ChildSpec]:
    """Devices, and what stands between them and the shapes. ``claims``: see ``Gateway``."""
    around = Surroundings(database, authenticator, settings.server_id, shards)
    return [
        _bundler(shards),
        _devices(),
        ChildSpec(id=GATEWAY, name=GATEWAY, start=lambda: Gateway(around, claims)),
    ]


def forwarding(seats: Mapping[str, Ref]) -> list[ChildSpec]:
    """Sockets whose devices are on hosts of their own. ``seats``: host -> who takes a device there."""
    return [_devices(), ChildSpec(id=GATEWAY, name=GATEWAY, start=lambda: Forwarder(seats))]


def _bundler(shards: Shards) -> ChildSpec:
    return ChildSpec(id=BUNDLER, name=BUNDLER, start=lambda: Bundler(shards))


def _devices() -> ChildSpec:
    return ChildSpec(id=DEVICES, name=DEVICES, start=DynamicSupervisor, shutdown_s=None)


def _shards(settings: Settings, database: Database, host: Host) -> Shards:
    refs = {name: host.ref(name) for name in settings.shard_folders}
    if settings.shapes_dedicated:
        homes = Homes(database.pool, tuple(refs))
        return AssignedShards(refs, homes.home, homes.release)
    return Shards(refs)


def _writer(settings: Settings, database: Database) -> ChildSpec:
    def start() -> Writer:
        kept_ms = int(settings.policy.devices_kept_s * 1_000)
        owner, skew_ms = database.owner or SESSION, settings.clock_skew_max_ms
        return Writer(settings.dsn, owner, absorbing=True, skew_ms=skew_ms, kept_ms=kept_ms)

    return ChildSpec(id=WRITER, name=WRITER, start=start)


def _absorber(settings: Settings, database: Database, host: Host) -> ChildSpec:
    def confirm(lsn: int) -> None:
        host.ref(REPLICATOR).cast(Confirm(ABSORBER, lsn))

    return ChildSpec(
        id=ABSORBER,
        name=ABSORBER,
        start=lambda: Absorber(database.pool, lambda: database.catalog.tables, confirm, settings.start_lsn),
        mailbox_capacity=STREAM_MAILBOX,
    )


def _router(database: Database, host: Host, shards: Shards) -> ChildSpec:
    def table_of(relation_id: int) -> TableInfo | None:
        return database.catalog.tables.get(relation_id)

    return ChildSpec(
        id=ROUTER,
        name=ROUTER,
        start=lambda: Router(database.read_migrations, table_of, shards, host.ref(ABSORBER)),
        mailbox_capacity=STREAM_MAILBOX,
    )


def _replicator(settings: Settings, database: Database) -> ChildSpec:
    def open_stream() -> ReplicationStream:
        return ReplicationStream(settings.dsn, settings.slot, PUBLICATION, owner=database.owner)

    def key_places(relation_id: int, names: Sequence[str]) -> tuple[int, ...] | None:
        return database.catalog.key_places(relation_id, names)

    return ChildSpec(
        id=REPLICATOR,
        name=REPLICATOR,
        start=lambda: Replicator(
            open_stream,
            key_places,
            (ABSORBER, *settings.shard_folders),
            database.read,
            database.visibility,
            database.note_stale,
        ),
    )


def _pruner(settings: Settings, database: Database) -> ChildSpec:
    kept_s = settings.policy.deleted_kept_s, settings.policy.devices_kept_s
    return ChildSpec(id=PRUNER, name=PRUNER, start=lambda: Pruner(database.pool, *kept_s))


def _reaper(settings: Settings, database: Database, host: Host, shards: Shards, clients: str) -> ChildSpec:
    """``clients``: the name of who knows which devices are connected."""
    return ChildSpec(
        id=REAPER,
        name=REAPER,
        start=lambda: Reaper(settings.policy, database, shards, host.ref(ROUTER), host.ref(clients)),
    )


def _rereader(database: Database, shards: Shards) -> ChildSpec:
    return ChildSpec(id=REREADER, name=REREADER, start=lambda: Rereader(database.pool, shards))


def _relation_of(database: Database) -> Callable[[int], Relation | None]:
    def relation_of(relation_id: int) -> Relation | None:
        table = database.catalog.tables.get(relation_id)
        return None if table is None else table.relation

    return relation_of


def _root(*children: ChildSpec) -> ChildSpec:
    return ChildSpec(
        id="root",
        start=lambda: Supervisor(
            Strategy.ONE_FOR_ONE, children, max_restarts=RESTARTS_MAX, max_seconds=RESTARTS_WITHIN_S
        ),
        shutdown_s=None,
        init_s=600.0,
    )


def _subtree(name: str, children: Sequence[ChildSpec]) -> ChildSpec:
    return ChildSpec(
        id=name,
        start=lambda: Supervisor(
            Strategy.REST_FOR_ONE, children, max_restarts=RESTARTS_MAX, max_seconds=RESTARTS_WITHIN_S
        ),
        shutdown_s=None,
        init_s=600.0,
    )
