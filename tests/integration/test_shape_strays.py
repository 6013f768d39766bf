"""What a device writes outside of its shapes leaves it once Postgres has it, and nothing else does."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.integration.tree_scene import Tree, running
from tests.patience import until
from tests.tokens import insecure_token

from syncline.client import Database, open_db

ITEMS = "CREATE TABLE items (id text PRIMARY KEY, n int4, body text)"


async def here(db: Database) -> dict[str, int]:
    return {row["id"]: row["n"] for row in await db.sql("SELECT id, n FROM items")}


async def all_sent(tree: Tree, db: Database) -> None:
    async def sent() -> bool:
        return db.status.connected and db.status.pending_writes == 0

    await until(sent)


async def test_a_row_that_no_shape_holds_leaves_with_its_echo(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, ITEMS) as tree,
        open_db(tmp_path / f"{uuid.uuid4()}.db", tree.url.replace("http", "ws")) as db,
    ):
        await tree.postgres.execute("INSERT INTO items VALUES ('a', 1, ''), ('b', 2, ''), ('c', 3, '')")
        await db.connect(insecure_token("user"))
        await (await db.sync("items", "this.n < 5")).synced()
        await db.execute("INSERT INTO items VALUES ('inside', 4, ''), ('outside', 9, '')")
        await db.execute("UPDATE items SET n = 7 WHERE id = 'a'")
        await db.execute("UPDATE items SET body = 'new' WHERE id = 'b'")
        await all_sent(tree, db)

        async def only_its_own() -> bool:
            return await here(db) == {"b": 2, "c": 3, "inside": 4}

        await until(only_its_own)
        there = {row["id"]: row["n"] for row in await tree.postgres.fetch("SELECT id, n FROM items")}
        assert there == {"a": 7, "b": 2, "c": 3, "inside": 4, "outside": 9}


async def test_offline_too_and_what_came_back_inside_stays(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, ITEMS) as tree,
        open_db(tmp_path / f"{uuid.uuid4()}.db", tree.url.replace("http", "ws")) as db,
    ):
        await db.connect(insecure_token("user"))
        await (await db.sync("items", "this.n < 5")).synced()
        await db.disconnect()
        for statement in (
            "INSERT INTO items VALUES ('x', 9, '')",
            "INSERT INTO items VALUES ('y', 9, '')",
            "UPDATE items SET n = 3 WHERE id = 'x'",
            "INSERT INTO items VALUES ('z', 1, '')",
            "UPDATE items SET n = 8 WHERE id = 'z'",
        ):
            await db.execute(statement)
        assert await here(db) == {"x": 3, "y": 9, "z": 8}, "until Postgres has it, a device shows what it wrote"
        await db.connect()
        await all_sent(tree, db)

        async def only_its_own() -> bool:
            return await here(db) == {"x": 3}

        await until(only_its_own)
