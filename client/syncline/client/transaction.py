"""A local transaction under way.

SQLite rolls back a whole transaction by itself for some errors: a full disk, a conflict that says ROLLBACK. What is
executed after it would be committed statement by statement. So before each, SQLite is asked whether one is open, and
the error that ended it is kept to be told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

from syncline.client.adapters import Adapters, Arguments
from syncline.client.durability import Durability, Waiting
from syncline.client.errors import TransactionRolledBack, UsageError
from syncline.client.live import Rows
from syncline.client.reserved import Reserves
from syncline.client.stamping import Stamped
from syncline.client.store import Args, Connection, Footprints

T = TypeVar("T")


class Transaction:
    """From ``async with db.transaction() as tx``.

    Its statements raise sqlite3.Error, UsageError for an argument without adapter and once the block has ended,
    SequenceExhausted for an insert without a key where no value is left for it, and TransactionRolledBack after an
    error for which SQLite has rolled the transaction back.
    """

    def __init__(
        self,
        connection: Connection,
        footprints: Footprints,
        waiting: Waiting,
        reserves: Reserves,
        adapters: Adapters,
    ) -> None:
        self._connection = connection
        self._reserves = reserves
        self._footprints = footprints
        self._waiting = waiting
        self._adapters = adapters
        self._over = False
        self._ended_by: sqlite3.Error | None = None
        self._committed = False
        self._id: int | None = None
        self.written: set[str] = set()

    @property
    def id(self) -> int | None:
        """Once it is committed, its name on this device, for ``Database.durable``: the time of the commit in ms since
        the epoch, no two the same. None if it has written to no synced table. Raises UsageError before."""
        if not self._committed:
            raise UsageError("the transaction is not committed")
        return self._id

    def over(self) -> None:
        """The block has ended."""
        self._over = True

    def committed(self, stamped: Stamped | None) -> None:
        self._committed, self._id = True, None if stamped is None else stamped.commit_ms

    def refuse_rolled_back(self, connection: sqlite3.Connection) -> None:
        """Raises TransactionRolledBack when SQLite has ended it. Called in the writer's thread."""
        if not connection.in_transaction:
            raise TransactionRolledBack(self._ended_by) from self._ended_by

    async def durable(self, level: Durability) -> None:
        """After the block, wait until this transaction has come so far; see ``Database.durable``."""
        await self._waiting.until(level, self.id)

    async def execute(self, sql: str, args: Arguments = ()) -> int:
        """Run one statement; returns the number of rows it changed. Raises UsageError for COMMIT."""
        values = self._adapters.arguments(args)
        count, written = await self._run(lambda connection: execute(connection, self._footprints, sql, values))
        self.written |= written
        return count

    async def execute_many(self, sql: str, rows: Iterable[Arguments]) -> int:
        """Run one statement for each row of arguments; returns the number of rows changed in all."""
        every = [self._adapters.arguments(row) for row in rows]
        if not every:
            return 0

        def work(connection: sqlite3.Connection) -> tuple[int, frozenset[str]]:
            _, written = self._footprints.of(connection, sql, every[0])
            return connection.executemany(sql, every).rowcount, written

        count, written = await self._run(work)
        self.written |= written
        return count

    async def sql(self, sql: str, args: Arguments = ()) -> Rows:
        """The rows of a query, which sees this transaction's own writes; or those that a statement which writes
        returns. Raises UsageError for COMMIT."""
        values = self._adapters.arguments(args)

        def work(connection: sqlite3.Connection) -> tuple[Rows, frozenset[str]]:
            _, written = self._footprints.of(connection, sql, values)
            cursor = connection.cursor()
            cursor.row_factory = sqlite3.Row
            return cursor.execute(sql, values).fetchall(), written

        rows, written = await self._run(work)
        self.written |= written
        return rows

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def inside(connection: sqlite3.Connection) -> T:
            self.refuse_rolled_back(connection)
            try:
                with self._reserves.telling():
                    return work(connection)
            except sqlite3.Error as problem:
                if not connection.in_transaction:
                    self._ended_by = problem
                raise

        if self._over:
            raise UsageError("this transaction is over", hint="begin another one")
        return await self._connection.run(inside)


def execute(connection: sqlite3.Connection, footprints: Footprints, sql: str, args: Args) -> tuple[int, frozenset[str]]:
    """Run one statement: how many rows it changed, of which tables."""
    _, written = footprints.of(connection, sql, args)
    count = connection.execute(sql, args).rowcount
    if "sqlite_master" in written:
        footprints.forget()
    return max(count, 0), written
