"""One host of a service that is spread over several: its part of the tree, its links to the others, its connections."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import asyncpg

from syncline.actors.config import load
from syncline.actors.crossing import FORMS, TYPES
from syncline.actors.datadir import FolderLock, lock_left
from syncline.actors.front import Front
from syncline.actors.layout import Layout
from syncline.actors.logs import set_up
from syncline.actors.names import CLAIMS, ORIGIN, ingest_host
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.ownership import Superseded
from syncline.actors.postgres.slot import ensure_slot
from syncline.actors.preparing import claimed, end_with, first_connection
from syncline.actors.process import private_folder, raise_open_files, settle_garbage
from syncline.actors.tree import Settings, connection_root, edge_root, ingest_root, origin_root, shapes_root
from syncline.cluster import ChildSpec, Exit
from syncline.cluster.host import LocalHost
from syncline.cluster.link import Limits
from syncline.cluster.link_io import Resolve
from syncline.cluster.ray_host import HostSpec, Keeping, Retired
from syncline.cluster.ray_names import RayName

log = logging.getLogger(__name__)

# A device's transaction crosses in one piece, and so does a row: Postgres has values of up to a gigabyte.
LIMITS: Final = Limits(frame_bytes_max=2 << 30)
LOG_BYTES: Final = 10 << 20  # of each file
LOG_FILES: Final = 3
SLOT_POLL_S: Final = 0.1
PROGRAM: Final = "syncline.actors.hosts:run"
LOOP: Final = "uvloop:new_event_loop"


class HostGaveUp(Exception):
    """A host's part of the tree ended; the message says why. Its process ends with it, and the next one tries anew."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who a host is. ``values``: the settings of the service, by name. ``token``: what its hosts know each other by.
    Ray keeps it, passwords and all, for the host's restarts."""

    id: str
    layout: Layout
    settings: Settings
    values: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)

    def spec(self, service: str, generation: int = 1) -> HostSpec:
        """Of its host in ``service``, for Ray."""
        return HostSpec(RayName(service, self.id, generation), PROGRAM, self, LOOP)


