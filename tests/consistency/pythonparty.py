"""A device of our library."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.consistency.histories import Snapshot
from tests.consistency.party import JOURNALED, Refused, snapshot_of
from tests.consistency.schema import TABLES, VECTOR, snapshot_sql
from tests.consistency.workload import Statement
from tests.tokens import insecure_token

from syncline.client import Database, database, open_db


class PythonParty:
    ahead_max = 10  # transactions

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self._name = name
        self._path = folder / f"{name}.db"
        self._url = url.replace("http", "ws")
        self._stack = AsyncExitStack()
        self._db: Database | None = None

    @property
    def db(self) -> Database:
        assert self._db is not None, "open"
        return self._db

    @property
    def pid(self) -> int | None:
        return None

    async def open(self, *, first: bool) -> None:
        self._db = await self._stack.enter_async_context(open_db(self._path, self._url))
        await self._db.connect(insecure_token(self._name))
        if not first:
            return
        shapes = [await self._db.sync(table.name) for table in TABLES]
        for shape in shapes:
            await shape.synced()

    async def reopen(self) -> None:
        raise NotImplementedError("nothing of it is lost but with this process")

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        *first, last = statements
        try:
            async with self.db.transaction() as tx:
                saw = {row[0]: row[1] for row in await tx.sql(VECTOR)}
                for sql, *args in first:
                    await tx.execute(str(sql), args)
                if pause_s:
                    await asyncio.sleep(pause_s)  # so that a kill finds it half done
                await tx.execute(str(last[0]), last[1:])
        except sqlite3.IntegrityError as refusal:
            raise Refused(str(refusal)) from refusal
        return saw

    async def snapshot(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self.db.sql(snapshot_sql(postgres=False)))

    async def has_written(self, number: int) -> bool:
        return bool(await self.db.sql(JOURNALED, (self._name, number)))

    async def dump(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self.db.sql(snapshot_sql(postgres=False, whole=True)))

    @property
    def connected(self) -> bool:
        return self.db.status.connected

    async def counters(self) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.db.sql(VECTOR)}

    async def pending(self) -> int:
        return self.db.status.pending_writes

    async def state(self) -> str:
        status = self.db.status
        return f"connected {status.connected}, {status.reason}, last error {status.last_error}"

    async def nudge(self) -> None:
        """It does so by itself."""

    def skew(self, ms: int) -> None:
        # The library asks this function for the time once a commit; it is bound when the database is opened.
        _SKEW_MS[0] = ms

    async def close(self) -> None:
        await self._stack.aclose()


_SKEW_MS = [0]


def _skewed_ms() -> int:
    return time.time_ns() // 1_000_000 + _SKEW_MS[0]


def install_clock() -> None:
    """From now on databases opened in this process go by the skewed clock."""
    database._now_ms = _skewed_ms
