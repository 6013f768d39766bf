"""How fast the service takes in what Postgres streams: one large transaction, and a backlog of one-row transactions.

    python -m benchmarks.replication [--rows N] [--transactions N] [--repeats N]

*Taken in*: the changes are in the log of a live shape that no device follows; a device of another table tells when the
stream has passed them. *Delivered*: one device (raw protocol, honest acks) follows the shape too and has received
every row. The backlog is made while the service is stopped; the clock starts when it is connected to the slot again.

Limits, of the same transactions in the same run, from a second slot of the same publication: a reader that splits the
stream with the service's own walsender core and decodes nothing, and one that only empties the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks import nullreader
from benchmarks.figures import Figure
from benchmarks.fleet import Fleet
from benchmarks.nullreader import Reading, read_to_end
from benchmarks.program import Program, run
from benchmarks.side import beside
from benchmarks.stand import COLUMNS, Deployment, ServiceProcess, rows_sql, serving

TABLES = f"CREATE TABLE bulk ({COLUMNS}); CREATE TABLE small ({COLUMNS}); CREATE TABLE marker ({COLUMNS})"
SLOT = "bench_null"
ONE_ROW_EACH = """
DO $$ BEGIN FOR n IN 1..{count} LOOP
  INSERT INTO small VALUES (gen_random_uuid(), 'issue ' || n, 'a few words of text, as people write them', n % 5,
    n % 3 = 0, '2026-01-01'::timestamptz);
  COMMIT;
END LOOP; END $$
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the large transaction (default 100000)")
    parser.add_argument("--transactions", type=int, default=30_000, help="one-row transactions (default 30000)")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")


