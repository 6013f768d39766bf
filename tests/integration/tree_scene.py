"""The whole service in this process, with a way to every actor of its tree, so that any of them can be crashed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
import websockets
from tests.patience import PAUSE_S, until
from tests.rawdevice import RawDevice

from syncline.actors.config import load
from syncline.actors.names import CONSUMERS, DEVICES
from syncline.actors.service import Service
from syncline.cluster import ActorDown, CallTimeout
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.supervisor import WhichChildren
from syncline.proto import events
from syncline.proto.values import ShapeRequest

ITEMS = "CREATE TABLE items (id uuid PRIMARY KEY, n int4 NOT NULL, body text)"


class Tree:
    """A running service, and a connection to its database."""

    def __init__(self, service: Service, postgres: asyncpg.Connection) -> None:
        self.service = service
        self.postgres = postgres

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def actor(self, name: str) -> LocalRef:
        """The one that holds ``name`` now."""
        found = self.service._host.context.registry.lookup(name)
        if not isinstance(found, LocalRef):
            raise LookupError(name)
        return found

    async def child(self, supervisor: str, prefix: str) -> LocalRef:
        """Some child of a dynamic supervisor."""
        children = await self.actor(supervisor).call(WhichChildren())
        for id, ref in children.items():
            if id.startswith(prefix) and ref is not None:
                return ref  # type: ignore[no-any-return]
        raise LookupError(prefix)

    async def consumer(self, table: str) -> LocalRef:
        shapes = await self.actor(CONSUMERS).call(WhichChildren())
        for ref in shapes.values():
            if ref is not None and ref._cell.actor._shape.table == table:
                return ref  # type: ignore[no-any-return]
        raise LookupError(table)

    async def victim(self, name: str) -> LocalRef:
        """An actor of that role, as soon as there is one."""
        found: list[LocalRef] = []

        async def holds() -> bool:
            with contextlib.suppress(LookupError, ActorDown, CallTimeout):
                found.append(await self._find(name))
            return bool(found)

        await until(holds)
        return found[0]

    async def _find(self, name: str) -> LocalRef:
        if name == "consumer":
            return await self.consumer("items")
        if name == "device":
            return await self.child(DEVICES, "device:")
        return self.actor(name)

    async def insert(self, rows: int, start: int = 0) -> None:
        await self.postgres.execute(
            "INSERT INTO items SELECT gen_random_uuid(), n, 'row ' || n FROM generate_series($1::int, $2::int) n",
            start,
            start + rows - 1,
        )

    async def held(self, table: str = "items") -> set[bytes]:
        return {row[0].encode() for row in await self.postgres.fetch(f"SELECT id::text FROM {table}")}


@contextlib.asynccontextmanager
async def running(
    dsn: str,
    folder: Path,
    sql: str = ITEMS,
    tables: tuple[str, ...] = ("items",),
    environment: Mapping[str, str] | None = None,
    shards: int = 1,
) -> AsyncIterator[Tree]:
    """A service on ``dsn`` after ``sql``, with ``tables`` open to devices. ``environment``: settings of its own."""
    settings = {
        "DATABASE_URL": dsn,
        "AUTH_MODE": "insecure",
        "SYNCLINE_HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        "SYNCLINE_DATA_DIR": str(folder / "data"),
        **(environment or {}),
    }
    postgres = await asyncpg.connect(dsn)
    service = Service(load({}, settings), shards)
    try:
        await postgres.execute(sql)
        await service.start()
        for table in tables:
            await postgres.execute(f"CALL electric.electrify('{table}')")
        yield Tree(service, postgres)
    finally:
        await service.stop()
        await postgres.close()


class Stubborn:
    """A device as an app has it: whenever its connection ends, it comes back and goes on from where it was.

    ``rows``: the keys of all it holds. ``connections``: how often it was streamed to. ``afresh``: how often it was told
    to start over.
    """

    def __init__(self, url: str, *tables: str | ShapeRequest) -> None:
        self._url = url
        self._tables = tables
        self._device: RawDevice | None = None
        self._subscription: str | None = None
        self._running = asyncio.create_task(self._run())
        self.client_id: str | None = None
        self.connections = 0
        self.afresh = 0
        self.resumed = asyncio.Event()

    @property
    def rows(self) -> set[bytes | None]:
        tables = self._device.rows.values() if self._device is not None else ()
        return {key for table in tables for key in table}

    @property
    def transactions(self) -> list[bytes]:
        """LSNs of what its present connection was sent."""
        return [tx.lsn for tx in self._device.transactions] if self._device is not None else []

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, websockets.WebSocketException):
                await self._connection()
            await asyncio.sleep(PAUSE_S)  # a device's own pace: it dials again

    async def _connection(self) -> None:
        async with RawDevice.connected(self._url, client_id=self.client_id) as device:
            work = asyncio.create_task(self._stream(device))
            closed = asyncio.create_task(device.socket.wait_closed())
            await asyncio.wait({work, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await asyncio.gather(work, closed, return_exceptions=True)

    async def _stream(self, device: RawDevice) -> None:
        self.client_id = device.client_id
        if self._device is None or self._subscription is None:
            await device.start()
            subscription = await device.subscribe(*self._tables)
            self._device, self._subscription = device, subscription
        else:
            device.rows, device.lsn = self._device.rows, self._device.lsn
            await device.socket.send(device.session.start(device.lsn, [self._subscription], None, "sqlite"))
            started = await device.expect(events.StreamStarted | events.StreamRefused)  # type: ignore[arg-type]
            self._device = device
            if isinstance(started, events.StreamRefused):
                self.afresh += 1
                self._device = self._subscription = None
                return
        self.connections += 1
        self.resumed.set()
        await device.socket.wait_closed()
