"""Whether application transactions become the victims of ours: deadlocks, and how long they wait behind us.

    python -m benchmarks.victims [--seconds N] [--users N] [--devices N] [--operations N] [--rounds N]

Users are direct SQL sessions at READ COMMITTED that write some few rows and their foreign-key parents, with little
pause: locks on several rows at once, held over round trips. Devices write the same rows meanwhile, in transactions of
several operations, by the writer of the service; it waits for no stream here, and so is at the rows more often. Both
orders in which users take their locks are tried: by key, in which users alone never meet in a circle, so that any
deadlock is of ours; and at random, in which they do. Each with Postgres' usual ``deadlock_timeout`` of 1 s, and with
one of 10 ms, by which a user who waits looks for a circle about when our writer gives up.

The limit is the same users alone, in the same run, in turn. A deadlock counts as ours if a backend of the service is in
the circle that Postgres tells of. Waits behind us are looked for every few milliseconds: a wait that is shorter than
that may not be seen. A case in which few transactions of devices got through is void.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import cast

import asyncpg

from benchmarks.figures import Figure, percentile
from benchmarks.program import Program, ViolatedError, progress, run
from benchmarks.side import Side, beside
from benchmarks.stand import Deployment, serving
from syncline.actors.postgres.write import RowOperation, Write
from syncline.actors.postgres.writer import WriteLoop, Written
from syncline.cluster import Ref
from syncline.cluster.clock import SystemClock

SCHEMA = """
CREATE TABLE parents (id int4 PRIMARY KEY, title text NOT NULL, n int4 NOT NULL);
CREATE TABLE children (id text PRIMARY KEY, parent int4 NOT NULL REFERENCES parents ON DELETE CASCADE,
                       title text NOT NULL, n int4 NOT NULL);
INSERT INTO parents SELECT n, 'parent ' || n, 0 FROM generate_series(1, 40) n;
INSERT INTO children SELECT n::text, 1 + n % 40, 'child ' || n, 0 FROM generate_series(1, 400) n;
"""
PARENTS, CHILDREN = 40, 400
STATEMENTS = 4  # of a user's transaction
SEEN = ("postgres_1@9999999999999",)
NOBODY = cast(Ref, object())
# Fewer in a case, and it says nothing.
MERGED_MIN = 100
PAUSE_S = 0.01  # of a user between transactions, on average
LOOK_S = 0.005
BEHIND_US = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float8 FROM pg_locks l
WHERE NOT l.granted AND l.pid = ANY ($1::int4[]) AND EXISTS (
    SELECT FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids(l.pid)) AND a.application_name LIKE 'syncline%')
"""
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'syncline%'"


@dataclass
class Seen:
    """Of the users of one phase. ``behind_us_s``: the longest wait behind the service."""

    transactions: int = 0
    deadlocks: int = 0
    ours: int = 0
    took_s: list[float] = field(default_factory=list)
    behind_us_s: float = 0.0
    merged: int = 0

    def add(self, other: Seen) -> None:
        self.transactions += other.transactions
        self.deadlocks += other.deadlocks
        self.ours += other.ours
        self.took_s += other.took_s
        self.behind_us_s = max(self.behind_us_s, other.behind_us_s)
        self.merged += other.merged

    def per_million(self, deadlocks: int) -> float:
        return deadlocks / max(1, self.transactions) * 1e6


def statements(chance: random.Random, *, ordered: bool) -> list[tuple[str, tuple[object, ...]]]:
    """Of one transaction of a user: parents by their keys, then children, if they are ``ordered``."""
    chosen: list[tuple[tuple[int, str], str, tuple[object, ...]]] = []
    for _ in range(STATEMENTS):
        kind, parent, child = chance.random(), chance.randint(1, PARENTS), str(chance.randint(1, CHILDREN))
        if kind < 0.3:
            chosen.append(((0, f"{parent:06}"), "UPDATE parents SET n = n + 1 WHERE id = $1", (parent,)))
        elif kind < 0.8:
            chosen.append(((1, child), "UPDATE children SET n = n + 1 WHERE id = $1", (child,)))
        else:
            # The lock that a foreign key takes on the parent counts by that one's place.
            sql = "INSERT INTO children VALUES ($1, $2, 'by SQL', 0)"
            chosen.append(((0, f"{parent:06}"), sql, (str(uuid.uuid4()), parent)))
    if ordered:
        chosen.sort(key=lambda one: one[0])
    return [(sql, arguments) for _, sql, arguments in chosen]


