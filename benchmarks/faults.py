"""What is done to a service that runs, and what the world does about it: a kill -9, a frozen process, Postgres.

A fault is ``strike``, which says whether it took; ``mend``, what the world does meanwhile (an operating system that
starts a service again, an operator), while devices wait; and ``settle`` when they are current again: what there was to
be seen, and everything as it was, for the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import asyncpg
import psutil

from benchmarks import processes
from benchmarks.stand import ServiceProcess
from syncline.actors.postgres.embedded import EmbeddedPostgres

TOOK_S: Final = 2.0  # a killed process is gone long before
HOSTS_END_S: Final = 30.0  # when Ray has lost one of its own
FROZEN_MAX_S: Final = 40.0  # by then whoever replaces frozen processes has, or nobody will
ZOMBIE_S: Final = 10.0  # a process that went on must have noticed
POLL_S: Final = 0.05
STARTS_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Stage:
    """What there is to be hurt."""

    service: ServiceProcess
    postgres: EmbeddedPostgres


class Fault(Protocol):
    """``name``: as the command line and the table say it."""

    name: str

    async def strike(self, on: Stage) -> bool:
        """Whether it took. Raises LookupError when there is nothing to strike."""

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        """What the world does about it until devices are ``current``, in words for the table; nothing for most."""

    async def settle(self, on: Stage) -> str:
        """Devices are current: makes good what is left, and says what was seen."""


class HostKilled:
    """kill -9 of a host: of the first whose name begins so."""

    def __init__(self, host: str) -> None:
        self.name = host
        self._host = host

    async def strike(self, on: Stage) -> bool:
        process = await host(on, self._host)
        process.kill()
        return await _holds(lambda: not processes.lives(process), TOOK_S)

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        return ""

    async def settle(self, on: Stage) -> str:
        return ""


class HostFrozen:
    """SIGSTOP of a host, and SIGCONT once it has been replaced: what it does then is watched.

    Where nobody replaces it, it goes on after ``FROZEN_MAX_S``, and the table says so.
    """

    def __init__(self, host: str) -> None:
        self.name = f"{host}-frozen"
        self._host = host
        self._frozen: psutil.Process | None = None
        self._since_s = 0.0

    async def strike(self, on: Stage) -> bool:
        frozen = self._frozen = await host(on, self._host)
        self._since_s = time.monotonic()
        frozen.suspend()
        return await _holds(lambda: frozen.status() == psutil.STATUS_STOPPED, TOOK_S)

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        frozen = self._frozen
        assert frozen is not None, "struck"
        while time.monotonic() - self._since_s < FROZEN_MAX_S and not current.is_set():
            if not processes.lives(frozen):
                return f"it was ended after {time.monotonic() - self._since_s:.1f} s"
            found = await asyncio.to_thread(processes.hosts, on.service.data_dir)
            if any(name.startswith(self._host) and other.pid != frozen.pid for name, other in found.items()):
                return f"there was another after {time.monotonic() - self._since_s:.1f} s"
            await asyncio.sleep(POLL_S)
        if current.is_set():
            return "devices were current without it"
        frozen.resume()
        return f"nobody replaced it within {FROZEN_MAX_S:g} s"

    async def settle(self, on: Stage) -> str:
        frozen, self._frozen = self._frozen, None
        assert frozen is not None, "struck"
        if not processes.lives(frozen):
            return "it was gone before it could go on"
        if frozen.status() != psutil.STATUS_STOPPED:
            return "it went on as the one there is"
        frozen.resume()
        resumed_s = time.monotonic()
        if await _holds(lambda: not processes.lives(frozen), ZOMBIE_S):
            return f"told to go on, it ended after {time.monotonic() - resumed_s:.1f} s"
        backends = await _backends_of(frozen, on.service.dsn)
        frozen.kill()
        return f"told to go on, it did for {ZOMBIE_S:g} s, with {backends} connections to Postgres"


class ClusterKilled:
    """kill -9 of one of Ray's own processes, with which all hosts end. What keeps services starts the command again
    when it ends."""

    def __init__(self, name: str, program: str) -> None:
        self.name = name
        self._program = program
        self._since_s = 0.0

    async def strike(self, on: Stage) -> bool:
        process = await asyncio.to_thread(processes.of_cluster, on.service.data_dir, self._program)
        hosts = (await asyncio.to_thread(processes.hosts, on.service.data_dir)).values()
        self._since_s = time.monotonic()
        process.kill()
        return await _holds(lambda: not any(map(processes.lives, (process, *hosts))), HOSTS_END_S)

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        ended, done = asyncio.create_task(on.service.ended()), asyncio.create_task(current.wait())
        await asyncio.wait({ended, done}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not ended.done():
            ended.cancel()
            return "nobody had to do anything"
        after_s = time.monotonic() - self._since_s
        await _start_again(on.service)
        return f"the command ended after {after_s:.1f} s, and was started again in {on.service.start_s:.1f} s"

    async def settle(self, on: Stage) -> str:
        return ""


class DriverKilled:
    """kill -9 of ``syncline serve``: nobody should notice. Afterwards it is started again, and finds its hosts."""

    name = "driver"

    async def strike(self, on: Stage) -> bool:
        await on.service.kill_command()
        return True

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        return ""

    async def settle(self, on: Stage) -> str:
        before = {process.pid for process in (await asyncio.to_thread(on.service.hosts)).values()}
        await on.service.start()
        after = {process.pid for process in (await asyncio.to_thread(on.service.hosts)).values()}
        return "" if before == after else "the next command did not find all hosts"


class PostgresStopped:
    """``pg_ctl stop -m immediate``, which is a crash, and a start."""

    name = "postgres"

    async def strike(self, on: Stage) -> bool:
        await asyncio.to_thread(on.postgres.stop, "immediate")
        return await asyncio.to_thread(on.postgres.running_port) is None

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        began_s = time.monotonic()
        await asyncio.to_thread(on.postgres.start)
        return f"Postgres started in {time.monotonic() - began_s:.1f} s"

    async def settle(self, on: Stage) -> str:
        return ""


class ServiceKilled:
    """kill -9 of everything, and a start: the one process under ``local``."""

    name = "service"

    async def strike(self, on: Stage) -> bool:
        await on.service.kill()
        return True

    async def mend(self, on: Stage, current: asyncio.Event) -> str:
        await on.service.start()
        return f"started in {on.service.start_s:.1f} s"

    async def settle(self, on: Stage) -> str:
        return ""


def faults_of(runtime: str) -> dict[str, Fault]:
    """Name -> fault, in the order in which they are done."""
    made: list[Fault] = [ServiceKilled(), PostgresStopped()]
    if runtime != processes.LOCAL:
        made = [
            *map(HostKilled, ("origin", "ingest", "shapes", "edge")),
            *map(HostFrozen, ("ingest", "origin")),
            DriverKilled(),
            PostgresStopped(),
            ClusterKilled("raylet", "raylet"),
            ClusterKilled("gcs", "gcs_server"),
        ]
    return {fault.name: fault for fault in made}


async def host(on: Stage, prefix: str) -> psutil.Process:
    """The process of the first host whose name begins so. Raises LookupError."""
    found = await asyncio.to_thread(processes.hosts, on.service.data_dir)
    for name in sorted(found):
        if name.startswith(prefix):
            return found[name]
    raise LookupError(f"no host {prefix}: there are {', '.join(sorted(found)) or 'none'}")


async def _start_again(service: ServiceProcess) -> None:
    """As what keeps services does: until it is ready."""
    for attempt in range(1, STARTS_MAX + 1):
        try:
            await service.start()
            return
        except RuntimeError:
            if attempt == STARTS_MAX:
                raise


async def _holds(condition: Callable[[], bool], within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _backends_of(process: psutil.Process, dsn: str) -> int:
    """How many of Postgres' backends talk to ``process``."""
    ports = [connection.laddr.port for connection in process.net_connections(kind="tcp") if connection.laddr]
    database = await asyncpg.connect(dsn)
    try:
        count: int = await database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE client_port = ANY($1::int[])", ports
        )
        return count
    finally:
        await database.close()
