"""Many devices that ask for the same large shape, which nobody had before, at the same time.

    python -m benchmarks.crowd [--devices N] [--rows N]

The shape is most of a table, by a clause. All devices connect and ask at once; Postgres is asked how often it has read
the table meanwhile, and the service's memory is looked at all the time. The first device counts the rows that it gets;
of the others all have to get as many bytes. The limit of the time is one device alone, on a shape as large that nobody
had before either; that of the memory, all that the devices are sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks.figures import Figure
from benchmarks.fleet import Asked, Fleet
from benchmarks.issuetree import request
from benchmarks.program import Program, progress, run
from benchmarks.stand import COLUMNS, Deployment, ServiceProcess, rows_sql, serving

LOOKED_AT_S: Final = 0.05
# A session tells what it has read after ten idle seconds at the latest.
TOLD_S: Final = 11.0
READS: Final = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = $1"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=300, help="default 300")
    parser.add_argument("--rows", type=int, default=20_000, help="of the shape; default 20000")


class _Peak:
    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self.before = self.bytes = service.rss_bytes()

    def look(self) -> None:
        self.bytes = max(self.bytes, self._service.rss_bytes())

    @property
    def grown(self) -> int:
        return self.bytes - self.before


@contextlib.asynccontextmanager
async def peak(service: ServiceProcess) -> AsyncIterator[_Peak]:
    found = _Peak(service)

    async def look() -> None:
        while True:
            found.look()
            await asyncio.sleep(LOOKED_AT_S)

    looking = asyncio.create_task(look())
    try:
        yield found
    finally:
        looking.cancel()


async def reads(database: asyncpg.Connection, table: str) -> int:
    """How often Postgres has read the table, once everybody has told."""
    await asyncio.sleep(TOLD_S)
    return int(await database.fetchval(READS, table))


async def join(service: ServiceProcess, where: str, devices: int, rows: int) -> tuple[float, float, int, int]:
    """``devices`` ask for the issues of ``where`` at once: seconds until all have them, CPU seconds of the service, how
    much more memory it had at most, and the bytes that all were sent."""
    async with Fleet.lead(service.url, Asked([(request("issues", where),)], decoding=1), devices) as fleet:
        async with peak(service) as memory:
            started_s, cpu_s = time.monotonic(), service.cpu_s()
            await fleet.connect(at_once=devices)
            taken = time.monotonic() - started_s, service.cpu_s() - cpu_s
        loaded = await fleet.loaded()
    assert loaded[0][0] == rows, f"{loaded[0][0]} rows instead of {rows}"
    sizes = {size for _, size in loaded}
    assert len(sizes) == 1, f"devices were sent {min(sizes)} to {max(sizes)} bytes of the same rows"
    return *taken, memory.grown, sum(size for _, size in loaded)


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    devices, rows = options.devices, options.rows
    async with serving(folder, Deployment.of(options), f"CREATE TABLE issues ({COLUMNS})", "issues") as (
        service,
        database,
    ):
        # Else each of the processes that share a scan would count for one.
        await database.execute("ALTER SYSTEM SET max_parallel_workers_per_gather = 0")
        await database.execute("SELECT pg_reload_conf()")
        await database.execute(rows_sql("issues", f"1, {rows}"))
        await database.execute("VACUUM ANALYZE issues")
        alone_s, _, alone_memory, _ = await join(service, "this.priority >= 0", 1, rows)
        progress("one device alone has it")
        before = await reads(database, "issues")
        all_s, cpu_s, memory, sent = await join(service, "this.priority > -1", devices, rows)
        progress("all have it")
        read = await reads(database, "issues") - before
        after = service.rss_bytes()
    many = f"{devices:,} devices, the same {rows:,} rows"
    alone = Figure("one alone", (alone_s,), "s")
    everything = Figure("all that they are sent", (sent / 2**20,), "MiB")
    return [
        Figure(f"{many}: all have them", (all_s,), "s").against(alone),
        Figure(f"{many}: sent", (devices * rows / cpu_s,), "rows/CPU-s"),
        Figure("Postgres reads the table", (read,), "times", goal="once"),
        Figure("memory of the service at most, more than before", (memory / 2**20,), "MiB").against(everything),
        Figure("the same, for one alone", (alone_memory / 2**20,), "MiB"),
        Figure("the same, of many for each", (memory / devices / 1024,), "KiB", goal="bounded, whatever the rows"),
        Figure("memory of the service when they have left", (after / 2**20,), "MiB"),
    ]


PROGRAM = Program("crowd", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
