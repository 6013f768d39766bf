"""Those who write and read: a device of our library, one of the npm client, direct SQL. One interface for the three."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from tests.consistency.histories import Cells, Snapshot
from tests.consistency.schema import TABLES, VECTOR, snapshot_sql
from tests.consistency.workload import Statement
from tests.npm.rig import NpmDevice, NpmDiedError, NpmError
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.client import Database, database, open_db

RETRY_S = 0.05
TRIES = 50
# What an application asks for again if it has not come.
SYNC_WITHIN_S = 5.0
RESTART_EVERY = 3
GROWING = ("counters", "journal", "registers", "mixed", "members")
COUNTS = (
    "SELECT (SELECT count(*) FROM counters) AS a, (SELECT count(DISTINCT author) FROM journal) AS b, "
    "(SELECT count(*) FROM registers) AS c, (SELECT count(*) FROM mixed) AS d, (SELECT count(*) FROM members) AS e"
)
JOURNALED = "SELECT 1 FROM journal WHERE author = ? AND number = ?"


class Refused(Exception):
    """The transaction has not been committed, and will not be."""


class Anew(Exception):
    """All that it held had been given up, and is here again: a new session begins."""


class Lost(Exception):
    """Nobody knows whether it has: the one who was to commit it is gone. ``reopen``, then look."""


class Party(Protocol):
    async def open(self, *, first: bool) -> None:
        """``first``: waits until everything is here to be read."""

    async def reopen(self) -> None:
        """After Lost."""

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        """The counters as they were found. ``pause_s``: before the last statement.

        Raises Refused, Lost, and Anew with nothing written.
        """

    async def snapshot(self) -> Snapshot:
        """Raises Lost and Anew."""

    async def has_written(self, number: int) -> bool:
        """Whether its transaction of that number is there. Raises Lost."""

    async def dump(self) -> Snapshot:
        """All rows, those of the journal too. Raises Lost."""

    async def pending(self) -> int:
        """Local transactions, or operations, that have not come back yet."""

    async def state(self) -> str:
        """How it sees its connection, in words."""

    async def nudge(self) -> None:
        """What an application does for a client that needs to be told to connect again."""

    def skew(self, ms: int) -> None:
        """Puts its clock ahead by ``ms``; negative: behind."""

    @property
    def pid(self) -> int | None:
        """Of the process that holds its database, if that is another one than this."""

    async def close(self) -> None: ...


def snapshot_of(rows: Iterable[tuple[str, str, str]]) -> Snapshot:
    found: dict[str, dict[str, Cells]] = {table.name: {} for table in TABLES}
    for table, key, row in rows:
        found[table][key] = tuple(json.loads(row))
    return found


def snapshot_rows(plain: dict[str, dict[str, list[Any]]]) -> Snapshot:
    """A snapshot that has travelled as JSON."""
    return {table: {key: tuple(row) for key, row in rows.items()} for table, rows in plain.items()}


class PythonParty:
    def __init__(self, name: str, folder: Path, url: str) -> None:
        self._name = name
        self._path = folder / f"{name}.db"
        self._url = url.replace("http", "ws")
        self._stack = AsyncExitStack()
        self._db: Database | None = None

    @property
    def db(self) -> Database:
        assert self._db is not None, "open"
        return self._db

    @property
    def pid(self) -> int | None:
        return None

    async def open(self, *, first: bool) -> None:
        self._db = await self._stack.enter_async_context(open_db(self._path, self._url))
        await self._db.connect(insecure_token(self._name))
        if not first:
            return
        shapes = [await self._db.sync(table.name) for table in TABLES]
        for shape in shapes:
            await shape.synced()

    async def reopen(self) -> None:
        raise NotImplementedError("nothing of it is lost but with this process")

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        *first, last = statements
        try:
            async with self.db.transaction() as tx:
                saw = {row[0]: row[1] for row in await tx.sql(VECTOR)}
                for sql, *args in first:
                    await tx.execute(str(sql), args)
                if pause_s:
                    await asyncio.sleep(pause_s)  # so that a kill finds it half done
                await tx.execute(str(last[0]), last[1:])
        except sqlite3.IntegrityError as refusal:
            raise Refused(str(refusal)) from refusal
        return saw

    async def snapshot(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self.db.sql(snapshot_sql(postgres=False)))

    async def has_written(self, number: int) -> bool:
        return bool(await self.db.sql(JOURNALED, (self._name, number)))

    async def dump(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self.db.sql(snapshot_sql(postgres=False, whole=True)))

    async def pending(self) -> int:
        return self.db.status.pending_writes

    async def state(self) -> str:
        status = self.db.status
        return f"connected {status.connected}, {status.reason}, last error {status.last_error}"

    async def nudge(self) -> None:
        """It does so by itself."""

    def skew(self, ms: int) -> None:
        # The library asks this function for the time once a commit; it is bound when the database is opened.
        _SKEW_MS[0] = ms

    async def close(self) -> None:
        await self._stack.aclose()


_SKEW_MS = [0]


def _skewed_ms() -> int:
    return time.time_ns() // 1_000_000 + _SKEW_MS[0]


def install_clock() -> None:
    """From now on databases opened in this process go by the skewed clock."""
    database._now_ms = _skewed_ms


class NpmParty:
    def __init__(self, name: str, folder: Path, url: str) -> None:
        self._name = name
        self._path = folder / f"{name}.db"
        self._url = url
        self._skew_ms = 0
        self._counts = (0,) * len(GROWING)
        self._nudges = 0
        self._dropped = False
        self._device: NpmDevice | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def device(self) -> NpmDevice:
        if self._device is None:
            raise Lost
        return self._device

    @property
    def pid(self) -> int | None:
        return None if self._device is None else self._device.pid

    async def open(self, *, first: bool) -> None:
        if not first:
            await self.reopen()
            return
        await self._start()
        await self.device.connect(self._name)
        await self._sync()

    async def _sync(self, within_s: float = PATIENCE_S) -> None:
        """Of each table so long."""
        for table in sorted(TABLES, key=lambda table: table.name == "counters"):  # last: they say whether all is here
            async with asyncio.timeout(within_s):
                await self.device.sync(table.name, within_s=within_s)

    async def _whole(self, counts: Sequence[int]) -> None:
        """Told to start over, the client drops its rows and forgets what it had asked for: it is asked again.

        ``counts``: of tables that never lose a row.
        """
        self._counts = tuple(map(max, counts, self._counts))
        if tuple(counts) != self._counts:
            self._dropped = True
            await self._sync_again()
        if self._dropped:
            self._dropped = False
            raise Anew

    async def _sync_again(self) -> None:
        """Restarts the application where that does not help. Raises Lost then."""
        for _ in range(RESTART_EVERY):
            try:
                await self._sync(SYNC_WITHIN_S)
                return
            except NpmDiedError as death:
                raise Lost from death
            except (NpmError, TimeoutError, AssertionError):
                await asyncio.sleep(RETRY_S)  # it had no connection, or has lost what was asked for on it
        await self.device.kill()
        raise Lost

    async def reopen(self) -> None:
        await self._start()
        self._later(self._connect())

    async def _start(self) -> None:
        while True:
            try:
                self._device = await NpmDevice.open(self._path, self._url)
                break
            except (NpmError, NpmDiedError, TimeoutError):  # it asks the service for its migrations on opening
                await asyncio.sleep(RETRY_S)
        if self._skew_ms:
            self.skew(self._skew_ms)

    async def _connect(self) -> None:
        try:
            await self.device.connect(self._name)
        except (NpmError, NpmDiedError, TimeoutError):
            return  # it goes on trying by itself, or is opened anew

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        """The counters are those just before: the client offers nothing else. There is no place for the pause."""
        [counts] = await self._ask(COUNTS)
        await self._whole(list(counts.values()))
        saw = {row["id"]: row["value"] for row in await self._ask(VECTOR)}
        try:
            await self.device.execute(*statements)
        except NpmError as refusal:
            if not str(refusal.code).startswith("SQLITE_CONSTRAINT"):
                raise
            raise Refused(str(refusal)) from refusal
        except NpmDiedError as death:
            raise Lost from death
        return saw

    async def _ask(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        try:
            return await self.device.query(sql, *args)
        except NpmDiedError as death:
            raise Lost from death

    async def snapshot(self) -> Snapshot:
        rows = await self._ask(snapshot_sql(postgres=False))
        snapshot = snapshot_of((row["tab"], row["key"], row["row"]) for row in rows)
        await self._whole([len(snapshot[name]) for name in GROWING])
        return snapshot

    async def has_written(self, number: int) -> bool:
        return bool(await self._ask(JOURNALED, self._name, number))

    async def dump(self) -> Snapshot:
        rows = await self._ask(snapshot_sql(postgres=False, whole=True))
        return snapshot_of((row["tab"], row["key"], row["row"]) for row in rows)

    async def pending(self) -> int:
        try:
            return await self.device.pending()
        except NpmDiedError as death:
            raise Lost from death

    async def state(self) -> str:
        return f"connected {self.device.connected}, unhandled {self.device.unhandled[-3:]}"

    async def nudge(self) -> None:
        """Cut off while it starts to replicate, or not answered within 3 s, this client believes to be connected for
        ever. Where telling it to connect does not help, its application is restarted."""
        self._nudges += 1
        if self._nudges % RESTART_EVERY:
            self._later(self._connect())
        else:
            await self.device.kill()

    def skew(self, ms: int) -> None:
        self._skew_ms = ms
        self._later(self._tell_skew())

    async def _tell_skew(self) -> None:
        try:
            await self.device.call("skew", ms=self._skew_ms)
        except (Lost, NpmDiedError):
            return  # the next process is told when it starts

    async def close(self) -> None:
        if self._device is not None:
            await self._device.close()


class SqlParty:
    """Each transaction at REPEATABLE READ, again if Postgres cannot serialise it."""

    def __init__(self, name: str, dsn: str) -> None:
        self._name = name
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    @property
    def pid(self) -> int | None:
        return None

    async def open(self, *, first: bool) -> None:
        await self.reopen()

    async def reopen(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        while True:
            try:
                self._connection = await asyncpg.connect(self._dsn, server_settings={"timezone": "UTC"}, timeout=5)
                return
            except (OSError, TimeoutError, asyncpg.PostgresError):  # Postgres is away
                await asyncio.sleep(RETRY_S)

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        wanted = list(statements)
        for _ in range(TRIES):
            try:
                return await self._try(wanted, pause_s)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(RETRY_S)
            except asyncpg.IntegrityConstraintViolationError as refusal:
                raise Refused(str(refusal)) from refusal
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as loss:
                raise Lost from loss
        raise Refused("cannot be serialised")

    async def _try(self, statements: list[Statement], pause_s: float) -> dict[str, int]:
        connection = self._connected()
        async with connection.transaction(isolation="repeatable_read"):
            saw = {row[0]: row[1] for row in await connection.fetch(VECTOR)}
            for place, (sql, *args) in enumerate(statements):
                if pause_s and place == len(statements) - 1:
                    await asyncio.sleep(pause_s)  # with its locks, as slow applications do
                await connection.execute(numbered(str(sql)), *args)
        return saw

    def _connected(self) -> asyncpg.Connection:
        if self._connection is None:
            raise Lost
        return self._connection

    async def _fetch(self, sql: str, *args: Any) -> list[Any]:
        try:
            return list(await self._connected().fetch(sql, *args))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as loss:
            raise Lost from loss

    async def snapshot(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self._fetch(snapshot_sql(postgres=True)))

    async def has_written(self, number: int) -> bool:
        return bool(await self._fetch(numbered(JOURNALED), self._name, number))

    async def dump(self) -> Snapshot:
        return snapshot_of(tuple(row) for row in await self._fetch(snapshot_sql(postgres=True, whole=True)))

    async def pending(self) -> int:
        return 0

    async def state(self) -> str:
        return "direct SQL"

    async def nudge(self) -> None:
        """It has nothing to be told."""

    def skew(self, ms: int) -> None:
        """It has no clock."""

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def numbered(sql: str) -> str:
    """``?`` as Postgres writes parameters."""
    numbers = iter(range(1, 100))
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)


def party(kind: str, name: str, folder: Path, url: str, dsn: str) -> Party:
    match kind:
        case "python":
            return PythonParty(name, folder, url)
        case "npm":
            return NpmParty(name, folder, url)
        case _:
            return SqlParty(name, dsn)
