"""Direct SQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import asyncpg
from tests.consistency.histories import Snapshot
from tests.consistency.party import JOURNALED, RETRY_S, Lost, Refused, snapshot_of
from tests.consistency.schema import VECTOR, snapshot_sql
from tests.consistency.workload import Statement

TRIES = 50


class SqlParty:
    """Each transaction at REPEATABLE READ, again if Postgres cannot serialise it."""

    ahead_max = 1  # nothing of it waits

    def __init__(self, name: str, dsn: str) -> None:
        self._name = name
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    @property
    def pid(self) -> int | None:
        return None

    async def open(self, *, first: bool) -> None:
        await self.reopen()

    async def reopen(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        while True:
            try:
                self._connection = await asyncpg.connect(self._dsn, server_settings={"timezone": "UTC"}, timeout=5)
                return
            except (OSError, TimeoutError, asyncpg.PostgresError):
                await asyncio.sleep(RETRY_S)  # Postgres is away; nothing tells when it is back

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        wanted = list(statements)
        for _ in range(TRIES):
            try:
                return await self._try(wanted, pause_s)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(RETRY_S)  # as an application does, so that the other comes through
            except asyncpg.IntegrityConstraintViolationError as refusal:
                raise Refused(str(refusal)) from refusal
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as loss:
                raise Lost from loss
        raise Refused("cannot be serialised")

    async def _try(self, statements: list[Statement], pause_s: float) -> dict[str, int]:
        connection = self._connected()
        async with connection.transaction(isolation="repeatable_read"):
            saw = {row[0]: row[1] for row in await connection.fetch(VECTOR)}
            for place, (sql, *args) in enumerate(statements):
                if pause_s and place == len(statements) - 1:
                    await asyncio.sleep(pause_s)  # with its locks, as slow applications do
                await connection.execute(numbered(str(sql)), *args)
        return saw

    def _connected(self) -> asyncpg.Connection:
        if self._connection is None:
            raise Lost
        return self._connection

    async def _fetch(self, sql: str, *args: Any) -> list[Any]:
        try:
            return list(await self._connected().fetch(sql, *args))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as loss:
            raise Lost from loss

    async def snapshot(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self._fetch(snapshot_sql(postgres=True)))

    async def has_written(self, number: int) -> bool:
        return bool(await self._fetch(numbered(JOURNALED), self._name, number))

    async def dump(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self._fetch(snapshot_sql(postgres=True, whole=True)))

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def counters(self) -> dict[str, int]:
        return {row[0]: row[1] for row in await self._fetch(VECTOR)}

    async def pending(self) -> int:
        return 0

    async def state(self) -> str:
        return "direct SQL"

    async def nudge(self) -> None:
        """It has nothing to be told."""

    def skew(self, ms: int) -> None:
        """It has no clock."""

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def numbered(sql: str) -> str:
    """``?`` as Postgres writes parameters."""
    numbers = iter(range(1, 100))
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)
