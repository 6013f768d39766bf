"""A host in a process of its own, and who keeps it: these tests, or Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.conformance.actors import HERE, types
from tests.patience import PATIENCE_S, until

from syncline.cluster.host import LocalHost
from syncline.cluster.link_io import Timing
from syncline.cluster.ray_cluster import NAMESPACE
from syncline.cluster.ray_host import HostSpec, RayHost
from syncline.cluster.ray_names import RayName

ROOT = Path(__file__).parents[2]
FAR = "far"  # the id of the host under test, where that is another one than ours
QUICK = Timing(heartbeat_s=0.1, silence_s=0.6, down_after_s=1.0, redial_first_s=0.005, redial_max_s=0.05)


@dataclass(frozen=True)
class Place:
    """Who the host is. ``connect``: ``ID=ADDRESS`` of the one it dials."""

    id: str = FAR
    listen: str = ""
    connect: str = ""
    epoch: int = 0


class Kept(ABC):
    """See the module. ``pid``: of its process now. ``address``: where it listens."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.pid = 0

        self.address = place.listen

    @abstractmethod
    async def running(self) -> None:
        """Returns when it runs. If it has ended, then as another process."""

    @abstractmethod
    async def ended(self) -> None:
        """Returns when the process of a moment ago is no more."""

    @abstractmethod
    async def leave(self) -> None:
        """Ends it in order, for good."""

    @abstractmethod
    def end(self) -> None:
        """Ends it for good, however it stands."""

    async def kill(self) -> None:
        """kill -9: whoever keeps it may start it again."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.ended()


class Child(Kept):
    """``python -m syncline.cluster``, started again by whoever wants it again."""

    _process: subprocess.Popen[str] | None = None

    async def running(self) -> None:
        if self._process is None or self._process.poll() is not None:
            await asyncio.to_thread(self._start)

    def _start(self) -> None:
        place = self.place
        options = ["--id", place.id, "--epoch", str(place.epoch), "--types", f"{HERE}:types"]
        options += ["--listen", place.listen] if place.listen else []
        options += ["--connect", place.connect] if place.connect else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "syncline.cluster", f"{HERE}:application", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().split()
        assert ready[:2] == ["ready", place.id]
        self.address = ready[2] if place.listen else ""

    async def ended(self) -> None:
        await self.exit_code()

    async def exit_code(self) -> int:
        """Waits for its end."""
        assert self._process is not None, "started"
        code = await asyncio.to_thread(self._process.wait, PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    async def leave(self) -> None:
        assert self._process is not None, "started"
        self._process.send_signal(signal.SIGTERM)
        assert await self.exit_code() == 0

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


class KeptByRay(Kept):
    """An actor of the Ray cluster that this process is connected to: it starts again by itself."""

    _host: RayHost | None = None

    async def running(self) -> None:
        name = RayName("conformance", f"{self.place.id}:{self.place.epoch}")
        if self._host is None:
            self._host = RayHost.bring_up(HostSpec(name, f"{HERE}:program", asdict(self.place)))
        async with asyncio.timeout(PATIENCE_S):
            self.pid = int(str((await self._host.ready())["pid"]))

    async def ended(self) -> None:
        async def gone() -> bool:
            return not _lives(self.pid)

        await until(gone)

    async def moves(self) -> bool:
        """What Ray's side says of its process."""
        assert self._host is not None, "brought up"
        return await self._host.moves()

    async def leave(self) -> None:
        assert self._host is not None, "brought up"
        await self._host.stop()
        self._host = None

    def end(self) -> None:
        import ray

        if self._host is not None:
            ray.kill(ray.get_actor(str(self._host.name), namespace=NAMESPACE), no_restart=True)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.asynccontextmanager
async def local_host(id: str = "origin", **options: Any) -> AsyncIterator[LocalHost]:
    """A host that is this process."""
    host = LocalHost(id, types=types(), **{"timing": QUICK, **options})
    await host.open()
    try:
        yield host
    finally:
        await host.close()
