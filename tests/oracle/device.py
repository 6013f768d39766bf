"""A device of a run: the Python client on a file, told what to do, and watched by a sampler."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.oracle.expected import Key
from tests.oracle.mutations import draw_device_transaction
from tests.oracle.sampler import Sample, Sampler, read_sample
from tests.oracle.schema import PULSE, Schema
from tests.oracle.shapes import WHOLE_PULSE, Include, Shape
from tests.tokens import insecure_token

from syncline.client import Database, UsageError, open_db
from syncline.client import Include as IncludeThere
from syncline.client import Shape as ShapeThere
from syncline.client.shape_spec import shape_spec, spec_to_json

# How long an event waits for the service's word before others go on.
ACCEPTED_WITHIN_S = 0.3
KEY = "what it shows"
# How often it writes into any table, also such as it has no shape of.
ELSEWHERE = 0.2
WANTED_STATES = frozenset({"requested", "delivered"})
# One that was withdrawn undelivered is remembered until the next connection: its rows may be on their way.
SETTLED_STATES = frozenset({"delivered", "withdrawn"})


def stored(shape: Shape) -> str:
    """A shape as the client's file has it."""
    return spec_to_json(shape_spec(shape.table, shape.where, shape.columns, _included(shape)))


def _included(node: Shape | Include) -> list[IncludeThere]:
    return [
        IncludeThere(
            one.table, on=one.foreign_key.columns, where=one.where, columns=one.columns, include=_included(one)
        )
        for one in node.include
    ]


class Device:
    """``wanted``: the shapes it has been told to keep. ``commits``: how many transactions Postgres has had so far.

    ``shown``: the one of them that has a key. ``written``: the rows it has ever written.
    """

    def __init__(
        self, name: str, folder: Path, url: str, schema: Schema, counters: Counter[str], commits: Callable[[], int]
    ) -> None:
        self.name = name
        self.path = folder / f"{name}.db"
        self.wanted: list[Shape] = []
        self.shown: Shape | None = None
        self.written: set[tuple[str, Key]] = set()
        self.sampler = Sampler(self.path, schema)
        self._url = url
        self._schema = schema
        self._counters = counters
        self._commits = commits
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[Shape] = set()
        self._stack = contextlib.AsyncExitStack()
        self._db: Database | None = None

    @property
    def db(self) -> Database:
        assert self._db is not None, "open"
        return self._db

    async def open(self) -> None:
        self._db = await self._stack.enter_async_context(open_db(self.path, self._url))

    async def close(self) -> None:
        """Without a word to the service. What is being waited for is waited for no more."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._busy.clear()
        await self._stack.aclose()

    async def reopen(self) -> None:
        """As when the app is restarted."""
        await self.close()
        await self.open()
        await self.connect()

    async def connect(self) -> None:
        await self.db.connect(insecure_token(self.name))

    async def start(self, shapes: list[Shape]) -> None:
        await self.open()
        await self.connect()
        for shape in (WHOLE_PULSE, *shapes):
            await self.subscribe(shape)

    # --- shapes -------------------------------------------------------------------------------------------------------

    async def subscribe(self, shape: Shape) -> None:
        """Goes on when the service has accepted, or has not for a while; the rows come later."""
        if shape in self.wanted or shape in self._busy:
            return
        self.wanted.append(shape)
        self._busy.add(shape)
        task = asyncio.create_task(self._sync(shape))
        self._tasks.add(task)
        await asyncio.wait({task}, timeout=ACCEPTED_WITHIN_S)

    @property
    def is_free(self) -> bool:
        """It has no shape, nor any rows of one that it has given up."""
        return self.wanted == [WHOLE_PULSE] and len(self.read().subscriptions) == 1

    async def _sync(self, shape: Shape, key: str | None = None) -> None:
        began = self._commits()
        held = await self._handle(shape, key)
        if key is None:
            self._busy.discard(shape)
        await held.synced()
        if self._commits() > began:
            self._counters["snapshots with concurrent writers"] += 1
        self._counters["deliveries"] += 1

    async def _handle(self, shape: Shape, key: str | None = None) -> ShapeThere:
        return await self.db.sync(shape.table, shape.where, columns=shape.columns, include=_included(shape), key=key)

    async def show(self, shape: Shape) -> None:
        """Another shape in the place of the one it shows; both may have been asked for otherwise, too."""
        if shape == self.shown:
            return
        if self.shown is not None:
            self.wanted.remove(self.shown)
        self.shown = shape
        self.wanted.append(shape)
        task = asyncio.create_task(self._sync(shape, KEY))
        self._tasks.add(task)
        await asyncio.wait({task}, timeout=ACCEPTED_WITHIN_S)

    async def unsubscribe(self, shape: Shape) -> None:
        if shape in self.wanted and shape not in self._busy and shape not in (WHOLE_PULSE, self.shown):
            self.wanted.remove(shape)
            await (await self._handle(shape)).unsubscribe()

    def failures(self) -> list[BaseException]:
        """What its subscriptions have met, apart from having been given up meanwhile."""
        done = [task for task in self._tasks if task.done()]
        self._tasks.difference_update(done)
        met = [task.exception() for task in done if not task.cancelled()]
        return [error for error in met if error is not None and not isinstance(error, UsageError)]

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, rng: random.Random) -> list[str]:
        """A transaction, most often on tables of its shapes. What its constraints refuse is left out. What ran."""
        names = {node.table for shape in self.wanted if shape != WHOLE_PULSE for node in shape.nodes()}
        there = {str(row["name"]) for row in await self.db.sql("SELECT name FROM sqlite_master")}
        if rng.random() < ELSEWHERE:
            names = {table.name for table in self._schema.tables} - {PULSE}
        tables = [table for table in self._schema.tables if table.name in names & there]
        if not tables:
            return []
        ran = []
        async with self.db.transaction() as tx:
            for statement in draw_device_transaction(rng, tables):
                with contextlib.suppress(sqlite3.IntegrityError):
                    if await tx.execute(statement):
                        ran.append(statement)
        self._counters["device transactions"] += bool(ran)
        self.written |= self.read().pending
        return ran

    # --- how far it is ------------------------------------------------------------------------------------------------

    def read(self) -> Sample:
        """What its file holds now."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
        try:
            return read_sample(connection, self._schema)
        finally:
            connection.close()

    def unsettled(self) -> str:
        """Why it is not yet still; empty if it is."""
        status = self.db.status
        if not status.connected or status.pending_writes or status.behind:
            return str(status)
        states = {state for state, _ in self.read().subscriptions.values()}
        return f"subscriptions {states - SETTLED_STATES}" if states - SETTLED_STATES else ""

    def pulse(self) -> int:
        rows = self.read().rows.get(PULSE, {})
        return max((int(row[1] or 0) for row in rows.values()), default=0)

    async def settled(self, within_s: float) -> str:
        """Waits until it is still; why it is not, if that takes too long."""
        return await becomes_empty(self.unsettled, within_s)

    async def reached(self, pulse: int, within_s: float) -> str:
        """Waits until it has all that was committed before a pulse."""
        return await becomes_empty(
            lambda: "" if self.pulse() >= pulse else f"pulse {self.pulse()} of {pulse}, {self.db.status}", within_s
        )


async def becomes_empty(why: Callable[[], str], within_s: float) -> str:
    """Waits until there is nothing left to say, at most so long; what there is. A file tells nobody of its changes."""
    began = time.monotonic()
    while (text := why()) and time.monotonic() - began < within_s:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return text