async def user(dsn: str, seed: int, *, ordered: bool, timeout: str, until_s: float, pids: list[int]) -> Seen:
    chance, seen = random.Random(seed), Seen()
    connection = await asyncpg.connect(dsn, server_settings={"deadlock_timeout": timeout})
    watching = await asyncpg.connect(dsn)
    pids.append(connection.get_server_pid())
    while perf_counter() < until_s:
        started_s = perf_counter()
        try:
            async with connection.transaction(isolation="read_committed"):
                for sql, arguments in statements(chance, ordered=ordered):
                    await connection.execute(sql, *arguments)
        except asyncpg.DeadlockDetectedError as error:
            circle = {int(pid) for pid in re.findall(r"[Pp]rocess (\d+)", error.detail or "")}
            seen.deadlocks += 1
            seen.ours += not circle.isdisjoint(row["pid"] for row in await watching.fetch(OURS))
        seen.transactions += 1
        seen.took_s.append(perf_counter() - started_s)
        await asyncio.sleep(chance.random() * 2 * PAUSE_S)  # as an application has other things to do
    await connection.close()
    await watching.close()
    return seen


async def watch(database: asyncpg.Connection, pids: list[int], seen: Seen, until_s: float) -> None:
    while perf_counter() < until_s:
        seen.behind_us_s = max(seen.behind_us_s, await database.fetchval(BEHIND_US, pids))
        await asyncio.sleep(LOOK_S)


def devices(pipe: Connection, dsn: str, count: int, operations: int) -> None:
    """Devices that write from each "go" to the "rest" after it, and then say how many of their transactions were
    applied."""
    asyncio.run(_devices(pipe, dsn, count, operations))


