"""Shapes that nobody follows fall asleep: who comes back gets what has changed meanwhile, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.test_shapes import device
from tests.integration.tree_scene import Tree, running
from tests.patience import until

from syncline.actors.names import CONSUMERS
from syncline.actors.shapes import asleep
from syncline.actors.shapes.asleep import Asleep
from syncline.client import Database, Include
from syncline.cluster.supervisor import WhichChildren

SQL = """
CREATE TABLE lists (id int4 PRIMARY KEY, owner text);
CREATE TABLE notes (id int4 PRIMARY KEY, list int4, title text);
CREATE TABLE tasks (id int4 PRIMARY KEY, list int4 REFERENCES lists ON DELETE CASCADE, body text);
INSERT INTO lists SELECT n, CASE WHEN n < 4 THEN 'ann' ELSE 'bob' END FROM generate_series(1, 6) n;
INSERT INTO notes SELECT n, n % 6, 'note ' || n FROM generate_series(1, 60) n;
INSERT INTO tasks SELECT n, 1 + n % 6, 'task ' || n FROM generate_series(1, 60) n;
"""
HELD = {
    "notes": "SELECT * FROM notes WHERE list = 1 OR lower(title) LIKE '%urgent%' ORDER BY id",
    "lists": "SELECT * FROM lists WHERE owner = 'ann' ORDER BY id",
    "tasks": "SELECT * FROM tasks WHERE list IN (SELECT id FROM lists WHERE owner = 'ann') ORDER BY id",
}
CONCERNING = (
    "UPDATE notes SET list = 1, title = 'moved in' WHERE id IN (2, 3)",
    "UPDATE notes SET title = 'URGENT' WHERE id = 4",
    "DELETE FROM notes WHERE id = 1",
    "UPDATE lists SET owner = 'ann' WHERE id = 4",
    "UPDATE lists SET owner = 'bob' WHERE id = 1",
    "UPDATE tasks SET list = 2, body = 'moved' WHERE id = 5",
    "INSERT INTO tasks VALUES (100, 2, 'new')",
    "BEGIN; TRUNCATE notes; INSERT INTO notes VALUES (7, 1, 'anew'), (8, 2, 'very urgent'), (9, 2, 'not'); COMMIT",
)
NOT_CONCERNING = "UPDATE notes SET title = 'other' WHERE list = 5; UPDATE tasks SET body = 'other' WHERE list = 6"


class World:
    """A service with three shapes of a device at ``path``."""

    def __init__(self, tree: Tree, path: Path) -> None:
        self.tree = tree
        self.path = path

    @property
    def postgres(self) -> asyncpg.Connection:
        return self.tree.postgres

    @contextlib.asynccontextmanager
    async def device(self) -> AsyncIterator[Database]:
        async with device(self.path, self.tree.url) as db:
            yield db

    async def agree(self, db: Database) -> bool:
        for sql in HELD.values():
            if [tuple(row) for row in await db.sql(sql)] != [tuple(row) for row in await self.postgres.fetch(sql)]:
                return False
        return [row[0] for row in await db.sql("SELECT count(*) FROM notes")] == [
            await self.postgres.fetchval(f"SELECT count(*) FROM ({HELD['notes']}) held")
        ]

    async def asleep(self) -> int:
        found = await self.tree.actor(CONSUMERS).call(WhichChildren())
        return sum(ref is not None and isinstance(ref._cell.actor, Asleep) for ref in found.values())

    async def all_asleep(self) -> bool:
        return await self.asleep() == 3


@pytest.fixture
async def world(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(asleep, "ASLEEP_AFTER_S", 0.1)
    async with running(database, tmp_path, SQL, ("lists", "notes", "tasks")) as tree:
        world = World(tree, tmp_path / "ann.db")
        async with world.device() as db:
            await (await db.sync("notes", "this.list = 1")).synced()
            await (await db.sync("notes", "this.title ILIKE '%urgent%'")).synced()
            await (await db.sync("lists", "this.owner = 'ann'", include=[Include("tasks", on="list")])).synced()
            assert await world.agree(db)
            assert await world.asleep() == 0, "they are followed"
        yield world


async def test_who_comes_back_gets_what_has_changed(world: World) -> None:
    for statements in CONCERNING:
        await until(world.all_asleep)
        await world.postgres.execute(statements)
        async with world.device() as db:
            await until(partial(world.agree, db))


async def test_what_does_not_concern_a_shape_does_not_wake_it(world: World) -> None:
    await until(world.all_asleep)
    await world.postgres.execute(NOT_CONCERNING)
    upto = await world.postgres.fetchval("SELECT pg_current_wal_lsn()")

    async def passed() -> bool:
        sql = "SELECT bool_and(confirmed_flush_lsn >= $1) FROM pg_replication_slots WHERE database = current_database()"
        return bool(await world.postgres.fetchval(sql, upto))

    await until(passed)
    assert await world.all_asleep()
    async with world.device() as db:
        await until(partial(world.agree, db))


async def test_a_service_that_starts_again_finds_them(world: World, database: str, tmp_path: Path) -> None:
    await until(world.all_asleep)
    for statements in CONCERNING[:4]:
        await world.postgres.execute(statements)
    await until(world.all_asleep)
    await world.tree.service.stop()
    for statements in CONCERNING[4:]:
        await world.postgres.execute(statements)
    async with running(database, tmp_path, "SELECT 1", ()) as again:
        world.tree = again
        await until(world.all_asleep)
        async with world.device() as db:
            await until(partial(world.agree, db))
