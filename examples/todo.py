"""A to-do list that works offline, on the device library alone.

    createdb todo && psql todo -c "CREATE TABLE items (id text PRIMARY KEY, title text NOT NULL, done bool NOT NULL)"
    DATABASE_URL=postgresql://.../todo AUTH_MODE=insecure syncline serve        # in another terminal
    DATABASE_URL=postgresql://.../todo syncline electrify public.items

    python examples/todo.py phone.db add "Buy milk"
    python examples/todo.py laptop.db list
    python examples/todo.py laptop.db done "Buy milk"
    python examples/todo.py phone.db watch

Each file is a device of its own. The first run of a file needs a connection, because its tables come from the server.
After that all of it works offline: what is written waits in the file for the next run that has a connection.

``SYNCLINE_URL`` is the service, ``SYNCLINE_TOKEN`` the token. Without one an unsigned token is used, which only a
service in insecure mode believes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid

from syncline.client import Database, open_db

URL = os.environ.get("SYNCLINE_URL", "ws://localhost:5133")
TOKEN = os.environ.get("SYNCLINE_TOKEN", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.")  # {"alg":"none"} . {"sub":"ann"}
SENT_WITHIN_S = 5.0
USAGE = "usage: todo.py FILE list | watch | add TITLE | done TITLE"
OPEN_ITEMS = "SELECT title, done FROM items ORDER BY done, title"


def line(title: str, done: int) -> str:
    return f"[{'x' if done else ' '}] {title}"


async def sent(db: Database) -> bool:
    """Whether everything written here has reached Postgres, after a moment's wait."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SENT_WITHIN_S):
            async for status in db.status_changes():
                if status.connected and not status.pending_writes:
                    return True
    return False


async def main(path: str, command: str, *rest: str) -> None:
    async with open_db(path, URL) as db:
        await db.connect(TOKEN)
        items = await db.sync("items")
        if db.status.connected:
            await items.synced()
            await sent(db)  # what an earlier run without a connection has kept here
        match command, rest:
            case "list", ():
                for title, done in await db.sql(OPEN_ITEMS):
                    print(line(title, done))
            case "watch", ():
                async with db.sql(OPEN_ITEMS).live() as results:
                    async for rows in results:
                        print("\n".join(line(title, done) for title, done in rows), end="\n\n", flush=True)
            case "add", (title,):
                await db.execute("INSERT INTO items VALUES (?, ?, 0)", (str(uuid.uuid4()), title))
                print("in Postgres" if await sent(db) else "kept here until there is a connection")
            case "done", (title,):
                count = await db.execute("UPDATE items SET done = 1 WHERE title = ?", (title,))
                print(f"{count} done" if await sent(db) else f"{count} done, kept here until there is a connection")
            case _:
                sys.exit(USAGE)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(USAGE)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
