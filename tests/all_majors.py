"""``python -m tests.all_majors``: everything that speaks to Postgres, on each supported major in turn, and a summary.

Arguments: the majors to run on (all, if there is none), and after ``--`` what pytest is to be given instead of the
folders, such as one file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.postgres_majors import MAJORS, VARIABLE, NoBuildError, PostgresUnavailableError, installation

SPEAKING_TO_POSTGRES = (
    "tests/integration",
    "tests/e2e",
    "tests/property/test_postgres_read_values.py",
    "tests/property/test_postgres_write_merge.py",
)
_HOME = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a run on one major came to. ``note``: why there are no counts, or why the counts are not all."""

    major: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    good: bool = False

    def line(self) -> str:
        """A row of the table."""
        counts = f"{self.major:5}  {self.passed:6}  {self.failed:6}  {self.skipped:7}  {self.seconds:7.0f}"
        return f"{counts}  {self.note}".rstrip()


HEADING = "major  passed  failed  skipped  seconds"


def read_report(major: int, report: Path, exit_code: int, seconds: float) -> Outcome:
    """The outcome of a run from pytest's JUnit report, which is missing or empty when pytest did not get far."""
    note = "" if exit_code in (0, 1) else f"pytest ended with {exit_code}"
    try:
        suite = ET.parse(report).getroot().find("testsuite")
    except (OSError, ET.ParseError):
        suite = None
    if suite is None:
        return Outcome(major, seconds=seconds, note=note or "pytest left no report")
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    return Outcome(major, tests - failed - skipped, failed, skipped, seconds, note, good=exit_code == 0)


def run(major: int, targets: Sequence[str]) -> Outcome:
    """pytest on ``major``, its progress on our output."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncline-all-majors-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", f"--junitxml={report}"]
        done = subprocess.run([*command, *targets], cwd=_HOME, env={**os.environ, VARIABLE: str(major)})
        return read_report(major, report, done.returncode, time.monotonic() - started)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when all went well on every major this platform has a build of."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    if not all(argument.isdecimal() for argument in arguments[:cut]):
        print("usage: python -m tests.all_majors [MAJOR ...] [-- PYTEST ARGUMENT ...]", file=sys.stderr)
        return 2
    majors = [int(argument) for argument in arguments[:cut]] or list(MAJORS)
    targets = arguments[cut + 1 :] or SPEAKING_TO_POSTGRES
    absent: dict[int, str] = {}
    try:
        for major in majors:  # all of them before the first test: what cannot be fetched shows at once
            try:
                installation(major)
            except NoBuildError as error:
                absent[major] = str(error)
    except PostgresUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    outcomes = []
    for number, major in enumerate(majors, 1):
        print(f"\n== Postgres {major} ({number} of {len(majors)}) ==", flush=True)
        if major in absent:
            print(absent[major])
            outcomes.append(Outcome(major, note="not tested: no build for this platform", good=True))
        else:
            outcomes.append(run(major, targets))
            print(f"{HEADING}\n{outcomes[-1].line()}")
    print("\n" + "\n".join([HEADING, *(outcome.line() for outcome in outcomes)]))
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
