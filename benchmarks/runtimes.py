"""The same benchmark under both runtimes, beside each other: in one process, and spread over processes kept by Ray.

    python -m benchmarks.runtimes [--rounds N] [--record FILE] [PROGRAM ...] [-- OPTION ...]

Each program runs under ``local``, then under ``ray``, and so on for all rounds, so that a machine that grows busier
meanwhile does not pass for a runtime. What it takes is told as its options, after ``--``; sizes are moderate unless
that is done. The figures under ray stand beside those under local, with the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.__main__ import PROGRAMS
from benchmarks.figures import Figure, machine, table

# Those that start a service, with moderate sizes: two runtimes and some rounds take their time.
SIZES = {
    "latency": ["--rate", "100", "--seconds", "8"],
    "replication": ["--rows", "60000", "--transactions", "10000", "--repeats", "1"],
    "first_sync": ["--rows", "50000", "--repeats", "1"],
    "memory": ["--devices", "500"],
    "shapes": ["--clauses", "300", "--ilike", "30", "--trees", "30", "--commits", "50"],
    "subtrees": ["--projects", "50", "--moves", "20"],
    "crowd": ["--devices", "100", "--rows", "10000"],
    "writes": ["--transactions", "500", "--backlog", "2000"],
    "steady": ["--devices", "300", "--seconds", "8"],
    "storm": ["--devices", "300"],
    "slow": ["--devices", "200", "--seconds", "5"],
    "fanout": ["--devices", "500", "--changes", "10", "--repeats", "2"],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtimes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="of each runtime (default 2)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write the figures there, as JSON")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(SIZES)}; all when not given")
    ours, options = _split(sys.argv[1:])
    arguments = parser.parse_args(ours)
    if unknown := set(arguments.programs) - SIZES.keys():
        parser.error(f"no program with a service: {', '.join(sorted(unknown))}; there are {', '.join(SIZES)}")
    print(machine(), file=sys.stderr)
    failed: list[str] = []
    found: list[Figure] = []
    for name in arguments.programs or SIZES:
        by_runtime: dict[str, list[list[Figure]]] = {"local": [], "ray": []}
        for number in range(arguments.rounds):
            for runtime, rounds in by_runtime.items():
                print(f"{name}, {runtime}, round {number + 1} ...", file=sys.stderr, flush=True)
                figures = _run(name, [*(options or SIZES[name]), "--runtime", runtime])
                if figures is None:
                    failed.append(f"{name} under {runtime}")
                else:
                    rounds.append(figures)
        beside = _beside(by_runtime["local"], by_runtime["ray"])
        print(table(beside), flush=True)
        found += beside
    if failed:
        print(f"failed: {', '.join(failed)}")
    if arguments.record is not None:
        record = {"machine": machine(), "figures": [figure.to_json() for figure in found]}
        arguments.record.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if failed else 0


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Before and after the first ``--``."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def _run(name: str, options: Sequence[str]) -> list[Figure] | None:
    done = subprocess.run(
        [sys.executable, "-m", *PROGRAMS[name], "--json", *options], stdout=subprocess.PIPE, text=True, check=False
    )
    return [Figure.from_json(fields) for fields in json.loads(done.stdout)] if done.returncode == 0 else None


def _beside(local: Sequence[Sequence[Figure]], ray: Sequence[Sequence[Figure]]) -> list[Figure]:
    """Ray's figures, compared with those of the same name under local. Each has the values of all rounds."""
    mine, other = _joined(ray), _joined(local)
    return [
        replace(figure.against(replace(other[at], name="local")), goal=figure.goal)
        for at, figure in mine.items()
        if at in other
    ]


def _joined(rounds: Sequence[Sequence[Figure]]) -> dict[tuple[str, str], Figure]:
    """By name and unit. One that is there twice, compared with two limits, counts once."""
    joined: dict[tuple[str, str], Figure] = {}
    for figures in rounds:
        once = {(figure.name, figure.unit): figure for figure in figures}
        for at, figure in once.items():
            before = joined[at].values if at in joined else ()
            joined[at] = replace(figure, values=(*before, *figure.values))
    return joined


if __name__ == "__main__":
    sys.exit(main())
