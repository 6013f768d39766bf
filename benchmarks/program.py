"""What the programs have in common: their command line, and how they report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, machine, table
from benchmarks.stand import deployment_options

Measure = Callable[[argparse.Namespace, Path], Awaitable[Sequence[Figure]]]


@dataclass(frozen=True, slots=True)
class Program:
    """``measure`` gets the options and an empty folder, which is removed afterwards. ``serves``: it starts a service,
    and so takes the options of ``stand.Deployment``."""

    name: str
    about: str
    options: Callable[[argparse.ArgumentParser], None]
    measure: Measure
    serves: bool = True


class ViolatedError(Exception):
    """What was measured is not worth much: ``lines`` say what the measured did not do as promised."""

    def __init__(self, figures: Sequence[Figure], lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.figures = figures
        self.lines = lines


def run(program: Program) -> None:
    """Measure and print. With ``--json`` one JSON list on standard output, what else is said on standard error."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{program.name}",
        description=program.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser, program)
    _run(program, parser.parse_args())


def run_one_of(name: str, about: str | None, modes: Sequence[Program]) -> None:
    """``run`` of the mode that the command line names first."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choose = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for mode in modes:
        about = mode.about or ""
        _add_options(
            choose.add_parser(
                mode.name,
                description=about,
                help=about.splitlines()[0],
                formatter_class=argparse.RawDescriptionHelpFormatter,
            ),
            mode,
        )
    options = parser.parse_args()
    _run(next(mode for mode in modes if mode.name == options.mode), options)


def progress(text: str) -> None:
    """What is being done, for somebody who waits."""
    print(f"  {text}", file=sys.stderr, flush=True)


def _add_options(parser: argparse.ArgumentParser, program: Program) -> None:
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    if program.serves:
        deployment_options(parser)
    program.options(parser)


def _run(program: Program, options: argparse.Namespace) -> None:
    print(machine(), file=sys.stderr)
    raise_file_limit()
    started_s = time.monotonic()
    violations: Sequence[str] = ()
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # an embedded Postgres may run as another user
        try:
            found = asyncio.run(_measured(program, options, Path(folder)))
        except ViolatedError as violated:
            found, violations = violated.figures, violated.lines
    figures = [figure.of(program.name) for figure in found]
    if options.json:
        json.dump([figure.to_json() for figure in figures], sys.stdout)
        print()
    else:
        print(table(figures))
    for line in violations:
        print(f"VIOLATED: {line}", file=sys.stderr)
    print(f"{program.name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr)
    if violations:
        sys.exit(1)


async def _measured(program: Program, options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    try:
        return await program.measure(options, folder)
    except BaseException:
        _show_logs(folder)
        raise


def raise_file_limit() -> None:
    """Thousands of sockets at both ends; the usual soft limit is 1,024 files. Processes started later inherit it."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def _show_logs(folder: Path) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(log.read_text()[-4000:] for log in folder.glob("*.log")))
