"""What is killed or frozen under load, and how soon every device is current again.

    python -m benchmarks.recovery --runtime ray [--only FAULT,...] [--times N]

Transactions are committed by direct SQL and devices write, at a steady rate. There are devices of the wire (see
``wire``), which come back as the device library does, and a few of the device library itself, with SQLite. Each fault
is done again and again. *Recovered* is when every device has the first row committed after the fault, of each table,
and had its own write, made after the fault, acknowledged: carried out by Postgres and come back. Then the load rests,
and all is compared: each device with Postgres, no transaction missing or twice, each write carried out once.

Beside it what a restart costs that nobody can spare us, in the same run: an actor of the same Ray cluster that only
answers is killed, until it answers again; under ``local`` a bare Python starts.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.barehost import restarts_s
from benchmarks.faults import Fault, Stage, faults_of
from benchmarks.figures import Figure, columns, number
from benchmarks.program import Program, ViolatedError, progress, run
from benchmarks.side import now_ms
from benchmarks.stand import Deployment, postgres, serving_on
from benchmarks.underload import SQL, TABLES, UnderLoad

GOAL = "<= 5 s, none lost, none anew"
BARE_TIMES = 5
LOAD_S = (1.0, 2.0)  # of load before each fault
PATIENCE_S = 180.0  # who is not current by then hangs


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="faults separated by commas; all of the runtime when not given")
    parser.add_argument("--times", type=int, default=10, help="each fault (default 10)")
    parser.add_argument("--devices", type=int, default=20, help="of the wire (default 20)")
    parser.add_argument("--apps", type=int, default=3, help="of the device library (default 3)")
    parser.add_argument("--rate", type=float, default=10, help="commits a second (default 10)")
    parser.add_argument("--writes", type=float, default=5, help="writes of devices a second (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the time between faults (default 1)")
    parser.add_argument("--logs", type=Path, help="where to put the logs of the service when something is wrong")


@dataclass(slots=True)
class Outcome:
    """Of one fault, all times it was done. ``seconds``: until all were current; ``void``: how often it did not take.

    ``last``: what was last, how often. ``said``: what was to be seen. ``wrong``: what must not be.
    """

    fault: str
    seconds: list[float] = field(default_factory=list)
    void: int = 0
    lost: int = 0
    doubled: int = 0
    anew: int = 0
    again_bytes: int = 0
    last: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def figure(self) -> Figure:
        return Figure(f"{self.fault}: until all are current", tuple(self.seconds), "s", goal=GOAL)


def matrix(outcomes: Sequence[Outcome], bare: Figure) -> str:
    """The table. Lost and doubled are of all times together."""
    rows = [("fault", "times", "median", "worst", "x bare", "lost", "doubled", "anew", "sent again", "last", "goal")]
    for outcome in outcomes:
        figure = outcome.figure() if outcome.seconds else None
        rows.append(
            (
                outcome.fault,
                f"{len(outcome.seconds)}" + (f" ({outcome.void} void)" if outcome.void else ""),
                f"{number(figure.median)} s" if figure is not None else "-",
                f"{number(max(outcome.seconds))} s" if figure is not None else "-",
                f"{figure.median / bare.median:.1f}" if figure is not None else "-",
                str(outcome.lost),
                str(outcome.doubled),
                str(outcome.anew),
                f"{outcome.again_bytes} B",
                ", ".join(f"{what} ({times})" for what, times in outcome.last.most_common(2)),
                GOAL,
            )
        )
    said = [f"{outcome.fault}: {line}" for outcome in outcomes for line in outcome.said]
    return "\n".join([columns(rows), f"{bare.name}: {number(bare.median)} s of {len(bare.values)}", *said])


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    faults = faults_of(options.runtime)
    names = options.only.split(",") if options.only else list(faults)
    if unknown := set(names) - faults.keys():
        raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(faults)}")
    pauses = random.Random(options.seed)
    outcomes: list[Outcome] = []
    async with (
        postgres(folder) as server,
        serving_on(server.dsn(), folder, Deployment.of(options), SQL, *TABLES) as (service, database),
        UnderLoad.lead(
            service.url, service.dsn, folder, options.devices, options.apps, options.rate, options.writes
        ) as world,
    ):
        await database.close()
        async with world.running():
            bare = Figure(_bare_name(options), tuple(await restarts_s(service, BARE_TIMES)), "s")
        progress(f"{bare.name}: {', '.join(map(number, bare.values))} s")
        on = Stage(service, server)
        for name in names:
            outcomes.append(Outcome(name))
            for _ in range(options.times):
                await _once(faults[name], on, world, outcomes[-1], pauses.uniform(*LOAD_S), options)
                if outcomes[-1].wrong:
                    break
            progress("\n" + matrix(outcomes, bare))
            if outcomes[-1].wrong:
                _keep_logs(folder, options.logs)
                break
    figures = [outcome.figure().against(bare) for outcome in outcomes if outcome.seconds]
    if wrong := [f"{outcome.fault}: {line}" for outcome in outcomes for line in outcome.wrong]:
        raise ViolatedError(figures, wrong)
    return figures


async def _once(
    fault: Fault, on: Stage, world: UnderLoad, outcome: Outcome, load_s: float, options: argparse.Namespace
) -> None:
    async with world.running():
        await asyncio.sleep(load_s)
        await world.before()
        since_ms = now_ms()
        took = await fault.strike(on)
        await world.mark(since_ms)
        current = asyncio.Event()
        mending = asyncio.create_task(fault.mend(on, current))
        try:
            had = await world.current(options.devices, PATIENCE_S)
        except TimeoutError as hang:
            outcome.wrong.append(str(hang))
            had = {}
        current.set()
        said = [await mending, await fault.settle(on)]
    damage = await world.damage()
    outcome.wrong += damage.wrong
    outcome.lost += damage.lost
    outcome.doubled += damage.doubled
    outcome.anew += damage.anew
    outcome.again_bytes += damage.again_bytes
    outcome.said.append("; ".join(line for line in said if line) or "-")
    if not took:
        outcome.void += 1
        progress(f"{fault.name}: void, it did not take")
    elif had:
        last = max(had, key=lambda kind: max(had[kind]))
        outcome.seconds.append(max(had[last]))
        outcome.last[last] += 1
        parts = ", ".join(f"{kind} {min(times):.1f}-{max(times):.1f}" for kind, times in had.items())
        progress(f"{fault.name}: all current after {outcome.seconds[-1]:.2f} s ({parts}); {outcome.said[-1]}")


def _bare_name(options: argparse.Namespace) -> str:
    return "a bare actor killed, until it answers" if options.runtime == "ray" else "a bare Python starts"


def _keep_logs(folder: Path, into: Path | None) -> None:
    if into is not None:
        into.mkdir(parents=True, exist_ok=True)
        for log in (*folder.glob("*.log"), *folder.glob("data/logs/*")):
            shutil.copy(log, into)


PROGRAM = Program("recovery", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
