"""Devices of both kinds under a steady load that outlives Postgres, and whether all of them are current after a moment.

*Current* is a device that has the first row committed after that moment, of each table, and whose own write, made after
it, was acknowledged: carried out by Postgres and come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks.apps import Apps
from benchmarks.fleet import FAST, Counts, Fleet, Own
from benchmarks.load import Load
from benchmarks.side import now_ms
from benchmarks.stand import COLUMNS
from benchmarks.wire import AGAIN, DELIVERIES

TABLES = ("issues_0", "issues_1")
POLL_S = 0.05
RECONNECT_S = 0.1
SETTLE_S = 60.0
DEVICES, APPS = "on the wire", "in SQLite"
REFUSED = "the service refuses"
_ROWS = "SELECT id::text, title, priority FROM {table} ORDER BY id"
SQL = (
    "CREATE TABLE executions (id uuid NOT NULL); CREATE FUNCTION count_execution() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN INSERT INTO executions VALUES (new.id); RETURN new; END $$;"
) + ";".join(
    f"CREATE TABLE {table} ({COLUMNS}); CREATE INDEX ON {table} (priority); CREATE TRIGGER count_execution "
    f"BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION count_execution()"
    for table in TABLES
)
_WRITTEN = " UNION ALL ".join(f"SELECT id FROM {table} WHERE priority IS NULL" for table in TABLES)
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class Damage:
    """``lost`` and ``doubled``: writes of devices that Postgres has not, or carried out more than once. ``anew``:
    devices that fetched their tables again. ``again_bytes``: what devices were sent though they had it. ``wrong``:
    whatever must not be, in words."""

    lost: int
    doubled: int
    anew: int
    again_bytes: int
    wrong: tuple[str, ...]


class UnderLoad:
    """``rate``: commits a second, ``writes``: writes of devices of the wire a second."""

    def __init__(self, load: Load, dsn: str, fleet: Fleet, apps: Apps, rate: float, writes: float) -> None:
        self._load = load
        self._dsn = dsn
        self._fleet = fleet
        self._apps = apps
        self._rate = rate
        self._writes = writes
        self._since_ms = self._moment_ms = 0.0
        self._was: tuple[Counts, list[list[str]]] | None = None
        # When devices had the transactions: one of the wire each, and what each app had seen of a table.
        self._arrived_ms: dict[tuple[str, int], list[float]] = {}
        self._seen: list[list[tuple[str, int, float]]] = []

    @staticmethod
    @contextlib.asynccontextmanager
    async def lead(
        url: str, dsn: str, folder: Path, devices: int, apps: int, rate: float, writes: float
    ) -> AsyncIterator[UnderLoad]:
        """All connected, and no load yet."""
        async with (
            Fleet.lead(url, Own(TABLES, len(TABLES)), devices) as fleet,
            Apps.lead(url, folder, TABLES, apps) as held,
        ):
            await fleet.connect(devices)
            load = Load(await asyncpg.connect(dsn), TABLES)
            try:
                yield UnderLoad(load, dsn, fleet, held, rate, writes)
            finally:
                load.database.terminate()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With the load."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeated(self._rate, self._commit, stop))
            if self._writes:
                group.create_task(_repeated(self._writes, self._fleet.write, stop))
            try:
                yield
            finally:
                stop.set()

    async def _commit(self) -> None:
        try:
            await self._load.commit()
        except _BROKEN:
            while True:
                with contextlib.suppress(*_BROKEN):
                    await self._load.resume(await asyncpg.connect(self._dsn))
                    return
                await asyncio.sleep(RECONNECT_S)

    # --- a moment, and who is current after it ------------------------------------------------------------------------

    async def before(self) -> None:
        """Something is going to happen."""
        self._was = await self._fleet.counts(), await self._apps.subscriptions()
        await self._fleet.arrivals()
        await self._apps.newest()
        self._arrived_ms, self._seen = {}, [[] for _ in range(self._apps.count)]

    async def mark(self, since_ms: float) -> None:
        """It has happened; it began at ``since_ms``. Every device writes."""
        self._since_ms, self._moment_ms = since_ms, now_ms()
        await self._fleet.write_everywhere()
        await self._apps.write_everywhere()

    async def current(self, devices: int, within_s: float) -> dict[str, list[float]]:
        """Waits until all are: what devices had to have -> when each had it, in seconds since it began.

        Raises TimeoutError, which says how many are missing.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            had = await self._had_ms()
            wanted = {kind: self._apps.count if kind.endswith(APPS) else devices for kind in had}
            missing = {kind: wanted[kind] - len(times_ms) for kind, times_ms in had.items()}
            if not any(missing.values()):
                return {kind: [(at_ms - self._since_ms) / 1e3 for at_ms in times_ms] for kind, times_ms in had.items()}
            if time.monotonic() > deadline_s:
                ends = dict((await self._fleet.counts()).ends)
                raise TimeoutError(f"not current: {missing}; connections of the wire ended: {ends}")
            await asyncio.sleep(POLL_S)

    async def _had_ms(self) -> dict[str, list[float]]:
        groups, _ = await self._fleet.arrivals()
        for of, times_ms in groups[FAST].items():
            self._arrived_ms.setdefault(of, []).extend(times_ms)
        for seen, more in zip(self._seen, await self._apps.newest(), strict=True):
            seen += more
        had = {
            f"writes {DEVICES}": await self._fleet.acknowledged(),
            f"writes {APPS}": await self._apps.acknowledged(),
        }
        for table in TABLES:
            first = min(
                (n for (of, n), at_ms in self._load.committed_ms.items() if of == table and at_ms > self._moment_ms),
                default=None,
            )
            had[f"rows of {table} {DEVICES}"] = [] if first is None else self._arrived_ms.get((table, first), [])
            had[f"rows of {table} {APPS}"] = [
                min(times_ms)
                for seen in self._seen
                if first is not None
                and (times_ms := [at_ms for of, newest, at_ms in seen if of == table and newest >= first])
            ]
        return had

    # --- at rest ------------------------------------------------------------------------------------------------------

    async def damage(self) -> Damage:
        """Since ``before``, once the load has ended and there was time for everything to arrive."""
        assert self._was is not None, "something has happened"
        was, subscriptions = self._was
        wrong = await self._load.differences(self._fleet)
        wrong += await self._differing_apps()
        now = await self._fleet.counts()
        written = now.writes + await self._apps.writes()
        database = self._load.database
        lost = written - await database.fetchval(f"SELECT count(*) FROM ({_WRITTEN}) written")
        doubled = await database.fetchval("SELECT count(*) - count(DISTINCT id) FROM executions")
        if lost or doubled:
            wrong.append(f"{lost} writes of devices lost, {doubled} carried out more than once")
        anew = sum(now != then for now, then in zip(await self._apps.subscriptions(), subscriptions, strict=True))
        anew += sum(REFUSED in line for line in wrong)
        if now.bytes_of[DELIVERIES] != was.bytes_of[DELIVERIES]:
            wrong.append("devices of the wire were sent whole tables again")
        return Damage(lost, doubled, anew, now.bytes_of[AGAIN] - was.bytes_of[AGAIN], tuple(wrong))

    async def _differing_apps(self) -> list[str]:
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            held = await self._apps.rows()
            expected = {
                table: [tuple(row) for row in await self._load.database.fetch(_ROWS.format(table=table))]
                for table in TABLES
            }
            differing = [number for number, rows in enumerate(held) if rows != expected]
            if not differing or time.monotonic() > deadline_s:
                return [f"app {number} does not hold what Postgres has" for number in differing]
            await asyncio.sleep(POLL_S)


async def _repeated(rate: float, act: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        started_s = time.monotonic()
        await act()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, started_s + 1 / rate - time.monotonic())):
                await stop.wait()
