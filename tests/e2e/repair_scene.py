"""Devices of ours that are repaired: their rows, what is counted on their lines, and how they are killed meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from tests.npm.service import ServiceProcess, serving
from tests.tokens import insecure_token

from syncline.client import Database, open_db
from syncline.client.transport import Transport, open_websocket
from syncline.proto import codec
from syncline.proto.codec import MessageType
from syncline.proto.values import Delete, Gone, Insert, Update

ROWS = 20_000
ITEMS = f"""
CREATE TABLE items (id int8 PRIMARY KEY, title text, n int4, weight float8, made timestamptz, raw bytea, small float4);
INSERT INTO items SELECT i, 'item ' || i, i % 7, i / 3.0, 'epoch'::timestamptz + i * interval '1 second',
                         int8send(i), i / 7.0 FROM generate_series(1, {ROWS}) i;
"""
CHANGES = """
UPDATE items SET title = 'changed', weight = 1e15 WHERE id IN (17, 4711, 9999);
DELETE FROM items WHERE id IN (3, 8000);
INSERT INTO items VALUES (50001, 'new', 1, NULL, now(), '', NULL), (50002, NULL, NULL, 2, NULL, NULL, 1e6);
"""
CHANGED = 7


class Counting:
    """A transport that counts the row operations which come by it, and the bytes of all frames."""

    def __init__(self, line: Transport, counts: Counter[str]) -> None:
        self.protocol = line.protocol
        self.send = line.send
        self._line = line
        self._counts = counts

    async def receive(self) -> bytes:
        frame = await self._line.receive()
        self._counts["bytes"] += len(frame)
        if frame[0] == MessageType.OP_LOG:
            ops = codec.decode_ops(frame[1:])
            self._counts["rows"] += sum(isinstance(op, Insert | Update | Delete | Gone) for op in ops)
        elif frame[0] == MessageType.REPAIR_BEGIN:
            self._counts["repairs"] += 1
        elif frame[0] == MessageType.SUBS_DATA_BEGIN:
            self._counts["deliveries"] += 1
        return frame


@asynccontextmanager
async def counted(path: Path, url: str, counts: Counter[str]) -> AsyncIterator[Database]:
    @asynccontextmanager
    async def open_counting(url: str) -> AsyncIterator[Transport]:
        async with open_websocket(url) as line:
            yield Counting(line, counts)

    async with open_db(path, url, open_transport=open_counting) as db:
        yield db


@asynccontextmanager
async def connected(
    database: str, folder: Path, sql: str, electrified: tuple[str, ...]
) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection, Database, Counter[str]]]:
    """A service and a device that is connected, and what is counted on its line."""
    counts: Counter[str] = Counter()
    async with (
        serving(database, folder, sql=sql, electrified=electrified) as (service, postgres),
        counted(folder / "device.db", service.url, counts) as db,
    ):
        await db.connect(insecure_token("ann"))
        yield service, postgres, db, counts


async def rows_of(db: Database, table: str = "items") -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql(f"SELECT * FROM {table} ORDER BY id")]


async def fetched_anew(path: Path, url: str, table: str = "items") -> list[tuple[object, ...]]:
    async with open_db(path, url) as db:
        await db.connect(insecure_token("ann"))
        await (await db.sync(table)).synced()
        return await rows_of(db, table)


async def current(postgres: asyncpg.Connection, db: Database, table: str = "items") -> bool:
    """Nothing is on its way: the device has what Postgres has, by the ids and the titles of the rows."""
    there = await postgres.fetch(f"SELECT id, title FROM {table} ORDER BY id")
    return [tuple(row) for row in await db.sql(f"SELECT id, title FROM {table} ORDER BY id")] == [*map(tuple, there)]


async def same(one: object, other: object) -> bool:
    return one == other


STOPPING_DEVICE = """
import asyncio, sys
from contextlib import asynccontextmanager
from syncline.client import open_db
from syncline.client.transport import open_websocket
from syncline.proto.codec import MessageType
from tests.tokens import insecure_token

class Stopping:
    def __init__(self, line):
        self.protocol, self.send, self._line = line.protocol, line.send, line
    async def receive(self):
        frame = await self._line.receive()
        if frame[0] == MessageType.REPAIR_END:
            print("in the middle", flush=True)
            await asyncio.Event().wait()
        return frame

@asynccontextmanager
async def open_stopping(url):
    async with open_websocket(url) as line:
        yield Stopping(line)

async def main():
    async with open_db(sys.argv[1], sys.argv[2], open_transport=open_stopping) as db:
        await db.connect(insecure_token("ann"))
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def killed_in_the_middle(path: Path, url: str) -> None:
    """A process with the device at ``path`` that is killed when all of its repair but the end has come."""
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPING_DEVICE, path, url, stdout=asyncio.subprocess.PIPE
    )
    assert killed.stdout is not None
    assert await killed.stdout.readline() == b"in the middle\n"
    killed.kill()
    await killed.wait()


def position_of(path: Path) -> bytes:
    connection = sqlite3.connect(path)
    (lsn,) = connection.execute("SELECT lsn FROM _syncline_state").fetchone()
    connection.close()
    assert isinstance(lsn, bytes)
    return lsn
