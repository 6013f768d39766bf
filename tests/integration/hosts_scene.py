"""The whole service spread over hosts, each a part of this process, with real links between them, so that any of
them can be stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
from tests.integration.tree_scene import ITEMS

from syncline.actors.config import load
from syncline.actors.hosts import Role, ServiceHost
from syncline.actors.layout import Layout
from syncline.actors.names import edge_host
from syncline.actors.preparing import owning, prepare, settle_for_hosts


class Hosts:
    """A running service of several hosts, and a connection to its database."""

    def __init__(self, roles: dict[str, Role], postgres: asyncpg.Connection) -> None:
        self.roles = roles
        self.postgres = postgres
        self.running: dict[str, ServiceHost] = {}

    @property
    def slot(self) -> str:
        return next(iter(self.roles.values())).settings.slot

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running[edge_host(0)].port}"

    async def start(self, *ids: str) -> None:
        """These, or all."""
        for id in ids or self.roles:
            self.running[id] = ServiceHost(self.roles[id])
        await asyncio.gather(*(self.running[id].start() for id in ids or self.roles))

    async def stop(self, *ids: str) -> None:
        """These, or all that run."""
        for id in ids or tuple(reversed(self.running)):
            await self.running.pop(id).stop()


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.asynccontextmanager
async def spread(
    dsn: str,
    folder: Path,
    sql: str = ITEMS,
    tables: tuple[str, ...] = ("items",),
    *,
    shards: int = 2,
    edges: int = 1,
    connections: int = 0,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Hosts]:
    """A service on ``dsn`` after ``sql``, with ``tables`` open to devices. ``connections``: the hosts with a device
    each; none when devices are with the edges. ``environment``: settings of its own."""
    settings_given = {
        "DATABASE_URL": dsn,
        "AUTH_MODE": "insecure",
        "SYNCLINE_HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(free_port()),  # an edge that comes back has to take the same
        "SYNCLINE_DATA_DIR": str(folder / "data"),
        **(environment or {}),
    }
    config = load({}, settings_given)
    postgres = await asyncpg.connect(dsn)
    with tempfile.TemporaryDirectory(prefix="syncline-") as sockets:
        await postgres.execute(sql)
        _, settings = await prepare(config, dsn, shards)
        settings = await owning(config, settings)
        await settle_for_hosts(config, settings)
        layout = Layout(settings.slot, shards, edges, sockets, connections)
        hosts = Hosts({id: Role(id, layout, settings, config.values, "secret") for id in layout.hosts}, postgres)
        try:
            await hosts.start()
            for table in tables:
                await postgres.execute(f"CALL electric.electrify('{table}')")
            yield hosts
        finally:
            await hosts.stop()
            await postgres.close()
