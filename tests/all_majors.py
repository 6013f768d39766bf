"""``python -m tests.all_majors``: what depends on the Postgres, on each supported major of it and on both runtimes.

On the runtime local that is everything that speaks to Postgres, on ray all that runs a whole service. In the end there
is a table, a row a run. Arguments: the majors and the runtimes to run on (all, if there is none), and after ``--`` what
pytest is to be given instead of the folders, such as one file.
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

from tests.npm.service import RUNTIME_VARIABLE
from tests.postgres_majors import MAJORS, VARIABLE, NoBuildError, PostgresUnavailableError, installation

TARGETS = {
    "local": (
        "tests/integration",
        "tests/e2e",
        "tests/property/test_postgres_read_values.py",
        "tests/property/test_postgres_write_merge.py",
    ),
    "ray": ("tests/e2e", "tests/integration/test_docs_code.py"),
}
_HOME = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What one run came to. ``note``: why there are no counts, or why the counts are not all."""

    major: int
    runtime: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    good: bool = False

    def line(self) -> str:
        """A row of the table."""
        counts = (
            f"{self.major:5}  {self.runtime:7}  {self.passed:6}  {self.failed:6}  {self.skipped:7}  {self.seconds:7.0f}"
        )
        return f"{counts}  {self.note}".rstrip()


HEADING = "major  runtime  passed  failed  skipped  seconds"


def read_report(major: int, runtime: str, report: Path, exit_code: int, seconds: float) -> Outcome:
    """The outcome of a run from pytest's JUnit report, which is missing or empty when pytest did not get far."""
    note = "" if exit_code in (0, 1) else f"pytest ended with {exit_code}"
    try:
        suite = ET.parse(report).getroot().find("testsuite")
    except (OSError, ET.ParseError):
        suite = None
    if suite is None:
        return Outcome(major, runtime, seconds=seconds, note=note or "pytest left no report")
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    return Outcome(major, runtime, tests - failed - skipped, failed, skipped, seconds, note, good=exit_code == 0)


def run(major: int, runtime: str, targets: Sequence[str]) -> Outcome:
    """pytest on ``major`` and ``runtime``, its progress on our output."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncline-all-majors-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", f"--junitxml={report}"]
        environment = {**os.environ, VARIABLE: str(major), RUNTIME_VARIABLE: runtime}
        done = subprocess.run([*command, *targets], cwd=_HOME, env=environment)
        return read_report(major, runtime, report, done.returncode, time.monotonic() - started)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when all went well on every major this platform has a build of."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    majors = [int(word) for word in arguments[:cut] if word.isdecimal()]
    runtimes = [word for word in arguments[:cut] if word in TARGETS]
    if len(majors) + len(runtimes) < cut:
        print("usage: python -m tests.all_majors [MAJOR ...] [local] [ray] [-- PYTEST ARGUMENT ...]", file=sys.stderr)
        return 2
    absent: dict[int, str] = {}
    try:
        for major in majors or MAJORS:  # all of them before the first test: what cannot be fetched shows at once
            try:
                installation(major)
            except NoBuildError as error:
                absent[major] = str(error)
    except PostgresUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    runs = [(major, runtime) for major in majors or MAJORS for runtime in runtimes or TARGETS]
    outcomes = []
    for number, (major, runtime) in enumerate(runs, 1):
        print(f"\n== Postgres {major}, runtime {runtime} ({number} of {len(runs)}) ==", flush=True)
        if major in absent:
            print(absent[major])
            outcomes.append(Outcome(major, runtime, note="not tested: no build for this platform", good=True))
        else:
            outcomes.append(run(major, runtime, arguments[cut + 1 :] or TARGETS[runtime]))
            print(f"{HEADING}\n{outcomes[-1].line()}")
    print("\n" + "\n".join([HEADING, *(outcome.line() for outcome in outcomes)]))
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
