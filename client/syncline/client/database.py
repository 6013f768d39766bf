"""What an application holds in its hands: the database, its transactions and its shapes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from syncline.client.adapters import ADAPTERS, Adapters, Arguments
from syncline.client.cells import Value
from syncline.client.connectivity import Status
from syncline.client.durability import Durability, Waiting
from syncline.client.errors import SequenceExhausted, UsageError
from syncline.client.live import Changes, Query, Results
from syncline.client.rejections import Rejection
from syncline.client.replica import Replica, load_replica
from syncline.client.satellite import Satellite, Token
from syncline.client.schema import REJECTIONS
from syncline.client.sequences import Held
from syncline.client.shape_spec import Include, ShapeSpec, shape_spec
from syncline.client.shape_status import ShapeStatus
from syncline.client.shapes import Subscription
from syncline.client.stamping import Stamped
from syncline.client.store import THROUGH, Connection, Footprints, Store, open_store, whole
from syncline.client.transaction import Transaction, execute
from syncline.client.transport import OpenTransport, endpoint, open_websocket
from syncline.proto.blocks import RESERVED_MAX
from syncline.proto.values import Migrate

T = TypeVar("T")


class Shape:
    """A part of the server's database that this device keeps. From ``Database.sync``."""

    def __init__(self, store: Store, satellite: Satellite, subscription: Subscription) -> None:
        self._store = store
        self._satellite = satellite
        self._spec: ShapeSpec = subscription.spec
        self._key = subscription.key
        self._position = subscription.position
        self._status = satellite.shapes.watch(subscription)

    @property
    def table(self) -> str:
        return self._spec.table

    @property
    def key(self) -> str | None:
        """The name under which it was asked for, if it was."""
        return self._key

    @property
    def status(self) -> ShapeStatus:
        """How far it has come: asked for, on its way, here, leaving."""
        return self._status.value

    def status_changes(self) -> AsyncIterator[ShapeStatus]:
        """The status now, then each new one: ``async for status in shape.status_changes()``."""
        return self._status.changes()

    async def synced(self) -> None:
        """Wait until all of the shape's rows are in the local database; at once if they are, also offline.

        Raises ShapeRefused when the server declines it, UsageError once it is unsubscribed or replaced (another shape
        under its key), or the database closed, and in a transaction of the same task.
        """
        self._store.refuse_nested()
        await self._satellite.synced(self._position)

    async def unsubscribe(self) -> None:
        """Give the shape up, durably, also offline. The server then says which rows no other shape holds; they go.

        What it was to replace under its key, and has not yet, is given up too. Raises UsageError in a transaction of
        the same task.
        """
        self._store.refuse_nested()
        await self._satellite.unsubscribe(self._position)


