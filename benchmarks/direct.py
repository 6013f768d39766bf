"""What it costs direct SQL writers that a table is electrified.

    python -m benchmarks.direct [--rows N] [--bulk N] [--rounds N]

Two tables of the same columns in one database, one of them electrified. Each is written in turn: single-row INSERT,
UPDATE and DELETE, every one its own durable commit, from one connection and from four at once; then INSERT, UPDATE and
DELETE of many rows by one statement. First with the service stopped: what is left is the publication and REPLICA
IDENTITY FULL, by which UPDATE and DELETE write the old row into the WAL. Then with the service running, which reads the
stream and writes down what direct SQL did to which row (an entry for each updated or deleted one) on the same cores.

The limit of each figure is the plain table, written just before or just after in the same phase. Writers are one
process: what the driver takes is in the speed of both. So the CPU time of the backends that write stands beside it,
which a busy machine does not change much, and the bytes of WAL, which it does not change at all.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg
import psutil

from benchmarks import processes
from benchmarks.figures import Figure, per_cpu_s
from benchmarks.program import Program, progress, run
from benchmarks.stand import COLUMNS, Deployment, rows_sql, serving

PLAIN, ELECTRIFIED = "plain", "issues"
CONNECTIONS = (1, 4)
POLL_S = 0.1
GOAL = ">= 80 %"

SPEED, CPU, WAL = "rows/s", "rows/backend CPU-s", "WAL bytes/row"

Found = dict[tuple[str, str, str], list[float]]
"""By table, kind of write and unit: one value a round."""


class Writers:
    """``pool``: the connections that write, each with a backend of its own."""

    def __init__(self, pool: Sequence[asyncpg.Connection]) -> None:
        self._pool = pool
        self._backends = [psutil.Process(connection.get_server_pid()) for connection in pool]
        self.found: Found = {}

    async def singly(self, table: str, count: int) -> None:
        """``count`` rows of each kind written one by one, divided among the connections."""
        keys = [[uuid.uuid4() for _ in range(count // len(self._pool))] for _ in self._pool]

        async def each(connection: asyncpg.Connection, mine: list[uuid.UUID], sql: str) -> None:
            statement = await connection.prepare(sql)
            for n, key in enumerate(mine):
                await statement.fetch(key, n)

        async def together(sql: str) -> None:
            await asyncio.gather(*(each(one, mine, sql) for one, mine in zip(self._pool, keys, strict=True)))

        of = f"{len(self._pool)} connection{'s' if len(self._pool) > 1 else ''}"
        for kind, sql in (
            ("INSERT", f"INSERT INTO {table} VALUES ($1, 'issue ' || $2::int, 'a few words', $2 % 5, false, now())"),
            ("UPDATE", f"UPDATE {table} SET priority = $2::int, done = true WHERE id = $1"),
            ("DELETE", f"DELETE FROM {table} WHERE id = $1 AND $2::int >= 0"),
        ):
            await self._note(table, f"single-row {kind}, {of}", sum(map(len, keys)), together(sql))

    async def in_bulk(self, table: str, count: int) -> None:
        database = self._pool[0]
        for kind, sql in (
            ("INSERT", rows_sql(table, f"1, {count}")),
            ("UPDATE", f"UPDATE {table} SET priority = priority + 1"),
            ("DELETE", f"DELETE FROM {table}"),
        ):
            await self._note(table, f"{kind} of {count:,} rows", count, database.execute(sql))
        await database.execute(f"TRUNCATE {table}")

    async def _note(self, table: str, kind: str, rows: int, writing: Awaitable[object]) -> None:
        position, cpu_s, started_s = await self._position(), self._cpu_s(), time.perf_counter()
        await writing
        seconds, cpu_s = time.perf_counter() - started_s, self._cpu_s() - cpu_s
        wal_bytes = await self._position() - position
        for unit, value in ((SPEED, rows / seconds), (CPU, per_cpu_s(rows, cpu_s)), (WAL, wal_bytes / rows)):
            self.found.setdefault((table, kind, unit), []).append(value)

    async def _position(self) -> int:
        return int(await self._pool[0].fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    def _cpu_s(self) -> float:
        return sum(processes.cpu_s(backend) for backend in self._backends)


async def phase(
    pool: Sequence[asyncpg.Connection], options: argparse.Namespace, settle: Callable[[], Awaitable[None]]
) -> Found:
    """Both tables by turns. ``settle``: waits until what the last write left behind is done."""
    writers = [Writers(pool[:connections]) for connections in CONNECTIONS]
    for number in range(options.rounds):
        for table in (PLAIN, ELECTRIFIED) if number % 2 else (ELECTRIFIED, PLAIN):
            for some in writers:
                await some.singly(table, options.rows)
                await settle()
            await pool[0].execute("CHECKPOINT")  # or one of them would be charged for it
            await writers[0].in_bulk(table, options.bulk)
            await settle()
    return {key: values for some in writers for key, values in some.found.items()}


def figures(found: Found, circumstances: str, units: Sequence[str]) -> list[Figure]:
    compared = []
    for unit in units:
        for (table, kind, of), values in found.items():
            if (table, of) == (ELECTRIFIED, unit):
                limit = Figure("plain table", tuple(found[PLAIN, kind, unit]), unit)
                goal = GOAL if unit == SPEED else ""
                compared.append(Figure(f"{kind}, {circumstances}", tuple(values), unit, goal=goal).against(limit))
    return compared


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=2_000, help="single rows of each kind and round (default 2000)")
    parser.add_argument("--bulk", type=int, default=100_000, help="rows of a bulk statement (default 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each table and phase (default 3)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    tables = f"CREATE TABLE {ELECTRIFIED} ({COLUMNS}); CREATE TABLE {PLAIN} ({COLUMNS})"
    async with serving(folder, Deployment.of(options), tables, ELECTRIFIED) as (service, database):
        pool = [await asyncpg.connect(service.dsn) for _ in range(max(CONNECTIONS))]

        async def has_read_to(position: str) -> bool:
            there: bool = await database.fetchval(
                "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots "
                "WHERE database = current_database()",
                position,
            )
            return there

        async def read() -> None:
            """The service has read everything."""
            end = await database.fetchval("SELECT pg_current_wal_insert_lsn()::text")
            while not await has_read_to(end):  # noqa: ASYNC110 - Postgres has no event for it
                await asyncio.sleep(POLL_S)

        async def nothing() -> None:
            pass

        try:
            await read()
            await service.stop()
            progress("the service is stopped")
            stopped = await phase(pool, options, nothing)
            await service.start()
            await read()
            progress("the service is running")
            running = await phase(pool, options, read)
        finally:
            for connection in pool:
                await connection.close()
    return [
        *figures(stopped, "service stopped", (SPEED, CPU, WAL)),
        *figures(running, "service running", (SPEED, CPU)),
    ]


PROGRAM = Program("direct", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
