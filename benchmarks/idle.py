"""What a service costs that nobody uses: processes, memory, CPU time, wake-ups, connections and WAL, by runtime.

    python -m benchmarks.idle [--seconds N] [--hosts N,N]

One table is open and one device is connected, and nothing happens: once in one process, then under ray with so many
hosts of shapes and as many of devices. Ray's own processes are counted apart from ours. Memory is the proportional set
size: what several processes share is divided among them. WAL is compared with what the same Postgres writes before
there is a service.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks import processes
from benchmarks.figures import Figure
from benchmarks.fleet import Fleet
from benchmarks.program import Program, progress, run
from benchmarks.stand import COLUMNS, Deployment, ServiceProcess, postgres, serving_on

SETTLE_S = 15.0
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND pid <> pg_backend_pid()"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60, help="to look at each (default 60)")
    parser.add_argument("--hosts", default="1,2", help="of a kind under ray, separated by commas (default 1,2)")


@dataclass(frozen=True, slots=True)
class Used:
    """What some processes have used up to now."""

    count: int
    pss_bytes: int
    cpu_s: float
    wakes: int

    @staticmethod
    def by(found: Iterable[psutil.Process]) -> Used:
        living = [process for process in found if processes.lives(process)]
        return Used(
            len(living), sum(map(_pss_bytes, living)), sum(map(processes.cpu_s, living)), sum(map(_wakes, living))
        )


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    local: dict[str, Figure] = {}
    figures: list[Figure] = []
    many = [int(hosts) for hosts in options.hosts.split(",")]
    for deployment in (Deployment(), *(Deployment("ray", hosts, hosts) for hosts in many)):
        name = "local" if deployment.runtime == processes.LOCAL else f"ray, {deployment.shapes_hosts} of a kind"
        progress(f"{name}: {options.seconds:g} s without a service, then as long with one")
        here = folder / name.replace(", ", "-").replace(" ", "-")
        here.mkdir(mode=0o755)
        for what, figure in (await _one(deployment, here, options.seconds)).items():
            named = Figure(f"{name}: {what}", figure.values, figure.unit, figure.limit, figure.limit_value)
            figures.append(named if named.limit or what not in local else named.against(local[what]))
            if deployment.runtime == processes.LOCAL:
                local[what] = named
    return figures


async def _one(deployment: Deployment, folder: Path, seconds: float) -> dict[str, Figure]:
    sql = f"CREATE TABLE issues ({COLUMNS})"
    async with postgres(folder) as server:
        database = await asyncpg.connect(server.dsn())
        await database.execute("CHECKPOINT")
        alone_bytes = await _wal_bytes(database, seconds)
        async with (
            serving_on(server.dsn(), folder, deployment, sql, "issues") as (service, own),
            Fleet.lead(service.url, ("issues",)) as fleet,
        ):
            await own.close()
            await fleet.connect()
            await asyncio.sleep(SETTLE_S)
            before = _used(service)
            wal_bytes = await _wal_bytes(database, seconds)
            after = _used(service)
            connections = await database.fetchval(CONNECTIONS)
        await database.close()
    per_minute = 60 / seconds
    found = {}
    for whose in after:
        was, used = before[whose], after[whose]
        found[f"{whose}: processes"] = Figure("", (used.count,), "")
        found[f"{whose}: memory"] = Figure("", (used.pss_bytes / 2**20,), "MiB")
        found[f"{whose}: CPU a minute"] = Figure("", ((used.cpu_s - was.cpu_s) * per_minute,), "s")
        found[f"{whose}: wake-ups"] = Figure("", ((used.wakes - was.wakes) / seconds,), "a second")
    found["connections to Postgres"] = Figure("", (connections,), "")
    found["WAL a minute"] = Figure("", (wal_bytes * per_minute / 1024,), "KiB").against(
        Figure("without a service", (alone_bytes * per_minute / 1024,), "KiB")
    )
    return found


def _used(service: ServiceProcess) -> dict[str, Used]:
    """By whose they are: ours or Ray's."""
    hosts = list(service.hosts().values())
    if service.deployment.runtime == processes.LOCAL:
        return {"hosts": Used.by(hosts)}
    known = {process.pid for process in hosts}
    rays = [process for process in processes.cluster(service.data_dir) if process.pid not in known]
    return {
        "hosts": Used.by(hosts),
        "the command": Used.by([psutil.Process(service.pid)]),
        "Ray's own": Used.by(rays),
        **{host: Used.by([process]) for host, process in sorted(service.hosts().items())},
    }


async def _wal_bytes(database: asyncpg.Connection, seconds: float) -> int:
    """Written in so many seconds."""
    start = await database.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    await asyncio.sleep(seconds)
    written: int = await database.fetchval(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::int8", start
    )
    return written


def _pss_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error, OSError):
        return int(process.memory_full_info().pss)
    return 0


def _wakes(process: psutil.Process) -> int:
    """How often its threads have waited and gone on."""
    wakes = 0
    for task in Path(f"/proc/{process.pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            lines = task.read_text().splitlines()
            wakes += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return wakes


PROGRAM = Program("idle", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