@dataclass(slots=True)
class Rates:
    """Per second of wall time and of the service's CPU time, one value a repeat."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, count: int, seconds: float, cpu_s: float) -> None:
        self.wall.append(count / seconds)
        self.cpu.append(count / cpu_s)


class Bench:
    def __init__(self, service: ServiceProcess, database: asyncpg.Connection) -> None:
        self._service = service
        self._database = database
        self._ends = 0

    async def pass_marker(self, followers: Fleet) -> None:
        """Commits a row of the marker table and waits until its follower has it: the stream has come so far."""
        await self._database.execute(rows_sql("marker", "1, 1"))
        await followers.expect(1)
        await followers.arrived()

    async def large(self, rows: int, follower: Fleet, rates: Rates) -> None:
        """One transaction, timed from its commit. The follower holds the table."""
        await self._database.execute("BEGIN")
        await self._database.execute(rows_sql("bulk", f"1, {rows}"))
        cpu_s, started_s = self._service.cpu_s(), time.monotonic()
        await self._database.execute("COMMIT")
        await follower.expect(1)
        await follower.arrived()
        rates.add(rows, time.monotonic() - started_s, self._service.cpu_s() - cpu_s)

    async def taken_in(self, rows: int, follower: Fleet, rates: Rates) -> None:
        """As ``large``, when the follower holds the marker table alone."""
        await self._database.execute("BEGIN")
        await self._database.execute(rows_sql("bulk", f"1, {rows}"))
        cpu_s, started_s = self._service.cpu_s(), time.monotonic()
        await self._database.execute("COMMIT")
        await self.pass_marker(follower)
        rates.add(rows, time.monotonic() - started_s, self._service.cpu_s() - cpu_s)

    async def null(self, change: str) -> tuple[Reading, Reading]:
        """Makes a slot, commits ``change``, and reads it from the slot in both ways."""
        database, self._ends = self._database, self._ends + 1
        end = b"the end of stretch %d" % self._ends
        await database.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)
        await database.execute(change)
        await database.execute(
            "SELECT pg_logical_emit_message(true, $1, $2::text)", nullreader.END_PREFIX, end.decode()
        )
        readings = []
        for how in (nullreader.CORE, nullreader.RAW):
            async with beside(read_to_end, self._service.dsn, SLOT, end, how) as reader:
                readings.append(await reader.receive())
        await drop_slot(database)
        return readings[0], readings[1]

    async def backlog(self, count: int, tables: tuple[str, ...], rates: Rates) -> None:
        """One-row transactions while the service is down; drained when a device that comes back has seen the end."""
        service = self._service
        async with Fleet.lead(service.url, tables) as follower:
            await service.stop()
            await self._database.execute("SET synchronous_commit = off")
            await self._database.execute(ONE_ROW_EACH.format(count=count))
            await self._database.execute("RESET synchronous_commit")
            starting = asyncio.create_task(service.start())
            await until_a_slot_is_active(self._database)
            cpu_s, started_s = service.cpu_s(), time.monotonic()
            await starting
            await follower.connect()
            await self.pass_marker(follower)
            rates.add(count, time.monotonic() - started_s, service.cpu_s() - cpu_s)


async def drop_slot(database: asyncpg.Connection) -> None:
    """Drops ours, once Postgres has noticed that its reader has left."""
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = $1"
    while await database.fetchval(active, SLOT):  # noqa: ASYNC110 - Postgres has no event for it
        await asyncio.sleep(0.02)
    await database.execute("SELECT pg_drop_replication_slot($1)", SLOT)


async def until_a_slot_is_active(database: asyncpg.Connection) -> None:
    active = "SELECT bool_or(active) FROM pg_replication_slots"
    while not await database.fetchval(active):  # noqa: ASYNC110 - Postgres has no event for it
        await asyncio.sleep(0.005)


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    taken, delivered, backlog = Rates(), Rates(), Rates()
    core, raw, core_small, raw_small = Rates(), Rates(), Rates(), Rates()
    rows, transactions = options.rows, options.transactions
    async with serving(folder, Deployment.of(options), TABLES, "bulk", "small", "marker") as (service, database):
        bench = Bench(service, database)
        async with Fleet.lead(service.url, ("bulk", "small")) as follower:
            await follower.connect()
            for _ in range(options.repeats):
                await bench.large(rows, follower, delivered)
        async with Fleet.lead(service.url, ("marker",)) as follower:
            await follower.connect()
            for _ in range(options.repeats):
                await bench.taken_in(rows, follower, taken)
        for _ in range(options.repeats):
            one, other = await bench.null(rows_sql("bulk", f"1, {rows}"))
            core.add(rows, one.seconds, one.cpu_s)
            raw.add(rows, other.seconds, other.cpu_s)
        for _ in range(options.repeats):
            await bench.backlog(transactions, ("marker",), backlog)
        await database.execute("SET synchronous_commit = off")
        one, other = await bench.null(ONE_ROW_EACH.format(count=transactions))
        core_small.add(transactions, one.seconds, one.cpu_s)
        raw_small.add(transactions, other.seconds, other.cpu_s)
    limit = Figure("core, decoding nothing", tuple(core.wall), "rows/s")
    limit_cpu = Figure("core, decoding nothing", tuple(core.cpu), "rows/CPU-s")
    raw_limit = Figure("socket only", tuple(raw.wall), "rows/s")
    small_limit = Figure("core, decoding nothing", tuple(core_small.wall), "tx/s")
    raw_small_limit = Figure("socket only", tuple(raw_small.wall), "tx/s")
    small_limit_cpu = Figure("core, decoding nothing", tuple(core_small.cpu), "tx/CPU-s")
    large = f"one transaction of {rows:,} rows"
    return [
        Figure(f"{large}, taken in", tuple(taken.cpu), "rows/CPU-s", goal=">= 50,000").against(limit_cpu),
        Figure(f"{large}, taken in", tuple(taken.wall), "rows/s", goal=">= 0.5 of the limit").against(limit),
        Figure(f"{large}, taken in", tuple(taken.wall), "rows/s").against(raw_limit),
        Figure(f"{large}, delivered to a device", tuple(delivered.cpu), "rows/CPU-s").against(limit_cpu),
        Figure(f"{large}, delivered to a device", tuple(delivered.wall), "rows/s").against(limit),
        Figure("backlog of one-row transactions", tuple(backlog.wall), "tx/s", goal=">= 10,000").against(small_limit),
        Figure("backlog of one-row transactions", tuple(backlog.wall), "tx/s").against(raw_small_limit),
        Figure("backlog of one-row transactions", tuple(backlog.cpu), "tx/CPU-s").against(small_limit_cpu),
    ]


PROGRAM = Program("replication", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
