"""Shapes are not told of what has nothing to do with them, and of everything that has, on a real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.tree_scene import Tree, running
from tests.patience import until
from tests.rawdevice import RawDevice

from syncline.actors.postgres.transaction import CHUNK_ROWS_MAX
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.messages import Piece
from syncline.proto.values import ShapeRequest

SQL = """
CREATE TABLE projects (id int4 PRIMARY KEY, name text);
CREATE TABLE issues (id int4 PRIMARY KEY, project int4 REFERENCES projects, title text);
CREATE TABLE comments (id int4 PRIMARY KEY, issue int4 REFERENCES issues DEFERRABLE INITIALLY DEFERRED, body text)
"""
TABLES = ("projects", "issues", "comments")
WISH = ShapeRequest(
    str(uuid.uuid4()),
    "projects",
    "this.id = 1",
    ((("project",), ShapeRequest("", "issues", include=((("issue",), ShapeRequest("", "comments")),))),),
)


class Scene:
    """``told``: the shapes' tables, for each transaction that one was told of."""

    def __init__(self, tree: Tree, device: RawDevice, told: list[str]) -> None:
        self.tree = tree
        self.device = device
        self.told = told
        self._notes = iter(range(1 << 30))

    async def rows(self, table: str) -> int:
        oid = await self.tree.postgres.fetchval("SELECT $1::regclass::oid::int8", table)
        return len(self.device.rows.get(oid, {}))

    async def passed(self) -> None:
        """Whatever was committed before has been dealt with: the device has a row that was committed after it."""
        id = 1_000_000 + next(self._notes)
        await self.tree.postgres.execute("INSERT INTO issues VALUES ($1, 1, 'note')", id)
        oid = await self.tree.postgres.fetchval("SELECT 'issues'::regclass::oid::int8")

        async def there() -> bool:
            return str(id).encode() in self.device.rows.get(oid, {})

        await until(there)


