"""Whoever reads the device's database, at whatever moment, finds no reference to a row that is not there, nor from one
that refers to others in turn."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from tests.integration.test_client_service import confirmed, device, rows, service_on

from syncline.actors.postgres.electrify import electrify
from syncline.client import Database

SCHEMA = """
CREATE TABLE lists (id text PRIMARY KEY, title text);
CREATE TABLE items (
    id text PRIMARY KEY, list text NOT NULL REFERENCES lists ON DELETE CASCADE,
    second text REFERENCES lists ON DELETE SET NULL);
CREATE TABLE parts (id text PRIMARY KEY, item text NOT NULL REFERENCES items ON DELETE CASCADE);
"""
TABLES = ("lists", "items", "parts")
ROUNDS = 40


class Reader:
    """Another connection to the file, which takes one snapshot after another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopping = threading.Event()
        self.snapshots = 0
        self.dangling: list[object] = []
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        while not self._stopping.is_set() and not self.dangling:
            self.dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
            self.snapshots += 1
        connection.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            await asyncio.to_thread(self._thread.join)


async def writing(db: Database, name: str, chance: random.Random) -> None:
    """An application at work: rows with parents that may just be going, parents that go with all they have."""
    for number in range(ROUNDS):
        lists, items, _ = [[str(id) for (id,) in await rows(db, f"SELECT id FROM {table}")] for table in TABLES]
        id = f"{name}{number}"
        kind = chance.choice(["list", "item", "item", "part", "part", "move", "drop list", "drop item"])
        try:
            if kind == "list" or not lists:
                await db.execute("INSERT INTO lists VALUES (?, ?)", (id, id))
            elif kind == "item" or not items:
                second = chance.choice([None, *lists])
                await db.execute("INSERT INTO items VALUES (?, ?, ?)", (id, chance.choice(lists), second))
            elif kind == "part":
                await db.execute("INSERT INTO parts VALUES (?, ?)", (id, chance.choice(items)))
            elif kind == "move":
                await db.execute("UPDATE items SET list = ? WHERE id = ?", (chance.choice(lists), chance.choice(items)))
            elif kind == "drop list":
                await db.execute("DELETE FROM lists WHERE id = ?", (chance.choice(lists),))
            else:
                await db.execute("DELETE FROM items WHERE id = ?", (chance.choice(items),))
        except sqlite3.IntegrityError:
            continue  # what it had seen has gone meanwhile
        if chance.random() < 0.2:
            await asyncio.sleep(0.01)  # others get their turn, and what they wrote arrives in between


async def test_no_snapshot_of_a_device_has_a_dangling_reference(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute(SCHEMA)
        for table in TABLES:
            await electrify(connection, table)
        async with device(tmp_path / "a.db", service, *TABLES) as a, device(tmp_path / "b.db", service, *TABLES) as b:
            readers = [Reader(tmp_path / name) for name in ("a.db", "b.db")]
            async with readers[0].reading(), readers[1].reading():
                chance = random.Random(1)
                await asyncio.gather(*[writing(db, name, chance) for name, db in (("a", a), ("b", b))])
                await confirmed(a)
                await confirmed(b)
            assert [reader.dangling for reader in readers] == [[], []]
            assert min(reader.snapshots for reader in readers) > 10
    await connection.close()
