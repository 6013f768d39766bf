"""Some devices stop reading for a while: do the others notice, and does the service keep it all for them?

The same load three times in one run: all read; a share of the devices takes nothing off its sockets until the load has
ended, reads on, and catches up; all read again. Without slow ones is the first and the third time, so that a machine
that grows busier meanwhile is not taken for them. What a server that kept everything for them would hold stands beside
what ours held. The system's buffers hold a megabyte or more for each; beyond them come larger rows and more seconds.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bare
from benchmarks.figures import Figure, percentile
from benchmarks.fleet import FAST, SLOW
from benchmarks.load import Scene, scene
from benchmarks.program import Program, ViolatedError, progress
from benchmarks.side import now_ms
from benchmarks.stand import Deployment, ServiceProcess
from benchmarks.steady import SHARES, fleet_options, own_of
from benchmarks.wire import TRANSACTIONS

SAMPLE_S = 0.05


def options(parser: argparse.ArgumentParser) -> None:
    fleet_options(parser)
    parser.add_argument("--slow", type=float, default=0.1, help="the share that stops reading (default 0.1)")
    parser.add_argument("--rate", type=float, default=2, help="commits a second (default 2)")
    parser.add_argument("--seconds", type=float, default=10, help="for how long, each time (default 10)")
    parser.add_argument("--bytes", type=int, default=10_000, help="of the row of each commit (default 10000)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    async with scene(
        folder, Deployment.of(options), own_of(options, options.slow), options.devices, body_bytes=options.bytes
    ) as on:
        await on.connect(options.devices)
        progress("all read")
        without_ms, without_bytes = await _phase(on, options, FAST, SLOW)
        was = await on.fleet.counts()
        slow = await on.fleet.read(False)
        progress(f"{slow} do not read")
        with_ms, with_bytes = await _phase(on, options, FAST)
        before_bytes = (await on.fleet.counts()).bytes_of[TRANSACTIONS]
        progress("they read on")
        started_ms = now_ms()
        await on.fleet.read(True)
        arrived_ms, _ = await on.fleet.arrived(SLOW)
        now = await on.fleet.counts()
        progress("all read again")
        again_ms, _ = await _phase(on, options, FAST, SLOW)
        violations = await on.load.differences(on.fleet)
    without_ms += again_ms
    progress(f"ends meanwhile: {dict(now.ends - was.ends)}")
    missed_bytes = (now.bytes_of[TRANSACTIONS] - before_bytes) / slow
    limit_ms, _ = await bare.rushed(slow, round(missed_bytes))
    found = [
        *(
            Figure(f"fast ones beside {slow:,} slow ones, {name}", (percentile(with_ms, share),), "ms").against(
                Figure(f"without slow ones, {name}", (percentile(without_ms, share),), "ms")
            )
            for name, share in SHARES
        ),
        Figure("most memory of the service beside slow ones", (with_bytes / 2**20,), "MiB").against(
            Figure("without slow ones", (without_bytes / 2**20,), "MiB")
        ),
        Figure("more of it for each slow one", (max(0.0, with_bytes - without_bytes) / slow / 1024,), "KiB").against(
            Figure("what each did not read", (missed_bytes / 1024,), "KiB")
        ),
        Figure("the last slow one current again", (max(arrived_ms) - started_ms,), "ms").against(
            Figure("bare server", (max(limit_ms),), "ms")
        ),
    ]
    if violations:
        raise ViolatedError(found, violations)
    return found


async def _phase(on: Scene, options: argparse.Namespace, *reading: str) -> tuple[list[float], int]:
    """Until the groups that are ``reading`` have everything: latencies of the fast ones, the service's most memory."""
    await on.fleet.expect(on.load.plan(int(options.rate * options.seconds)))
    most = [on.service.rss_bytes()]
    sampling = asyncio.create_task(_sample(on.service, most))
    await on.load.run(options.rate, options.seconds)
    await on.fleet.arrived(*reading)
    sampling.cancel()
    arrivals, _ = await on.fleet.arrivals()
    return on.load.latencies(arrivals[FAST]), max(most)


async def _sample(service: ServiceProcess, most: list[int]) -> None:
    while True:
        most[0] = max(most[0], service.rss_bytes())
        await asyncio.sleep(SAMPLE_S)


PROGRAM = Program("slow", __doc__, options, measure)
