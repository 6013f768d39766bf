"""The test stand: a Postgres and a service as users run them, in processes of their own.

Postgres is the embedded one with its usual settings (commits wait for the disk). The service is ``syncline serve``, so
what psutil says of its processes is what a server would pay; Postgres is never counted in. Under the runtime ray the
service is all of its hosts; what Ray itself takes has a program of its own (``idle``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks import processes
from syncline.actors.postgres.embedded import EmbeddedPostgres

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJiZW5jaCJ9."
PUBLICATION = "electric_publication"
COLUMNS = "id uuid PRIMARY KEY, title text NOT NULL, body text, priority int4, done bool, created timestamptz"
"""An everyday table: about 120 bytes a row on the wire."""
READY = "Syncline is ready on port "
START_S = 180.0


def rows_sql(table: str, rows: str) -> str:
    """An INSERT of everyday rows into a table of ``COLUMNS``; ``rows``: SQL for the first and the last number."""
    return (
        f"INSERT INTO {table} SELECT gen_random_uuid(), 'issue ' || n, 'a few words of text, as people write them', "
        f"n % 5, n % 3 = 0, '2026-01-01'::timestamptz + n * interval '1 second' FROM generate_series({rows}) n"
    )


@dataclass(frozen=True, slots=True)
class Deployment:
    """How the service is run: its ``runtime``, and of how many hosts of a kind under ray."""

    runtime: str = "local"
    shapes_hosts: int = 1
    edge_hosts: int = 1

    @staticmethod
    def of(options: argparse.Namespace) -> Deployment:
        """As the command line says (see ``deployment_options``)."""
        return Deployment(options.runtime, options.shapes_hosts, options.edge_hosts)

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "SYNCLINE_RUNTIME": self.runtime,
            "SYNCLINE_SHAPES_HOSTS": str(self.shapes_hosts),
            "SYNCLINE_EDGE_HOSTS": str(self.edge_hosts),
        }


def deployment_options(parser: argparse.ArgumentParser) -> None:
    """What all programs take that start a service."""
    parser.add_argument("--runtime", choices=("local", "ray"), default="local", help="of the service (default local)")
    parser.add_argument("--shapes-hosts", type=int, default=1, help="under ray (default 1)")
    parser.add_argument("--edge-hosts", type=int, default=1, help="under ray (default 1)")


@contextlib.asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A fresh server that runs, gone afterwards."""
    server = EmbeddedPostgres(folder / "postgres")
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.stop, "immediate")


class ServiceProcess:
    """``syncline serve`` on ``dsn``, and under ray the processes that it brings up.

    ``settings``: of the service, over those of the stand.
    """

    def __init__(
        self,
        dsn: str,
        folder: Path,
        deployment: Deployment | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.dsn = dsn
        self.deployment = deployment or Deployment()
        self.data_dir = folder / "data"
        self._folder = folder
        self._settings = settings or {}
        self._process: asyncio.subprocess.Process | None = None
        self._hosts: dict[str, psutil.Process] = {}
        self.port = 0
        self.start_s = 0.0  # how long the last start took

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the command."""
        assert self._process is not None, "started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the command still runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Returns when the service says that it is ready; a later start takes the same port."""
        environment = {
            **os.environ,
            "DATABASE_URL": self.dsn,
            "HTTP_PORT": str(self.port),
            "AUTH_MODE": "insecure",
            "SYNCLINE_HTTP_HOST": "127.0.0.1",
            "SYNCLINE_DATA_DIR": str(self.data_dir),
            "LOG_LEVEL": "warning",
            **self.deployment.settings,
            **self._settings,
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled already
        started_s = time.monotonic()
        with (self._folder / "service.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("syncline")),
                "serve",
                env=environment,
                cwd=self._folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            while line := (await self._process.stdout.readline()).decode():
                if line.startswith(READY):
                    self.port = int(line.removeprefix(READY).split(",")[0])
                    self.start_s = time.monotonic() - started_s
                    return
        raise RuntimeError("the service ended instead of becoming ready")

    async def stop(self) -> None:
        """In order, and all of it, whoever brought it up."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()
        if await asyncio.to_thread(processes.cluster, self.data_dir):  # the command had found it running
            ending = await asyncio.create_subprocess_exec(
                *(str(Path(sys.executable).with_name("syncline")), "stop", "--data-dir", str(self.data_dir)),
                stdout=asyncio.subprocess.DEVNULL,
            )
            await ending.wait()

    async def kill(self) -> None:
        """As a machine that loses its power: nothing is said to anybody, nothing is written any more."""
        for process in await asyncio.to_thread(processes.cluster, self.data_dir):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await self.kill_command()

    async def kill_command(self) -> None:
        """kill -9 of ``syncline serve``: under ray the hosts go on."""
        process, self._process = self._process, None
        assert process is not None, "started"
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def ended(self) -> None:
        """Waits until the command ends by itself."""
        assert self._process is not None, "started"
        await self._process.wait()

    def hosts(self) -> Mapping[str, psutil.Process]:
        """Host name -> its process; under ``local`` the one process there is."""
        if self.deployment.runtime == processes.LOCAL:
            return {processes.LOCAL: psutil.Process(self.pid)}
        if not self._hosts or not all(map(processes.lives, self._hosts.values())):
            self._hosts = processes.hosts(self.data_dir)
        return self._hosts

    def cpu_s(self) -> float:
        """CPU seconds its hosts have used."""
        return sum(map(processes.cpu_s, self.hosts().values()))

    def rss_bytes(self) -> int:
        """Resident memory of its hosts; what several share counts for each."""
        return sum(map(processes.rss_bytes, self.hosts().values()))

    def open_files(self) -> int:
        """Descriptors of its hosts, sockets among them."""
        return sum(map(processes.open_files, self.hosts().values()))


@contextlib.asynccontextmanager
async def serving(
    folder: Path, deployment: Deployment, sql: str, *tables: str
) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection]]:
    """A service with ``tables`` electrified after ``sql`` has run, and a connection to its database."""
    async with postgres(folder) as server, serving_on(server.dsn(), folder, deployment, sql, *tables) as found:
        yield found


@contextlib.asynccontextmanager
async def serving_on(
    dsn: str, folder: Path, deployment: Deployment, sql: str, *tables: str
) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection]]:
    """The same on a Postgres that is there."""
    service = ServiceProcess(dsn, folder, deployment)
    database = await asyncpg.connect(dsn)
    try:
        await service.start()
        await database.execute(sql)
        for name in tables:
            await database.execute(f"CALL electric.electrify('public.{name}')")
        yield service, database
    finally:
        await service.stop()
        await database.close()
