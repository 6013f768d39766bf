"""The service as the operating system sees it: a process with a port, which can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
import psutil
from tests.patience import PATIENCE_S

READY = "Syncline is ready on port "


class ServiceFailedError(Exception):
    """The service ended instead of becoming ready; the message carries the end of its log."""


# Which runtime the service under test has: the same tests pass on both. Tests that know of it do so by this.
RUNTIME_VARIABLE = "SYNCLINE_TEST_RUNTIME"
RUNTIME = os.environ.get(RUNTIME_VARIABLE, "local")


class ServiceProcess:
    """``syncline serve`` for one database. Restarts keep the port, so devices find it again."""

    def __init__(self, dsn: str, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.log = folder / "service.log"
        self.port = 0
        self._settings = {
            "DATABASE_URL": dsn,
            "AUTH_MODE": "insecure",
            "SYNCLINE_HTTP_HOST": "127.0.0.1",
            "SYNCLINE_DATA_DIR": str(folder / "data"),
            "SYNCLINE_RUNTIME": RUNTIME,
            **(settings or {}),
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "started"
        return self._process.pid

    @property
    def data_dir(self) -> Path:
        return Path(self._settings["SYNCLINE_DATA_DIR"])

    @property
    def is_spread(self) -> bool:
        """Whether it is several processes."""
        return self._settings["SYNCLINE_RUNTIME"] == "ray"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, within_s: float = PATIENCE_S) -> None:
        """Returns when the service has said that it is ready. Raises `ServiceFailedError`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_TEST_")}
        environment = {**inherited, **self._settings, "HTTP_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("syncline")),
                "serve",
                env=environment,
                cwd=self.log.parent,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while line := (await self._process.stdout.readline()).decode():
                    if line.startswith(READY):
                        self.port = int(line.removeprefix(READY).split(",")[0])
                        return
        await self.kill()
        raise ServiceFailedError(f"not ready within {within_s} s:\n{self.log.read_text()[-4000:]}")

    async def kill(self) -> None:
        """kill -9, of all its processes."""
        for pid in await asyncio.to_thread(cluster_processes, self.data_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.kill_command()
        with contextlib.suppress(OSError, KeyError):
            shutil.rmtree(json.loads((self.data_dir / "ray.json").read_text())["temp_dir"])

    async def kill_command(self) -> None:
        """kill -9, of the one that was started. Under the runtime ray the others go on."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None, "started"
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._ended()

    def said(self) -> str:
        """All that its processes have logged."""
        logs = [self.log, *sorted((self.data_dir / "logs").glob("*.log*"))] if self.is_spread else [self.log]
        return "".join(log.read_text() for log in logs)

    def hosts(self) -> dict[str, psutil.Process]:
        """Its processes that do some of the work, by the names of their logs."""
        if not self.is_spread:
            return {"all": psutil.Process(self.pid)}
        logs, found = self.data_dir / "logs", {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::"):
                    paths = [Path(file.path) for file in process.open_files()]
                    found |= {path.stem: process for path in paths if path.parent == logs and path.suffix == ".log"}
        return found

    def resident_bytes(self) -> int:
        """Of all of them."""
        return sum(process.memory_info().rss for process in self.hosts().values())

    async def _ended(self) -> int:
        assert self._process is not None, "started"
        code = await self._process.wait()
        if self._process.stdout is not None:
            await self._process.stdout.read()
        return code


def cluster_processes(data_dir: Path) -> list[int]:
    """Those of the Ray cluster that a service in ``data_dir`` has started, if there is one: all that Ray started."""
    try:
        head = psutil.Process(json.loads((data_dir / "ray.json").read_text())["pid"])
        return [head.pid, *(child.pid for child in head.children(recursive=True))]
    except (OSError, psutil.NoSuchProcess):
        return []


@contextlib.asynccontextmanager
async def serving(
    dsn: str,
    folder: Path,
    *,
    sql: str = "",
    electrified: tuple[str, ...] = (),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection]]:
    """A running service on ``dsn`` after ``sql``, these tables open to devices, and a connection to the database."""
    postgres = await asyncpg.connect(dsn)
    service = ServiceProcess(dsn, folder, settings)
    try:
        if sql:
            await postgres.execute(sql)
        await service.start()
        for table in electrified:
            await postgres.execute(f"CALL electric.electrify('{table}')")
        yield service, postgres
    finally:
        await service.kill()
        await postgres.close()
