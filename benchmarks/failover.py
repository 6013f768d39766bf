"""A service that stops to move, another that takes over, and what the first one does when it goes on.

    python -m benchmarks.failover --runtime ray [--times N]

Two services of one database, each in a folder of its own, as on two machines. Transactions are committed by direct SQL,
and devices write. Every process of the one that serves is stopped (SIGSTOP: a machine that is suspended), devices write
into its sockets, the other one is started and the devices' address moves to it. When every device is current again the
first one is told to go on (SIGCONT), with those writes still in its sockets: it must carry out none of them, lose its
sessions and end. Then all is compared, and the two change places.

The time is from the stop to the last device with the first row committed after it, of each table, and its own write
carried out and come back. The second service has nothing on its disk, so devices read their tables anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import psutil

from benchmarks import processes
from benchmarks.address import Address
from benchmarks.figures import Figure
from benchmarks.program import Program, ViolatedError, progress, run
from benchmarks.side import now_ms
from benchmarks.stand import Deployment, ServiceProcess, postgres
from benchmarks.underload import SQL, TABLES, UnderLoad

LOAD_S = (1.0, 2.0)  # of load before each fail-over
PATIENCE_S = 180.0
POLL_S = 0.1
_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND substring(application_name FROM '^syncline ([0-9]+) ')::bigint < (SELECT epoch FROM electric.owner)"
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=10, help="how often the services change places (default 10)")
    parser.add_argument("--apps", type=int, default=5, help="devices, of the device library (default 5)")
    parser.add_argument("--rate", type=float, default=10, help="commits a second (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of the time between them (default 1)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    pauses = random.Random(options.seed)
    current_s: list[float] = []
    started_s: list[float] = []
    ended_s: list[float] = []
    wrong: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(postgres(folder))
        services = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            services.append(ServiceProcess(server.dsn(), folder / name, Deployment.of(options)))
            stack.push_async_callback(_stop, services[-1])
        serving, other = services
        await serving.start()
        database = await asyncpg.connect(server.dsn())
        stack.push_async_callback(database.close)
        await database.execute(SQL)
        for table in TABLES:
            await database.execute(f"CALL electric.electrify('public.{table}')")
        address = await stack.enter_async_context(Address.of(serving.port))
        lead = UnderLoad.lead(address.url, server.dsn(), folder, 0, options.apps, options.rate, 0)
        world = await stack.enter_async_context(lead)
        for _ in range(options.times):
            async with world.running():
                await asyncio.sleep(pauses.uniform(*LOAD_S))
                await world.before()
                since_ms = now_ms()
                frozen = await _freeze(serving)
                await world.mark(since_ms)
                await other.start()
                address.move(other.port)
                had = await world.current(0, PATIENCE_S)
                resumed_s = time.monotonic()
                for process in frozen:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()
                async with asyncio.timeout(PATIENCE_S):
                    await serving.ended()
                    await asyncio.gather(*map(_end, frozen))
                ended_s.append(time.monotonic() - resumed_s)
                address.forget()
            current_s.append(max(max(times) for times in had.values() if times))
            started_s.append(other.start_s)
            damage = await world.damage()
            wrong += damage.wrong
            if left := await database.fetchval(_SESSIONS):
                wrong.append(f"{left} sessions of the frozen service are there still")
            progress(
                f"all current after {current_s[-1]:.1f} s, of which the other service took {started_s[-1]:.1f} s to be "
                f"ready; told to go on, the first one ended after {ended_s[-1]:.1f} s; lost {damage.lost}, doubled "
                f"{damage.doubled}"
            )
            if wrong:
                break
            serving, other = other, serving
    started = Figure("until the other service was ready", tuple(started_s), "s")
    figures = [
        Figure("fail-over: until all are current", tuple(current_s), "s").against(started),
        Figure("a service that was followed goes on: until its last process ended", tuple(ended_s), "s"),
    ]
    if wrong:
        raise ViolatedError(figures, wrong)
    return figures


async def _freeze(service: ServiceProcess) -> list[psutil.Process]:
    """All of its processes, at once."""
    command = psutil.Process(service.pid)
    found = [command, *await asyncio.to_thread(processes.cluster, service.data_dir)]
    for process in found:
        process.suspend()
    return found


async def _end(process: psutil.Process) -> None:
    while processes.lives(process):  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(POLL_S)


async def _stop(service: ServiceProcess) -> None:
    """However it stands."""
    for process in await asyncio.to_thread(processes.cluster, service.data_dir):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    if service.running:
        psutil.Process(service.pid).resume()
    await service.stop()


PROGRAM = Program("failover", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
