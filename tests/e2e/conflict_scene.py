"""Devices that write what others write too: each scenario is told once, and happens to every client there is.

A scenario sees devices through `Device` alone. Whether one is the Python library or a process of the npm client it
learns from nobody; the marks `alone` and `in_pairs` run it with each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import asyncpg
import pytest
from tests.npm.rig import NpmDevice, eventually
from tests.npm.service import ServiceProcess, serving
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.client import Database, database, open_db

Kind: TypeAlias = Literal["python", "npm"]
Rows: TypeAlias = list[tuple[Any, ...]]

alone = pytest.mark.parametrize("kinds", [("python",), ("npm",)], ids="+".join)
in_pairs = pytest.mark.parametrize("kinds", [("python", "python"), ("npm", "npm"), ("python", "npm")], ids="+".join)

TICK_S = 0.01
_COLUMNS = """
SELECT string_agg(quote_ident(c ->> 'name'), ', ' ORDER BY i)
FROM electric.tables, jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i) WHERE table_name = $1
"""


class Device(Protocol):
    """What both clients can do."""

    async def write(self, *statements: str) -> None:
        """One local transaction; on return it has its timestamp."""

    async def sync(self, table: str, where: str = "") -> None:
        """Another shape; on return its rows are here."""

    async def rows(self, sql: str) -> Rows: ...

    async def pending(self) -> int:
        """How much it has written that has not come back to it."""

    async def offline(self) -> None: ...

    async def online(self) -> None: ...


class PythonDevice:
    def __init__(self, db: Database) -> None:
        self.db = db

    async def write(self, *statements: str) -> None:
        async with self.db.transaction() as transaction:
            for sql in statements:
                await transaction.execute(sql)

    async def sync(self, table: str, where: str = "") -> None:
        async with asyncio.timeout(PATIENCE_S):
            await (await self.db.sync(table, where)).synced()

    async def rows(self, sql: str) -> Rows:
        return [tuple(row) for row in await self.db.sql(sql)]

    async def pending(self) -> int:
        return self.db.status.pending_writes

    async def offline(self) -> None:
        await self.db.disconnect()

    async def online(self) -> None:
        await self.db.connect()


class NodeDevice:
    def __init__(self, npm: NpmDevice) -> None:
        self._npm = npm

    async def write(self, *statements: str) -> None:
        seen = len(self._npm.events)
        await self._npm.execute(*((sql,) for sql in statements))
        # The client joins into one transaction what it has not stamped yet.
        await self._npm.event("changed", after=seen, origin="local")

    async def sync(self, table: str, where: str = "") -> None:
        await self._npm.sync(table, **({"where": where} if where else {}))

    async def rows(self, sql: str) -> Rows:
        return [tuple(row.values()) for row in await self._npm.query(sql)]

    async def pending(self) -> int:
        assert self._npm.unhandled == []
        return await self._npm.pending()

    async def offline(self) -> None:
        await self._npm.disconnect()

    async def online(self) -> None:
        await self._npm.connect()

    async def skew(self, ms: int) -> None:
        """Sets its clock."""
        await self._npm.call("skew", ms=ms)


class Scene:
    """The service, an SQL client, and devices that hold every table whole."""

    def __init__(
        self,
        service: ServiceProcess,
        postgres: asyncpg.Connection,
        dsn: str,
        tables: Sequence[str],
        devices: Sequence[Device],
    ) -> None:
        self.service = service
        self.postgres = postgres
        self.dsn = dsn
        self.devices = devices
        self._tables = tables

    async def offline(self) -> None:
        """All of them, when everything that was written before is everywhere."""
        await self.settled()
        for device in self.devices:
            await device.offline()

    async def sql(self, *statements: str) -> None:
        """One transaction by direct SQL."""
        async with self.postgres.transaction():
            for sql in statements:
                await self.postgres.execute(sql)
        await tick()

    async def delivers(self, device: Device) -> None:
        """It connects; on return Postgres has what it wrote, and the device knows what came of that."""
        await device.online()
        await eventually(lambda: _delivered(device))

    async def settled(self) -> None:
        """Everybody holds exactly what Postgres does, with nothing left to send."""
        await eventually(self._agree)

    async def ends_with(self, **expected: Rows) -> None:
        """Once all are settled, that is what they hold; nothing was refused on the way."""
        await self.settled()
        refused = await self.rejections()
        for table, rows in expected.items():
            there = await self.rows(table)
            assert there == rows, f"{table} has {there}, and not {rows}; refused: {refused}"
        assert refused == [], refused

    async def rows(self, table: str) -> Rows:
        """In the columns that devices have."""
        columns = await self.postgres.fetchval(_COLUMNS, table)
        return sorted((tuple(row) for row in await self.postgres.fetch(f'SELECT {columns} FROM "{table}"')), key=repr)

    async def rejections(self) -> Rows:
        """What Postgres has refused of any device, and why."""
        return [tuple(row) for row in await self.postgres.fetch("SELECT message, ops FROM electric.rejections")]

    async def _agree(self) -> bool:
        there = {table: await self.rows(table) for table in self._tables}
        for number, device in enumerate(self.devices):
            waiting = await device.pending()
            assert waiting == 0, f"device {number} waits for {waiting}"
            for table, rows in there.items():
                here = sorted(await device.rows(f'SELECT * FROM "{table}"'), key=repr)
                assert here == rows, f"device {number} has {here} in {table}, and not {rows}"
        return True


async def tick() -> None:
    """What is written next is written later: in one millisecond the larger origin would win."""
    await asyncio.sleep(TICK_S)


async def _delivered(device: Device) -> bool:
    return await device.pending() == 0


@contextlib.asynccontextmanager
async def conflict_scene(
    dsn: str,
    folder: Path,
    kinds: Sequence[Kind],
    sql: str,
    *tables: str,
    unasked: Sequence[str] = (),
    ahead_ms: int | Sequence[int] = 0,
) -> AsyncIterator[Scene]:
    """``sql`` run, ``tables`` open to devices, parents first, and on every one. ``unasked``: tables that are open, too,
    and on none. ``ahead_ms``: of the clocks of all, or of each."""
    opened = tuple(f'"{table}"' for table in (*tables, *unasked))
    aheads = [ahead_ms] * len(kinds) if isinstance(ahead_ms, int) else ahead_ms
    async with (
        serving(dsn, folder, sql=sql, electrified=opened) as (service, postgres),
        contextlib.AsyncExitStack() as stack,
    ):
        devices: list[Device] = []
        for number, kind in enumerate(kinds):
            opening = (_python if kind == "python" else _npm)(
                folder / f"{number}.db", service, f"user {number}", tables, aheads[number]
            )
            devices.append(await stack.enter_async_context(opening))
        yield Scene(service, postgres, dsn, tables, devices)


@contextlib.asynccontextmanager
async def _python(
    path: Path, service: ServiceProcess, user: str, tables: Sequence[str], ahead_ms: int
) -> AsyncIterator[Device]:
    with pytest.MonkeyPatch.context() as patch:
        now_ms = database._now_ms
        patch.setattr(database, "_now_ms", lambda: now_ms() + ahead_ms)
        opening = open_db(path, service.url.replace("http", "ws"))
        db = await opening.__aenter__()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(opening)
        await db.connect(insecure_token(user))
        for table in tables:
            await (await db.sync(table)).synced()
        yield PythonDevice(db)


@contextlib.asynccontextmanager
async def _npm(
    path: Path, service: ServiceProcess, user: str, tables: Sequence[str], ahead_ms: int
) -> AsyncIterator[Device]:
    async with await NpmDevice.open(path, service.url, ahead_ms=ahead_ms) as npm:
        await npm.connect(user)
        for table in tables:
            await npm.sync(table)
        yield NodeDevice(npm)
