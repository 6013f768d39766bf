"""Devices that write under load, and a journal that tells whether every write happened exactly once.

Each device transaction inserts a row into ``journal``, numbered without gaps by its device, and updates a row that all
devices fight over. A trigger of the application's counts, for every journal id, how often Postgres executed its insert.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
from tests.e2e.proxy import Proxy
from tests.npm.service import ServiceProcess
from tests.patience import PATIENCE_S, PAUSE_S
from tests.tokens import insecure_token

from syncline.client import Database, open_db

SCHEMA = """
CREATE TABLE journal (id uuid PRIMARY KEY, device text NOT NULL, number int4 NOT NULL);
CREATE TABLE contested (id int4 PRIMARY KEY, value text NOT NULL, writer text);
CREATE TABLE executions (id uuid NOT NULL);
CREATE FUNCTION count_execution() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO executions VALUES (new.id); RETURN new; END $$;
CREATE TRIGGER count_execution BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION count_execution();
INSERT INTO contested SELECT n, 'initial', 'nobody' FROM generate_series(1, 5) n;
"""
TABLES = ("public.journal", "public.contested")
# Of one device. It goes on offline up to here: what a slow machine piles up while the service starts has to be worked
# off by all devices.
PENDING_WRITES_MAX = 100


class Writer:
    """One device writing ceaselessly, offline too. ``written``: the journal ids it has committed locally, in order."""

    def __init__(self, name: str, db: Database, seed: int, pause_s: float) -> None:
        self.name = name
        self._pause_s = pause_s
        self.db = db
        self.written: list[str] = []
        self._random = random.Random(seed)
        self._writing: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self, token: str) -> None:
        await self.db.connect(token)
        for table in ("journal", "contested"):
            await (await self.db.sync(table)).synced()
        self._writing = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Returns when the last transaction is committed and counted."""
        self._stopped = True
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while not self._stopped:
            if self.db.status.pending_writes >= PENDING_WRITES_MAX:
                await asyncio.sleep(PAUSE_S)  # it writes again when some of them are gone
                continue
            id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            async with self.db.transaction() as transaction:
                await transaction.execute(
                    "INSERT INTO journal (id, device, number) VALUES (?, ?, ?)", (id, self.name, len(self.written))
                )
                await transaction.execute(
                    "UPDATE contested SET value = ?, writer = ? WHERE id = ?",
                    (id, self.name, self._random.randint(1, 5)),
                )
            self.written.append(id)
            await asyncio.sleep(self._pause_s)  # the writer's pace


class Scene:
    """The service behind a proxy, writers, a direct SQL client."""

    def __init__(self, service: ServiceProcess, proxy: Proxy, postgres_dsn: str, writers: list[Writer]) -> None:
        self.service = service
        self.proxy = proxy
        self.dsn = postgres_dsn
        self.writers = writers

    async def restart_service(self) -> None:
        await self.service.start()
        self.proxy.target_port = self.service.port

    async def current(self) -> float:
        """Waits until every device holds exactly what Postgres does, with nothing left to send; how long it took.

        Writers must be stopped. The figure is printed too (``pytest -rP``): nothing is asserted about it."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, sqlite3.Error):
                if await self._is_current():
                    print(f"current after {time.monotonic() - began:.2f} s")
                    return time.monotonic() - began
            assert time.monotonic() - began < PATIENCE_S, [writer.db.status for writer in self.writers]
            await asyncio.sleep(PAUSE_S)  # no event: files and Postgres are compared

    async def noticed(self) -> None:
        """Waits until every device knows that it has no connection: what it writes now, it writes offline."""
        async with asyncio.timeout(PATIENCE_S):
            for writer in self.writers:
                async for status in writer.db.status_changes():
                    if not status.connected:
                        break

    async def carried_out(self, more: int) -> None:
        """Waits until Postgres has carried out so many more of the devices' writes: what follows happens under load."""
        began = time.monotonic()
        wanted: int | None = None
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                count = await self._executions()
                wanted = count + more if wanted is None else wanted
                if count >= wanted:
                    return
            assert time.monotonic() - began < PATIENCE_S, [writer.db.status for writer in self.writers]
            await asyncio.sleep(PAUSE_S)  # Postgres tells nobody

    async def _executions(self) -> int:
        postgres = await asyncpg.connect(self.dsn)
        try:
            count: int = await postgres.fetchval("SELECT count(*) FROM executions")
            return count
        finally:
            await postgres.close()

    async def _is_current(self) -> bool:
        if any(writer.db.status.pending_writes for writer in self.writers):
            return False
        postgres = await asyncpg.connect(self.dsn)
        try:
            journal = [tuple(row) for row in await postgres.fetch("SELECT id::text, device, number FROM journal")]
            contested = [tuple(row) for row in await postgres.fetch("SELECT id, value, writer FROM contested")]
        finally:
            await postgres.close()
        for writer in self.writers:
            held = [tuple(row) for row in await writer.db.sql("SELECT id, device, number FROM journal")]
            fought = [tuple(row) for row in await writer.db.sql("SELECT id, value, writer FROM contested")]
            if sorted(held) != sorted(journal) or sorted(fought) != sorted(contested):
                return False
        return True

    async def check_journal(self) -> int:
        """Every write of every device was executed exactly once, with no gap in its numbers; how many there were."""
        postgres = await asyncpg.connect(self.dsn)
        executions = {str(r[0]): r[1] for r in await postgres.fetch("SELECT id, count(*) FROM executions GROUP BY id")}
        rows = await postgres.fetch("SELECT device, number FROM journal ORDER BY device, number")
        await postgres.close()
        written = {id for writer in self.writers for id in writer.written}
        assert {id: count for id, count in executions.items() if count != 1} == {}
        assert set(executions) == written
        for writer in self.writers:
            numbers = [row["number"] for row in rows if row["device"] == writer.name]
            assert numbers == list(range(len(writer.written)))
        return len(written)


@contextlib.asynccontextmanager
async def journal_scene(
    dsn: str,
    folder: Path,
    devices: int,
    settings: Mapping[str, str] | None = None,
    pause_s: float = 0.02,
    ready_within_s: float = PATIENCE_S,
) -> AsyncIterator[Scene]:
    """The scene, set up and writing. ``settings``: of the service. ``pause_s``: of a device between two writes."""
    postgres = await asyncpg.connect(dsn)
    await postgres.execute(SCHEMA)
    service = ServiceProcess(dsn, folder, settings)
    await service.start(ready_within_s)
    for table in TABLES:
        await postgres.execute(f"CALL electric.electrify('{table}')")
    await postgres.close()
    proxy = Proxy(service.port)
    await proxy.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(service.kill)
        stack.push_async_callback(proxy.stop)
        writers = []
        for number in range(devices):
            db = await stack.enter_async_context(open_db(folder / f"{number}.db", f"ws://127.0.0.1:{proxy.port}"))
            writers.append(Writer(f"device {number}", db, seed=number, pause_s=pause_s))
        for writer in writers:
            await writer.start(insecure_token(writer.name))
        try:
            yield Scene(service, proxy, dsn, writers)
        finally:
            for writer in writers:
                await writer.stop()
