"""A row that direct SQL deleted while a device changed it comes back as that device had seen it, however it saw it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.tree_scene import Tree, running, until
from tests.tokens import insecure_token

from syncline.client import Database, open_db

NOTES = "CREATE TABLE notes (id text PRIMARY KEY, a text NOT NULL, b text NOT NULL)"


@asynccontextmanager
async def device(tree: Tree, path: Path) -> AsyncIterator[Database]:
    async with open_db(path, tree.url.replace("http", "ws")) as db:
        await db.connect(insecure_token("ann"))
        await (await db.sync("notes")).synced()
        yield db


async def stored(tree: Tree, *rows: tuple[str, ...]) -> None:
    async def there() -> bool:
        return [tuple(row) for row in await tree.postgres.fetch("SELECT * FROM notes")] == list(rows)

    await until(there)


async def ann_deletes_and_sql_inserts(tree: Tree, ann: Database) -> None:
    await ann.execute("INSERT INTO notes VALUES ('1', 'one', 'two')")
    await stored(tree, ("1", "one", "two"))
    await ann.execute("DELETE FROM notes WHERE id = '1'")
    await stored(tree)
    await tree.postgres.execute("INSERT INTO notes VALUES ('1', 'X', 'Y')")


async def sql_deletes_while_bob_changes(tree: Tree, bob: Database) -> None:
    async def there() -> bool:
        return [tuple(row) for row in await bob.sql("SELECT * FROM notes")] == [("1", "X", "Y")]

    await until(there)
    await bob.disconnect()
    await tree.postgres.execute("DELETE FROM notes")
    await bob.execute("UPDATE notes SET a = 'B'")
    await bob.connect()
    await stored(tree, ("1", "B", "Y"))


async def test_nothing_of_an_older_row_for_who_saw_the_newer_one_written(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, NOTES, ("notes",)) as tree,
        device(tree, tmp_path / "ann.db") as ann,
        device(tree, tmp_path / "bob.db") as bob,
    ):
        await ann_deletes_and_sql_inserts(tree, ann)
        await sql_deletes_while_bob_changes(tree, bob)


async def test_nothing_of_an_older_row_for_who_fetched_the_newer_one(database: str, tmp_path: Path) -> None:
    for run in ("first", "with another disk"):
        (tmp_path / run).mkdir()
    async with (
        running(database, tmp_path / "first", NOTES, ("notes",)) as tree,
        device(tree, tmp_path / "ann.db") as ann,
    ):
        await ann_deletes_and_sql_inserts(tree, ann)
    async with (
        running(database, tmp_path / "with another disk", "SELECT 1", ()) as tree,
        device(tree, tmp_path / "bob.db") as bob,
    ):
        await sql_deletes_while_bob_changes(tree, bob)
