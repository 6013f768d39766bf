"""A task that is cancelled on its way into, through or out of a transaction leaves the database writable."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

from syncline.client import Database, open_db


async def write(db: Database) -> None:
    async with db.transaction() as transaction:
        await transaction.execute("INSERT INTO notes VALUES (1)")
        await transaction.execute("DELETE FROM notes")


async def test_others_can_write_after_a_task_was_cancelled_while_it_began_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    async with open_db(path, "ws://127.0.0.1:1") as db:
        await db.execute("CREATE TABLE notes (n INTEGER)")
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")  # so that the transaction's own BEGIN waits
        task = asyncio.create_task(write(db))
        await asyncio.sleep(0.05)  # SQLite's own thread waits: it tells nobody when it begins to
        task.cancel()
        await asyncio.sleep(0.05)  # nor when it has heard of the end
        other.rollback()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        other.close()
        async with asyncio.timeout(5):
            await db.execute("INSERT INTO notes VALUES (2)")
        assert [row[0] for row in await db.sql("SELECT n FROM notes")] == [2]
