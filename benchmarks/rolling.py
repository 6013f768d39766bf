"""A rolling restart under load: the longest that each device waits for a commit while every process is replaced.

Small transactions are committed by direct SQL at a steady rate, first with nothing else, then while `syncline restart`
replaces all hosts of a service of the runtime ray. A device's pause is the longest time from a COMMIT to its arrival
there; beside it the same figure of the quiet stretch. A commit counts for the host that was being replaced when it was
made.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure, percentile
from benchmarks.fleet import EachArrivals
from benchmarks.load import Load, Scene, scene
from benchmarks.program import Program, ViolatedError, progress
from benchmarks.side import now_ms
from benchmarks.stand import Deployment
from benchmarks.steady import fleet_options, own_of
from benchmarks.wire import DELIVERIES

SHARES = (("worst", 1.0), ("p99", 0.99), ("median", 0.5))
GOAL = "<= 1,000 ms"
STRETCH_S = 1.0


def options(parser: argparse.ArgumentParser) -> None:
    fleet_options(parser)
    parser.set_defaults(devices=100, runtime="ray", shapes_hosts=2, edge_hosts=2)
    parser.add_argument("--rate", type=float, default=20, help="commits a second (default 20)")
    parser.add_argument("--seconds", type=float, default=15, help="without a restart (default 15)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    async with scene(folder, Deployment.of(options), own_of(options), options.devices) as on:
        await on.connect(options.devices)
        was = await on.fleet.counts()
        await on.fleet.note_each()
        progress(f"{options.rate:g} commits a second for {options.seconds:g} s, and nothing else")
        quiet = asyncio.create_task(asyncio.sleep(options.seconds))
        await _commit_until(on, options.rate, quiet)
        before = _pauses(on.load, await on.fleet.each())
        progress("the same while every process is replaced")
        restarting = asyncio.create_task(_restart(on))
        await _commit_until(on, options.rate, restarting)
        replaced = await restarting
        each = await on.fleet.each()
        violations = await on.load.differences(on.fleet)
        now = await on.fleet.counts()
    progress(f"{now.connections - was.connections} connections; ends: {dict(now.ends - was.ends)}")
    if again := now.bytes_of[DELIVERIES] - was.bytes_of[DELIVERIES]:
        violations = [*violations, f"{again} bytes of tables were fetched anew"]
    found = list(_figures("pause of a device", _pauses(on.load, each), before))
    began_ms = replaced.pop("")
    for host, at_ms in replaced.items():
        meanwhile = _pauses(on.load, each, began_ms, at_ms)
        found += _figures(f"while {host} was replaced", meanwhile, before)[:2]
        began_ms = at_ms
    if violations:
        raise ViolatedError(found, violations)
    return found


async def _commit_until(on: Scene, rate: float, done: asyncio.Task[object]) -> None:
    """Commits, and waits until they have arrived everywhere."""
    while not done.done():
        await on.fleet.expect(on.load.plan(int(rate * STRETCH_S)))
        await on.load.run(rate, STRETCH_S)
    await on.fleet.arrived()


async def _restart(on: Scene) -> dict[str, float]:
    """When each host had been replaced (``now_ms``), in their order, and under no name when that began."""
    at_ms = {"": now_ms()}
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("syncline")),
        "restart",
        *("--data-dir", str(on.service.data_dir)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        at_ms[line.partition(": ")[0].strip()] = now_ms()
        progress(line.strip())
    if await process.wait():
        raise RuntimeError("the service could not be restarted")
    return at_ms


def _pauses(load: Load, each: EachArrivals, after_ms: float = 0.0, before_ms: float = float("inf")) -> list[float]:
    """Of each device the longest, over the transactions that were committed between these times."""
    return [
        max(waits) for waits in (list(_waits(load.committed_ms, one, after_ms, before_ms)) for one in each) if waits
    ]


def _waits(
    committed_ms: Mapping[tuple[str, int], float],
    arrived: Iterable[tuple[tuple[str, int], float]],
    after_ms: float,
    before_ms: float,
) -> Iterable[float]:
    for number, at_ms in arrived:
        if after_ms <= committed_ms[number] < before_ms:
            yield at_ms - committed_ms[number]


def _figures(name: str, pauses: list[float], before: list[float]) -> list[Figure]:
    return [
        Figure(
            f"{name}, {of} of {len(pauses)}",
            (percentile(pauses, share),),
            "ms",
            goal=GOAL if share == 1.0 else "",
        ).against(Figure(f"without a restart, {of}", (percentile(before, share),), "ms"))
        for of, share in SHARES
        if pauses
    ]


PROGRAM = Program("rolling", __doc__, options, measure)
