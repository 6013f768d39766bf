"""What a change costs before anything is written, with few and with very many shapes of its table.

    python -m benchmarks.routing [--shapes N,N,N] [--ilike N] [--trees N] [--changes N] [--repeats N]

Every change is a transaction, an insert or an update. Of shapes that name a value (``this.project = '...'``) it belongs
to exactly one. *Found* is ``Matcher.split``, which names the shapes that a change may touch; *judged* is that and the
filter of each named shape. Shapes that name none (``this.title ILIKE '%...%'``) have to be asked each: one change costs
as much as there are shapes. *Told* is what the shard asks each include tree before it hands a change over: whether it
concerns what the tree holds, here a project with ten items, and it does so for one of them.

The limit is the same with a single shape. Nothing leaves this process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from benchmarks.figures import Figure, number
from benchmarks.predicates import rows, table
from benchmarks.program import Program, progress, run
from syncline.actors.devices.planning import selected_shape
from syncline.actors.postgres.catalog import Catalog, Collation
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.streamed import TransactionHead
from syncline.actors.shapes.clauses import Clauses, clauses_of
from syncline.actors.shapes.concern import Concern
from syncline.actors.shapes.filtering import filtered
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.matcher import Matcher
from syncline.actors.shapes.messages import Piece
from syncline.actors.shapes.shape import Included, Shape
from syncline.actors.shapes.tree import RowId, Tree, tree_of
from syncline.proto.values import Column, Insert, Relation, Row, RowChange, ShapeRequest, Update

# As in a database of any usual locale.
ITEMS: Final = replace(table(), collations={"title": Collation(ascii_case=True)})
CATALOG: Final = Catalog({ITEMS.oid: ITEMS})
PROJECTS_MAX: Final = 500
"""Of as many shapes at most a change comes: so many clauses are compiled."""
ADDED_MIN: Final = 100
"""Of fewer shapes it cannot be told what adding one costs."""
PROJECTS: Final = Relation(8, "public", "projects", (Column("id", "uuid", True),))
TREE_ITEMS: Final = 10
HEAD: Final = TransactionHead(Lsn(1), 0, 0)
PROJECT_AT, TITLE_AT = (ITEMS.relation.names.index(name) for name in ("project", "title"))


def project(n: int) -> str:
    return f"6f9619ff-8b86-d011-b42d-{n:012}"


def equality(n: int) -> Shape:
    """What a device gets that asks for ``this.project = '...'``; it takes long to read as many clauses as there are."""
    (column, (cell,)), where = _EQUALITY.one_of or ("", ("",)), _EQUALITY.where
    return replace(_EQUALITY, where=where.replace(cell, project(n)), one_of=(column, (project(n),)))


def ilike(n: int) -> Shape:
    return _shape(f"this.title ILIKE '%Word{n:06}%'")


def _shape(where: str) -> Shape:
    return selected_shape(ShapeRequest("request", ITEMS.relation.table, where), CATALOG)


_EQUALITY: Final = _shape(f"this.project = '{project(0)}'")


def transactions(cells: Sequence[bytes], at: int, count: int) -> list[list[RowChange]]:
    """``count`` of them, every other one an update; the cell ``at`` is one of ``cells``, in turn."""
    found: list[list[RowChange]] = []
    for n, plain in enumerate(rows(count)):
        row: Row = (*plain[:at], cells[n % len(cells)], *plain[at + 1 :])
        old = (*row[:3], b"7", *row[4:])
        found.append([Update(ITEMS.oid, row, old) if n % 2 else Insert(ITEMS.oid, row)])
    return found


def project_trees(count: int) -> list[Tree]:
    """Each of a project and its items."""
    shape = Shape(
        "table",
        "public",
        PROJECTS.table,
        PROJECTS.id,
        PROJECTS.names,
        included=(Included(ITEMS.oid, 0, True, ("project",), ("id",)),),
        others=((ITEMS.oid, ITEMS.relation.names),),
    )
    return [tree_of(shape, (PROJECTS, ITEMS.relation)) for _ in range(count)]


class _Holding:
    """What ``Concern`` learns from: the rows of project ``n``."""

    def __init__(self, n: int, items: Sequence[Row]) -> None:
        cell = project(n).encode()
        self._rows = [((PROJECTS.id, (cell,)), (cell,))]
        for row in items:
            item = (b"%d-" % n + (row[0] or b""), cell, *row[2:])
            self._rows.append(((ITEMS.oid, (item[0],)), item))

    def parts(self) -> Iterator[list[tuple[RowId, Row]]]:
        yield self._rows

    def moved(self) -> Iterator[list[RowId]]:
        return iter(())


class Told:
    """``count`` trees that rest."""

    def __init__(self, count: int) -> None:
        items = rows(TREE_ITEMS)
        self._concerns: list[Concern] = []
        for n, tree in enumerate(project_trees(count)):
            cell = project(n).encode()
            holding = cast(Holdings, _Holding(n, items))
            self._concerns.append(Concern(tree, holding, lambda row, cell=cell: row[0] == cell))  # type: ignore[misc]

    async def learn(self) -> None:
        for concern in self._concerns:
            await concern.learn_soon(1 + TREE_ITEMS)

    async def tell(self, parts: Sequence[Sequence[RowChange]]) -> int:
        told = 0
        for part in parts:
            pieces = (Piece(HEAD, part, True, True),)
            for concern in self._concerns:
                told += len(concern.concerning(pieces, 1 + TREE_ITEMS, _nothing_to_learn))
        return told


def _nothing_to_learn(work: object) -> None:
    raise AssertionError("it is known what they hold")


class Routed:
    """``shapes`` as the router has them, and the clauses of ``asked``, the only ones whose changes come."""

    def __init__(self, shapes: Iterable[Shape], asked: Iterable[Shape]) -> None:
        listed = list(shapes)
        gc.collect()
        started_s = time.process_time()
        self._matcher = Matcher(listed)
        self.add_us = 1e6 * (time.process_time() - started_s) / len(listed)
        self._clauses: dict[str, Clauses] = {
            shape.hash: clauses_of(shape, CATALOG.tables, _nobody_asks) for shape in asked
        }

    async def find(self, parts: Sequence[Sequence[RowChange]]) -> int:
        return sum(len(changes) for part in parts for changes in self._matcher.split(part).values())

    async def judge(self, parts: Sequence[Sequence[RowChange]]) -> int:
        kept = 0
        for part in parts:
            for shape, changes in self._matcher.split(part).items():
                kept += len((await filtered(changes, ITEMS.relation, self._clauses[shape]))[0])
        return kept


async def _nobody_asks(*_: object) -> Sequence[bool]:
    raise AssertionError("these clauses are compiled")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", default="1,1000,100000", help="that name a value; default 1,1000,100000")
    parser.add_argument("--ilike", type=int, default=1_000, help="that name none; default 1000")
    parser.add_argument("--trees", type=int, default=1_000, help="of two tables; default 1000")
    parser.add_argument("--changes", type=int, default=20_000, help="default 20000; a hundredth of them for ILIKE")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    async def cost(
        name: str, work: Callable[[Sequence[Sequence[RowChange]]], Coroutine[None, None, int]],
        parts: Sequence[Sequence[RowChange]], expected: int | None, goal: str = "",
    ) -> Figure:  # fmt: skip
        values = []
        for _ in range(options.repeats):
            started_s = time.process_time()
            done = await work(parts)
            values.append(1e6 * (time.process_time() - started_s) / len(parts))
            assert expected is None or done == expected, f"{name}: {done} instead of {expected}"
            await asyncio.sleep(0)
        return Figure(name, tuple(values), "us/change", goal=goal)

    found: list[Figure] = []
    one: dict[str, Figure] = {}

    def add(kind: str, figure: Figure) -> None:
        found.append(figure.against(one.setdefault(kind, figure)))

    for count in map(int, options.shapes.split(",")):
        progress(f"{count:,} shapes that name a value")
        step = max(1, count // PROJECTS_MAX)
        asked = range(0, count, step)
        routed = Routed(map(equality, range(count)), map(equality, asked))
        parts = transactions([project(n).encode() for n in asked], PROJECT_AT, options.changes)
        many = f"{count:,} equality shapes"
        add("found", await cost(f"{many}: found", routed.find, parts, options.changes, "flat"))
        add("judged", await cost(f"{many}: found and judged", routed.judge, parts, options.changes, "flat"))
        if count > ADDED_MIN:
            add("added", Figure(f"{many}: added", (routed.add_us,), "us/shape", goal="flat"))
    few = max(10, options.changes // 100)
    for count in (1, options.ilike):
        progress(f"{count:,} shapes that name none")
        shapes = list(map(ilike, range(count)))
        routed = Routed(shapes, shapes)
        titles = [f"a title with word{n:06} in it".encode() for n in range(count)]
        parts = transactions(titles, TITLE_AT, few)
        many = f"{count:,} ILIKE shapes"
        add("ilike found", await cost(f"{many}: found", routed.find, parts, few * count))
        goal = f"<= {number(options.ilike)} times one shape"
        add("ilike judged", await cost(f"{many}: found and judged", routed.judge, parts, few, goal))
    for count in (1, options.trees):
        progress(f"{count:,} trees")
        told = Told(count)
        await told.learn()
        parts = transactions([project(n).encode() for n in range(count)], PROJECT_AT, few)
        goal = f"<= {number(options.trees)} times one tree"
        add("told", await cost(f"{count:,} trees: told", told.tell, parts, None, goal))
    return found


PROGRAM = Program("routing", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
