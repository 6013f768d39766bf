"""Runs every benchmark, each in a process of its own, and prints one table.

    python -m benchmarks [--only NAME,NAME] [--record FILE]

Nothing is written anywhere unless ``--record`` names a file: then the figures go there as JSON, with the machine and
the time. One program alone: ``python -m benchmarks.latency --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.devices import MODES
from benchmarks.figures import Figure, machine, table

# Each with what follows `python -m` to run it.
PROGRAMS = {
    **{
        name: [f"benchmarks.{name}"]
        for name in (
            *(
                "latency",
                "replication",
                "first_sync",
                "memory",
                "writes",
                "direct",
                "device",
                "startup",
                "codec",
                "predicates",
            ),
            *(
                "routing",
                "shapes",
                "subtrees",
                "crowd",
                "repair",
                "recovery",
                "failover",
                "idle",
                "victims",
                "constraints",
                "doctor",
            ),
        )
    },
    **{mode.name: ["benchmarks.devices", mode.name] for mode in MODES},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PROGRAMS), help="names separated by commas")
    parser.add_argument("--record", type=Path, metavar="FILE", help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - PROGRAMS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    facts = machine()
    figures: list[Figure] = []
    failed: list[str] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *PROGRAMS[name], "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            failed.append(name)
        else:
            figures += [Figure.from_json(fields) for fields in json.loads(done.stdout)]
    print(f"{facts}\n\n{table(figures)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    if arguments.record is not None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"at": now, "machine": facts, "figures": [figure.to_json() for figure in figures]}
        arguments.record.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