@pytest.fixture
async def scene(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    told: list[str] = []
    for kind in (Consumer, *Consumer.__subclasses__()):
        append = kind._append

        async def noted(self: Any, pieces: Sequence[Any], upto: int, append: Any = append) -> None:
            told.extend(self._shape.table for piece in pieces if isinstance(piece, Piece) and piece.last)
            await append(self, pieces, upto)

        monkeypatch.setattr(kind, "_append", noted)
    async with running(database, tmp_path, SQL, TABLES) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute(
            "INSERT INTO projects SELECT n, 'p' FROM generate_series(1, 3) n;"
            "INSERT INTO issues SELECT n, 1 + n % 3, 'i' FROM generate_series(1, 30) n;"
            "INSERT INTO comments SELECT n, 1 + n % 30, 'c' FROM generate_series(1, 300) n"
        )
        await device.start()
        yield Scene(tree, device, told)


async def learnt(scene: Scene) -> None:
    """The tree knows what it is concerned in: it is not told of a transaction it has nothing to do with."""

    async def untold() -> bool:
        await scene.passed()
        scene.told.clear()
        await scene.tree.postgres.execute("UPDATE comments SET body = body || '.' WHERE issue = 1")
        await scene.passed()
        return scene.told == ["projects"]

    await until(untold)


async def test_a_tree_is_told_only_of_what_may_concern_it(scene: Scene) -> None:
    await scene.device.subscribe(WISH)
    await learnt(scene)
    postgres = scene.tree.postgres
    scene.told.clear()
    for statement in (
        "INSERT INTO comments VALUES (1000, 1, 'elsewhere')",
        "INSERT INTO projects VALUES (9, 'another'); INSERT INTO issues VALUES (90, 9, 'of it')",
        "UPDATE issues SET project = 3 WHERE id = 1",
        "DELETE FROM comments WHERE issue = 2",
    ):
        await postgres.execute(statement)
    await scene.passed()
    assert scene.told == ["projects"]
    comments, issues = await scene.rows("comments"), await scene.rows("issues")
    moved = await postgres.fetchval("SELECT count(*) FROM comments WHERE issue = 4")
    await postgres.execute("UPDATE issues SET project = 1 WHERE id = 4")
    await scene.passed()
    assert await scene.rows("issues") == issues + 2
    assert await scene.rows("comments") == comments + moved
    await postgres.execute("INSERT INTO comments VALUES (1001, 4, 'on what has come')")
    await postgres.execute("UPDATE comments SET body = 'changed', issue = 5 WHERE id = 1001")
    await scene.passed()
    assert await scene.rows("comments") == comments + moved
    await postgres.execute("DELETE FROM comments WHERE issue = 4")
    await scene.passed()
    assert await scene.rows("comments") == comments


async def test_what_was_read_ahead_is_not_taken_for_what_there_is_later(scene: Scene) -> None:
    """With a project that comes, the comments of all its issues are read, in case they are needed; what becomes of
    those whose issue does not come, nobody is told."""
    postgres = scene.tree.postgres
    await postgres.execute(
        "UPDATE projects SET name = 'mine' WHERE id = 1; UPDATE issues SET title = 'open' WHERE id < 5"
    )
    issues = ShapeRequest("", "issues", "this.title <> 'i'", include=((("issue",), ShapeRequest("", "comments")),))
    await scene.device.subscribe(
        ShapeRequest(str(uuid.uuid4()), "projects", "this.name = 'mine'", ((("project",), issues),))
    )
    await learnt(scene)
    await postgres.execute("UPDATE projects SET name = 'mine' WHERE id = 2")
    await scene.passed()
    comments = await scene.rows("comments")
    scene.told.clear()
    await postgres.execute("INSERT INTO comments VALUES (1000, 7, 'on what is not there yet')")
    await scene.passed()
    assert scene.told == ["projects"]
    await postgres.execute("UPDATE issues SET title = 'open' WHERE id = 7")
    await scene.passed()
    came = await postgres.fetchval("SELECT count(*) FROM comments WHERE issue = 7")
    assert await scene.rows("comments") == comments + came


async def test_of_a_transaction_in_pieces_none_is_left_out(scene: Scene) -> None:
    """Its first pieces have rows of which only the last one says what they belong to."""
    await scene.device.subscribe(WISH)
    await learnt(scene)
    comments = await scene.rows("comments")
    count = 2 * CHUNK_ROWS_MAX + 1
    async with scene.tree.postgres.transaction():
        await scene.tree.postgres.execute(
            f"INSERT INTO comments SELECT n, 500, 'c' FROM generate_series(10001, {10_000 + count}) n"
        )
        await scene.tree.postgres.execute("INSERT INTO issues VALUES (500, 1, 'at last')")
    await scene.passed()
    assert await scene.rows("comments") == comments + count


async def test_a_shape_of_a_clause_is_told_only_of_rows_that_may_satisfy_it(scene: Scene) -> None:
    await scene.device.subscribe(ShapeRequest(str(uuid.uuid4()), "comments", "this.body ILIKE '%Urgent%'"))
    await scene.device.subscribe(ShapeRequest(str(uuid.uuid4()), "issues"))
    postgres = scene.tree.postgres
    await scene.passed()
    scene.told.clear()
    await postgres.execute("UPDATE comments SET body = 'nothing much' WHERE id < 10")
    await scene.passed()
    assert "comments" not in scene.told
    await postgres.execute("UPDATE comments SET body = 'so URGENT' WHERE id IN (1, 2)")
    await scene.passed()
    assert await scene.rows("comments") == 2
    await postgres.execute("UPDATE comments SET body = 'done' WHERE id = 1")
    await scene.passed()
    assert await scene.rows("comments") == 1
    await postgres.execute("TRUNCATE comments")
    await scene.passed()
    assert await scene.rows("comments") == 0
