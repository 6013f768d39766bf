"""How soon, and at what cost, a thousand devices of one shape see a change.

    python -m benchmarks.fanout [--devices N] [--changes N] [--burst N] [--rows N]

*One change*: one row in one transaction, from the answer to its COMMIT until the last device has received its frame.
*A burst*: transactions of some rows each, committed back to back, until every device has received and acknowledged all
of them; what counts is the CPU time of the service (all of it: replication, shape and edge).

Devices speak the real protocol, decode and acknowledge, in a process of their own on the same machine. The limit: a
bare uvloop server that writes as many bytes to as many plain TCP connections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.devices import Devices
from benchmarks.figures import Figure
from benchmarks.program import Program, run
from benchmarks.side import beside, now_ms
from benchmarks.stand import COLUMNS, rows_sql, serving

ROW_BYTES = 230  # begin, one row of the table, commit, and the WebSocket header


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")
    parser.add_argument("--changes", type=int, default=15, help="single changes (default 15)")
    parser.add_argument("--burst", type=int, default=20, help="transactions of a burst (default 20)")
    parser.add_argument("--rows", type=int, default=10, help="rows of each of them (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="bursts (default 3)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    devices = options.devices
    last_ms: list[float] = []
    median_ms: list[float] = []
    single_cpu_s = 0.0
    burst_rows: list[float] = []
    burst_frames: list[float] = []
    async with serving(folder, f"CREATE TABLE issues ({COLUMNS})", "issues") as (service, database):
        async with Devices.lead(service.url, ("issues",), devices) as held:
            await held.connect()
            single_cpu_s = service.cpu_s()
            for _ in range(options.changes):
                held.expect(1)
                await database.execute(rows_sql("issues", "1, 1"))
                committed_ms = now_ms()
                arrived_ms, _ = await held.arrived()
                last_ms.append(max(arrived_ms) - committed_ms)
                median_ms.append(sorted(arrived_ms)[devices // 2] - committed_ms)
            single_cpu_s = service.cpu_s() - single_cpu_s
            for _ in range(options.repeats):
                cpu_s = service.cpu_s()
                held.expect(options.burst)
                for _ in range(options.burst):
                    await database.execute(rows_sql("issues", f"1, {options.rows}"))
                _, rows = await held.arrived()
                cpu_s = service.cpu_s() - cpu_s
                burst_rows.append(rows / cpu_s)
                burst_frames.append(devices * options.burst / cpu_s)
        bare_last_ms, bare_per_cpu_s = await _bare(options)
    return [
        Figure(f"one change to {devices:,} devices, the last one", tuple(last_ms), "ms").against(bare_last_ms),
        Figure(f"one change to {devices:,} devices, the median one", tuple(median_ms), "ms"),
        Figure("transactions sent, one at a time", (devices * options.changes / single_cpu_s,), "sends/CPU-s").against(
            bare_per_cpu_s
        ),
        Figure(f"transactions sent, bursts of {options.burst}", tuple(burst_frames), "sends/CPU-s").against(
            bare_per_cpu_s
        ),
        Figure(f"rows sent, {options.rows} a transaction", tuple(burst_rows), "rows/CPU-s", goal=">= 100,000"),
    ]


async def _bare(options: argparse.Namespace) -> tuple[Figure, Figure]:
    last_ms: list[float] = []
    per_cpu_s: list[float] = []
    async with beside(bare.serve) as server:
        port, _ = await server.receive()
        async with beside(bare.receive, port, options.devices) as receivers:
            await receivers.receive()
            for _ in range(options.changes):
                receivers.send(ROW_BYTES)
                await receivers.receive()
                written_ms = now_ms()
                server.send((ROW_BYTES, 1, options.devices))
                last_ms.append(max(await receivers.receive()) - written_ms)
                await server.receive()
            for _ in range(options.repeats):
                receivers.send(ROW_BYTES * options.burst)
                await receivers.receive()
                server.send((ROW_BYTES, options.burst, options.devices))
                await receivers.receive()
                per_cpu_s.append(options.devices * options.burst / await server.receive())
    return Figure("bare server", tuple(last_ms), "ms"), Figure("bare server", tuple(per_cpu_s), "sends/CPU-s")


PROGRAM = Program("fanout", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
