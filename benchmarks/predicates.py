"""How fast where clauses are read, and evaluated in Python, beside a lambda that only compares a cell.

python -m benchmarks.predicates [--rows N] [--repeats N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.program import Program, run
from syncline.actors.postgres.catalog import TableInfo, table_info
from syncline.actors.shapes.where import parse
from syncline.proto.values import Row

COLUMNS: Final = {
    "id": "uuid",
    "project": "uuid",
    "title": "text",
    "rank": "int4",
    "done": "bool",
    "at": "timestamptz",
    "ratio": "float8",
}
CLAUSES: Final = {
    "equality": "this.project = '6f9619ff-8b86-d011-b42d-000000000003'",
    "equality, full value": "this.project = '6f9619ff-8b86-d011-b42d-000000000003'",
    "IN, 100 values": f"this.rank IN ({', '.join(map(str, range(0, 1_000, 10)))})",
    "integers in order": "this.rank BETWEEN 100 AND 200",
    "timestamps in order": "this.at >= '2024-02-29T12:00:00Z'",
    "floats in order": "this.ratio > 0.5",
    "LIKE, a prefix": "this.title LIKE 'A title%'",
    "LIKE, a piece": "this.title LIKE '%thirty%'",
    "three conditions": "(this.done = false) AND (this.rank > 100) AND (this.title IS NOT NULL)",
    "remainder": "this.rank % 10 = 3",
    "CASE": "CASE WHEN this.done THEN this.rank ELSE 0 END > 100",
}


def table() -> TableInfo:
    columns = [
        {"name": name, "type": kind, "not_null": False, "pk": 1 if name == "id" else None}
        for name, kind in COLUMNS.items()
    ]
    return table_info({"oid": 7, "schema": "public", "table": "items", "columns": columns, "fks": []})


def rows(count: int) -> list[Row]:
    return [
        (
            b"6f9619ff-8b86-d011-b42d-%012d" % n,
            b"6f9619ff-8b86-d011-b42d-%012d" % (n % 100),
            b"A title of some thirty letters",
            b"%d" % (n % 1_000),
            b"t" if n % 3 else b"f",
            b"2024-02-29 12:34:56.%06dZ" % n,
            b"%.3f" % (n / count),
        )
        for n in range(count)
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="default 100000")
    parser.add_argument("--clauses", type=int, default=1_000, help="that are read; default 1000")
    parser.add_argument("--repeats", type=int, default=7, help="default 7")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    data, items = rows(options.rows), table()

    def rates(work: Callable[[], object], count: int) -> tuple[float, ...]:
        found = []
        for _ in range(options.repeats):
            started_s = time.process_time()
            work()
            found.append(count / (time.process_time() - started_s))
        return tuple(found)

    def evaluated(name: str, holds: Callable[[Row], object], goal: str = "") -> Figure:
        def work() -> None:
            for row in data:
                holds(row)

        return Figure(name, rates(work, len(data)), "rows/CPU-s", goal=goal)

    sought = b"6f9619ff-8b86-d011-b42d-000000000003"
    bare = evaluated("a lambda that compares a cell", lambda row: row[1] == sought)
    figures = []
    for name, text in CLAUSES.items():
        where = parse(text, items)
        function = where.predicate() if name.endswith("full value") else where.holds()
        goal = ">= 0.9 times the lambda" if name == "equality" else ""
        figures.append(evaluated(name, function, goal).against(bare))

    def read() -> None:
        for n in range(options.clauses):
            parse(f"this.project = '6f9619ff-8b86-d011-b42d-{n:012}' AND this.done = false", items)

    def compiled() -> None:
        for n in range(options.clauses):
            parse(f"this.project = '6f9619ff-8b86-d011-b42d-{n:012}' AND this.done = false", items).holds()

    figures.append(Figure("clauses read", rates(read, options.clauses), "clauses/CPU-s"))
    figures.append(Figure("clauses read and compiled", rates(compiled, options.clauses), "clauses/CPU-s"))
    return figures


PROGRAM = Program("predicates", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