class ServiceHost:
    """``warm``, ``start``, then it has its part of the tree; ``stop`` ends it in order. Made in a running event loop.
    ``kept``: None when nobody keeps its process.
    """

    def __init__(self, role: Role, kept: Keeping | None = None) -> None:
        self._kept = kept
        generation = 1 if kept is None else kept.generation
        self._role = role
        self.overlaps = role.id in role.layout.ranks[-1]  # an edge, which others do not look for
        # Nobody has to end for an edge to begin, so each has a name of its own, and none supersedes another.
        self._follows = generation > 1
        self._id = f"{role.id}@{generation}" if self.overlaps and generation > 1 else role.id
        self._connection: asyncpg.Connection | None = None
        self._config = load({}, role.values)
        self._replacing: dict[str, asyncio.Task[None]] = {}
        self._host = LocalHost(
            self._id, types=TYPES, forms=FORMS, token=role.token, limits=LIMITS, frozen=self._on_frozen
        )
        self._front: Front | None = None
        self._database: Database | None = None
        self._locks: list[FolderLock] = []
        self._losing: asyncio.Task[None] | None = None
        self.port = 0  # of an edge

    async def warm(self) -> None:
        """Whatever it can do before it takes anybody's place. Raises Fault."""
        self._connection = await first_connection(self._role.settings.dsn)

    async def start(self) -> None:
        """Returns when it does its part, which takes as long as those take that it relies on.

        Raises Superseded, Fault, FolderInUse, PreconditionError, StartFailed, and what asyncpg raises.
        """
        role, host = self._role, self._host
        if self.overlaps:
            self._front = Front(self._config, host, CLAIMS)
            if not self._follows:
                self.port = await self._front.listen(reuse_port=True)  # with a predecessor that is not gone yet, too
        owner = await claimed(role.settings, self._id, self._connection)
        host.raise_epoch(owner.epoch)
        self._database = await connect(role.settings.dsn, owner, role.settings.lineage)
        self._losing = asyncio.create_task(end_with(owner, self._database.pool, host))
        reading = asyncio.create_task(self._database.read())
        try:
            await self._meet_peers()
            await reading
        finally:
            reading.cancel()
        await host.start(await self._root(self._database))
        if self._front is not None:
            await self._front.open(role.settings, self._database)
            if self._follows:  # until now the one before it has taken whoever came
                self.port = await self._front.listen(reuse_port=True)

    async def _meet_peers(self) -> None:
        host, layout, id = self._host, self._role.layout, self._role.id
        await host.open()
        await self._listen()
        for peer in layout.dialled_by(id):
            host.connect(peer, self._where(peer))
        for name, home in layout.homes.items():
            if home != id:
                host.context.registry.lives_at(name, host.peer(home).ref(name))

    async def _listen(self) -> None:
        address = self._role.layout.address(self._role.id)
        private_folder(Path(address.partition(":")[2]).parent)
        addresses = [await self._host.listen(address)]
        if self._kept is not None:
            if self._role.layout.several_machines:
                addresses.append(await self._host.listen(f"tcp:{self._kept.ip}:0"))
            self._kept.listens(addresses)

    def _where(self, peer: str) -> str | Resolve:
        kept, layout = self._kept, self._role.layout
        if kept is None or not layout.several_machines:
            return layout.address(peer)
        return lambda: kept.address_of(peer)

    async def ended(self) -> Exit:
        """Waits for its part of the tree to give up, or for another process to take its place."""
        return await self._host.ended

    async def stop(self) -> None:
        """Its connections closed, everything flushed."""
        if self._losing is not None:
            self._losing.cancel()
        if self._connection is not None:
            self._connection.terminate()
        if self._front is not None:
            await self._front.close()
        await self._host.close()
        while self._locks:
            self._locks.pop().release()
        if self._database is not None:
            self._database.terminate()

    def _on_frozen(self, id: str) -> None:
        """One host looks after each, and once at a time: were it several, some would end the new process as well."""
        if self._kept is None or id in self._replacing or self._role.id != self._role.layout.keeper_of(id):
            return
        log.warning("host %s says nothing: it is replaced if it does nothing either", id)
        task = self._replacing[id] = asyncio.create_task(self._kept.replace(id))
        task.add_done_callback(lambda _: self._replacing.pop(id, None))

    async def _root(self, database: Database) -> ChildSpec:
        role, layout, settings = self._role, self._role.layout, self._role.settings
        if role.id == ORIGIN:
            return origin_root(settings, database, self._host, layout)
        if role.id == ingest_host(settings.slot):
            return ingest_root(settings, database, self._host, layout)
        if role.id in layout.connection_hosts:
            return connection_root(settings, database, self._config.authenticator, self._host, layout)
        if self._front is not None:
            return edge_root(settings, database, self._config.authenticator, self._host, layout)
        # On another machine than the command's the folder may be elsewhere, and not there yet.
        folder = self._config.data_dir / "shapes" / settings.shapes_dir.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._take_folders(folder)
        async with database.pool.acquire() as connection:
            slot = await ensure_slot(connection, settings.slot)  # it has moved on since the settings were made
            # What a folder holds here need not be what was confirmed by a process elsewhere, so nobody may confirm more
            # from now on. The replicator ends when it learns of our start, and begins again after it.
            while layout.several_machines and slot.active:
                await asyncio.sleep(SLOT_POLL_S)
                slot = await ensure_slot(connection, settings.slot)
        at = replace(settings, shapes_dir=folder, start_lsn=int(slot.done))
        return shapes_root(at, database, self._host, layout)

    async def _take_folders(self, shapes: Path) -> None:
        """That of its shard for itself alone: a process before it may be frozen, and would write on when it wakes up.
        The one around it together with the other shards. Raises FolderInUse when the process before it does not end."""
        (shard,) = (name for name, home in self._role.layout.shard_hosts.items() if home == self._role.id)
        own = replace(self._role.settings, shapes_dir=shapes).shard_folders[shard]
        if own != shapes:
            self._locks.append(await lock_left(shapes, shared=True))
        self._locks.append(await lock_left(own))


async def run(role: Role, kept: Keeping) -> None:
    """The program of a host (see ``cluster.ray_host``): does its part until it is asked to stop.

    Raises HostGaveUp when its part of the tree gives up, Retired when another service has taken over, and what
    ``ServiceHost.start`` raises.
    """
    config = load({}, role.values)
    _log_to(config.data_dir / "logs" / f"{role.id.partition(':')[0]}.log", config.log_level)
    raise_open_files()
    host = ServiceHost(role, kept)
    stopping, starting = asyncio.create_task(kept.stop.wait()), asyncio.create_task(_take_part(host, kept))
    ending = asyncio.create_task(host.ended())
    try:
        await asyncio.wait({stopping, starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            settle_garbage()
            kept.ready({"port": host.port})
            await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            if isinstance(cause := ending.result().cause, Superseded):
                raise cause
            raise HostGaveUp(f"{role.id}: {ending.result()}")
    except Superseded as superseded:
        log.error("%s ends: %s", role.id, superseded)
        if superseded.service:
            raise Retired(str(superseded)) from superseded
        raise
    except Exception:
        log.exception("%s ends", role.id)
        raise
    finally:
        for task in (stopping, starting, ending):
            task.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await host.stop()


async def _take_part(host: ServiceHost, kept: Keeping) -> None:
    """Whoever did it before goes on until this one is warm; an edge, until it is ready."""
    await host.warm()
    if not host.overlaps:
        await kept.succeed()
    await host.start()
    if host.overlaps:
        await kept.succeed()


def _log_to(path: Path, level: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    set_up(level, handler)
