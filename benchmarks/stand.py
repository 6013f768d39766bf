"""The test stand: a Postgres and a service as users run them, each a process of its own.

Postgres is the embedded one with its usual settings (commits wait for the disk). The service is ``syncline serve``, so
what psutil says of its process is what a server would pay; Postgres is never counted in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil

from syncline.actors.postgres.embedded import EmbeddedPostgres

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJiZW5jaCJ9."
PUBLICATION = "electric_publication"
COLUMNS = "id uuid PRIMARY KEY, title text NOT NULL, body text, priority int4, done bool, created timestamptz"
"""An everyday table: about 120 bytes a row on the wire."""
READY = "Syncline is ready on port "
START_S = 60.0


def rows_sql(table: str, rows: str) -> str:
    """An INSERT of everyday rows into a table of ``COLUMNS``; ``rows``: SQL for the first and the last number."""
    return (
        f"INSERT INTO {table} SELECT gen_random_uuid(), 'issue ' || n, 'a few words of text, as people write them', "
        f"n % 5, n % 3 = 0, '2026-01-01'::timestamptz + n * interval '1 second' FROM generate_series({rows}) n"
    )


@contextlib.asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[str]:
    """The DSN of a fresh server, gone afterwards."""
    server = EmbeddedPostgres(folder / "postgres")
    try:
        yield await asyncio.to_thread(server.start)
    finally:
        await asyncio.to_thread(server.stop, "immediate")


class ServiceProcess:
    """``syncline serve`` on ``dsn``."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0
        self.start_s = 0.0  # how long the last start took

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "started"
        return self._process.pid

    async def start(self) -> None:
        """Returns when the service says that it is ready; a later start takes the same port."""
        environment = {
            **os.environ,
            "DATABASE_URL": self.dsn,
            "HTTP_PORT": str(self.port),
            "AUTH_MODE": "insecure",
            "SYNCLINE_HTTP_HOST": "127.0.0.1",
            "SYNCLINE_DATA_DIR": str(self._folder / "data"),
            "LOG_LEVEL": "warning",
        }
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
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()

    async def kill(self) -> None:
        """As a machine that loses its power: nothing is said to anybody, nothing is written any more."""
        process, self._process = self._process, None
        assert process is not None, "started"
        process.kill()
        await process.wait()

    def cpu_s(self) -> float:
        """CPU seconds the process has used."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


@contextlib.asynccontextmanager
async def serving(folder: Path, sql: str, *tables: str) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection]]:
    """A service with ``tables`` electrified after ``sql`` has run, and a connection to its database."""
    async with postgres(folder) as dsn:
        service = ServiceProcess(dsn, folder)
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
