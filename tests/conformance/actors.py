"""What runs in the host under test, on whatever keeps that host: named by dotted paths, so that it can cross a link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S

from syncline.cluster import Actor, ChildSpec, Exit, Factory, Overflow, Ref, Refusal, Restart, Strategy
from syncline.cluster.host import LocalHost
from syncline.cluster.ray_host import Keeping

HERE = "tests.conformance.actors"


@dataclass(frozen=True)
class Note:
    """A message with a type of its own."""

    number: int
    text: tuple[str, ...] = ()


class Gate:
    """Of one process, for all its event loops: nobody passes while it is shut."""

    shut = False

    async def passed(self) -> None:
        while self.shut:  # noqa: ASYNC110 - an event belongs to one loop
            await asyncio.sleep(0.005)  # whichever loop opens it


GATE = Gate()


class Book(Actor):
    """Keeps notes. Its ``reader`` sees each before the gate does."""

    def __init__(self, reader: Ref | None = None) -> None:
        self.numbers: list[int] = []
        self.reader = reader

    async def handle_cast(self, message: Note) -> None:
        if self.reader is not None:
            await self.reader.send(message)
        await GATE.passed()
        self.numbers.append(message.number)

    async def handle_info(self, message: Any) -> None:
        if self.reader is not None and isinstance(message, Note):
            self.reader.inform(message)

    async def handle_call(self, message: Any) -> object:
        match message:
            case "numbers":
                return list(self.numbers)
            case "pid":
                return os.getpid()
            case "keep busy":
                until_s = time.monotonic() + 3.0
                while time.monotonic() < until_s:
                    pass
            case "hang":
                return self.defer()
            case "crash":
                raise ZeroDivisionError("by order")
            case "refuse":
                raise Refusal("not today")
            case "end":
                self.stop()
            case "shut the gate" | "open the gate":
                GATE.shut = message == "shut the gate"
        return message


class Member(Actor):
    """Tells ``reader`` when it starts and when it has ended."""

    def __init__(self, id: str, reader: Ref) -> None:
        self.id, self.reader = id, reader

    async def init(self) -> None:
        self.reader.inform(f"+{self.id}")

    async def handle_call(self, message: object) -> object:
        if message == "crash":
            raise ZeroDivisionError("by order")
        if message == "end":
            self.stop()
        return message

    async def terminate(self, reason: Exit) -> None:
        self.reader.inform(f"-{self.id}")


class Sickly(Actor):
    """Never lives."""

    async def init(self) -> None:
        raise ZeroDivisionError("by nature")


class Deaf(Actor):
    """Does not hear that it is to stop."""

    async def handle_cast(self, message: object) -> None:
        await asyncio.sleep(3600)  # until it is killed


def book(id: str, reader: Ref | None = None, **options: Any) -> ChildSpec:
    """A ``Book`` under the name ``id``."""
    return ChildSpec(id, Factory(f"{HERE}:Book", (reader,)), name=id, **options)


def member(id: str, reader: Ref, restart: Restart = Restart.PERMANENT) -> ChildSpec:
    """A ``Member`` under the name ``id``."""
    return ChildSpec(id, Factory(f"{HERE}:Member", (id, reader)), restart, name=id)


def supervisor(id: str, strategy: Strategy, *children: ChildSpec, max_restarts: int = 3) -> ChildSpec:
    """Of ``children``, that gives up after more than ``max_restarts`` in an hour."""
    return ChildSpec(
        id, Factory("syncline.cluster:Supervisor", (strategy, children, max_restarts, 3600.0)), shutdown_s=None, name=id
    )


def root(*children: ChildSpec) -> ChildSpec:
    """That lets its children crash as often as a test likes."""
    return supervisor("root", Strategy.ONE_FOR_ONE, *children, max_restarts=10)


def types() -> tuple[type, ...]:
    """What the hosts of these tests say to each other."""
    return (Note,)


def application(host: LocalHost) -> ChildSpec:
    """What a host has from its start, and again whenever its process starts anew."""
    return root(
        book("book", mailbox_capacity=100_000),
        book("small", mailbox_capacity=2, overflow=Overflow.BLOCK),
    )


async def program(place: Mapping[str, Any], kept: Keeping) -> None:
    """The same as ``python -m syncline.cluster`` with this application, for a host that Ray keeps."""
    host = LocalHost(place["id"], epoch=place["epoch"], types=types())
    await host.open()
    try:
        if place["connect"]:
            peer_id, _, address = place["connect"].partition("=")
            host.connect(peer_id, address)
        await host.start(application(host))
        if place["listen"]:
            await host.listen(place["listen"])
        kept.ready({})
        asked = asyncio.ensure_future(kept.stop.wait())
        await asyncio.wait({host.ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
    finally:
        await host.close()


async def never_ready(_: object, kept: Keeping) -> None:
    """A program that is busy with its start for ever."""
    await kept.stop.wait()


class Signs:
    """What processes tell each other by files in a folder: a sign, and a text with it."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def give(self, sign: str, text: str = "") -> None:
        (self._folder / sign).write_text(text)

    def text(self, sign: str) -> str | None:
        """None: it was not given."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / sign).read_text()
        return None

    async def given(self, sign: str) -> None:
        """Waits for it. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while self.text(sign) is None:  # noqa: ASYNC110 - it is another process that gives it
                await asyncio.sleep(0.01)  # a file tells nobody that it is there


async def slow_to_end(folder: str, kept: Keeping) -> None:
    """Of a host that says in ``folder`` that it was ``asked`` to stop, and ends when it ``may end``."""
    signs = Signs(folder)
    kept.ready({})
    await kept.stop.wait()
    signs.give("asked")
    await signs.given("may end")


async def succeeds(folder: str, kept: Keeping) -> None:
    """Of a host that takes the place of its earlier generations; its process says in ``folder`` who it is."""
    Signs(folder).give("successor", str(os.getpid()))
    await kept.succeed()
    kept.ready({})
    await kept.stop.wait()
