"""``python -m tests.oracle``: many runs, what happened in them, and the first failure if there is one."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conftest import fresh_database, server_under_test
from tests.oracle.plan import FEATURES, ROUNDS, Plan, draw, transactions_of
from tests.oracle.run import Result, run

# Every so many runs the service is a process of its own, which can be killed.
KILLED_EVERY = 5
JOURNAL_SHOWN = 8
COUNTED = (
    "move-ins",
    "GONEs",
    "overlaps",
    "rewinds",
    "wakes",
    "transactions in pieces",
    "snapshots with concurrent writers",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description="Random shapes against Postgres.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further run has the next one")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of writes in each of a run's phases")
    parser.add_argument("--runtime", choices=("local", "ray"), help="of the service")
    parser.add_argument("--features", help=f"some of {','.join(sorted(FEATURES))}; -x: all but x")
    parser.add_argument("--processes", action="store_true", help="the service is always a process of its own")
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    plans = [
        draw(options.seed + number, features_of(options.features), options.rounds) for number in range(options.runs)
    ]
    return asyncio.run(_run_all(plans, options))


def features_of(text: str | None) -> frozenset[str]:
    """Exactly those named, or all but those after a minus."""
    names = frozenset(name for name in (text or "").split(",") if name)
    without = frozenset(name[1:] for name in names if name.startswith("-"))
    return FEATURES - without if len(without) == len(names) else names


async def _run_all(plans: list[Plan], options: argparse.Namespace) -> int:
    folder = await asyncio.to_thread(_reachable_folder)
    server = server_under_test(folder / "postgres", {"fsync": "off"})
    await asyncio.to_thread(server.start)
    sums: Counter[str] = Counter()
    try:
        for number, plan in enumerate(plans):
            async with fresh_database(server) as dsn:
                killable = options.processes or plan.seed % KILLED_EVERY == 0
                result = await run(plan, dsn, runtime=options.runtime, killable=killable)
            sums.update(result.counters)
            if options.verbose:
                print(line(result), flush=True)
            elif sys.stdout.isatty():
                print(f"\r{number + 1} of {len(plans)} runs", end="", flush=True)
            if result.anomaly is not None:
                print("\n" + explain(result))
                return 1
            shutil.rmtree(result.folder, ignore_errors=True)
    finally:
        await asyncio.to_thread(server.stop, "immediate")
        shutil.rmtree(folder, ignore_errors=True)
    print(("" if options.verbose else "\r") + summary(len(plans), sums))
    return 0


def _reachable_folder() -> Path:
    """One that an unprivileged server can reach, also when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="oracle-postgres-"))
    folder.chmod(0o755)
    return folder


def line(result: Result) -> str:
    counters = result.counters
    return (
        f"seed {result.plan.seed}: {result.seconds:.1f} s, {counters['transactions']} transactions, "
        f"{counters['device writes']} of devices, {counters['samples']} samples"
        + (", ANOMALY" if result.anomaly else "")
    )


def summary(runs: int, sums: Counter[str]) -> str:
    lines = [f"{runs} runs, no anomaly: " + ", ".join(f"{name} {sums[name]}" for name in COUNTED)]
    lines.append(", ".join(f"{name} {count}" for name, count in sorted(sums.items()) if name not in COUNTED))
    return "\n".join(lines)


def explain(result: Result) -> str:
    plan = result.plan
    features = ",".join(sorted(plan.features))
    shapes = [f"  {number}: {shape.describe()}" for number, shape in enumerate(plan.shapes)]
    return "\n".join(
        [
            f"seed {plan.seed}, {transactions_of(plan.phases)} transactions, features {features}",
            plan.schema.sql(),
            "shapes:",
            *shapes,
            "at first: " + "; ".join(f"device{n}: {list(first)}" for n, first in enumerate(plan.first)),
            "events:",
            *(f"  {event}" for event in result.happened),
            "last transactions:",
            *result.journal[-JOURNAL_SHOWN:],
            f"seed {plan.seed}: {result.anomaly}",
            f"files, with all of the last transactions: {result.folder}",
            f"again: python -m tests.oracle --seed {plan.seed} --runs 1 --rounds {len(plan.phases[0].writes)} "
            f"--features {features}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
