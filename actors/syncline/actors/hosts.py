"""One host of a service that is spread over several: its part of the tree, its links to the others, its connections."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from syncline.actors.config import Config
from syncline.actors.crossing import FORMS, TYPES
from syncline.actors.datadir import FolderLock
from syncline.actors.front import Front
from syncline.actors.layout import Layout
from syncline.actors.names import CLAIMS, ORIGIN, ingest_host
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.slot import ensure_slot
from syncline.actors.tree import Settings, edge_root, ingest_root, origin_root, shapes_root
from syncline.cluster import ChildSpec, Exit
from syncline.cluster.host import LocalHost
from syncline.cluster.link import Limits

log = logging.getLogger(__name__)

# A device's transaction crosses in one piece, and so does a row: Postgres has values of up to a gigabyte.
LIMITS: Final = Limits(frame_bytes_max=2 << 30)


@dataclass(frozen=True, slots=True)
class Role:
    """Who a host is. ``token``: what the hosts of one service know each other by."""

    id: str
    layout: Layout
    settings: Settings
    config: Config
    token: str
    epoch: int = 0


class ServiceHost:
    """``start``, then it has its part of the tree; ``stop`` ends it in order. Made in a running event loop."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._host = LocalHost(role.id, epoch=role.epoch, types=TYPES, forms=FORMS, token=role.token, limits=LIMITS)
        self._front: Front | None = None
        self._database: Database | None = None
        self._lock: FolderLock | None = None
        self.port = 0  # of an edge

    async def start(self) -> None:
        """Returns when it does its part, which takes as long as those take that it relies on.

        Raises Fault, FolderInUse, PreconditionError, StartFailed, and what asyncpg raises.
        """
        role, layout, host = self._role, self._role.layout, self._host
        if role.id in layout.ranks[-1]:
            self._front = Front(role.config, host, CLAIMS)
            self.port = await self._front.listen(reuse_port=layout.edges > 1)
        await host.open()
        await host.listen(layout.address(role.id))
        for peer in layout.dialled_by(role.id):
            host.connect(peer, layout.address(peer))
        for name, home in layout.homes.items():
            if home != role.id:
                host.context.registry.lives_at(name, host.peer(home).ref(name))
        self._database = await connect(role.settings.dsn, f"syncline {role.id}")
        await self._database.read()
        await host.start(await self._root(self._database))
        if self._front is not None:
            await self._front.open(role.settings, self._database)

    async def ended(self) -> Exit:
        """Waits for its part of the tree to give up."""
        return await self._host.ended

    async def stop(self) -> None:
        """Its connections closed, everything flushed."""
        if self._front is not None:
            await self._front.close()
        await self._host.close()
        if self._lock is not None:
            self._lock.release()
        if self._database is not None:
            self._database.terminate()

    async def _root(self, database: Database) -> ChildSpec:
        role, layout, settings = self._role, self._role.layout, self._role.settings
        if role.id == ORIGIN:
            return origin_root(settings, database, self._host, layout)
        if role.id == ingest_host(settings.slot):
            return ingest_root(settings, database, self._host, layout)
        if self._front is not None:
            return edge_root(settings, database, role.config.authenticator, self._host, layout)
        self._lock = FolderLock(settings.shapes_dir, shared=True)
        async with database.pool.acquire() as connection:
            slot = await ensure_slot(connection, settings.slot)  # it has moved on since the settings were made
        return shapes_root(replace(settings, start_lsn=int(slot.done)), database, self._host, layout)
