"""Numbered transactions by direct SQL, and what devices must hold afterwards.

Each changes one table. Transaction ``n`` leaves its number in the rows it makes (see ``ledger``): two of four insert,
one updates the newest row, one deletes that row and inserts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.fleet import Arrivals, Fleet, Own
from benchmarks.ledger import Held, held
from benchmarks.program import progress
from benchmarks.side import now_ms
from benchmarks.stand import COLUMNS, Deployment, ServiceProcess, serving

SETTLE_S = 60.0
PROGRESS_S = 5.0
SHOWN_MAX = 10
CONNECTED_AT_ONCE = 1_000  # and a line of progress
_INSERT = (
    "INSERT INTO {table} SELECT gen_random_uuid(), 'transaction {n}', repeat('words ', {words}), {n}, false, "
    "'2026-01-01'::timestamptz + i * interval '1 second' FROM generate_series(1, {rows}) i"
)
_STEPS = (
    _INSERT,
    _INSERT,
    "UPDATE {table} SET title = 'transaction {n}', priority = {n} WHERE priority = {n} - 1",
    "WITH gone AS (DELETE FROM {table} WHERE priority = {n} - 1) " + _INSERT,
)
# The cells as they travel: see docs/reference/wire-protocol.md.
_CELLS = (
    "SELECT id::text, title, body, priority::text, left(done::text, 1), "
    "(created AT TIME ZONE 'UTC')::text || 'Z' FROM {table}"
)
_SEQUENCE_AT = 3


@dataclass(slots=True)
class Load:
    """``body_bytes``: of each row's text. ``committed_ms``: when Postgres had answered (``now_ms``)."""

    database: asyncpg.Connection
    tables: tuple[str, ...]
    rows: int = 1
    body_bytes: int = 40
    committed_ms: dict[tuple[str, int], float] = field(default_factory=dict)
    commit_ms: list[float] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)
    _turn: int = 0

    def plan(self, transactions: int) -> Counter[str]:
        """How many of the next ones each table gets."""
        return Counter(self.tables[(self._turn + i) % len(self.tables)] for i in range(transactions))

    async def commit(self) -> None:
        """The next transaction, in the next table."""
        table = self.tables[self._turn % len(self.tables)]
        self._turn += 1
        self.numbers[table] += 1
        n = self.numbers[table]
        sql = _STEPS[n % len(_STEPS)].format(table=table, n=n, rows=self.rows, words=max(1, self.body_bytes // 6))
        started_ms = now_ms()
        await self.database.execute(sql)
        self.committed_ms[table, n] = now_ms()
        self.commit_ms.append(now_ms() - started_ms)

    async def resume(self, database: asyncpg.Connection) -> None:
        """Goes on over ``database`` after the connection broke in ``commit``, which may have happened all the same."""
        self.database = database
        table = self.tables[(self._turn - 1) % len(self.tables)]
        n = self.numbers[table]
        if await database.fetchval(f"SELECT EXISTS (SELECT FROM {table} WHERE priority = $1)", n):
            self.committed_ms[table, n] = now_ms()
        else:
            self.numbers[table] -= 1
            self._turn -= 1

    async def run(
        self, rate: float, seconds: float, also: Sequence[tuple[float, Callable[[], Awaitable[None]]]] = ()
    ) -> None:
        """``rate`` transactions a second; ``also``: what else is to be done so often a second meanwhile."""
        async with asyncio.TaskGroup() as group:
            for often, act in ((rate, self.commit), *also):
                group.create_task(_paced(often, seconds, act))
            progress_until = time.monotonic() + seconds
            while progress_until - time.monotonic() > PROGRESS_S:
                await asyncio.sleep(PROGRESS_S)
                progress(f"{len(self.committed_ms)} transactions committed")

    def latencies(self, arrivals: Arrivals) -> list[float]:
        """Milliseconds from the answered COMMIT to each arrival."""
        return [at_ms - self.committed_ms[of] for of, times_ms in arrivals.items() for at_ms in times_ms]

    async def expected(self) -> dict[str, Held]:
        """What Postgres has."""
        found: dict[str, Held] = {}
        for table in self.tables:
            rows = await self.database.fetch(_CELLS.format(table=table))
            cells = (tuple(None if cell is None else cell.encode() for cell in row) for row in rows)
            found[table] = held(cells, _SEQUENCE_AT)
            found[table].newest = self.numbers[table]
        return found

    async def differences(self, fleet: Fleet) -> list[str]:
        """What is wrong with any device, once there was time for everything to arrive; told on standard error too."""
        expected = await self.expected()
        deadline_s = time.monotonic() + SETTLE_S
        while not (violations := await fleet.violations()) and time.monotonic() < deadline_s:
            if not await fleet.differences(expected):
                break
            await asyncio.sleep(0.2)
            expected = await self.expected()
        lines = violations + await fleet.differences(expected)
        counted = ", ".join(
            f"{table} {here.count} rows, {here.newest} transactions" for table, here in expected.items()
        )
        progress(
            f"{len(lines)} violations"
            if lines
            else f"every device holds what Postgres has, no gap, no duplicate: {counted}"
        )
        return lines if len(lines) <= SHOWN_MAX else [*lines[:SHOWN_MAX], f"... {len(lines)} in all"]


async def _paced(rate: float, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    started_s = time.monotonic()
    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started_s + i / rate - time.monotonic()))
        await act()


@dataclass(frozen=True, slots=True)
class Scene:
    service: ServiceProcess
    fleet: Fleet
    load: Load

    async def connect(self, devices: int) -> None:
        """So many more."""
        for connected in range(0, devices, CONNECTED_AT_ONCE):
            await self.fleet.connect(min(CONNECTED_AT_ONCE, devices - connected))
            progress(f"{min(devices, connected + CONNECTED_AT_ONCE):,} of {devices:,} devices connected")


@contextlib.asynccontextmanager
async def scene(
    folder: Path, deployment: Deployment, own: Own, devices: int, rows: int = 1, body_bytes: int = 40
) -> AsyncIterator[Scene]:
    """A service on fresh tables, and a fleet that has not connected yet. ``rows``, ``body_bytes``: see ``Load``."""
    sql = "; ".join(f"CREATE TABLE {table} ({COLUMNS}); CREATE INDEX ON {table} (priority)" for table in own.tables)
    async with (
        serving(folder, deployment, sql, *own.tables) as (service, database),
        Fleet.lead(service.url, own, devices) as fleet,
    ):
        yield Scene(service, fleet, Load(database, own.tables, rows, body_bytes))
