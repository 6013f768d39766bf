"""A device that sends transactions again which have been carried out long ago, on old connections and new ones.

No client of ours does that in earnest. It stands for whatever may deliver a frame twice: each must be carried out once.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg
import websockets
from tests.consistency.histories import COMMITTED, Began, Encoder, Ended, Event, History
from tests.consistency.schema import SLOTS
from tests.patience import PAUSE_S
from tests.rawdevice import RawDevice

from syncline.proto.values import Column, Insert, Relation, Transaction, Update

NAME = "raw0"
CLIENT_ID = "00000000-0000-4000-8000-000000000000"
JOURNAL = Relation(
    0,
    "public",
    "journal",
    (Column("author", "TEXT"), Column("slot", "INT4"), Column("number", "INT4"), Column("note", "TEXT")),
)
COUNTERS = Relation(1, "public", "counters", (Column("id", "TEXT"), Column("value", "INT4")))
AGAIN_MAX = 4
LOOKS = 200
FINISH_TRIES = 5


class Resender:
    """``dsn``: where it looks whether a transaction has been carried out. ``resent``: how many were, in vain."""

    def __init__(self, dsn: str) -> None:
        self.resent = 0
        self._dsn = dsn
        self._sent: list[Transaction] = []
        self._events: list[Event] = []

    def history(self) -> History:
        encoder = Encoder()
        return History(NAME, "raw", [encoder.line(event) for event in self._events])

    async def turn(self, url: str) -> None:
        """A new transaction, twice on one connection, and some old ones again on the next. ``url``: of the service.

        Nothing at all where the service cannot be reached, or goes away meanwhile.
        """
        transaction = self._next()
        try:
            for again in (self._sent[-1:], self._sent[-AGAIN_MAX:]):
                async with RawDevice.connected(url, client_id=CLIENT_ID) as device:
                    await device.start()
                    await self._send(device, transaction)
                    if await self._carried_out(len(self._sent)):
                        for old in again:
                            await self._send(device, old)
                            self.resent += 1
        except (OSError, EOFError, TimeoutError, asyncpg.PostgresError, websockets.WebSocketException):
            return  # the same is sent next time

    async def finish(self, url: str) -> None:
        """What has been begun is carried out."""
        for _ in range(FINISH_TRIES):
            if self._is_committed(len(self._sent)):
                return
            await self.turn(url)

    def _next(self) -> Transaction:
        """The one of which it is not known that it has been carried out, or a new one."""
        number = len(self._sent)
        if not self._is_committed(number):
            return self._sent[-1]
        ms = int(time.time() * 1000)
        name, before, after = NAME.encode(), str(number).encode(), str(number + 1).encode()
        slot = str((number + 1) % SLOTS).encode()
        seen = f"{CLIENT_ID}@{self._sent[-1].commit_ms}" if self._sent else "postgres_1@0"
        changes = (
            Insert(JOURNAL.id, (name, slot, after, name + b":" + after), ()),
            Update(COUNTERS.id, (name, after), (name, before), (seen,)),
        )
        transaction = Transaction(ms, (number + 1).to_bytes(8, "big"), changes)
        self._sent.append(transaction)
        self._events.append(Began(time.time(), number + 1))
        return transaction

    def _is_committed(self, number: int) -> bool:
        return not number or any(isinstance(event, Ended) and event.number == number for event in self._events)

    async def _send(self, device: RawDevice, transaction: Transaction) -> None:
        for frame in device.session.write(transaction, {0: JOURNAL, 1: COUNTERS}):
            await device.socket.send(frame)

    async def _carried_out(self, number: int) -> bool:
        """Waits for it, for a while."""
        if self._is_committed(number):
            return True
        postgres = await asyncpg.connect(self._dsn)
        try:
            for _ in range(LOOKS):
                sql = "SELECT count(*) FROM executions WHERE author = $1 AND number = $2"
                if await postgres.fetchval(sql, NAME, number):
                    self._events.append(Ended(time.time(), number, COMMITTED))
                    return True
                await asyncio.sleep(PAUSE_S)  # Postgres tells nobody
        finally:
            await postgres.close()
        return False
