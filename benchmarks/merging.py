"""Device transactions merged a second, by one device and by many at once, until each has its echo.

Raw devices over the real port. Each follows one table, which some others follow too, and writes one-row transactions as
fast as it can. A transaction counts once its author has it back: merged, durable, streamed, delivered. Everybody then
has to hold what Postgres has.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from benchmarks.figures import Figure, per_cpu_s
from benchmarks.fleet import Own
from benchmarks.load import Scene, scene
from benchmarks.program import Program, ViolatedError
from benchmarks.stand import Deployment

LIMIT_ROWS = 1_000
WRITES = 5_000
POLL_S = 0.02


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")
    parser.add_argument("--tables", type=int, default=50, help="of which each device follows one (default 50)")
    parser.add_argument("--writes", type=int, default=10, help="of each of many devices and round (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")


async def single_inserts(database: asyncpg.Connection) -> float:
    """Rows a second by direct SQL on one connection, each a durable commit of its own."""
    await database.execute("CREATE TABLE IF NOT EXISTS plain (id uuid PRIMARY KEY, title text NOT NULL, done bool)")
    statement = await database.prepare("INSERT INTO plain VALUES ($1, 'written by SQL', false)")
    started_s = time.perf_counter()
    for _ in range(LIMIT_ROWS):
        await statement.fetch(uuid.uuid4())
    return LIMIT_ROWS / (time.perf_counter() - started_s)


async def merged(on: Scene, devices: int, writes: int, rounds: int) -> tuple[list[float], float]:
    """Transactions a second, a value a round; and a CPU second of the service, over all of them."""
    cpu_s, rates = on.service.cpu_s(), []
    for _ in range(rounds):
        started_s = time.perf_counter()
        await on.fleet.write_everywhere(writes)
        while (await on.fleet.counts()).unechoed:  # noqa: ASYNC110 - the fleet is another process
            await asyncio.sleep(POLL_S)
        rates.append(devices * writes / (time.perf_counter() - started_s))
    return rates, per_cpu_s(rounds * devices * writes, on.service.cpu_s() - cpu_s)


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    tables = tuple(f"issues_{i}" for i in range(options.tables))
    figures: list[Figure] = []
    violations: list[str] = []
    for devices, writes in ((1, WRITES), (options.devices, options.writes)):
        here = folder / str(devices)
        here.mkdir(mode=0o755)
        async with scene(here, Deployment.of(options), Own(tables, 1), devices) as on:
            await on.connect(devices)
            durable = Figure("single inserts, durable", (await single_inserts(on.load.database),), "tx/s")
            rates, cpu_rate = await merged(on, devices, writes, options.rounds)
            violations += await on.load.differences(on.fleet)
        name = f"{devices:,} device{'s' if devices > 1 else ''}"
        figures += [
            Figure(f"merged and echoed, {name}", tuple(rates), "tx/s", goal=">= 5,000").against(durable),
            Figure(f"service, {name}", (cpu_rate,), "tx/CPU-s"),
        ]
    if violations:
        raise ViolatedError(figures, violations)
    return figures


PROGRAM = Program("merging", __doc__, options, measure)
