"""A device process is killed at random moments; what it left behind must add up.

The invariant: undoing the oplog, newest entry first, turns the rows back into what the server last said, here nothing.
So every row has its entries and every entry its row, whatever the moment of the kill.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from syncline.client import open_db
from syncline.client.oplog import ENTRY_COLUMNS, Entry, entry_from_row

WRITER = """
import asyncio, random, sys
from syncline.client import open_db
from tests.unit.client.test_client_database import SCHEMA
async def main():
    async with open_db(sys.argv[1], "ws://127.0.0.1:1", migrations=SCHEMA) as db:
        print("open", flush=True)
        number = random.randrange(10**9)
        while True:
            number += 1
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO projects VALUES (?, 'new')", (f"p{number}",))
                await tx.execute("INSERT INTO items VALUES (?, ?)", (f"i{number}", f"p{number}"))
            await db.execute("UPDATE projects SET name = name || 'x' WHERE id = ?", (f"p{number}",))
            if number % 3 == 0:
                await db.execute("DELETE FROM projects WHERE id = ?", (f"p{number}",))
asyncio.run(main())
"""

KILLS = 6


def killed_while_writing(path: Path, after_s: float) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(after_s)  # so that it is killed anywhere in its work: no moment is to be met
        process.kill()


def undone(path: Path) -> dict[str, dict[object, dict[str, object]]]:
    """The rows of each table after undoing the whole oplog."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    rows = {
        table: {row["id"]: dict(row) for row in connection.execute(f"SELECT * FROM {table}")}
        for table in ("projects", "items")
    }
    connection.row_factory = None
    entries = [
        entry_from_row(r) for r in connection.execute(f"SELECT {ENTRY_COLUMNS} FROM _syncline_oplog ORDER BY id")
    ]
    connection.close()
    assert all(entry.commit_ms is not None for entry in entries)
    for entry in reversed(entries):
        undo(rows[entry.table_name], entry)
    return rows


def undo(rows: dict[object, dict[str, object]], entry: Entry) -> None:
    if entry.op == "I":
        assert entry.new is not None
        assert rows.pop(entry.new["id"]) == entry.new
    elif entry.op == "U":
        assert entry.new is not None
        assert entry.old is not None
        assert rows[entry.new["id"]] == entry.new
        rows[entry.new["id"]] = dict(entry.old)
    elif entry.op == "D":
        assert entry.old is not None
        assert entry.old["id"] not in rows
        rows[entry.old["id"]] = dict(entry.old)


async def test_rows_and_oplog_match_after_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    random.seed(7)
    for _ in range(KILLS):
        killed_while_writing(path, random.uniform(0.0, 0.15))
        async with open_db(path, "ws://127.0.0.1:1") as db:
            pending = db.status.pending_writes
            stamps = await db.sql("SELECT DISTINCT commit_ms FROM _syncline_oplog")
            pairs = await db.sql(
                "SELECT commit_ms FROM _syncline_oplog WHERE op = 'I' GROUP BY commit_ms HAVING count(*) <> 2"
            )
        assert pending == len(stamps)
        assert pairs == []
        assert undone(path) == {"projects": {}, "items": {}}
    assert pending > 0
