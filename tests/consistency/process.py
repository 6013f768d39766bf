"""The process of a party: writes and reads at its pace, and records it all. ``python -m tests.consistency.process``.

Commands come as lines of JSON, ``{"id", "call", ...}``, and are answered by ``{"id", "result"}``. First it says
``ready``. Killed and started again on the same folder, it finds out what became of the transaction it was about, and
goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.consistency import histories
from tests.consistency.histories import (
    COMMITTED,
    FAILED,
    Began,
    Encoder,
    Ended,
    Event,
    History,
    Read,
    Snapshot,
    Started,
)
from tests.consistency.npmparty import NpmParty
from tests.consistency.party import Anew, Lost, Party, Refused
from tests.consistency.pythonparty import PythonParty, install_clock
from tests.consistency.sqlparty import SqlParty
from tests.consistency.workload import Statement, Workload

# It goes on offline up to here, so that what piles up in a long outage can be worked off in the end.
PENDING_MAX = 50
READS_PER_WRITE = 0.3
READS_PER_LOOK = 0.2
REST_S = 0.05
HELD_LOOK_S = 1.0
TOLD_MAX = 60
LEAST_PAUSE_S = 0.005
# What it was late by before that is not made up for.
LATE_S = 5.0


def party(kind: str, name: str, folder: Path, url: str, dsn: str) -> Party:
    match kind:
        case "python":
            return PythonParty(name, folder, url)
        case "npm":
            return NpmParty(name, folder, url)
        case _:
            return SqlParty(name, dsn)


class Recorder:
    """Each event is in the file when ``record`` returns: the kernel has it, whatever becomes of this process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encoder = Encoder()
        os.write(self._file, b"\n")  # the line before may have been cut short

    def record(self, event: Event) -> None:
        os.write(self._file, (self._encoder.line(event) + "\n").encode())


class Writing:
    """A party at work."""

    def __init__(self, name: str, kind: str, party: Party, path: Path, seed: str, rate: float) -> None:
        self._name = name
        self._party = party
        self._rate = rate
        self._rng = random.Random(seed)
        self._workload = Workload(name, self._rng, direct=kind == "sql")
        lines = path.read_text().splitlines() if path.exists() else []
        self._history = History(name, kind, lines)
        self._number = max(self._history.committed(), default=0)
        self._open = self._history.open_number()
        self._recorder = Recorder(path)
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    async def begin(self) -> None:
        await self._party.open(first=self._history.is_empty)
        self._recorder.record(Started(time.time()))
        await self._find_out()

    async def _find_out(self) -> None:
        """What became of the transaction that was about to be written."""
        if self._open is not None:
            outcome = COMMITTED if await self._party.has_written(self._open) else FAILED
            self._recorder.record(Ended(time.time(), self._open, outcome))
            self._number += outcome == COMMITTED
            self._open = None

    async def go_on(self) -> None:
        """From ``begun`` until it is stopped."""
        await self.begun.wait()
        due = time.monotonic()
        while not self.stopped.is_set():
            try:
                await self._wait_for_others()
                if await self._may_write():
                    await self._write()
                if self._rng.random() < READS_PER_WRITE:
                    await self.read()
            except Lost:
                await self._recover()
            due = max(due + self._rng.expovariate(self._rate), time.monotonic() - LATE_S)
            await asyncio.sleep(max(due - time.monotonic(), LEAST_PAUSE_S))  # the party's pace

    async def _wait_for_others(self) -> None:
        """While it is held. Raises Lost. It may be itself who is waited for, and find that only when it looks."""
        while not self.free.is_set():
            await self.read()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.free.wait(), HELD_LOOK_S)

    async def _may_write(self) -> bool:
        pending = await self._party.pending()
        return pending < self._party.ahead_max or (pending < PENDING_MAX and not self._party.connected)

    async def _recover(self) -> None:
        while True:
            try:
                await self._party.reopen()
                self._recorder.record(Started(time.time()))
                await self._find_out()
                return
            except Lost:
                await asyncio.sleep(REST_S)  # away again; nothing tells when it is back

    async def _write(self) -> None:
        number = self._number + 1
        drawn = self._workload.draw(number)
        self._open = number
        self._recorder.record(Began(time.time(), number, drawn.writes, told(drawn.statements)))
        try:
            saw = await self._party.transact(drawn.statements, drawn.pause_ms / 1000)
        except (Refused, Anew) as refusal:
            self._recorder.record(Ended(time.time(), number, FAILED))
            if isinstance(refusal, Anew):
                self._recorder.record(histories.Anew(time.time()))
        else:
            self._recorder.record(Ended(time.time(), number, COMMITTED, saw))
            self._number = number
        self._open = None

    async def read(self) -> Snapshot:
        while True:
            try:
                rows = await self._party.snapshot()
                self._recorder.record(Read(time.time(), rows))
                return rows
            except Anew:
                self._recorder.record(histories.Anew(time.time()))

    async def has(self) -> int | None:
        """How many transactions of all together are here; None: it cannot say now."""
        try:
            return sum((await self._party.counters()).values())
        except Lost:
            return None

    async def state(self, *, whole: bool) -> dict[str, Any]:
        """For whoever waits until all hold the same. ``whole``: with a digest of everything it holds, which is dear."""
        try:
            rows = await self.read() if whole or self._rng.random() < READS_PER_LOOK else {}
            return {
                "pending": await self._party.pending(),
                "state": await self._party.state(),
                "counters": await self._party.counters(),
                "digest": digest(rows) if whole else "",
            }
        except Lost:
            await self._recover()
            return {"pending": -1, "state": "lost", "counters": {}, "digest": ""}


def told(statements: Iterable[Statement]) -> tuple[str, ...]:
    """Shortened."""
    return tuple(f"{str(sql)[:TOLD_MAX]} {args}" for sql, *args in statements)


def digest(rows: Snapshot) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


async def serve_commands(writing: Writing, party: Party, working: asyncio.Task[None]) -> None:
    """Until the input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        result: Any = None
        match command["call"]:
            case "begin":
                writing.begun.set()
            case "stop":
                writing.begun.set()
                writing.stopped.set()
                writing.free.set()
                await working
            case "has":
                result = await writing.has()
            case "hold":
                writing.free.clear()
            case "go":
                writing.free.set()
            case "state":
                result = await writing.state(whole=command["whole"])
            case "dump":
                result = await party.dump()
            case "skew":
                party.skew(command["ms"])
            case "nudge":
                await party.nudge()
            case "pid":
                result = party.pid
        say({"id": command["id"], "result": result})


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def run(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    install_clock()
    who = party(options.kind, options.name, folder, options.url, options.dsn)
    who.skew(options.skew_ms)
    writing = Writing(
        options.name,
        options.kind,
        who,
        folder / f"{options.name}.history",
        options.seed,
        options.rate,
    )
    await writing.begin()
    say({"ready": options.name})
    working = asyncio.create_task(writing.go_on())
    serving = asyncio.create_task(serve_commands(writing, who, working))
    await asyncio.wait({working, serving}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()  # what ended it before its time
    await serving
    await who.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.consistency.process")
    for name in ("kind", "name", "folder", "url", "dsn", "seed"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, required=True, help="transactions a second")
    parser.add_argument("--skew-ms", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
