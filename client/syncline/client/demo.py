"""A device for the demonstration: one process that owns a database and does what it is told, a line of JSON at a time.

    python -m syncline.client.demo PATH URL TOKEN

Commands on stdin: ``{"do": "offline"}``, ``{"do": "online"}``, ``{"do": "write", "sql": ..., "args": [...]}``,
``{"do": "dump", "sql": ...}``, ``{"do": "stop"}``. On stdout, as things happen: ``synced``, ``status``, ``seen`` (a new
row of the watched query, with the time at which a reader of the local database could have it), ``dump``, ``error``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from syncline.client import Database, open_db

TABLES = ("projects", "issues", "comments")
# Rows whose arrival is timed: the demonstration writes "beat <number>" into them.
WATCHED = "SELECT body FROM comments WHERE body LIKE 'beat %' AND CAST(substr(body, 6) AS INTEGER) > ?"


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


async def watch_beats(db: Database) -> None:
    """Tell when each numbered row has become readable here."""
    newest = 0
    while True:
        async with db.sql(WATCHED, (newest,)).live() as results:
            async for rows in results:
                now_ns = time.time_ns()
                numbers = [int(row[0].split()[1]) for row in rows]
                if numbers:
                    say("seen", beats=numbers, at_ns=now_ns)
                    newest = max(numbers)
                    break  # watch on from here, so that the query stays small


async def watch_status(db: Database) -> None:
    async for status in db.status_changes():
        say("status", connected=status.connected, pending=status.pending_writes)


async def obey(db: Database, reader: asyncio.StreamReader) -> None:
    while line := await reader.readline():
        command = json.loads(line)
        match command["do"]:
            case "offline":
                await db.disconnect()
            case "online":
                await db.connect()
            case "write":
                await db.execute(command["sql"], command.get("args", ()))
            case "dump":
                rows = await db.sql(command["sql"])
                say("dump", id=command["id"], rows=[list(row) for row in rows])
            case "stop":
                return


async def main(path: str, url: str, token: str) -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with open_db(path, url) as db:
        began = time.monotonic()
        await db.connect(token)
        for shape in [await db.sync(table) for table in TABLES]:
            await shape.synced()
        counts = [(await db.sql(f"SELECT count(*) FROM {table}"))[0][0] for table in TABLES]  # noqa: S608
        say("synced", rows=sum(counts), seconds=time.monotonic() - began)
        watchers = [asyncio.create_task(watch_beats(db)), asyncio.create_task(watch_status(db))]
        try:
            await obey(db, reader)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
