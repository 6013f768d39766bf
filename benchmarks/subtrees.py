"""What an include tree costs: its first load, and a project that moves in with all that hangs on it.

    python -m benchmarks.subtrees [--projects N] [--issues N] [--comments N] [--moves N]

A device follows the projects of a team, their issues and the comments on these. First load: from the question until it
has all rows, which it does not keep; beside it COPY of the same rows, and the three tables asked for whole. Then, in
turn, a comment is written below a project that it has, and a project of the other team becomes the team's. The clock
runs from the answered COMMIT until the transaction has come, with the whole subtree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure, per_cpu_s, percentile
from benchmarks.fleet import Asked, Fleet
from benchmarks.issuetree import SCHEMA, copied, fill, request, whole_projects, whole_projects_sql
from benchmarks.program import Program, progress, run
from benchmarks.side import now_ms
from benchmarks.stand import Deployment, ServiceProcess, serving
from syncline.proto.values import ShapeRequest

TABLES: Final = ("projects", "issues", "comments")
WARM_MOVES: Final = 2
NEW_ID: Final = 1_000_000_000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--projects", type=int, default=200, help="of the team; default 200")
    parser.add_argument("--issues", type=int, default=20, help="of a project; default 20")
    parser.add_argument("--comments", type=int, default=5, help="on an issue; default 5")
    parser.add_argument("--moves", type=int, default=30, help="projects that move in, and plain rows; default 30")


async def load(service: ServiceProcess, *asked: ShapeRequest) -> tuple[int, float, float]:
    """A new device: rows, seconds, and the service's CPU seconds."""
    async with Fleet.lead(service.url, Asked([asked])) as fleet:
        started_s, cpu_s = time.monotonic(), service.cpu_s()
        await fleet.connect()
        taken = time.monotonic() - started_s, service.cpu_s() - cpu_s
        return (await fleet.loaded())[0][0], *taken


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    projects, moves = options.projects, options.moves + WARM_MOVES
    subtree = 1 + options.issues * (1 + options.comments)
    async with serving(folder, Deployment.of(options), SCHEMA, *TABLES) as (service, database):
        team = f"CASE WHEN n < {projects} THEN 'ours' ELSE 'theirs' END"
        await fill(database, projects + moves, options.issues, options.comments, team)
        ours, found = whole_projects("this.team = 'ours'"), projects * subtree
        cold = await load(service, ours)
        progress("the tree is loaded")
        warm = await load(service, ours)
        whole = await load(service, *map(request, TABLES))
        every = await copied(database, [f"SELECT * FROM {table}" for table in TABLES])
        team_only = await copied(database, whole_projects_sql("team = 'ours'"))
        assert cold[0] == warm[0] == team_only[0] == found, f"{cold[0]}, {warm[0]}, {team_only[0]} rows, not {found}"
        assert whole[0] == every[0], f"{whole[0]} rows instead of {every[0]}"

        plain_ms: list[float] = []
        moved_ms: list[float] = []
        plain_cpu_s = moved_cpu_s = 0.0
        async with Fleet.lead(service.url, Asked([(ours,)])) as watching:
            await watching.connect()

            async def shown(rows: int, sql: str, *values: object) -> tuple[float, float]:
                """Milliseconds until ``rows`` are there, and CPU seconds of the service."""
                cpu_s = service.cpu_s()
                await watching.expect(1)
                await database.execute(sql, *values)
                committed_ms = now_ms()
                (arrived_ms,), arrived = await watching.arrived()
                assert arrived == rows, f"{arrived} rows instead of {rows}"
                return max(0.0, arrived_ms - committed_ms), service.cpu_s() - cpu_s

            for n in range(moves):
                plain = await shown(1, "INSERT INTO comments VALUES ($1, 0, 'a comment')", NEW_ID + n)
                moved = await shown(subtree, "UPDATE projects SET team = 'ours' WHERE id = $1", projects + n)
                if n >= WARM_MOVES:
                    plain_ms.append(plain[0])
                    moved_ms.append(moved[0])
                    plain_cpu_s += plain[1]
                    moved_cpu_s += moved[1]

    copy = Figure("COPY of the same rows", (found / team_only[2],), "rows/s")
    tables = Figure("whole tables, cold", (whole[0] / whole[1],), "rows/s")
    tables_cpu = Figure("whole tables, cold", (per_cpu_s(whole[0], whole[2]),), "rows/CPU-s")
    name = f"tree of {found:,} rows"
    cpu_of_plain = Figure("a plain row", (1e3 * plain_cpu_s / options.moves,), "ms")
    figures = [
        Figure(f"{name}, cold", (found / cold[1],), "rows/s").against(copy),
        Figure(f"{name}, cold", (found / cold[1],), "rows/s").against(tables),
        Figure(f"{name}, warm", (found / warm[1],), "rows/s").against(copy),
        Figure(f"{name}, service, cold", (per_cpu_s(found, cold[2]),), "rows/CPU-s", goal=">= 150,000").against(
            tables_cpu
        ),
        Figure(f"{name}, service, warm", (per_cpu_s(found, warm[2]),), "rows/CPU-s", goal=">= 150,000"),
    ]
    for named, share in (("p50", 0.5), ("p99", 0.99)):
        limit = Figure(f"a plain row, {named}", (percentile(plain_ms, share),), "ms")
        figures.append(
            Figure(f"{subtree:,} rows move in, {named}", (percentile(moved_ms, share),), "ms").against(limit)
        )
    moving = Figure(f"service CPU as {subtree:,} rows move in", (1e3 * moved_cpu_s / options.moves,), "ms")
    return [*figures, moving.against(cpu_of_plain)]


PROGRAM = Program("subtrees", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
