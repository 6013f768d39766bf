"""All devices come back at once: how soon each is current again, and what it is sent that it did not lack.

They come back after a cut of all connections, and after a kill -9 of the service; transactions are committed meanwhile.
The clock starts when they may connect, or when the service is started again. They do not queue up, and try again as the
device library does. Beside it a bare uvloop server to which as many connect at once, each to get the bytes that a
device missed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.figures import Figure, per_cpu_s, percentile
from benchmarks.fleet import Counts
from benchmarks.load import Scene, scene
from benchmarks.program import Program, ViolatedError, progress
from benchmarks.side import now_ms
from benchmarks.stand import Deployment
from benchmarks.steady import fleet_options, own_of
from benchmarks.wire import AGAIN, DELIVERIES, TRANSACTIONS

SHARES = (("first", 0.0), ("half", 0.5), ("99 %", 0.99), ("last", 1.0))
CUT, KILL = "cut", "kill"


def options(parser: argparse.ArgumentParser) -> None:
    fleet_options(parser)
    parser.add_argument("--after", choices=(CUT, KILL, "both"), default="both", help="of what (default both)")
    parser.add_argument("--missed", type=int, default=20, help="transactions committed meanwhile (default 20)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    found: list[Figure] = []
    violations: list[str] = []
    async with scene(folder, Deployment.of(options), own_of(options), options.devices) as on:
        await on.connect(options.devices)
        for how in (CUT, KILL) if options.after == "both" else (options.after,):
            found += await _storm(on, how, options)
            violations += await on.load.differences(on.fleet)
    if violations:
        raise ViolatedError(found, violations)
    return found


async def _storm(on: Scene, how: str, options: argparse.Namespace) -> list[Figure]:
    progress(f"{how}: {options.missed} transactions meanwhile, then all come back")
    was, cpu_s = await on.fleet.counts(), on.service.cpu_s()
    first_start = Figure("its first start", (1e3 * on.service.start_s,), "ms")
    await on.fleet.expect(on.load.plan(options.missed))
    if how == CUT:
        await on.fleet.go_offline()
    else:
        await on.service.kill()
        cpu_s = 0.0
    for _ in range(options.missed):
        await on.load.commit()
    if how == CUT:
        started_ms = await on.fleet.go_online()
    else:
        started_ms = now_ms()
        await on.service.start()
    ready = Figure(f"{how}: of which until the service was ready", (now_ms() - started_ms,), "ms")
    arrived_ms, _ = await on.fleet.arrived()
    cpu_s = on.service.cpu_s() - cpu_s
    now = await on.fleet.counts()
    progress(f"{how}: {now.connections - was.connections} connections; ends: {dict(now.ends - was.ends)}")
    after_ms = [at_ms - started_ms for at_ms in arrived_ms]
    limit_ms, limit_per_cpu_s = await bare.rushed(len(after_ms), max(1, _missed_bytes(was, now) // len(after_ms)))
    return [
        *(
            Figure(f"{how}: {name} of {len(after_ms):,} current again", (percentile(after_ms, share),), "ms").against(
                Figure(f"bare server, {name}", (percentile(limit_ms, share),), "ms")
            )
            for name, share in SHARES
        ),
        *([ready.against(first_start)] if how == KILL else []),
        Figure(f"{how}: devices made current", (per_cpu_s(len(after_ms), cpu_s),), "devices/CPU-s").against(
            Figure("bare server", (limit_per_cpu_s,), "devices/CPU-s")
        ),
        *_bytes(how, was, now),
    ]


def _missed_bytes(was: Counts, now: Counts) -> int:
    return now.bytes_of[TRANSACTIONS] - was.bytes_of[TRANSACTIONS]


def _bytes(how: str, was: Counts, now: Counts) -> list[Figure]:
    """What came in all, and of it what devices had already, beside what they lacked."""
    missed = Figure("what they missed", (_missed_bytes(was, now) / 1024,), "KiB")
    again = sum(now.bytes_of[kind] - was.bytes_of[kind] for kind in (AGAIN, DELIVERIES))
    beyond = now.received_bytes - was.received_bytes - _missed_bytes(was, now) - again
    return [
        Figure(f"{how}: sent again though they had it", (again / 1024,), "KiB").against(missed),
        Figure(f"{how}: sent beyond that (answers, relations, frames)", (beyond / 1024,), "KiB").against(missed),
    ]


PROGRAM = Program("storm", __doc__, options, measure)
