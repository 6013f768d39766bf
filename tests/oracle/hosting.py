"""The service of a run: in this process, or as processes of its own that can be killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from tests.npm.service import RUNTIME, ServiceProcess

from syncline.actors.config import load
from syncline.actors.service import Service

DATA = "data"  # where a service keeps what is its own, in the folder of a run


class Hosting(Protocol):
    """``port`` is known once it has started, and stays."""

    @property
    def port(self) -> int: ...

    async def start(self) -> None: ...

    async def restart(self) -> None:
        """In order."""

    async def crash(self) -> None:
        """kill -9, where it has a process, and a new start."""

    async def lose(self, loss: Callable[[], Awaitable[None]]) -> None:
        """A crash, a ``loss``, and a new start."""

    async def close(self) -> None: ...

    def said(self) -> str:
        """Its log, where it has one of its own."""


def hosting(dsn: str, folder: Path, runtime: str | None, *, killable: bool) -> Hosting:
    """``runtime``: local or ray, by default the one tests run on."""
    runtime = runtime or RUNTIME
    if runtime == "local" and not killable:
        return InProcess(dsn, folder)
    return Processes(dsn, folder, runtime)


class InProcess:
    """It cannot be killed: a crash is another restart."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.port = 0
        self._settings = {
            "DATABASE_URL": dsn,
            "AUTH_MODE": "insecure",
            "SYNCLINE_HTTP_HOST": "127.0.0.1",
            "SYNCLINE_DATA_DIR": str(folder / DATA),
        }
        self._service: Service | None = None

    async def start(self) -> None:
        self._service = Service(load({}, {**self._settings, "HTTP_PORT": str(self.port)}))
        await self._service.start()
        self.port = self._service.port

    async def restart(self) -> None:
        await self.close()
        await self.start()

    async def crash(self) -> None:
        await self.restart()

    async def lose(self, loss: Callable[[], Awaitable[None]]) -> None:
        await self.close()
        await loss()
        await self.start()

    async def close(self) -> None:
        if self._service is not None:
            service, self._service = self._service, None
            await service.stop()

    def said(self) -> str:
        return ""


class Processes:
    def __init__(self, dsn: str, folder: Path, runtime: str) -> None:
        self._process = ServiceProcess(dsn, folder, {"SYNCLINE_RUNTIME": runtime})

    @property
    def port(self) -> int:
        return self._process.port

    async def start(self) -> None:
        await self._process.start()

    async def restart(self) -> None:
        await self._process.stop()
        await self._process.start()

    async def crash(self) -> None:
        await self._process.kill()
        await self._process.start()

    async def lose(self, loss: Callable[[], Awaitable[None]]) -> None:
        await self._process.kill()
        await loss()
        await self._process.start()

    async def close(self) -> None:
        await self._process.stop()
        await self._process.kill()

    def said(self) -> str:
        return self._process.said()
