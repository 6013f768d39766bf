"""Device transactions merged a second, by one device and by many at once, until each has its echo.

Raw devices over the real port. Each follows one table and writes one-row transactions as fast as it can: one device
alone, then many of which some follow the same table, then as many as there are tables, each with one of its own
(``--alone``), where a write goes to its author only. A transaction counts once its author has it back: merged, durable,
streamed, delivered. Everybody then has to hold what Postgres has.

CPU time is told apart: of the service, of Postgres (all of its processes), and of the process that plays the devices,
which is no part of the server's. The goal is for both of the server's together.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from benchmarks import processes
from benchmarks.figures import Figure, per_cpu_s
from benchmarks.fleet import Own
from benchmarks.load import Scene, scene
from benchmarks.program import Program, ViolatedError
from benchmarks.stand import Deployment

LIMIT_ROWS = 1_000
WRITES = 5_000
GOAL = ">= 5,000"
POLL_S = 0.02


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, default=1_000, help="default 1000")
    parser.add_argument("--tables", type=int, default=50, help="of which each device follows one (default 50)")
    parser.add_argument("--alone", type=int, default=100, help="devices with a table each (default 100)")
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


@dataclass(slots=True)
class Merged:
    """``rates``: transactions a second, a value a round. CPU seconds over all rounds, of ``transactions``."""

    transactions: int
    rates: list[float]
    service_s: float
    postgres_s: float
    devices_s: float

    def figures(self, name: str, durable: Figure) -> list[Figure]:
        def per_second(who: str, cpu_s: float, goal: str = "") -> Figure:
            return Figure(f"{who}, {name}", (per_cpu_s(self.transactions, cpu_s),), "tx/CPU-s", goal=goal)

        return [
            Figure(f"merged and echoed, {name}", tuple(self.rates), "tx/s").against(durable),
            per_second("server", self.service_s + self.postgres_s, GOAL),
            per_second("service", self.service_s),
            per_second("Postgres", self.postgres_s),
            per_second("load: devices", self.devices_s),
        ]


async def merged(on: Scene, devices: int, writes: int, rounds: int) -> Merged:
    async def used_s() -> tuple[float, float, float]:
        backend = on.load.database.get_server_pid()
        return on.service.cpu_s(), processes.postgres_cpu_s(backend), (await on.fleet.counts()).cpu_s

    before_s, rates = await used_s(), []
    for _ in range(rounds):
        started_s = time.perf_counter()
        await on.fleet.write_everywhere(writes)
        while (await on.fleet.counts()).unechoed:  # noqa: ASYNC110 - the fleet is another process
            await asyncio.sleep(POLL_S)
        rates.append(devices * writes / (time.perf_counter() - started_s))
    service_s, postgres_s, devices_s = (after - before for after, before in zip(await used_s(), before_s, strict=True))
    return Merged(rounds * devices * writes, rates, service_s, postgres_s, devices_s)


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    shared = [f"issues_{i}" for i in range(options.tables)]
    figures: list[Figure] = []
    violations: list[str] = []
    for name, own, devices, writes in (
        ("1 device", Own(tuple(shared), 1), 1, WRITES),
        (f"{options.devices:,} devices", Own(tuple(shared), 1), options.devices, options.writes),
        (
            f"{options.alone:,} devices alone",
            Own(tuple(f"own_{i}" for i in range(options.alone)), 1, apart=True),
            options.alone,
            options.devices * options.writes // options.alone,
        ),
    ):
        here = folder / name.replace(" ", "-")
        here.mkdir(mode=0o755)
        async with scene(here, Deployment.of(options), own, devices) as on:
            await on.connect(devices)
            durable = Figure("single inserts, durable", (await single_inserts(on.load.database),), "tx/s")
            figures += (await merged(on, devices, writes, options.rounds)).figures(name, durable)
            violations += await on.load.differences(on.fleet)
    if violations:
        raise ViolatedError(figures, violations)
    return figures


PROGRAM = Program("merging", __doc__, options, measure)
