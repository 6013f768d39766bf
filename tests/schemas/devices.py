"""Devices of both kinds, as the scene of whole schemas sees them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.npm.rig import NpmDevice, NpmError
from tests.patience import PATIENCE_S
from tests.schemas.catalogue import Table, quoted
from tests.schemas.writing import Row, Write
from tests.tokens import insecure_token

from syncline.client import Database, open_db

# More at a time would only wait for one another.
SYNCED_AT_ONCE = 8


class Refused(Exception):
    """The device does not take a transaction: it breaks a constraint that the device knows."""


class Device(Protocol):
    """What both clients can do."""

    name: str

    async def sync(self, tables: Sequence[Table]) -> None:
        """These tables whole; on return their rows are here."""

    async def write(self, writes: Sequence[Write]) -> int | None:
        """One local transaction; its id, where the client tells it. Raises Refused."""

    async def rows(self, table: Table) -> list[Row]: ...

    async def pending(self) -> int:
        """How much it has written that has not come back to it."""

    async def offline(self) -> None: ...

    async def online(self) -> None: ...


class PythonDevice:
    def __init__(self, name: str, db: Database) -> None:
        self.name = name
        self.db = db

    async def sync(self, tables: Sequence[Table]) -> None:
        turns = asyncio.Semaphore(SYNCED_AT_ONCE)

        async def synced(table: Table) -> None:
            async with turns, asyncio.timeout(PATIENCE_S):
                await (await self.db.sync(table.on_devices)).synced()

        async with asyncio.TaskGroup() as group:
            for table in tables:
                group.create_task(synced(table))

    async def write(self, writes: Sequence[Write]) -> int | None:
        try:
            async with self.db.transaction() as transaction:
                for write in writes:
                    await transaction.execute(*write.on_device())
            return transaction.id
        except sqlite3.IntegrityError as error:
            raise Refused(str(error)) from error

    async def rows(self, table: Table) -> list[Row]:
        return [dict(zip(table.column, tuple(row), strict=True)) for row in await self.db.sql(_reading(table))]

    async def pending(self) -> int:
        return self.db.status.pending_writes

    async def offline(self) -> None:
        await self.db.disconnect()

    async def online(self) -> None:
        await self.db.connect()


class NodeDevice:
    def __init__(self, name: str, npm: NpmDevice) -> None:
        self.name = name
        self._npm = npm

    async def sync(self, tables: Sequence[Table]) -> None:
        for table in tables:
            await self._npm.sync(table.on_devices)

    async def write(self, writes: Sequence[Write]) -> None:
        seen = len(self._npm.events)
        try:
            await self._npm.execute(*((sql, *values) for sql, values in (write.on_device() for write in writes)))
        except NpmError as error:
            if "constraint" not in str(error).lower():
                raise
            raise Refused(str(error)) from error
        # The client joins into one transaction what it has not stamped yet.
        await self._npm.event("changed", after=seen, origin="local")

    async def rows(self, table: Table) -> list[Row]:
        return [dict(row) for row in await self._npm.query(_reading(table))]

    async def pending(self) -> int:
        assert self._npm.unhandled == []
        return await self._npm.pending()

    async def offline(self) -> None:
        await self._npm.disconnect()

    async def online(self) -> None:
        await self._npm.connect()


@contextlib.asynccontextmanager
async def python_device(name: str, folder: Path, url: str) -> AsyncIterator[PythonDevice]:
    async with open_db(folder / f"{name}.db", url.replace("http", "ws")) as db:
        await db.connect(insecure_token(name))
        yield PythonDevice(name, db)


@contextlib.asynccontextmanager
async def npm_device(name: str, folder: Path, url: str) -> AsyncIterator[NodeDevice]:
    async with await NpmDevice.open(folder / f"{name}.db", url) as npm:
        await npm.connect(name)
        yield NodeDevice(name, npm)


def _reading(table: Table) -> str:
    names = ", ".join(quoted(name) for name in table.column)
    return f"SELECT {names} FROM {quoted(table.on_devices)} ORDER BY {', '.join(map(quoted, table.key))}"
