"""``python -m tests.sim``: many runs, one line of progress, a summary, and the smallest failure if there is one.

``--mutants`` breaks one rule of the product after another instead, and says how many runs it took to notice.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from tests.sim.direct_mutants import EVERY_MUTANT
from tests.sim.plan import ACTIONS, FAULTS, draw
from tests.sim.shrink import shrink
from tests.sim.world import Result, simulate

STEPS = 40
Simulated: TypeAlias = Callable[[Callable[[int], Result], Iterable[int]], Iterator[Result]]
"""What a function makes of seeds, in their order."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulated runs of service and devices.")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further run has the next one")
    parser.add_argument("--runs", type=int, help="as a rule 100; of a broken rule 400 at most")
    parser.add_argument("--steps", type=int, default=STEPS, help="actions in a run; there are faults in proportion")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run at a time")
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    parser.add_argument("--mutants", metavar="WORD", nargs="?", const="", help="rules to break, those with this word")
    options = parser.parse_args(arguments)
    _prepare()
    usual = 100 if options.mutants is None else 400
    seeds = range(options.seed, options.seed + (usual if options.runs is None else options.runs))
    with _side_by_side(options.jobs) as simulated:
        if options.mutants is not None:
            return _try_mutants(options.mutants, seeds, options.steps, simulated)
        return _try(seeds, options.steps, simulated, verbose=options.verbose)


def _prepare() -> None:
    """Of each process."""
    logging.disable(logging.CRITICAL)
    gc.set_threshold(50_000)  # a run is small, and its memory goes with it


def _try(seeds: range, steps: int, simulated: Simulated, *, verbose: bool) -> int:
    total, began_s = _Total(), time.monotonic()
    for result in simulated(partial(_run, steps), seeds):
        total.add(result)
        if verbose:
            print(_line(result), flush=True)
        elif sys.stdout.isatty():
            left_s = (time.monotonic() - began_s) / total.runs * (len(seeds) - total.runs)
            print(f"\r{total.runs} of {len(seeds)} runs, {left_s / 60:.0f} minutes to go ", end="", flush=True)
        if result.anomaly is not None:
            _explain(result)
            return 1
    print(("" if verbose else "\r") + total.summary())
    return 0


def _run(steps: int, seed: int) -> Result:
    return simulate(draw(seed, steps))


def _run_mutant(name: str, steps: int, seed: int) -> Result:
    return simulate(draw(seed, steps), EVERY_MUTANT[name])


@contextmanager
def _side_by_side(jobs: int) -> Iterator[Simulated]:
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, initializer=_prepare) as pool:

        def simulated(function: Callable[[int], Result], seeds: Iterable[int]) -> Iterator[Result]:
            ahead: deque[Future[Result]] = deque()
            for seed in seeds:
                ahead.append(pool.submit(function, seed))
                if len(ahead) > 2 * jobs:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        yield simulated
        pool.shutdown(cancel_futures=True)


def _try_mutants(word: str, seeds: range, steps: int, simulated: Simulated) -> int:
    missed = 0
    for name in (name for name in EVERY_MUTANT if word in name):
        results = simulated(partial(_run_mutant, name, steps), seeds)
        found = next(((number, r.anomaly) for number, r in enumerate(results, 1) if r.anomaly is not None), None)
        missed += found is None
        noticed = f"not noticed in {len(seeds)} runs" if found is None else f"{found[0]} runs: {found[1]}"
        print(f"{name}: {noticed}", flush=True)
    return 1 if missed else 0


class _Total:
    def __init__(self) -> None:
        self.runs = 0
        self.sums: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.drained_s = 0.0

    def add(self, result: Result) -> None:
        self.runs += 1
        self.fired.update(result.fired)
        self.excused.update(result.excused)
        self.drained_s = max(self.drained_s, result.drained_s)
        self.sums.update(
            {
                "steps": len(result.plan.actions),
                "events": result.events,
                "conflicts": result.conflicts,
                "rejections": result.rejections,
                "resets": result.resets,
                "repairs": result.repairs,
            }
        )

    def summary(self) -> str:
        sums = self.sums
        lines = [
            f"{self.runs} runs, no anomaly: {sums['steps']} steps, {sums['events']} events, {sums['conflicts']} "
            f"conflicts, {sums['rejections']} rejections, {sums['resets']} devices that started over, "
            f"{sums['repairs']} that were repaired",
            "actions: " + ", ".join(f"{kind} {self.fired[kind]}" for kind in ACTIONS),
            f"in step again {self.drained_s:.1f} virtual s after the last fault at the latest",
            "faults: " + ", ".join(f"{kind} {self.fired[kind]}" for kind in FAULTS),
        ]
        if self.excused:
            known = ", ".join(f"{reason} {count}" for reason, count in self.excused.most_common())
            lines.append(f"known and excused: {known}")
        never = [kind for kind in (*ACTIONS, *FAULTS) if not self.fired[kind]]
        if never:
            lines.append(f"never happened: {', '.join(never)}; more runs would tell more")
        return "\n".join(lines)


def _line(result: Result) -> str:
    return (
        f"seed {result.plan.seed}: {result.events} events in {result.virtual_s:.1f} virtual s, "
        f"{result.conflicts} conflicts, {sum(result.fired[kind] for kind in FAULTS)} faults"
        + (f", ANOMALY {result.anomaly}" if result.anomaly else "")
    )


def _explain(result: Result) -> None:
    print(f"\nseed {result.plan.seed}: {result.anomaly}")
    print(f"repeat it with: python -m tests.sim --seed {result.plan.seed} --runs 1 --steps {len(result.plan.actions)}")
    small = shrink(result, simulate)
    actions = ", ".join(f"{action.kind} at {action.at_us // 1000} ms" for action in small.plan.actions)
    print(f"still wrong with {len(small.plan.actions)} actions: {actions or 'none'}")
    print(f"and {len(small.plan.faults)} faults: {small.plan.describe()}")
    print(f"then: {small.anomaly}")


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        # Sets of texts would come in another order in each process, and with it what a seed does.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, sys.orig_argv)
    sys.exit(main())
