"""A few devices as applications have them: the device library with its SQLite file, in a process beside the others."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import AsyncIterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.side import Side, beside, now_ms
from benchmarks.stand import TOKEN
from syncline.client import Database, open_db

Rows = dict[str, list[tuple[Any, ...]]]
"""Table -> its rows (id, title, priority), by id."""
NEWEST = "SELECT max(priority) FROM {table}"
ROWS = "SELECT id, title, priority FROM {table} ORDER BY id"
PENDING_S = 0.02


class Apps:
    """``count`` of them, synced when the block begins. Use one at a time."""

    def __init__(self, side: Side, count: int) -> None:
        self._side = side
        self.count = count

    @staticmethod
    @contextlib.asynccontextmanager
    async def lead(url: str, folder: Path, tables: tuple[str, ...], count: int) -> AsyncIterator[Apps]:
        async with beside(hold, url, str(folder), tables, count) as side:
            await side.receive()
            yield Apps(side, count)

    async def _ask(self, name: str) -> Any:
        self._side.send(name)
        return await self._side.receive()

    async def write_everywhere(self) -> None:
        """Each writes a row."""
        await self._ask("write_everywhere")

    async def acknowledged(self) -> list[float]:
        """When (``now_ms``) nothing that the apps had written waited any more, of those of which that is so."""
        times_ms: list[float] = await self._ask("acknowledged")
        return times_ms

    async def newest(self) -> list[list[tuple[str, int, float]]]:
        """What each has seen since this was last asked: table, the newest transaction in it, when (``now_ms``)."""
        seen: list[list[tuple[str, int, float]]] = await self._ask("newest")
        return seen

    async def rows(self) -> list[Rows]:
        """What each holds."""
        rows: list[Rows] = await self._ask("rows")
        return rows

    async def subscriptions(self) -> list[list[str]]:
        """The subscriptions of each: a device that is told to start over makes new ones."""
        found: list[list[str]] = await self._ask("subscriptions")
        return found

    async def writes(self) -> int:
        """How many all of them have made."""
        count: int = await self._ask("writes")
        return count


def hold(pipe: Connection, url: str, folder: str, tables: tuple[str, ...], count: int) -> None:
    """For a process of its own: "synced", then an answer to everything that ``Apps`` asks."""
    asyncio.run(_hold(pipe, url, Path(folder), tables, count))


async def _hold(pipe: Connection, url: str, folder: Path, tables: tuple[str, ...], count: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        apps = []
        for number in range(count):
            path = folder / f"app-{number}.db"
            apps.append(_App(await stack.enter_async_context(open_db(path, url)), path, tables))
        await asyncio.gather(*(app.start() for app in apps))
        pipe.send("synced")
        with contextlib.suppress(EOFError, OSError):
            while True:
                name = await asyncio.to_thread(pipe.recv)
                pipe.send(await _answer(name, apps))
        for app in apps:
            app.stop()


async def _answer(name: str, apps: Sequence[_App]) -> object:
    if name == "write_everywhere":
        return await asyncio.gather(*(app.write() for app in apps))
    if name == "acknowledged":
        return [app.acknowledged_ms for app in apps if app.acknowledged_ms is not None]
    if name == "newest":
        return [app.take_seen() for app in apps]
    if name == "rows":
        return [await app.rows() for app in apps]
    if name == "subscriptions":
        return [app.subscriptions() for app in apps]
    return sum(app.writes for app in apps)


class _App:
    def __init__(self, db: Database, path: Path, tables: tuple[str, ...]) -> None:
        self._db = db
        self._path = path
        self._tables = tables
        self._seen: list[tuple[str, int, float]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.writes = 0
        self.acknowledged_ms: float | None = None

    async def start(self) -> None:
        await self._db.connect(TOKEN)
        for table in self._tables:
            await (await self._db.sync(table)).synced()
        self._tasks += [asyncio.create_task(self._watch(table)) for table in self._tables]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def write(self) -> None:
        self.acknowledged_ms = None
        await self._db.execute(
            f"INSERT INTO {self._tables[self.writes % len(self._tables)]} (id, title, done) VALUES (?, ?, 0)",
            (str(uuid.uuid4()), "written by an app"),
        )
        self.writes += 1
        self._tasks.append(asyncio.create_task(self._acknowledged()))

    async def _acknowledged(self) -> None:
        while self._db.status.pending_writes:  # noqa: ASYNC110 - whoever waits on changes of status is told of more
            await asyncio.sleep(PENDING_S)
        self.acknowledged_ms = now_ms()

    async def _watch(self, table: str) -> None:
        async with self._db.sql(NEWEST.format(table=table)).live() as results:
            async for ((newest,),) in results:
                self._seen.append((table, newest or 0, now_ms()))

    def take_seen(self) -> list[tuple[str, int, float]]:
        seen, self._seen = self._seen, []
        return seen

    async def rows(self) -> Rows:
        return {table: [tuple(row) for row in await self._db.sql(ROWS.format(table=table))] for table in self._tables}

    def subscriptions(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as file:
            return [row[0] for row in file.execute("SELECT subscription_id FROM _syncline_subscriptions ORDER BY 1")]
