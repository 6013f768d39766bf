"""How soon, and at what cost, a thousand devices of one table see a change.

*One change*: one row in one transaction, from the answer to its COMMIT until the last device has received its frame.
*A burst*: transactions of some rows each, committed back to back, until every device has received and acknowledged all
of them; what counts is the CPU time of the service (all of it: replication, shape and edge).

The limit: a bare uvloop server that writes as many bytes to as many plain TCP connections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.figures import Figure, per_cpu_s, percentile
from benchmarks.fleet import FAST, Own
from benchmarks.load import Scene, scene
from benchmarks.program import Program, ViolatedError, progress
from benchmarks.stand import Deployment
from benchmarks.wire import TRANSACTIONS

TABLE = "issues"
SHARES = (("first", 0.0), ("median", 0.5), ("last", 1.0))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")
    parser.add_argument("--changes", type=int, default=15, help="single changes (default 15)")
    parser.add_argument("--burst", type=int, default=20, help="transactions of a burst (default 20)")
    parser.add_argument("--rows", type=int, default=10, help="rows of each of them (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="bursts (default 3)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    devices = options.devices
    async with scene(folder, Deployment.of(options), Own((TABLE,), 1), devices) as on:
        await on.connect(devices)
        progress(f"{options.changes} changes, one at a time")
        was = await on.fleet.counts()
        single_ms, single_per_cpu_s = await _singles(on, options.changes, devices)
        size = (
            ((await on.fleet.counts()).bytes_of[TRANSACTIONS] - was.bytes_of[TRANSACTIONS]) / devices / options.changes
        )
        progress(f"bursts of {options.burst}")
        on.load.rows = options.rows
        bursts = [await _burst(on, options.burst, devices) for _ in range(options.repeats)]
        violations = await on.load.differences(on.fleet)
    progress("the same bytes from a bare server")
    bare_ms, _ = await bare.fanned_out(devices, round(size), options.changes)
    per_cpu_s = [await bare.written(devices, round(size), options.burst) for _ in range(options.repeats)]
    limit = Figure("bare server", tuple(per_cpu_s), "sends/CPU-s")
    found = [
        *(
            Figure(f"one change to {devices:,} devices, the {name} one", _each(single_ms, share), "ms").against(
                Figure(f"bare server, {name}", _each(bare_ms, share), "ms")
            )
            for name, share in SHARES
        ),
        Figure("transactions sent, one at a time", (single_per_cpu_s,), "sends/CPU-s").against(limit),
        Figure(
            f"transactions sent, bursts of {options.burst}", tuple(sends for sends, _ in bursts), "sends/CPU-s"
        ).against(limit),
        Figure(
            f"rows sent, {options.rows} a transaction",
            tuple(rows for _, rows in bursts),
            "rows/CPU-s",
            goal=">= 100,000",
        ),
    ]
    if violations:
        raise ViolatedError(found, violations)
    return found


def _each(after_ms: Sequence[Sequence[float]], share: float) -> tuple[float, ...]:
    return tuple(percentile(times_ms, share) for times_ms in after_ms)


async def _singles(on: Scene, changes: int, devices: int) -> tuple[list[list[float]], float]:
    """Of each change, after how many milliseconds each device had it; sends a CPU second of the service."""
    cpu_s = on.service.cpu_s()
    for _ in range(changes):
        await on.fleet.expect(1)
        await on.load.commit()
        await on.fleet.arrived()
    cpu_s = on.service.cpu_s() - cpu_s
    arrivals, _ = await on.fleet.arrivals()
    after_ms = [[at_ms - on.load.committed_ms[of] for at_ms in times_ms] for of, times_ms in arrivals[FAST].items()]
    return after_ms, per_cpu_s(devices * changes, cpu_s)


async def _burst(on: Scene, transactions: int, devices: int) -> tuple[float, float]:
    """Transactions and rows sent a CPU second of the service."""
    cpu_s = on.service.cpu_s()
    await on.fleet.expect(transactions)
    for _ in range(transactions):
        await on.load.commit()
    _, rows = await on.fleet.arrived()
    cpu_s = on.service.cpu_s() - cpu_s
    return per_cpu_s(devices * transactions, cpu_s), per_cpu_s(rows, cpu_s)


PROGRAM = Program("fanout", __doc__, options, measure)
