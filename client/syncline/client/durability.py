"""How far a local transaction has come: on this disk, in Postgres, on the devices of others.

A transaction is decided when its echo has been applied: its oplog entries are gone, and if it was rejected there is a
rejection. Nothing else is kept about it. So whoever asks, also after a restart, asks the file: entries, it is on its
way; a rejection; else it is in Postgres. Of times at which the file has committed nothing, those of another device say,
that is not true, and the file cannot tell: only a time later than all that it has used or seen is known not to be one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias

from syncline.client.errors import UsageError, WriteRejected
from syncline.client.rejections import Rejection, find
from syncline.client.schema import Table

Durability: TypeAlias = Literal["device", "server", "everyone"]
LEVELS: Final[tuple[Durability, ...]] = ("device", "server", "everyone")


class Decisions:
    """Who waits for the echo of which local transactions."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}

    def watch(self, transaction_id: int) -> asyncio.Event:
        """Set when the transaction is decided, from now on. To be given back to ``forget``."""
        event = asyncio.Event()
        self._waiting.setdefault(transaction_id, set()).add(event)
        return event

    def forget(self, transaction_id: int, event: asyncio.Event) -> None:
        events = self._waiting.get(transaction_id, set())
        events.discard(event)
        if not events:
            self._waiting.pop(transaction_id, None)

    def decided(self, transaction_ids: Iterable[int]) -> None:
        """These have come back."""
        for transaction_id in transaction_ids:
            for event in self._waiting.get(transaction_id, ()):
                event.set()

    def all_over(self) -> None:
        """Nothing is decided any more."""
        self.decided(list(self._waiting))


class Reaching:
    """Who waits for all others to have what is in Postgres. A question that has been sent is about those who came
    before it."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._asked: list[asyncio.Future[None]] = []

    def wait(self) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def to_ask(self) -> bool:
        """Whether there is something to ask, which counts as asked from now on. One question is out at a time."""
        if self._asked:
            return False
        self._asked = [future for future in self._waiting if not future.done()]
        self._waiting = []
        return bool(self._asked)

    def reached(self) -> None:
        """The question has been answered."""
        for future in self._asked:
            if not future.done():
                future.set_result(None)
        self._asked = []

    def lost(self) -> None:
        """Nobody will answer it: it is to be asked again."""
        self._waiting, self._asked = self._asked + self._waiting, []

    def fail(self, why: str) -> None:
        """Nobody will ever answer."""
        for future in (*self._asked, *self._waiting):
            if not future.done():
                future.set_exception(UsageError(why))
        self._asked, self._waiting = [], []


def outcome(
    connection: sqlite3.Connection, transaction_id: int, tables: Mapping[str, Table]
) -> Rejection | Literal["pending", "accepted"]:
    """What has become of a local transaction of this file; "accepted" also of any other id that it does not know, see
    the module. Raises UsageError for one later than its clock, which it cannot have had."""
    rejection = find(connection, transaction_id, tables)
    if rejection is not None:
        return rejection
    pending, clock_ms = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM _syncline_oplog WHERE commit_ms = ?), clock_ms FROM _syncline_state",
        (transaction_id,),
    ).fetchone()
    if transaction_id > clock_ms:
        raise UsageError(
            f"no transaction {transaction_id} has been committed here", hint="ask the database that has committed it"
        )
    return "pending" if pending else "accepted"


class Waiting:
    """Waits until a transaction has come so far. ``read``: its ``outcome``; ``flush``: see ``Store``; ``others``: waits
    until all others have what is in Postgres; ``refuse_nested``: see ``Store``."""

    def __init__(
        self,
        decisions: Decisions,
        read: Callable[[int], Awaitable[Rejection | Literal["pending", "accepted"]]],
        flush: Callable[[], Awaitable[None]],
        others: Callable[[], Awaitable[None]],
        refuse_nested: Callable[[], None],
    ) -> None:
        self._decisions = decisions
        self._read = read
        self._flush = flush
        self._others = others
        self._refuse_nested = refuse_nested
        self._closed = False

    async def until(self, level: Durability, transaction_id: int | None) -> None:
        """``transaction_id`` None: it wrote to no synced table, so there is nothing but this disk.

        Raises WriteRejected, and UsageError for a level that is none, in a transaction of the same task, or when the
        database is closed meanwhile.
        """
        self._refuse_nested()
        if level not in LEVELS:
            raise UsageError(f"there is no level {level!r}", hint=f"the levels are {', '.join(LEVELS)}")
        if level != "device" and transaction_id is not None:
            await self._server(transaction_id)
        else:
            if transaction_id is not None:
                await self._read(transaction_id)
            await self._flush()
        if level == "everyone" and transaction_id is not None:
            await self._others()

    async def _server(self, transaction_id: int) -> None:
        event = self._decisions.watch(transaction_id)
        try:
            while True:
                if self._closed:
                    raise UsageError("the database was closed")
                result = await self._read(transaction_id)
                if result != "pending":
                    break
                await event.wait()
                event.clear()
        finally:
            self._decisions.forget(transaction_id, event)
        if isinstance(result, Rejection):
            raise WriteRejected(result)

    def close(self) -> None:
        """The database is being closed."""
        self._closed = True
        self._decisions.all_over()
