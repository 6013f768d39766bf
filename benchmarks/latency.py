"""How soon a committed row is readable in a device's SQLite.

    python -m benchmarks.latency [--rate ROWS] [--seconds S]

Rows are inserted one a transaction at a steady rate. The clock starts when Postgres has answered the COMMIT and stops
when a live query of the device library (open_db, in a process of its own) has given the row to the application. In the
same run another process reads the same transactions from a slot of its own and decodes them: as early as anybody can
know of the commit. Its time is the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import asyncpg

from benchmarks.figures import Figure, percentile
from benchmarks.nullreader import time_inserts
from benchmarks.program import Program, run
from benchmarks.side import beside, now_ms
from benchmarks.stand import TOKEN, Deployment, serving
from syncline.client import open_db

TABLE = "CREATE TABLE probe (n int8 PRIMARY KEY, title text NOT NULL, body text, done bool, created timestamptz)"
INSERT = "INSERT INTO probe VALUES ($1, 'a row', 'a few words of text, as people write them', false, now())"
SLOT = "bench_latency"
WARM_ROWS = 100


def watch(pipe: Connection, path: str, url: str, rows: int) -> None:
    """The device: "ready" when synced, then when each row was seen by a live query."""
    asyncio.run(_watch(pipe, path, url, rows))


async def _watch(pipe: Connection, path: str, url: str, rows: int) -> None:
    async with open_db(path, url) as db:
        await db.connect(TOKEN)
        await (await db.sync("probe")).synced()
        pipe.send("ready")
        seen_ms: dict[int, float] = {}
        async with db.sql("SELECT n FROM probe ORDER BY n DESC LIMIT 64").live() as results:
            async for newest in results:
                now = now_ms()
                for (n,) in newest:
                    seen_ms.setdefault(n, now)
                if len(seen_ms) >= rows:
                    break
        pipe.send(seen_ms)


async def write(database: asyncpg.Connection, rate: float, rows: int) -> dict[int, float]:
    """Inserts ``rows`` rows, ``rate`` a second; when each commit was answered."""
    committed_ms: dict[int, float] = {}
    statement = await database.prepare(INSERT)
    started_s = time.monotonic()
    for n in range(rows):
        await asyncio.sleep(max(0.0, started_s + n / rate - time.monotonic()))
        await statement.fetch(n)
        committed_ms[n] = now_ms()
    return committed_ms


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=200, help="rows a second (default 200)")
    parser.add_argument("--seconds", type=float, default=15, help="for how long (default 15)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    rows = WARM_ROWS + int(options.rate * options.seconds)
    async with serving(folder, Deployment.of(options), TABLE, "probe") as (service, database):
        await database.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", SLOT)
        relation = await database.fetchval("SELECT 'probe'::regclass::oid::int8")
        async with (
            beside(watch, str(folder / "device.db"), service.url, rows) as device,
            beside(time_inserts, service.dsn, SLOT, relation, rows) as reader,
        ):
            await asyncio.gather(device.receive(), reader.receive())
            cpu_s = service.cpu_s()
            committed_ms = await write(database, options.rate, rows)
            seen_ms, read_ms = await asyncio.gather(device.receive(), reader.receive())
            cpu_s = service.cpu_s() - cpu_s
    measured = range(WARM_ROWS, rows)
    device_ms = [seen_ms[n] - committed_ms[n] for n in measured]
    reader_ms = [max(0.0, read_ms[n] - committed_ms[n]) for n in measured]
    after_ms = [seen_ms[n] - read_ms[n] for n in measured]
    figures = []
    for name, share, goal in (("p50", 0.5, "<= 4 ms"), ("p99", 0.99, "<= 15 ms")):
        limit = Figure(f"bare reader, {name}", (percentile(reader_ms, share),), "ms")
        figures += [
            Figure(f"commit to row in SQLite, {name}", (percentile(device_ms, share),), "ms", goal=goal).against(limit),
            Figure(f"of which after a bare reader has it, {name}", (percentile(after_ms, share),), "ms"),
        ]
    return [*figures, Figure("service CPU a row", (1e3 * cpu_s / rows,), "ms")]


PROGRAM = Program("latency", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