async def _devices(pipe: Connection, dsn: str, count: int, operations: int) -> None:
    waiting: dict[str, asyncio.Future[Written]] = {}
    connection = await asyncpg.connect(dsn)
    parents, children = await connection.fetchrow("SELECT 'parents'::regclass::oid, 'children'::regclass::oid")
    await connection.close()
    loop = WriteLoop(dsn, SystemClock(), lambda write, written: waiting[write.client_id].set_result(written))
    running = asyncio.create_task(loop.run())
    lsn = 0

    async def write(client_id: str, chance: random.Random, resting: asyncio.Event) -> int:
        nonlocal lsn
        applied = 0
        while not resting.is_set():
            lsn += 1
            waiting[client_id] = asyncio.get_running_loop().create_future()
            changes = tuple(operation(chance, parents, children) for _ in range(operations))
            loop.add(Write(client_id, lsn, time.time_ns() // 1_000_000, changes, NOBODY))
            applied += (await waiting[client_id]).status == "applied"
        return applied

    pipe.send("ready")
    while await asyncio.to_thread(pipe.recv) == "go":
        resting = asyncio.Event()
        writers = [asyncio.create_task(write(f"device {n}", random.Random(n), resting)) for n in range(count)]
        await asyncio.to_thread(pipe.recv)
        resting.set()
        pipe.send(sum(await asyncio.gather(*writers)))
    running.cancel()


def operation(chance: random.Random, parents: int, children: int) -> RowOperation:
    """By somebody who has seen all."""
    kind, parent, child = chance.random(), str(chance.randint(1, PARENTS)), str(chance.randint(1, CHILDREN))
    if kind < 0.3:
        return RowOperation(parents, "U", (parent, "by a device", "0"), (False, False, True), SEEN)
    if kind < 0.35:  # which its children keep
        return RowOperation(parents, "D", (parent, None, None), (), SEEN)
    if kind < 0.8:
        return RowOperation(children, "U", (child, "1", "by a device", "0"), (False, False, False, True), SEEN)
    return RowOperation(children, "I", (str(uuid.uuid4()), parent, "by a device", "0"), (True,) * 4, SEEN)


@contextlib.asynccontextmanager
async def beside_devices(side: Side | None, seen: Seen) -> AsyncIterator[None]:
    if side is not None:
        side.send("go")
    yield
    if side is not None:
        side.send("rest")
        seen.merged += await side.receive()


async def phase(
    dsn: str, database: asyncpg.Connection, options: argparse.Namespace, seed: int, side: Side | None, case: Case
) -> Seen:
    seen, pids = Seen(), list[int]()
    async with beside_devices(side, seen):
        until_s = perf_counter() + options.seconds
        users = [
            user(dsn, seed + n, ordered=case.ordered, timeout=case.timeout, until_s=until_s, pids=pids)
            for n in range(options.users)
        ]
        found = await asyncio.gather(*users, watch(database, pids, seen, until_s))
    for one in found[:-1]:
        assert one is not None
        seen.add(one)
    await database.execute("DELETE FROM children WHERE length(id) > 6")
    return seen


@dataclass(frozen=True, slots=True)
class Case:
    """How users lock, and after how long Postgres looks for circles."""

    ordered: bool
    timeout: str

    @property
    def name(self) -> str:
        return f"locks {'by key' if self.ordered else 'at random'}, deadlock_timeout {self.timeout}"


CASES = [Case(ordered, timeout) for ordered in (True, False) for timeout in ("1s", "10ms")]


def figures(case: Case, alone: Seen, together: Seen) -> list[Figure]:
    per_million = "/1M user tx"
    goal = "0" if case.ordered else ""
    return [
        Figure(f"deadlocks of users, {case.name}", (together.per_million(together.deadlocks),), per_million).against(
            Figure("users alone", (alone.per_million(alone.deadlocks),), per_million)
        ),
        Figure(f"of them with us, {case.name}", (together.per_million(together.ours),), per_million, goal=goal),
        Figure(f"longest wait behind us, {case.name}", (together.behind_us_s * 1_000,), "ms"),
        Figure(f"user transaction, p99, {case.name}", (percentile(together.took_s, 0.99) * 1_000,), "ms").against(
            Figure("users alone", (percentile(alone.took_s, 0.99) * 1_000,), "ms")
        ),
        Figure(f"user transactions, {case.name}", (float(together.transactions),), "tx").against(
            Figure("users alone", (float(alone.transactions),), "tx")
        ),
        Figure(f"device transactions beside them, {case.name}", (float(together.merged),), "tx"),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20, help="of each phase and round (default 20)")
    parser.add_argument("--users", type=int, default=6, help="direct SQL sessions (default 6)")
    parser.add_argument("--devices", type=int, default=8, help="default 8")
    parser.add_argument("--operations", type=int, default=4, help="of a device's transaction (default 4)")
    parser.add_argument("--rounds", type=int, default=2, help="of users alone and with devices (default 2)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    shown: list[Figure] = []
    void: list[str] = []
    async with (
        serving(folder, Deployment.of(options), SCHEMA, "parents", "children") as (service, database),
        beside(devices, service.dsn, options.devices, options.operations) as side,
    ):
        await service.stop()
        assert await side.receive() == "ready"
        for case in CASES:
            alone, together = Seen(), Seen()
            for number in range(options.rounds):
                seed = 1_000 * number
                alone.add(await phase(service.dsn, database, options, seed, None, case))
                together.add(await phase(service.dsn, database, options, seed, side, case))
            progress(f"{case.name}: {together.ours} deadlocks with us")
            shown += figures(case, alone, together)
            if together.merged < MERGED_MIN:
                void.append(f"{case.name}: void, only {together.merged} transactions of devices got through")
    if void:
        raise ViolatedError(shown, void)
    return shown


PROGRAM = Program("victims", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
