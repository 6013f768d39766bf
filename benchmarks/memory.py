"""What a connected, subscribed, idle device costs the service in memory.

    python -m benchmarks.memory [--devices N]

Some devices connect first, so that what is allocated once does not count; then the resident size of the service's
process is taken before and after the others connect and have all their rows. The kernel's socket buffers are not in it.
The limit: the same number of plain TCP connections, kept by a bare uvloop server.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.figures import Figure
from benchmarks.fleet import Fleet
from benchmarks.program import Program, run
from benchmarks.stand import COLUMNS, Deployment, rows_sql, serving

WARM_DEVICES = 200


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    devices = options.devices
    async with serving(folder, Deployment.of(options), f"CREATE TABLE issues ({COLUMNS})", "issues") as (
        service,
        database,
    ):
        await database.execute(rows_sql("issues", "1, 10"))
        async with Fleet.lead(service.url, ("issues",), WARM_DEVICES) as warm:
            await warm.connect()
            before = service.rss_bytes()
            async with Fleet.lead(service.url, ("issues",), devices) as held:
                cpu_s = service.cpu_s()
                await held.connect()
                cpu_s = service.cpu_s() - cpu_s
                grown = service.rss_bytes() - before
    limit = Figure("bare server", (await bare.memory_bytes(devices, WARM_DEVICES) / 1024,), "KiB")
    kib = Figure("resident memory a device", (grown / devices / 1024,), "KiB", goal="<= 32 KiB")
    return [
        kib.against(limit),
        Figure("of a service without devices (the first 200 in)", (before / 2**20,), "MiB"),
        Figure("connect, authenticate, subscribe, receive 10 rows", (devices / cpu_s,), "devices/CPU-s"),
    ]


PROGRAM = Program("memory", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
