"""A transaction that the service reads in pieces, in which rows go from one shape of a device to another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.test_columns import rows
from tests.e2e.test_shapes import device
from tests.npm.rig import NpmDevice, devices, eventually
from tests.npm.service import serving

from syncline.actors.postgres.transaction import CHUNK_ROWS_MAX
from syncline.client import Database

SQL = """
CREATE TABLE notes (id text PRIMARY KEY, list text NOT NULL, title text NOT NULL, body text);
INSERT INTO notes SELECT list || kind, list, 'first', 'body of ' || kind
  FROM unnest(ARRAY['x', 'y']) list, unnest(ARRAY['moved', 'returned', 'reborn', 'reborn later', 'brief', 'gone',
                                                  'emptied']) kind;
"""
# Rows of no shape of the device: what is before them is one piece, what is behind them another.
BETWEEN = f"INSERT INTO notes SELECT '{{0}}' || n, 'z', 'between', NULL FROM generate_series(1, {CHUNK_ROWS_MAX}) n"
# What happens to the rows of each list, which may go to the other: (list, other list) -> statements, piece by piece.
PIECES = (
    (
        "UPDATE notes SET title = 'second' WHERE list = '{0}'",
        "DELETE FROM notes WHERE id IN ('{0}reborn', '{0}gone')",
        "UPDATE notes SET list = '{1}' WHERE id = '{0}returned'",
        "INSERT INTO notes VALUES ('{0}new', '{0}', 'first', 'body')",
    ),
    (
        "UPDATE notes SET list = '{1}', title = 'third' WHERE id = '{0}moved'",
        "DELETE FROM notes WHERE id = '{0}reborn later'",
        "UPDATE notes SET list = '{0}', title = 'third' WHERE id = '{0}returned'",
        "UPDATE notes SET list = '{1}', title = 'third' WHERE id = '{0}new'",
        "UPDATE notes SET list = '{1}', title = 'third' WHERE id = '{0}brief'",
    ),
    (
        "INSERT INTO notes VALUES ('{0}reborn', '{1}', 'third', 'other body')",
        "INSERT INTO notes VALUES ('{0}reborn later', '{1}', 'fourth', 'other body')",
        "UPDATE notes SET list = 'z' WHERE id = '{0}brief'",
    ),
)
LISTS = (("x", "y"), ("y", "x"))


async def happen(postgres: asyncpg.Connection) -> None:
    """All of it in one transaction."""
    async with postgres.transaction():
        for number, statements in enumerate(PIECES):
            for statement in statements:
                for lists in LISTS:
                    await postgres.execute(statement.format(*lists))
            await postgres.execute(BETWEEN.format(number))


async def agree(postgres: asyncpg.Connection, db: Database) -> bool:
    """Of the list y the device has no bodies."""
    here = "SELECT id, list, title, CASE WHEN list = 'x' THEN body END FROM notes WHERE list IN ('x', 'y') ORDER BY id"
    assert await rows(db) == [tuple(row) for row in await postgres.fetch(here)]
    return True


@pytest.mark.parametrize("away", [False, True])
async def test_rows_that_change_hands_are_where_they_belong(database: str, tmp_path: Path, away: bool) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=("notes",)) as (service, postgres):
        async with device(tmp_path / "ann.db", service.url) as db:
            await (await db.sync("notes", "this.list = 'x'")).synced()
            await (await db.sync("notes", "this.list = 'y'", columns=["list", "title"])).synced()
            assert await agree(postgres, db)
            if not away:
                await happen(postgres)
                await eventually(partial(agree, postgres, db))
        if away:
            await happen(postgres)
        async with device(tmp_path / "ann.db", service.url) as db:
            await eventually(partial(agree, postgres, db))
            await postgres.execute("UPDATE notes SET title = 'last' WHERE list IN ('x', 'y')")
            await eventually(partial(agree, postgres, db))


async def test_a_table_that_is_emptied_and_filled_again_in_between(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("notes",)) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        await (await db.sync("notes", "this.list = 'x'")).synced()
        await (await db.sync("notes", "this.list = 'y'", columns=["list", "title"])).synced()
        async with postgres.transaction():
            await postgres.execute("UPDATE notes SET title = 'second'")
            await postgres.execute("TRUNCATE notes")
            await postgres.execute(BETWEEN.format("t"))
            for one, other in LISTS:
                await postgres.execute(f"INSERT INTO notes VALUES ('{one}moved', '{other}', 'third', NULL)")
        await eventually(partial(agree, postgres, db))


OF_LISTS = """
CREATE TABLE lists (id text PRIMARY KEY);
CREATE TABLE notes (id text PRIMARY KEY, list text NOT NULL REFERENCES lists, title text NOT NULL, body text);
INSERT INTO lists VALUES ('x'), ('y'), ('z');
INSERT INTO notes VALUES ('reborn', 'x', 'first', 'body'), ('gone', 'x', 'first', 'body');
"""


@pytest.mark.parametrize("away", [False, True])
async def test_a_tree_that_was_only_told_that_a_row_goes_takes_it_from_nobody(
    database: str, tmp_path: Path, away: bool
) -> None:
    """It is found by the list of a note, and hears nothing of one that comes again in another."""

    async def agree() -> bool:
        here = "SELECT * FROM notes WHERE list <> 'z' ORDER BY id"
        wanted = [tuple(row) for row in await postgres.fetch(here)]
        assert [tuple(row) for row in await db.sql(here)] == wanted
        return True

    async def happen() -> None:
        async with postgres.transaction():
            await postgres.execute("DELETE FROM notes WHERE list = 'x'")
            await postgres.execute(BETWEEN.format(1))
            await postgres.execute("INSERT INTO notes VALUES ('reborn', 'y', 'second', 'other body')")
            await postgres.execute(BETWEEN.format(2))

    async with serving(database, tmp_path, sql=OF_LISTS, electrified=("lists", "notes")) as (service, postgres):
        async with device(tmp_path / "ann.db", service.url) as db:
            await (await db.sync("notes")).synced()
            await (await db.sync("notes", "this.list = 'x'")).synced()
            assert await agree()
            if not away:
                await happen()
                await eventually(agree)
        if away:
            await happen()
        async with device(tmp_path / "ann.db", service.url) as db:
            await eventually(agree)


async def npm_agrees(postgres: asyncpg.Connection, npm: NpmDevice) -> bool:
    wanted = {row["id"]: dict(row) for row in await postgres.fetch("SELECT * FROM notes WHERE list IN ('x', 'y')")}
    assert await npm.dump("notes") == wanted
    return not npm.unhandled


async def test_the_published_client_deletes_what_came_again_in_a_later_piece(database: str, tmp_path: Path) -> None:
    """It takes the tags of a row from the first thing that it is told of it in a transaction."""
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("notes",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [npm],
    ):
        for name in ("x", "y"):
            await npm.sync("notes", where={"list": name})
        await happen(postgres)
        await eventually(partial(npm_agrees, postgres, npm))
        await npm.execute(("DELETE FROM notes WHERE id LIKE '%reborn%'",))

        async def deleted() -> bool:
            return not await postgres.fetchval("SELECT count(*) FROM notes WHERE id LIKE '%reborn%'")

        await eventually(deleted)
        await eventually(partial(npm_agrees, postgres, npm))
