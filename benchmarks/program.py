"""What the programs have in common: their command line, and how they report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, machine, table

Measure = Callable[[argparse.Namespace, Path], Awaitable[Sequence[Figure]]]


@dataclass(frozen=True, slots=True)
class Program:
    """``measure`` gets the options and an empty folder, which is removed afterwards."""

    name: str
    about: str
    options: Callable[[argparse.ArgumentParser], None]
    measure: Measure


def run(program: Program) -> None:
    """Measure and print. With ``--json`` one JSON list on standard output, what else is said on standard error."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{program.name}",
        description=program.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    program.options(parser)
    options = parser.parse_args()
    print(machine(), file=sys.stderr)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # an embedded Postgres may run as another user
        found = asyncio.run(_measured(program, options, Path(folder)))
    figures = [figure.of(program.name) for figure in found]
    if options.json:
        json.dump([figure.to_json() for figure in figures], sys.stdout)
        print()
    else:
        print(table(figures))
    print(f"{program.name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr)


async def _measured(program: Program, options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    try:
        return await program.measure(options, folder)
    except BaseException:
        _show_logs(folder)
        raise


def _show_logs(folder: Path) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write("".join(log.read_text()[-4000:] for log in folder.glob("*.log")))
