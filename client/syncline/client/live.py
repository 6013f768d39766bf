"""Live queries: the result now, and again whenever a commit changes it.

SQLite says which tables a query reads (``store.Footprints``); every commit, local or incoming, publishes the tables it
wrote; a live query whose tables are among them runs again and yields its rows if they differ from the last ones. Many
commits while the application is busy with one result cost one run, so a slow reader never queues anything up.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import Generic, TypeAlias, TypeVar

from syncline.client.store import Args, Footprints, Store

T = TypeVar("T")

Rows: TypeAlias = list[sqlite3.Row]


class Changes:
    """Who waits for which tables."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, frozenset[str]] = {}

    def watch(self, event: asyncio.Event, tables: frozenset[str]) -> None:
        """Set ``event`` on each change of ``tables`` (in lower case) from now on."""
        self._waiting[event] = tables

    def forget(self, event: asyncio.Event) -> None:
        self._waiting.pop(event, None)

    def publish(self, tables: frozenset[str]) -> None:
        """A commit has written ``tables``."""
        lowered = {table.lower() for table in tables}
        for event, wanted in self._waiting.items():
            if not lowered.isdisjoint(wanted):
                event.set()

    def publish_all(self) -> None:
        """Anything may have changed: the schema has."""
        for event in self._waiting:
            event.set()


class Query:
    """A SELECT with its arguments. Await it for the rows, or watch it with ``live()``.

    Rows are ``sqlite3.Row``: ``row["name"]``, ``row[0]``, ``dict(row)``.
    """

    def __init__(self, run: Callable[[], Awaitable[Rows]], results: Callable[[], Awaitable[Results]]) -> None:
        self._run = run
        self._results = results

    def __await__(self) -> Generator[object, None, Rows]:
        return self._run().__await__()

    @asynccontextmanager
    async def live(self) -> AsyncIterator[Results]:
        """``async with query.live() as results: async for rows in results: ...``

        The first rows come at once; watching ends with the block. Raises sqlite3.Error for a query SQLite refuses.
        """
        results = await self._results()
        try:
            yield results
        finally:
            results.close()


class Results:
    """The changing result of one query; iterate it."""

    def __init__(self, store: Store, footprints: Footprints, changes: Changes, sql: str, args: Args) -> None:
        self._store = store
        self._footprints = footprints
        self._changes = changes
        self._sql = sql
        self._args = args
        self._changed = asyncio.Event()
        self._last: Rows | None = None

    async def watch(self) -> None:
        """Start watching. Called before the first run, so that no commit falls in between."""
        reads, _ = await self._store.read(lambda connection: self._footprints.of(connection, self._sql, self._args))
        self._changes.watch(self._changed, frozenset(table.lower() for table in reads))
        self._changed.set()

    def close(self) -> None:
        self._changes.forget(self._changed)

    def __aiter__(self) -> AsyncIterator[Rows]:
        return self

    async def __anext__(self) -> Rows:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                rows = await self._store.read(lambda connection: connection.execute(self._sql, self._args).fetchall())
            except BaseException:
                self._changed.set()
                raise
            if rows != self._last:
                self._last = rows
                return rows


class Watched(Generic[T]):
    """A value that changes, and an iterator over its changes. Slow readers see the newest value, not every one."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._events: set[asyncio.Event] = set()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        if value == self._value:
            return
        self._value = value
        for event in self._events:
            event.set()

    async def changes(self) -> AsyncIterator[T]:
        """The value now, then every later one that differs from the one yielded before."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            seen = self._value
            yield seen
            while True:
                await event.wait()
                event.clear()
                if self._value != seen:
                    seen = self._value
                    yield seen
        finally:
            self._events.discard(event)
