"""``python -m tests.consistency``: one run on the real thing, its figures, and what did not hold.

``--fault each`` makes a run with each of the faults, one after the other, whatever comes of them.

Exit codes: 0 all held, 1 something did not (its folder is kept), 3 a run is void: it shows nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.consistency.faults import NAMES
from tests.consistency.recording import record, told
from tests.consistency.run import Result, Wanted, run

ANOMALY, VOID = 1, 3
EACH = "each"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.consistency", description=__doc__)
    parser.add_argument("--fault", choices=(*NAMES, EACH), default="none")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--devices", type=int, default=8, help="on the Python library, a process each")
    parser.add_argument("--npm", type=int, default=2, help="devices on the npm client, a process each")
    parser.add_argument("--writers", type=int, default=2, help="of direct SQL; at least 1")
    parser.add_argument("--rate", type=float, default=96.0, help="transactions a second that all together try for")
    parser.add_argument("--seed", type=int, default=1, help="of what is written and what goes wrong; not of its timing")
    parser.add_argument("--keep", action="store_true", help="the folder, also if all held")
    parser.add_argument("--record", action="store_true", help="append a line to docs/consistency/results.md")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    return worst([one(fault, options) for fault in (NAMES if options.fault == EACH else (options.fault,))])


def worst(codes: Sequence[int]) -> int:
    """The exit code of several runs."""
    return ANOMALY if ANOMALY in codes else max(codes)


def one(fault: str, options: argparse.Namespace) -> int:
    """A run with ``fault``; its exit code."""
    wanted = Wanted(
        fault, options.minutes * 60, options.devices, options.npm, options.writers, options.rate, options.seed
    )
    folder = reachable_folder()
    result = asyncio.run(run(wanted, folder))
    print(explain(result), flush=True)
    if options.record:
        record(result)
    if result.anomalies:
        return ANOMALY
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return VOID if result.void else 0


def reachable_folder() -> Path:
    """One that an unprivileged server can reach, also when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="consistency-"))
    folder.chmod(0o755)
    return folder


def explain(result: Result) -> str:
    wanted = result.wanted
    fired = ", ".join(f"{name} {count}" for name, count in sorted(result.fired.items())) or "none"
    drained = "never" if result.drain_s is None else f"{result.drain_s:.1f} s after the last fault"
    drained += f", the last: {' '.join(result.last)}" if result.last else ""
    if result.nudged:
        drained += f"; npm devices were told to connect again {result.nudged} times"
    lines = [
        f"fault {wanted.fault}, {result.seconds:.0f} s, seed {wanted.seed}: {wanted.devices} Python devices, "
        f"{wanted.npm} npm devices, {wanted.writers} SQL writers",
        f"{result.transactions} transactions, {result.rate:.1f} a second, {result.device_rate:.1f} of them of devices; "
        f"{result.conflicts} conflicts; {result.reads} snapshots; {result.rejected} rejected",
        f"faults: {fired}; drained {drained}",
        f"goals {told(result.missed)}",
        *(f"ANOMALY {anomaly}" for anomaly in result.anomalies),
    ]
    if result.anomalies:
        lines.append(f"seed {wanted.seed}; histories, databases and logs: {result.folder}")
    if result.void:
        lines.append(f"VOID, this run shows nothing: {'; '.join(result.void)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