class Database:
    """An open local database. Reads and writes work at once and offline; ``connect`` keeps it in step with Postgres."""

    def __init__(
        self, store: Store, replica: Replica, satellite: Satellite, changes: Changes, adapters: Adapters
    ) -> None:
        self.waiting = Waiting(
            replica.decisions, replica.outcome, store.flush, satellite.others_have_it, store.refuse_nested
        )
        self._store = store
        self._replica = replica
        self._satellite = satellite
        self._changes = changes
        self._adapters = adapters
        self._read_footprints = Footprints()
        self._write_footprints = Footprints()

    @property
    def client_id(self) -> str:
        """The UUID under which the server knows this device."""
        return self._replica.client_id

    # --- reading and writing ------------------------------------------------------------------------------------------

    def sql(self, sql: str, args: Arguments = ()) -> Query:
        """A query: ``await db.sql(...)`` for its rows, ``db.sql(...).live()`` for its rows after every change.

        It reads the last committed state; its rows have SQLite's values, of which ``decode`` makes Python's. Raises
        UsageError for an argument without adapter, and sqlite3.Error when awaited; a statement that writes is such an
        error.
        """
        values = self._adapters.arguments(args)

        async def results() -> Results:
            live = Results(self._store, self._read_footprints, self._changes, sql, values)
            await live.watch()
            return live

        return Query(lambda: self._store.read(lambda c: c.execute(sql, values).fetchall()), results)

    async def execute(self, sql: str, args: Arguments = (), *, durable: Durability | None = None) -> int:
        """One statement as a transaction of its own; returns the number of rows it changed.

        ``durable``: return when it has come so far, see ``Database.durable``; None: when it is committed.

        Raises sqlite3.Error, SequenceExhausted for an insert without a key where no value is left for it (connected,
        it waits for more first), and UsageError for an argument without adapter, for one too large to be sent (then
        nothing has changed) or inside a transaction of the same task; with ``durable`` what that raises, and then it
        is committed all the same.
        """
        values = self._adapters.arguments(args)

        def work(connection: sqlite3.Connection) -> tuple[int, frozenset[str], Stamped | None]:
            with self._replica.reserves.telling():
                count, written = execute(connection, self._write_footprints, sql, values)
            return count, written, self._replica.stamp(connection)

        async def committing() -> tuple[int, int | None]:
            count, written, stamped = await self._store.write(work)
            self._committed(stamped, written)
            return count, None if stamped is None else stamped.commit_ms

        self._store.refuse_nested(THROUGH)
        count, transaction_id = await self._with_values(lambda: whole(committing()))
        if durable is not None:
            await self.waiting.until(durable, transaction_id)
        return count

    async def _with_values(self, write: Callable[[], Awaitable[T]]) -> T:
        """``write``, which has no effect when it lacks values of a sequence: again as often as more have come."""
        while True:
            received = self._replica.reserves.received
            try:
                return await write()
            except SequenceExhausted:
                await self._satellite.has_values()
                if self._replica.reserves.received == received:
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Several statements, all or nothing, on the device as on the server: ``async with db.transaction() as tx``.

        Leaving the block commits; an exception rolls back and goes on. Others wait for their turn to write meanwhile,
        incoming changes included, so do not hold it while waiting for a person or the network. Raises UsageError, and
        rolls back, if on leaving it turns out to be too large to be sent; TransactionRolledBack if SQLite has ended it.
        """
        self._store.refuse_nested(THROUGH)
        async with self._store.turn() as connection:
            transaction = Transaction(
                connection, self._write_footprints, self.waiting, self._replica.reserves, self._adapters
            )
            try:
                await whole(connection.run(_begin))
                yield transaction
            except BaseException:
                transaction.over()
                await whole(connection.run(_rollback))
                raise
            transaction.over()
            await whole(self._commit(connection, transaction))

    async def _commit(self, connection: Connection, transaction: Transaction) -> None:
        def work(raw: sqlite3.Connection) -> Stamped | None:
            transaction.refuse_rolled_back(raw)
            try:
                stamped = self._replica.stamp(raw)
                raw.execute("COMMIT")
            except BaseException:
                _rollback(raw)
                raise
            return stamped

        stamped = await connection.run(work)
        transaction.committed(stamped)
        self._committed(stamped, frozenset(transaction.written))

    def _committed(self, stamped: Stamped | None, written: frozenset[str]) -> None:
        self._replica.committed(stamped, written)
        if stamped is not None:
            self._satellite.wrote()

    async def durable(self, level: Durability, transaction_id: int) -> None:
        """Wait until a local transaction (``Transaction.id``) has come so far; also one of before a restart.

        It has to be one of this database: nothing is kept of those that are through, so any other id up to its clock
        passes for one of them.

        * ``"device"``: it is on this disk and outlasts a power failure.
        * ``"server"``: it is in Postgres, durably.
        * ``"everyone"``: it is, and every other device that was connected when the service was asked, after that, has
          applied it, as far as it concerns its shapes, or has lost its connection since.

        Waits through disconnections, for as long as it takes: use ``asyncio.timeout``. Raises WriteRejected if the
        server has rejected it (not at ``"device"``), UsageError for an id later than all times that this file has used
        or seen, in a transaction of the same task, when the database is closed meanwhile, and for ``"everyone"`` with a
        server that does not tell.
        """
        await self.waiting.until(level, transaction_id)

    async def values_left(self, table: str) -> dict[str, int]:
        """Of each column of ``table`` that takes the values of a sequence, how many this device has left: so many rows
        can be inserted without them, offline too. Connected, it gets more as soon as less than half is left."""
        known = self._replica.tables.get(table)
        held = await self._replica.reserves.held()
        return {column: held.get((table, column), Held()).left for column in (known.sequences if known else ())}

    async def reserve(self, table: str, count: int) -> None:
        """Wait until ``count`` rows, at most 10,000, can be inserted into ``table`` without values of its sequences.

        For many that are inserted in one transaction, and before a long time offline.
        A shape of the table has to be synced. Raises SequenceExhausted where so many are not to be had, at once without
        a connection; UsageError in a transaction of the same task, and for more than 10,000.
        """
        self._store.refuse_nested()
        if count > RESERVED_MAX:
            raise UsageError(f"a device is given at most {RESERVED_MAX} values of a sequence at once")
        left = await self.values_left(table)
        self._replica.reserves.want({(table, column): count for column in left})
        await self._satellite.has_values()
        for column, here in (await self.values_left(table)).items():
            if here < count:
                raise SequenceExhausted(table, column)

    # --- Python values ------------------------------------------------------------------------------------------------

    def decode(self, table: str, row: sqlite3.Row | Mapping[str, Value]) -> dict[str, object]:
        """A row of ``table`` as Python values, by its columns' types: Decimal, datetime, list. A column that the table
        does not have stays as it is. Raises UsageError for a table that is not synced."""
        types = self._types(table)
        return {
            column: self._adapters.decode(types[column], row[column]) if column in types else row[column]
            for column in row.keys()  # noqa: SIM118 - a sqlite3.Row iterates over its values
        }

    def encode(self, table: str, values: Mapping[str, object]) -> dict[str, Value]:
        """Python values of columns of ``table`` as SQLite has them, as arguments of a statement that writes them.

        Raises UsageError for a value that its column's type does not have, for a column that the table does not have,
        and for a table that is not synced.
        """
        types = self._types(table)
        for column in values:
            if column not in types:
                raise UsageError(f"{table} has no column {column}")
        return {column: self._adapters.encode(types[column], value) for column, value in values.items()}

    def _types(self, table: str) -> dict[str, str]:
        known = self._replica.tables.get(table)
        if known is None:
            raise UsageError(f"{table} is no synced table", hint="its types come with its first shape")
        return dict(zip(known.columns, known.pg_types, strict=True))

    # --- what the server has rejected ---------------------------------------------------------------------------------

    async def rejections(self) -> list[Rejection]:
        """The local transactions that the server has rejected, as it told, less those that are dismissed.

        They have been undone here by then, but for rows that a later one on its way names. They stay in this list, also
        across restarts, until they are dismissed.
        """
        return [rejection for _, rejection in await self._replica.rejected()]

    async def rejection_changes(self) -> AsyncIterator[Rejection]:
        """Those of ``rejections`` now, one by one, then each new one: ``async for r in db.rejection_changes()``."""
        changed = asyncio.Event()
        self._changes.watch(changed, frozenset({REJECTIONS}))
        try:
            seen = 0
            while True:
                changed.clear()
                for position, rejection in await self._replica.rejected(seen, limit=1):
                    seen = position
                    yield rejection
                    changed.set()
                await changed.wait()
        finally:
            self._changes.forget(changed)

    async def dismiss(self, rejection: Rejection) -> None:
        """The application has dealt with ``rejection``: it is gone from ``rejections``, durably. Once is enough.

        Raises UsageError in a transaction of the same task.
        """
        self._store.refuse_nested()
        await whole(self._replica.dismiss(rejection.transaction_id))
        self._satellite.dismissed()

    # --- staying in step ----------------------------------------------------------------------------------------------

    async def connect(self, token: Token | None = None) -> None:
        """Connect, and from now on reconnect whenever the connection is lost, until ``disconnect``.

        ``token``: a JWT, or an async function that returns one and is asked again when it has expired. Without one the
        last is used. Returns when the first attempt is decided: connected, or unreachable and being retried (see
        ``status``), so an application can start offline. Raises AuthRefused or ServerRefused when the server declines,
        UsageError if there has never been a token, or in a transaction of the same task.
        """
        self._store.refuse_nested()
        await self._satellite.connect(token)

    async def disconnect(self) -> None:
        """Stop syncing. Reads and writes go on; what is written waits for the next ``connect``.

        Raises UsageError in a transaction of the same task.
        """
        self._store.refuse_nested()
        await self._satellite.disconnect()

    async def sync(
        self,
        table: str,
        where: str = "",
        *,
        columns: Sequence[str] | None = None,
        include: Sequence[Include] = (),
        key: str | None = None,
    ) -> Shape:
        """Keep the rows of ``table`` for which ``where`` holds (SQL over ``this.column``; empty: all) on this device.

        ``include``: related rows that come along, to any depth. The rows they refer to come by themselves, so foreign
        keys hold. ``columns``: only these, and those the service cannot do without; None: all.

        The subscription is durable: it survives restarts, and asking again for the same shape finds it. Connected, it
        returns when the server has accepted, and raises ShapeRefused otherwise, leaving everything as it was. Offline
        it returns at once and is requested on the next connection; ``synced`` and ``status`` then tell how that went.

        ``key``: a name for what the application shows, a screen say. Asking for another shape under the same key
        replaces the one before: that stays, and goes on being kept up to date, until the rows of the new one are here,
        and for good if the server refuses the new one. Only the difference travels. The newest replacement counts.

        Raises UsageError for what no server could be asked, and in a transaction of the same task.
        """
        self._store.refuse_nested()
        subscription = await self._satellite.sync(shape_spec(table, where, columns, include), key)
        return Shape(self._store, self._satellite, subscription)

    @property
    def status(self) -> Status:
        return self._satellite.status.value

    def status_changes(self) -> AsyncIterator[Status]:
        """The status now, then each new one: ``async for status in db.status_changes()``."""
        return self._satellite.status.changes()


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_db(
    path: str | os.PathLike[str],
    url: str,
    *,
    migrations: Sequence[Migrate] = (),
    adapters: Adapters = ADAPTERS,
    open_transport: OpenTransport = open_websocket,
) -> AsyncIterator[Database]:
    """Open or create the local database at ``path``, to be synced with the service at ``url``; nothing is sent yet.

    ``url``: ``ws://host:5133`` or ``wss://host``. ``migrations``: the schema, if it ships with the application; without
    them it comes from the server on the first connection. ``adapters``: what its values are in Python.
    ``open_transport``: another way to carry frames.

    Raises DatabaseInUse when another process has the file open, DatabaseUnusable when it is no database or a newer
    release's, UsageError for an address that is none.
    """
    endpoint(url)
    async with open_store(path) as store:
        changes = Changes()
        replica = await load_replica(store, changes, _now_ms)
        await replica.migrate(migrations)
        satellite = Satellite(replica, url, open_transport)
        database = Database(store, replica, satellite, changes, adapters)
        try:
            yield database
        finally:
            await satellite.close()
            database.waiting.close()
