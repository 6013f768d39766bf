"""The SQLite file: one writer connection, one reader, and the lock that says whose file it is.

Everything durable goes through the writer, one transaction at a time. Work that belongs together runs as one function
in the writer's thread (``Store.write``), so it cannot be interrupted half way by a cancelled task, and costs one
hand-over instead of one per statement. Reads use a second connection: in WAL mode they see the last committed state
and wait for nobody.

The lock is a second, tiny database beside the file, held in an open write transaction for as long as the owner lives.
SQLite's own locks do the work, so it needs no POSIX call and the operating system releases it when a process dies,
however it dies. Its only row says who the owner is; a reader may look while the write lock is held.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias, TypeVar

import aiosqlite

from syncline.client.cells import Value
from syncline.client.errors import DatabaseInUse, DatabaseUnusable, UsageError
from syncline.client.foreign_keys import link_tables
from syncline.client.relaxing import relax_tables
from syncline.client.schema import LINKED_VERSION, RELAXED_VERSION, STORE_STEPS, STORE_VERSION
from syncline.client.triggers import BYTES_FUNCTION, DEFAULT_FUNCTION, NEXT_FUNCTION, REAL_FUNCTION
from syncline.proto import conditions

T = TypeVar("T")

BESIDE = "do that before the transaction, or after it"
THROUGH = "write through that transaction"

_BUSY_TIMEOUT_S = 5.0
# Long enough for another process to finish reading who the owner is, which briefly stands in a commit's way.
_OWNER_TIMEOUT_S = 0.2
_CACHED_STATEMENTS = 256
_FOOTPRINTS_MAX = 1_000

_WRITES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})

Args: TypeAlias = Sequence[Value] | Mapping[str, Value]


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that can also run a whole function in its thread."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work(connection)`` in the connection's thread. It runs to its end even if the caller is cancelled."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]
        return result


class Footprints:
    """Which tables a statement reads and writes, asked of SQLite itself and remembered by its text.

    While SQLite compiles a statement it reports every access to an authorizer: through views, triggers and foreign-key
    actions too, which no reading of the text could find.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    def of(self, connection: sqlite3.Connection, sql: str, args: Args) -> tuple[frozenset[str], frozenset[str]]:
        """(tables read, tables written).

        Raises sqlite3.Error for text that SQLite does not accept, UsageError for BEGIN, COMMIT and ROLLBACK.
        """
        known = self._known.get(sql)
        if known is not None:
            return known
        reads: set[str] = set()
        writes: set[str] = set()
        steers = False

        def authorize(action: int, subject: str | None, *_: object) -> int:
            nonlocal steers
            steers = steers or action == sqlite3.SQLITE_TRANSACTION
            if action == sqlite3.SQLITE_READ and subject:
                reads.add(subject)
            elif action in _WRITES and subject:
                writes.add(subject)
            return sqlite3.SQLITE_OK

        connection.set_authorizer(authorize)
        try:
            connection.execute(f"EXPLAIN {sql}", args).close()
        finally:
            connection.set_authorizer(None)
        if steers:
            raise UsageError("a transaction is not begun or ended by SQL here", hint="use async with db.transaction()")
        if len(self._known) >= _FOOTPRINTS_MAX:
            self._known.clear()
        footprint = (frozenset(reads), frozenset(writes))
        if "sqlite_master" not in writes:
            self._known[sql] = footprint
        return footprint

    def forget(self) -> None:
        """After the schema has changed."""
        self._known.clear()


