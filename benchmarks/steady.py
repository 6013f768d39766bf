"""Many devices under a steady load: how soon they see a commit, and what that costs.

Each device follows tables of its own choice. Transactions are committed by direct SQL at a steady rate, and some are
written by devices. Beside it a bare uvloop server that writes as many bytes to as many connections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.figures import Figure, per_cpu_s, percentile
from benchmarks.fleet import FAST, Own
from benchmarks.load import scene
from benchmarks.program import Program, ViolatedError, progress
from benchmarks.stand import Deployment
from benchmarks.wire import TRANSACTIONS

WARM_DEVICES = 200
BARE_WRITES_MAX = 50
SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


def fleet_options(parser: argparse.ArgumentParser) -> None:
    """What all modes with a choice of tables take."""
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")
    parser.add_argument("--tables", type=int, default=4, help="tables there are (default 4)")
    parser.add_argument("--own", type=int, default=2, help="of which each device follows so many (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of their choice (default 1)")


def own_of(options: argparse.Namespace, slow: float = 0.0) -> Own:
    tables = tuple(f"issues_{i}" for i in range(options.tables))
    return Own(tables, min(options.own, options.tables), slow, options.seed)


def options(parser: argparse.ArgumentParser) -> None:
    fleet_options(parser)
    parser.add_argument("--rate", type=float, default=4, help="commits a second (default 4)")
    parser.add_argument("--seconds", type=float, default=10, help="for how long (default 10)")
    parser.add_argument("--writes", type=float, default=2, help="writes of devices a second (default 2)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    devices, commits = options.devices, int(options.rate * options.seconds)
    warm = min(WARM_DEVICES, devices // 2)
    async with scene(folder, Deployment.of(options), own_of(options), devices) as on:
        await on.connect(warm)
        before = on.service.rss_bytes()
        await on.connect(devices - warm)
        memory_bytes = (on.service.rss_bytes() - before) / (devices - warm)
        progress(f"{options.rate:g} commits a second for {options.seconds:g} s")
        was, cpu_s = await on.fleet.counts(), on.service.cpu_s()
        await on.fleet.expect(on.load.plan(commits))
        await on.load.run(options.rate, options.seconds, [(options.writes, on.fleet.write)])
        await on.fleet.arrived()
        arrivals, echo_ms = await on.fleet.arrivals()
        violations = await on.load.differences(on.fleet)
        cpu_s = on.service.cpu_s() - cpu_s
        now = await on.fleet.counts()
    found_ms = on.load.latencies(arrivals[FAST])
    deliveries = now.deliveries - was.deliveries
    size = round((now.bytes_of[TRANSACTIONS] - was.bytes_of[TRANSACTIONS]) / deliveries)
    progress("the same bytes from a bare server")
    bare_ms, bare_per_cpu_s = await bare.fanned_out(
        max(1, round(len(found_ms) / commits)), size, min(commits, BARE_WRITES_MAX)
    )
    limit_ms = [after_ms for write in bare_ms for after_ms in write]
    limit_bytes = await bare.memory_bytes(devices - warm, warm)
    simulator_cpu_s = now.cpu_s - was.cpu_s
    found = [
        *(
            Figure(
                f"commit to {devices:,} devices, {name} of {len(found_ms):,}", (percentile(found_ms, share),), "ms"
            ).against(Figure(f"bare server, {name}", (percentile(limit_ms, share),), "ms"))
            for name, share in SHARES
        ),
        Figure("transactions delivered", (per_cpu_s(deliveries, cpu_s),), "sends/CPU-s").against(
            Figure("bare server", (bare_per_cpu_s,), "sends/CPU-s")
        ),
        Figure("CPU of the service", (cpu_s,), "s").against(Figure("CPU of the devices", (simulator_cpu_s,), "s")),
        Figure("resident memory a device", (memory_bytes / 1024,), "KiB", goal="<= 32 KiB").against(
            Figure("bare server", (limit_bytes / 1024,), "KiB")
        ),
    ]
    if echo_ms:
        durable = Figure("a durable COMMIT, p50", (percentile(on.load.commit_ms, 0.5),), "ms")
        found.append(Figure("a device's write to its echo, p50", (percentile(echo_ms, 0.5),), "ms").against(durable))
    if violations:
        raise ViolatedError(found, violations)
    return found


PROGRAM = Program("steady", __doc__, options, measure)
