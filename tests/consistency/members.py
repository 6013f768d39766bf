"""The parties of a run from outside: processes with a wire of their own, which can be killed, frozen and asked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.consistency.histories import History, Snapshot
from tests.consistency.party import snapshot_rows
from tests.e2e.proxy import Proxy
from tests.patience import PATIENCE_S

LINE_BYTES_MAX = 256 << 20
END_WITHIN_S = 10.0


class PartyEnded(Exception):
    """Its process has ended, and nobody had killed it, or does not answer; the message has the end of its log."""


@dataclass(frozen=True)
class Place:
    """Where a run lives. ``seed``: of it."""

    folder: Path
    dsn: str
    seed: int


class Member:
    """A party of ``kind`` (python, npm, sql). ``rate``: its transactions a second."""

    def __init__(self, name: str, kind: str, place: Place, proxy: Proxy, rate: float) -> None:
        self.name = name
        self.kind = kind
        self.proxy = proxy
        self._place = place
        self._rate = rate
        self._starts = 0
        self.skew_ms = 0
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_device(self) -> bool:
        return self.kind != "sql"

    @property
    def log(self) -> Path:
        return self._place.folder / f"{self.name}.party.log"

    @property
    def _history(self) -> Path:
        return self._place.folder / f"{self.name}.history"

    def history(self) -> History:
        return History(self.name, self.kind, self._history.read_text().splitlines())

    async def start(self) -> None:
        """Returns when it holds everything, and waits to be told to begin."""
        self._starts += 1
        self._ready.clear()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.consistency.process"),
                *("--kind", self.kind, "--name", self.name, "--folder", str(self._place.folder)),
                *("--url", f"http://127.0.0.1:{self.proxy.port}", "--dsn", self._place.dsn),
                *("--seed", f"{self._place.seed} {self.name} {self._starts}", "--rate", str(self._rate)),
                f"--skew-ms={self.skew_ms}",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_BYTES_MAX,
            )
        self._reading = asyncio.create_task(self._read(self._process))
        ready = asyncio.create_task(self._ready.wait())
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({ready, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.is_set():
            ready.cancel()
            raise PartyEnded(self._end_of_log())

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "ready" in message:
                self._ready.set()
            elif (answer := self._answers.pop(message["id"], None)) is not None and not answer.done():
                answer.set_result(message["result"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(PartyEnded(self._end_of_log()))
        self._answers.clear()

    def _end_of_log(self) -> str:
        return f"{self.name}: {self.log.read_text()[-3000:]}"

    async def call(self, name: str, **arguments: Any) -> Any:
        """Raises PartyEnded."""
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None:
            raise PartyEnded(self._end_of_log())
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps({"id": number, "call": name, **arguments}).encode() + b"\n")
            await process.stdin.drain()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await answer
        except TimeoutError:
            raise PartyEnded(f"no answer to {name} within {PATIENCE_S:.0f} s, {self._end_of_log()}") from None

    async def dump(self) -> Snapshot:
        """All it holds in the end, rows of the journal too."""
        return snapshot_rows(await self.call("dump"))

    async def begin(self) -> None:
        await self.call("begin")

    async def stop_writing(self) -> None:
        await self.call("stop")

    async def skew(self, ms: int) -> None:
        self.skew_ms = ms
        await self.call("skew", ms=ms)

    async def device_pid(self) -> int:
        """Of the process that holds the database."""
        assert self._process is not None, "started"
        pid: int | None = await self.call("pid")
        return pid or self._process.pid

    def is_writing(self) -> bool:
        """Whether its history ends with a transaction that is under way."""
        with self._history.open("rb") as file:
            file.seek(max(0, self._history.stat().st_size - 4096))
            lines = file.read().split(b"\n")
        return next((b'"e":"begin"' in line for line in reversed(lines) if line), False)

    async def kill(self) -> None:
        """kill -9. Of an npm device it is the client that is killed; whoever plays it opens another one."""
        if self.kind == "npm":
            with contextlib.suppress(ProcessLookupError):
                os.kill(await self.device_pid(), signal.SIGKILL)
            return
        await self.end(signal.SIGKILL)

    async def revive(self) -> None:
        """After ``kill``."""
        if self.kind != "npm":
            await self.start()
            await self.begin()

    async def freeze(self, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT after so long. False if there was nobody to be frozen."""
        pid = await self.device_pid()
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False  # an npm device that is being restarted just now
        try:
            await asyncio.sleep(seconds)  # that long is the fault
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True

    async def end(self, how: int = signal.SIGKILL) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(how)
        await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def close(self) -> None:
        """In good order: at the end of its input it closes what it has."""
        if self._process is not None and self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_WITHIN_S)
        await self.end()