async def whole(work: Coroutine[object, object, T]) -> T:
    """Await ``work`` to its end even if we are cancelled meanwhile; the cancellation goes on afterwards.

    A commit that has begun in the writer's thread will happen; whoever keeps something in step with it must see it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class Store:
    """The open file. Made by ``open_store``; one per process and file."""

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._turn = asyncio.Lock()
        self._turn_task: asyncio.Task[object] | None = None
        self._next_flush: asyncio.Future[None] | None = None

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on the reader, which sees the last committed state and cannot write."""
        return await self._reader.run(work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` as one SQLite transaction: committed if it returns, rolled back if it raises."""
        async with self.turn():
            return await self._writer.run(lambda connection: _in_transaction(connection, work))

    async def write_unchecked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``write`` with foreign keys neither enforced nor acted upon.

        For what the server has already decided: its foreign-key actions arrive as changes of their own, and a device
        that holds a part of the database may rightly lack a parent.
        """
        async with self.turn():
            return await self._writer.run(lambda connection: _without_foreign_keys(connection, work))

    async def flush(self) -> None:
        """Return when all that has been committed by now is on the disk, and outlasts a power failure.

        A commit alone does not wait for the disk. This is one that does, and with it go all before it; those who ask
        while others have their turn to write share one.
        """
        if self._next_flush is None:
            self._next_flush = asyncio.ensure_future(self._flush())
        await asyncio.shield(self._next_flush)

    async def _flush(self) -> None:
        async with self.turn():
            self._next_flush = None  # whoever comes from now on may have committed after it
            await self._writer.run(_flushed)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Connection]:
        """The writer connection, ours alone until the block ends."""
        async with self._turn:
            self._turn_task = asyncio.current_task()
            try:
                yield self._writer
            finally:
                self._turn_task = None

    def refuse_nested(self, hint: str = BESIDE) -> None:
        """Raises UsageError when this task has its turn already: waiting for itself, it would wait for ever.

        For whatever writes, or waits for what comes from the server. ``hint``: what to do instead.
        """
        if self._turn_task is not None and self._turn_task is asyncio.current_task():
            raise UsageError("this task is inside a transaction already", hint=hint)


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _flushed(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    try:
        _in_transaction(connection, lambda c: c.execute("UPDATE _syncline_state SET flushes = flushes + 1"))
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")


def _without_foreign_keys(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        return _in_transaction(connection, work)
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


@asynccontextmanager
async def open_store(path: str | os.PathLike[str]) -> AsyncIterator[Store]:
    """Open or create the database file and own it until the block ends.

    Raises DatabaseInUse if someone else owns it, DatabaseUnusable if it is no SQLite file or was written by a newer
    release, and OSError or sqlite3.OperationalError if the folder does not exist or cannot be written.
    """
    file = Path(path)
    lock = await asyncio.to_thread(_take_ownership, file)
    try:
        async with (
            _connection(file, prepare=_prepare_writer) as writer,
            _connection(file, prepare=_prepare_reader) as reader,
        ):
            yield Store(writer, reader)
    finally:
        await asyncio.to_thread(lock.close)


@asynccontextmanager
async def _connection(file: Path, prepare: Callable[[sqlite3.Connection], None]) -> AsyncIterator[Connection]:
    def connector() -> sqlite3.Connection:
        connection = sqlite3.connect(
            file, timeout=_BUSY_TIMEOUT_S, isolation_level=None, cached_statements=_CACHED_STATEMENTS
        )
        try:
            prepare(connection)
        except sqlite3.DatabaseError as problem:
            connection.close()
            if isinstance(problem, sqlite3.OperationalError):
                raise
            raise DatabaseUnusable(f"{file} is not an SQLite database: {problem}") from problem
        except BaseException:
            connection.close()
            raise
        return connection

    connection = Connection(connector, iter_chunk_size=256)
    async with connection:
        yield connection


def _prepare_writer(connection: sqlite3.Connection) -> None:
    _add_functions(connection)
    connection.create_function(BYTES_FUNCTION, 1, bytes.fromhex, deterministic=True)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # but for ``Store.flush``
    connection.execute("PRAGMA fullfsync = ON")  # where the system's own flush may stop short of the disk
    connection.execute("PRAGMA foreign_keys = ON")
    # INSERT OR REPLACE deletes rows; only with this do their delete triggers see it.
    connection.execute("PRAGMA recursive_triggers = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > STORE_VERSION:
        raise DatabaseUnusable(
            f"the database was written by a newer release (store version {version}, this one knows {STORE_VERSION})",
            hint="upgrade syncline",
        )
    if version < STORE_VERSION:
        _in_transaction(connection, lambda connection: _upgrade(connection, version))


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Make the store, or what an older release has left, what this one knows."""
    for step in STORE_STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    if version < RELAXED_VERSION:
        relax_tables(connection)
    if version < LINKED_VERSION:
        link_tables(connection)
    if version == 0:
        connection.execute("INSERT INTO _syncline_state (one, client_id) VALUES (1, ?)", (str(uuid.uuid4()),))
    connection.execute(f"PRAGMA user_version = {STORE_VERSION}")


def _prepare_reader(connection: sqlite3.Connection) -> None:
    # A statement that writes is to fail because it writes, not for lack of what triggers and defaults use.
    _add_functions(connection)
    connection.create_function(DEFAULT_FUNCTION, 3, lambda *_: None)
    connection.create_function(NEXT_FUNCTION, 2, lambda *_: None)
    connection.execute("PRAGMA query_only = ON")
    connection.row_factory = sqlite3.Row


def _add_functions(connection: sqlite3.Connection) -> None:
    """Those that triggers call."""
    connection.create_function(REAL_FUNCTION, 1, repr, deterministic=True)
    for name, (arguments, function) in conditions.FUNCTIONS.items():
        connection.create_function(name, arguments, function, deterministic=True)


def _take_ownership(file: Path) -> sqlite3.Connection:
    """The open lock, to be held; closing it gives the file up."""
    lock = sqlite3.connect(
        file.with_name(file.name + ".owner"), timeout=_OWNER_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("CREATE TABLE IF NOT EXISTS owner (one INTEGER PRIMARY KEY, pid INTEGER, host TEXT, program TEXT)")
        lock.execute(
            "INSERT OR REPLACE INTO owner VALUES (1, ?, ?, ?)", (os.getpid(), socket.gethostname(), sys.argv[0])
        )
        lock.execute("COMMIT")
        lock.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as problem:
        owner = _owner(lock)
        lock.close()
        if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        raise DatabaseInUse(
            f"{file} is in use by {owner}", hint="close it there first, or give this process a file of its own"
        ) from None
    return lock


def _owner(lock: sqlite3.Connection) -> str:
    try:
        row = lock.execute("SELECT pid, host, program FROM owner").fetchone()
    except sqlite3.OperationalError:
        row = None
    if row is None:
        return "another process that is just opening it"
    pid, host, program = row
    return "this very process" if pid == os.getpid() else f"process {pid} on {host} ({program or 'unnamed'})"
