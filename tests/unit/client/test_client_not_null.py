"""NOT NULL holds for what the application writes, and for nothing that comes from the server."""

from __future__ import annotations

import json
import sqlite3
from itertools import chain
from pathlib import Path

import pytest

from syncline.client.database import Database, open_db
from syncline.client.schema import STORE_STEPS, Table, table_from_json, table_to_json
from syncline.client.store import open_store
from syncline.client.triggers import REAL_FUNCTION, create_triggers
from syncline.proto.values import ALTER_ADD_COLUMN, CREATE_TABLE, Migrate, MigrationColumn, MigrationTable

URL = "ws://127.0.0.1:9"
CREATE = (
    'CREATE TABLE "notes" (\n  "id" TEXT NOT NULL,\n  "title" TEXT NOT NULL,\n  "body" TEXT,\n'
    '  CONSTRAINT "notes_pkey" PRIMARY KEY ("id")\n);'
)
COLUMNS = tuple(MigrationColumn(name, "TEXT", "text") for name in ("id", "title", "body"))
RANK = MigrationColumn("rank", "INTEGER", "int4")
MIGRATIONS = [
    Migrate("1", ((CREATE_TABLE, CREATE),), MigrationTable("notes", COLUMNS, (), ("id",))),
    Migrate(
        "2",
        ((ALTER_ADD_COLUMN, "ALTER TABLE notes ADD COLUMN rank INTEGER NOT NULL DEFAULT 7"),),
        MigrationTable("notes", (*COLUMNS, RANK), (), ("id",)),
    ),
]
NOTES = Table(0, "notes", ("id", "title", "body"), ("text", "text", "text"), ("id",))


async def not_null(db: Database) -> list[str]:
    return [row["name"] for row in await db.sql("SELECT name FROM pragma_table_xinfo('notes') WHERE \"notnull\"")]


async def test_what_the_application_may_not_leave_out_is_refused_in_sqlites_words(tmp_path: Path) -> None:
    async with open_db(tmp_path / "app.db", URL, migrations=MIGRATIONS) as db:
        assert await not_null(db) == ["id"]
        await db.execute("INSERT INTO notes (id, title) VALUES ('a', 'A')")
        assert [row["rank"] for row in await db.sql("SELECT rank FROM notes")] == [7]
        for sql, column in (
            ("INSERT INTO notes (id, body) VALUES ('b', 'B')", "title"),
            ("INSERT INTO notes (id, title, rank) VALUES ('b', 'B', NULL)", "rank"),
            ("UPDATE notes SET title = NULL", "title"),
            ("UPDATE notes SET rank = NULL", "rank"),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=rf"^NOT NULL constraint failed: notes\.{column}$"):
                await db.execute(sql)
        with pytest.raises(sqlite3.IntegrityError, match=r"notes\.id"):
            await db.execute("INSERT INTO notes (title) VALUES ('B')")
        await db.execute("UPDATE notes SET body = 'now', title = 'B'")
        assert [tuple(row) for row in await db.sql("SELECT * FROM notes")] == [("a", "B", "now", 7)]
        assert db.status.pending_writes == 2


def earlier_release(path: Path, create: str) -> None:
    """A file as the release before left it, with a row in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function(REAL_FUNCTION, 1, repr, deterministic=True)
    connection.create_function("checked", 1, bool, deterministic=True)
    for sql in chain.from_iterable(STORE_STEPS[:3]):
        connection.execute(sql)
    connection.execute("INSERT INTO _syncline_state (one, client_id) VALUES (1, 'me')")
    described = json.loads(table_to_json(NOTES))
    del described["required"], described["lacking"]
    connection.execute("INSERT INTO _syncline_tables VALUES (0, 'notes', ?)", (json.dumps(described),))
    connection.execute("INSERT INTO _syncline_migrations (version) VALUES ('1')")
    connection.execute("PRAGMA user_version = 3")
    connection.execute(create)
    connection.execute("CREATE INDEX by_title ON notes (title)")
    for sql in create_triggers(NOTES, {"notes": NOTES}):
        connection.execute(sql)
    connection.execute("INSERT INTO notes VALUES ('a', 'A', NULL)")
    connection.close()


async def test_a_file_of_the_release_before_is_relaxed_when_it_is_opened(tmp_path: Path) -> None:
    earlier_release(tmp_path / "app.db", CREATE)
    for _ in range(2):
        async with open_db(tmp_path / "app.db", URL, migrations=MIGRATIONS) as db:
            assert await not_null(db) == ["id"]
            with pytest.raises(sqlite3.IntegrityError, match=r"^NOT NULL constraint failed: notes\.title$"):
                await db.execute("INSERT INTO notes (id) VALUES ('b')")
            await db.execute("UPDATE notes SET body = body || '+'")
            assert [tuple(row) for row in await db.sql("SELECT * FROM notes")] == [("a", "A", None, 7)]
            assert [tuple(row) for row in await db.sql("PRAGMA integrity_check")] == [("ok",)]
            assert db.status.pending_writes == 1
    with sqlite3.connect(tmp_path / "app.db") as connection:
        (described,) = connection.execute("SELECT description FROM _syncline_tables").fetchone()
    assert table_from_json(0, "notes", described).required == ("title", "rank")


async def test_a_table_that_cannot_be_tried_out_stays_as_it_was(tmp_path: Path) -> None:
    create = "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT NOT NULL CHECK (checked(title)), body TEXT)"
    earlier_release(tmp_path / "app.db", create)
    async with open_store(tmp_path / "app.db") as store:
        kept = await store.read(lambda c: c.execute("SELECT sql FROM sqlite_master WHERE name = 'notes'").fetchone()[0])
        assert kept == create
