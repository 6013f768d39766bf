"""How long a start takes to know a long log, with the indexes that stand beside it and without.

    python -m benchmarks.startup [--mib N] [--repeats N]

The log is written as the service writes it, then it is taken in again and again, from the page cache: what is compared
is the work, not the disk. Without indexes every record is read, which also writes them again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.program import Program, ViolatedError, run
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ShapeStore

SHAPE = Shape("table", "public", "items", 7, ("id", "body"))
RECORD_BYTES = 200
RECORDS_AT_ONCE = 5_000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, default=512, help="size of the log, default 512")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")


def write(directory: Path, size: int) -> int:
    """A shape with a log of ``size`` bytes, all of it on the disk; the LSN it ends at."""
    store = ShapeStore(directory, SHAPE)
    store.finish_image(1)
    lsn = 1
    for _ in range(size // (RECORD_BYTES * RECORDS_AT_ONCE)):
        store.append([Record(at, at, "", 0, True, 1, bytes(RECORD_BYTES)) for at in range(lsn, lsn + RECORDS_AT_ONCE)])
        lsn += RECORDS_AT_ONCE
        store.flush()
    store.close()
    return store.appended_lsn


def load(directory: Path, upto: int) -> float:
    """Seconds until the log is known. Raises ViolatedError when it ends elsewhere than at ``upto``."""
    started_s = time.perf_counter()
    store = ShapeStore.load(directory)
    took_s = time.perf_counter() - started_s
    if store is None or store.appended_lsn != upto:
        raise ViolatedError((), ["the log that was taken in is not the one that was written"])
    store.close()
    return took_s


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    directory = folder / SHAPE.hash
    upto = write(directory, options.mib << 20)
    without, indexed = [], []
    for _ in range(options.repeats):
        for index in directory.glob("index-*"):
            index.unlink()
        without.append(load(directory, upto))
        indexed.append(load(directory, upto))
    whole = Figure(f"{options.mib} MiB read whole", tuple(without), "s")
    return [
        Figure(f"a start with a log of {options.mib} MiB", tuple(indexed), "s", goal="<= 0.05 of it").against(whole)
    ]


PROGRAM = Program("startup", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
