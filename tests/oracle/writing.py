"""Transactions in Postgres, one at a time or several at once, their statements and commits in the order drawn."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import asyncpg
from tests.oracle.plan import Write

CONNECTIONS = 3
JOURNAL = 40  # transactions remembered, to be shown
SETTINGS = {"timezone": "UTC", "lock_timeout": "150ms"}


class Writers:
    """``commits``: how many transactions have been committed. ``journal``: the last of them, with what was refused."""

    def __init__(self, dsn: str, counters: Counter[str]) -> None:
        self.commits = 0
        self.journal: deque[str] = deque(maxlen=JOURNAL)
        self._dsn = dsn
        self._counters = counters
        self._connections: list[asyncpg.Connection] = []

    async def start(self) -> None:
        for _ in range(CONNECTIONS):
            self._connections.append(await asyncpg.connect(self._dsn, server_settings=SETTINGS))

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    async def run(self, write: Write) -> None:
        """Several transactions each have a turn a statement, and one to commit."""
        await asyncio.sleep(write.after_ms / 1000)  # the plan says when
        left = [deque(statements) for statements in write.transactions]
        told: list[list[str]] = [[] for _ in left]
        started = [connection.transaction() for connection, _ in zip(self._connections, left, strict=False)]
        for transaction in started:
            await transaction.start()
        for number in write.order:
            if left[number]:
                told[number].append(await self._statement(self._connections[number], left[number].popleft()))
            else:
                await self._commit(started[number], told[number])
        if len(left) > 1:
            self._counters["concurrent transactions"] += len(left)

    async def _statement(self, connection: asyncpg.Connection, sql: str) -> str:
        """Refused, the transaction goes on without it."""
        try:
            async with connection.transaction():
                done = await connection.execute(sql)
        except asyncpg.PostgresError as refused:
            self._counters["statements refused"] += 1
            return f"    {sql}  -- {refused.sqlstate} {str(refused).splitlines()[0]}"
        return f"    {sql}  -- {done}"

    async def _commit(self, transaction: asyncpg.transaction.Transaction, told: list[str]) -> None:
        try:
            await transaction.commit()
        except asyncpg.PostgresError as refused:
            self._counters["transactions refused"] += 1
            self.journal.append("\n".join([*told, f"  refused: {refused}"]))
        else:
            self.commits += 1
            self._counters["transactions"] += 1
            self.journal.append("\n".join([*told, "  committed"]))
