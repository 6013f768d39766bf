"""What many shapes cost: made, at rest, and on the way of a commit that concerns one of them.

    python -m benchmarks.shapes [--clauses N] [--ilike N] [--trees N] [--issues N] [--devices N]
        [--commits N] [--subscriptions N]

Three kinds, no two shapes alike: the notes of one project (*equality*), those with a word in them (*ILIKE*), and a
project with all that hangs on it, three tables (*tree*). Ten devices (``--devices``) ask for all shapes of a kind, each
for as many.

*Made* is from the first question until all devices have all rows; the limit is a connection that asks Postgres for the
same rows by COPY, one shape after the other. Then the devices leave: what a shape takes *at rest* is what the service
has more than before, in memory, files and open files. *Asleep*: it has been started again, and nobody has asked for any
shape since; those that name values are asleep from the start, the others after a minute.

A device that has ``--subscriptions``, each of one shape that names a value, asks for all of them at once; and one that
has an eighth of that before it.

Before and after that a device with a shape of its own is shown new rows, one a commit: what the others cost it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from benchmarks.figures import Figure, per_cpu_s, percentile
from benchmarks.fleet import Asked, Fleet
from benchmarks.issuetree import SCHEMA, TABLES, copied, dealt, fill, request, whole_projects, whole_projects_sql
from benchmarks.processes import disk_bytes
from benchmarks.program import Program, progress, run
from benchmarks.side import now_ms
from benchmarks.stand import TOKEN, Deployment, ServiceProcess, serving
from syncline.client import open_db
from syncline.proto.values import ShapeRequest

WARM_COMMITS: Final = 20
RESTS_S: Final = 2.0  # longer than it takes to flush
RESTS_CPU_S: Final = 0.03
NEW_ID: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """``asked`` and ``sql``: the shape of project n, and the queries for its rows. ``insert``: a row of the project 0,
    whose id is $1."""

    name: str
    count: int
    asked: Callable[[int], ShapeRequest]
    sql: Callable[[int], Sequence[str]]
    insert: str
    goal: str = ""


def kinds(options: argparse.Namespace) -> list[Kind]:
    def word(n: int) -> str:
        return f"%, Number {n * options.issues}"

    return [
        Kind(
            "equality",
            options.clauses,
            lambda n: request("notes", f"this.project = {n}"),
            lambda n: (f"SELECT * FROM notes WHERE project = {n}",),
            "INSERT INTO notes VALUES ($1, 0, 'a row')",
            ">= 2,000",
        ),
        Kind(
            "ILIKE",
            options.ilike,
            lambda n: request("notes", f"this.body ILIKE '{word(n)}'"),
            lambda n: (f"SELECT * FROM notes WHERE body ILIKE '{word(n)}'",),
            "INSERT INTO notes VALUES ($1, -1, 'a row, number 0')",
        ),
        Kind(
            "tree",
            options.trees,
            lambda n: whole_projects(f"this.id = {n}"),
            lambda n: whole_projects_sql(f"id = {n}"),
            "INSERT INTO comments VALUES ($1, 0, 'a row')",
        ),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clauses", type=int, default=2_000, help="shapes that name a value; default 2000")
    parser.add_argument("--ilike", type=int, default=200, help="shapes that name none; default 200")
    parser.add_argument("--trees", type=int, default=200, help="shapes of three tables; default 200")
    parser.add_argument("--issues", type=int, default=10, help="of a project, with a comment each; default 10")
    parser.add_argument("--devices", type=int, default=10, help="that ask, each for as many; default 10")
    parser.add_argument("--subscriptions", type=int, default=400, help="of one device, a shape each; default 400")
    parser.add_argument("--commits", type=int, default=100, help="that concern one shape; default 100")


class _Bench:
    def __init__(self, service: ServiceProcess, database: asyncpg.Connection, commits: int, devices: int) -> None:
        self._service = service
        self._database = database
        self._commits = commits
        self._devices = devices
        self._ids = iter(range(NEW_ID, 2 * NEW_ID))

    async def of(self, kind: Kind) -> list[Figure]:
        before = await self._started_again()
        async with Fleet.lead(self._service.url, Asked([(kind.asked(0),)])) as watching:
            await watching.connect()
            await self._shown(watching, kind, WARM_COMMITS)
            alone = await self._shown(watching, kind, self._commits)
            progress(f"{kind.name}: a shape alone was shown its rows")
            made = await self._made(kind)
            progress(f"{kind.name}: {kind.count:,} were made")
            beside = await self._shown(watching, kind, self._commits)
        goal = f"flat: {kind.count:,} more" if kind.name != "ILIKE" else ""
        for found, limit in zip(beside, alone, strict=True):
            name = f"{kind.name}, {found.name}, {kind.count:,} others at rest"
            made.append(Figure(name, found.values, found.unit, "without", limit.median, goal))
        asleep = (await self._started_again() - before) / kind.count
        made.append(Figure(f"memory of one {kind.name} shape asleep", (asleep / 1024,), "KiB"))
        return made

    async def _started_again(self) -> int:
        """The memory of the service (bytes), started anew, with all its shapes asleep."""
        await self._service.stop()
        await self._service.start()
        while (facts := await asyncio.to_thread(self._facts))["shapes"] != facts["shapes_asleep"]:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(RESTS_S)
        await self._rests()
        return self._service.rss_bytes()

    def _facts(self) -> dict[str, int]:
        request = urllib.request.Request(
            f"{self._service.url.replace('ws', 'http', 1)}/api/status", headers={"Accept": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            facts: dict[str, int] = json.load(answer)
        return facts

    async def _made(self, kind: Kind) -> list[Figure]:
        count, service = kind.count, self._service
        asked = dealt([kind.asked(n) for n in range(1, count + 1)], self._devices)
        await self._rests()
        before = self._taken()
        async with Fleet.lead(service.url, Asked(asked), len(asked)) as fleet:
            started_s, cpu_s = time.monotonic(), service.cpu_s()
            await fleet.connect()
            wall_s, cpu_s = time.monotonic() - started_s, service.cpu_s() - cpu_s
            rows = sum(loaded for loaded, _ in await fleet.loaded())
        queries = [query for n in range(1, count + 1) for query in kind.sql(n)]
        expected, copied_bytes, copy_s = await copied(self._database, queries)
        assert rows == expected, f"{kind.name}: {rows} rows instead of {expected}"
        await self._rests()
        memory, disk, files = (after - first for after, first in zip(self._taken(), before, strict=True))
        copy = Figure("COPY, one by one", (count / copy_s,), "shapes/s")
        text = Figure("its rows as text", (copied_bytes / count / 1024,), "KiB")
        many = f"{count:,} {kind.name} shapes"
        return [
            Figure(f"{many} made", (count / wall_s,), "shapes/s", goal=kind.goal).against(copy),
            Figure(f"{many} made", (per_cpu_s(count, cpu_s),), "shapes/CPU-s"),
            Figure(f"memory of one {kind.name} shape at rest", (memory / count / 1024,), "KiB").against(text),
            Figure(f"disk of one {kind.name} shape at rest", (disk / count / 1024,), "KiB").against(text),
            Figure(f"open files of one {kind.name} shape at rest", (files / count,), "", goal="0"),
        ]

    def _taken(self) -> tuple[int, int, int]:
        return self._service.rss_bytes(), disk_bytes(self._service.data_dir), self._service.open_files()

    async def _rests(self) -> None:
        """Returns once the service does hardly anything."""
        before_s = -1.0
        while (cpu_s := self._service.cpu_s()) - before_s > RESTS_CPU_S:
            before_s = cpu_s
            await asyncio.sleep(RESTS_S)

    async def _shown(self, fleet: Fleet, kind: Kind, commits: int) -> tuple[Figure, Figure]:
        """What a commit costs whose row only the device of ``fleet`` gets: CPU time, and until it is there."""
        await self._rests()
        latency_ms: list[float] = []
        cpu_s = self._service.cpu_s()
        for _ in range(commits):
            await fleet.expect(1)
            await self._database.execute(kind.insert, next(self._ids))
            committed_ms = now_ms()
            (arrived_ms,), _ = await fleet.arrived()
            latency_ms.append(max(0.0, arrived_ms - committed_ms))
        await self._rests()  # what is put off counts too
        cpu_s = self._service.cpu_s() - cpu_s
        return (
            Figure("service CPU a commit", (1e3 * cpu_s / commits,), "ms"),
            Figure("commit to device, p50", (percentile(latency_ms, 0.5),), "ms"),
        )


async def subscribed(service: ServiceProcess, folder: Path, first: int, count: int) -> Figure:
    """A device of the device library asks for the notes of ``count`` projects, each by itself."""
    async with open_db(folder / f"device-{count}.db", service.url) as db:
        await db.connect(TOKEN)

        async def ask(project: int) -> None:
            await (await db.sync("notes", where=f"this.project = {project} AND this.id >= 0")).synced()

        cpu_s = service.cpu_s()
        await asyncio.gather(*map(ask, range(first, first + count)))
        cpu_s = service.cpu_s() - cpu_s
    return Figure(f"{count:,} subscriptions of one device", (per_cpu_s(count, cpu_s),), "shapes/CPU-s")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    listed = kinds(options)
    async with serving(folder, Deployment.of(options), SCHEMA, *TABLES) as (service, database):
        few, many = options.subscriptions // 8, options.subscriptions
        await fill(database, 1 + max(few + many, *(kind.count for kind in listed)), options.issues, 1)
        bench = _Bench(service, database, options.commits, options.devices)
        figures = [figure for kind in listed if kind.count for figure in await bench.of(kind)]
        if few:
            alone = await subscribed(service, folder, 1, few)
            figures.append((await subscribed(service, folder, 1 + few, many)).against(alone))
        return figures


PROGRAM = Program("shapes", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
