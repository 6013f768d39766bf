"""The line that a run adds to docs/consistency/results.md."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.consistency.run import Result

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "consistency" / "results.md"
HEAD = """# What the runs said

A line a run of `make consistency ... RECORD=yes`, the newest last; [how to read it](README.md). Devices: of the Python
library + of the npm client + writers of direct SQL. A commit with a + had changes that were not committed. The oldest
lines do not tell transactions of devices from those of direct SQL. Nudged: how often npm devices had to be told to
connect again.

| date | version | fault | minutes | devices | transactions | a second | of devices | conflicts | faults | anomalies | \
drained, s | nudged | goals |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def record(result: Result, path: Path = RESULTS) -> None:
    """Appends; makes the file if there is none."""
    text = path.read_text() if path.exists() else HEAD
    path.write_text(text + line(result, datetime.now(UTC).strftime("%Y-%m-%d"), _version()))


def line(result: Result, date: str, version: str) -> str:
    """``version``: of what has run."""
    wanted = result.wanted
    anomalies = "void: " + "; ".join(result.void) if result.void else str(len(result.anomalies))
    if result.anomalies:
        anomalies = f"{len(result.anomalies)}: " + ", ".join(sorted({anomaly.check for anomaly in result.anomalies}))
    cells = (
        date,
        version,
        wanted.fault,
        f"{result.seconds / 60:.1f}",
        f"{wanted.devices} + {wanted.npm} + {wanted.writers}",
        f"{result.transactions:,}",
        f"{result.rate:.0f}",
        f"{result.device_rate:.0f}",
        f"{result.conflicts:,}",
        ", ".join(f"{name} {count}" for name, count in sorted(result.fired.items())) or "-",
        anomalies,
        "never" if result.drain_s is None else f"{result.drain_s:.1f}",
        str(result.nudged),
        told(result.missed),
    )
    return f"| {' | '.join(cells)} |\n"


def told(missed: Sequence[str]) -> str:
    """Of the goals."""
    return "missed: " + "; ".join(missed) if missed else "met"


def _version() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    changed = "+" if _git("status", "--porcelain", "--untracked-files=no", "--", ":(exclude)docs/consistency") else ""
    return f"{version('syncline')} `{commit}{changed}`"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
