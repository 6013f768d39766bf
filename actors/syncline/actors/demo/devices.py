"""The demonstration's devices: processes of their own, driven by lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEVICE_MODULE = "syncline.client.demo"
SYNC_TIMEOUT_S = 30.0
DUMP_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0


class DeviceFailed(Exception):
    """A device ended or stayed silent; the message has the last lines it wrote."""


@dataclass
class DemoDevice:
    """One device as seen from outside. ``latencies_ms``: from Postgres' commit to a readable row, one each beat."""

    name: str
    path: Path
    rows: int = 0
    sync_s: float = 0.0
    online: bool = False
    pending: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    offline_beats: set[int] = field(default_factory=set)
    _process: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[None] | None = None

    async def start(self, url: str, token: str, committed_ns: dict[int, int]) -> None:
        """Starts the process and waits for its first sync. ``committed_ns``: when each beat was committed."""
        self._committed_ns = committed_ns
        self._synced = asyncio.Event()
        self._dumps: dict[int, asyncio.Future[list[list[Any]]]] = {}
        self._changed = asyncio.Event()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", DEVICE_MODULE, str(self.path), url, token),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        self._reading = asyncio.create_task(self._read())
        await self._within(self._synced.wait(), SYNC_TIMEOUT_S, "did not finish its first sync")

    async def write(self, sql: str, args: Sequence[object] = ()) -> None:
        await self._tell(do="write", sql=sql, args=list(args))

    async def go(self, *, online: bool) -> None:
        await self._tell(do="online" if online else "offline")
        await self.until(lambda: self.online is online, SYNC_TIMEOUT_S)

    async def until(self, condition: Any, timeout_s: float) -> None:
        """Waits until ``condition()`` holds; it is looked at after everything the device says."""

        async def wait() -> None:
            while not condition():
                self._changed.clear()
                await self._changed.wait()

        await self._within(wait(), timeout_s, "did not get there in time")

    async def dump(self, sql: str) -> list[list[Any]]:
        """The rows of a query on the device's own database."""
        number = len(self._dumps)
        self._dumps[number] = asyncio.get_running_loop().create_future()
        await self._tell(do="dump", id=number, sql=sql)
        await self._within(asyncio.shield(self._dumps[number]), DUMP_TIMEOUT_S, "did not answer")
        return self._dumps[number].result()

    async def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is None or self._reading is None:
            return
        with contextlib.suppress(ConnectionError):  # it is ending already: Ctrl-C reaches all of us
            await self._tell(do="stop")
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        await self._reading

    async def _tell(self, **command: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = json.loads(line)
            match message["event"]:
                case "synced":
                    self.rows, self.sync_s, self.online = message["rows"], message["seconds"], True
                    self._synced.set()
                case "status":
                    self.online, self.pending = message["connected"], message["pending"]
                case "seen":
                    self._saw(message["beats"], message["at_ns"])
                case "dump":
                    self._dumps[message["id"]].set_result(message["rows"])
            self._changed.set()

    def _saw(self, beats: list[int], at_ns: int) -> None:
        for beat in beats:
            if beat not in self.seen:
                self.seen.add(beat)
                if beat not in self.offline_beats:
                    self.latencies_ms.append(max(0.0, (at_ns - self._committed_ns[beat]) / 1e6))

    async def _within(self, waiting: Any, timeout_s: float, otherwise: str) -> None:
        assert self._process is not None
        assert self._reading is not None
        work = asyncio.ensure_future(waiting)
        done, _ = await asyncio.wait({work, self._reading}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if work in done:
            work.result()
            return
        work.cancel()
        errors = b""
        if self._process.returncode is not None and self._process.stderr is not None:
            errors = await self._process.stderr.read()
        raise DeviceFailed(f"the {self.name} {otherwise}: {errors.decode(errors='replace')[-2000:]}")
