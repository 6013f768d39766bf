"""Shapes that name columns, on devices of ours, against the service: what is here, what is written, what is refused."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.test_shapes import device
from tests.npm.rig import eventually
from tests.npm.service import serving
from tests.tokens import insecure_token

from syncline.client import Database, Include

TABLES = ("users", "notes")
SQL = """
CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL, mail text NOT NULL, age int4);
CREATE TABLE notes (id text PRIMARY KEY, author text NOT NULL REFERENCES users (id), title text NOT NULL,
                    body text NOT NULL DEFAULT 'nothing yet', stars int4 NOT NULL DEFAULT 1);
INSERT INTO users VALUES ('ann', 'Ann', 'ann@a', 30), ('bob', 'Bob', 'bob@b', NULL);
INSERT INTO notes SELECT 'n' || n, CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'bob' END, 'note ' || n, 'body ' || n, n
  FROM generate_series(1, 6) n;
"""
TITLES = "SELECT id, author, title, NULL, NULL FROM notes ORDER BY id"
NAMES = "SELECT id, name, NULL, NULL FROM users ORDER BY id"
USERS = "SELECT * FROM users ORDER BY id"
LIKED = "CASE WHEN stars > 3 THEN {} END".format
SOME = f"SELECT id, author, title, {LIKED('body')}, {LIKED('stars')} FROM notes ORDER BY id"


async def rows(db: Database, table: str = "notes") -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql(f"SELECT * FROM {table} ORDER BY id")]


async def agree(postgres: asyncpg.Connection, db: Database, notes: str, users: str = USERS) -> bool:
    expected = [[tuple(row) for row in await postgres.fetch(sql)] for sql in (notes, users)]
    assert [await rows(db), await rows(db, "users")] == expected
    return not db.status.pending_writes


@pytest.mark.each_runtime
async def test_a_device_has_the_columns_that_its_shape_names(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with device(tmp_path / "ann.db", service.url) as db:
            await (await db.sync("notes", columns=["title"])).synced()
            assert await agree(postgres, db, TITLES)
            for sql in (
                "UPDATE notes SET title = title || '!', body = body || '!'",
                "INSERT INTO notes VALUES ('n7', 'ann', 'seventh', 'long', 7)",
                "DELETE FROM notes WHERE id = 'n1'",
                "UPDATE notes SET author = 'ann'",
            ):
                await postgres.execute(sql)
                await eventually(partial(agree, postgres, db, TITLES))
        await postgres.execute("UPDATE notes SET title = 'meanwhile', stars = 0 WHERE id = 'n2'")
        async with device(tmp_path / "ann.db", service.url) as db:
            await eventually(partial(agree, postgres, db, TITLES))


async def test_what_a_device_writes_leaves_other_columns_alone(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        await (await db.sync("notes", columns=["title"])).synced()
        await db.execute("UPDATE notes SET title = 'mine' WHERE id = 'n1'")
        await db.execute("INSERT INTO notes (id, author, title) VALUES ('n8', 'bob', 'new')")
        await db.execute("DELETE FROM notes WHERE id = 'n2'")
        await eventually(partial(agree, postgres, db, TITLES))
        written = "SELECT * FROM notes WHERE id IN ('n1', 'n2', 'n8') ORDER BY id"
        assert [tuple(row) for row in await postgres.fetch(written)] == [
            ("n1", "bob", "mine", "body 1", 1),
            ("n8", "bob", "new", "nothing yet", 1),
        ]
        for sql in (
            "UPDATE notes SET stars = 5 WHERE id = 'n3'",
            "INSERT INTO notes (id, author, title, stars) VALUES ('n9', 'bob', 'new', 5)",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="does not hold the column stars of notes"):
                await db.execute(sql)
        with pytest.raises(sqlite3.IntegrityError, match=r"NOT NULL constraint failed: notes\.title"):
            await db.execute("INSERT INTO notes (id, author) VALUES ('n9', 'bob')")
        assert await agree(postgres, db, TITLES)


async def test_a_row_has_the_columns_of_all_shapes_that_hold_it(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        await (await db.sync("notes", columns=["title"])).synced()
        liked = await db.sync("notes", "this.stars > 3")
        await liked.synced()
        assert await agree(postgres, db, SOME)
        for sql in (
            "UPDATE notes SET stars = 9, body = 'in' WHERE id = 'n1'",
            "UPDATE notes SET stars = 0 WHERE id = 'n5'",
            "UPDATE notes SET stars = 8 - stars, title = title || '?'",
        ):
            await postgres.execute(sql)
            await eventually(partial(agree, postgres, db, SOME))
        await db.execute("UPDATE notes SET stars = 7, title = 'seven' WHERE id = 'n3'")
        await eventually(partial(agree, postgres, db, SOME))
        await liked.unsubscribe()
        await eventually(partial(agree, postgres, db, TITLES))
        with pytest.raises(sqlite3.IntegrityError, match="does not hold the column stars of notes"):
            await db.execute("UPDATE notes SET stars = 5")


RANGES = """
CREATE TABLE ranges (id text PRIMARY KEY, kind text NOT NULL, name text, low int4, high int4, CHECK (low <= high));
INSERT INTO ranges VALUES ('1', 'a', 'one', 1, 9), ('2', 'b', 'two', 1, 9);
"""


@pytest.mark.parametrize("columns", [["kind", "low"], None], ids=["some", "all"])
async def test_the_null_of_a_column_that_is_not_here_is_never_sent(
    database: str, tmp_path: Path, columns: list[str] | None
) -> None:
    """Other rows have the columns, so they may be written; this one is here by the shape of names alone."""
    async with (
        serving(database, tmp_path, sql=RANGES, electrified=("ranges",)) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        await (await db.sync("ranges", "this.kind = 'a'", columns=columns)).synced()
        await (await db.sync("ranges", "this.kind = 'b'", columns=["kind", "name"])).synced()
        await db.execute("UPDATE ranges SET low = 3 WHERE id = '2'")

        async def arrived() -> bool:
            ranges = [tuple(row) for row in await postgres.fetch("SELECT low, high FROM ranges ORDER BY id")]
            assert ranges == [(1, 9), (3, 9)]
            return not db.status.pending_writes

        await eventually(arrived)
        assert not await db.rejections()


async def test_an_include_names_columns_of_its_own(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        notes = "SELECT * FROM notes ORDER BY id"
        shape = await db.sync("notes", include=[Include("users", on="author", columns=["name"])])
        await shape.synced()
        assert await agree(postgres, db, notes, NAMES)
        await postgres.execute("UPDATE users SET age = 31, name = 'Anna' WHERE id = 'ann'")
        await eventually(partial(agree, postgres, db, notes, NAMES))
        whole = await db.sync("users", key="all of them")
        await whole.synced()
        assert await agree(postgres, db, notes)
        await db.execute("UPDATE users SET age = 32 WHERE id = 'ann'")
        await eventually(partial(agree, postgres, db, notes))
        await whole.unsubscribe()
        await eventually(partial(agree, postgres, db, notes, NAMES))
        await db.execute("UPDATE users SET name = 'Ann' WHERE id = 'ann'")
        await eventually(partial(agree, postgres, db, notes, NAMES))
        assert await postgres.fetchval("SELECT age FROM users WHERE id = 'ann'") == 32
        await shape.unsubscribe()
        await eventually(
            partial(agree, postgres, db, "SELECT * FROM notes WHERE false", "SELECT * FROM users WHERE false")
        )


async def test_what_postgres_refuses_is_undone_in_the_columns_that_are_here(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        # Devices are told of no CHECK that asks for the time: Postgres alone judges.
        await postgres.execute("ALTER TABLE notes ADD CHECK (title <> 'bad' OR now() IS NULL)")
        await (await db.sync("notes", columns=["title"])).synced()
        for sql in (
            "UPDATE notes SET title = 'bad' WHERE id = 'n1'",
            "INSERT INTO notes (id, author, title) VALUES ('n8', 'bob', 'bad')",
        ):
            await db.execute(sql)
            await eventually(partial(agree, postgres, db, TITLES))
        assert await postgres.fetchval("SELECT count(*) FROM notes WHERE title LIKE 'note%'") == 6


async def test_writes_made_before_there_is_a_shape_survive_one_that_names_columns(
    database: str, tmp_path: Path
) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with device(tmp_path / "ann.db", service.url) as db:
            await eventually(partial(has_tables, db))
            await db.disconnect()
            await db.execute("INSERT INTO users VALUES ('eve', 'Eve', 'eve@e', 20)")
        async with device(tmp_path / "ann.db", service.url, connected=False) as db:
            names = await db.sync("users", columns=["name"])
            await db.execute("INSERT INTO notes VALUES ('n9', 'eve', 'ninth', 'long', 9)")
            with pytest.raises(sqlite3.IntegrityError, match="does not hold the column mail of users"):
                await db.execute("UPDATE users SET mail = 'eve@new'")
            assert db.status.pending_writes == 2
            await db.connect(insecure_token("ann"))
            await names.synced()
            await eventually(partial(agree, postgres, db, "SELECT * FROM notes WHERE false", NAMES))
        eve = await postgres.fetchrow("SELECT * FROM users WHERE id = 'eve'")
        assert tuple(eve) == ("eve", "Eve", "eve@e", 20)
        assert await postgres.fetchval("SELECT count(*) FROM notes") == 7


async def has_tables(db: Database) -> bool:
    assert len(await db.sql("SELECT * FROM pragma_table_info('users')")) == 4
    return True
