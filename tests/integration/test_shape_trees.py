"""Include trees on a real Postgres: a device holds exactly what belongs to its shape, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import asyncpg
import pytest
from tests.integration.tree_scene import Tree, running
from tests.patience import until
from tests.rawdevice import RawDevice

from syncline.proto import events
from syncline.proto.values import ShapeRequest

SQL = """
CREATE TABLE users (id int4 PRIMARY KEY, boss int4 REFERENCES users ON DELETE SET NULL, name text);
CREATE TABLE projects (id int4 PRIMARY KEY, owner int4 REFERENCES users ON DELETE SET NULL, name text);
CREATE TABLE issues (id int4 PRIMARY KEY, project int4 REFERENCES projects ON DELETE CASCADE, title text);
CREATE TABLE comments (id int4 PRIMARY KEY, issue int4 REFERENCES issues ON DELETE CASCADE,
                       author int4 REFERENCES users ON DELETE CASCADE, body text)
"""
TABLES = ("users", "projects", "issues", "comments")
PROJECTS = """
WITH RECURSIVE p AS (SELECT * FROM projects),
i AS (SELECT * FROM issues WHERE project IN (SELECT id FROM p)),
c AS (SELECT * FROM comments WHERE issue IN (SELECT id FROM i)),
u AS (SELECT * FROM users WHERE id IN (SELECT owner FROM p UNION SELECT author FROM c)
      UNION SELECT users.* FROM u JOIN users ON users.id = u.boss)
"""
IDS = 12


def request(table: str, **include: ShapeRequest) -> ShapeRequest:
    return ShapeRequest(str(uuid.uuid4()), table, include=tuple(((by,), select) for by, select in include.items()))


async def expected(postgres: asyncpg.Connection, parts: str = PROJECTS) -> dict[str, dict[str, tuple[str | None, ...]]]:
    found = {}
    for table, part in zip(TABLES, "upic", strict=True):
        rows = await postgres.fetch(f"{parts} SELECT * FROM {part}")
        found[table] = {str(row[0]): tuple(None if cell is None else str(cell) for cell in row) for row in rows}
    return found


async def held(tree: Tree, device: RawDevice) -> dict[str, dict[str, tuple[str | None, ...]]]:
    oids = {row["relname"]: row["oid"] for row in await tree.postgres.fetch("SELECT oid::int8, relname FROM pg_class")}
    return {
        table: {
            (key or b"").decode(): tuple(None if cell is None else cell.decode() for cell in row)
            for key, row in device.rows.get(oids[table], {}).items()
        }
        for table in TABLES
    }


async def scribble(dsn: str, seed: int, transactions: int) -> None:
    """Random writes to all tables, in transactions of a few."""
    random = Random(seed)
    postgres = await asyncpg.connect(dsn)

    def some() -> str:
        return "NULL" if random.random() < 0.2 else str(random.randrange(IDS))

    try:
        for _ in range(transactions):
            statements = []
            for _ in range(random.randint(1, 4)):
                table, id = random.choice(TABLES), random.randrange(IDS)
                body = f"b{random.randrange(1000)}"
                if random.random() < 0.2:
                    statements.append(f"DELETE FROM {table} WHERE id = {id}")
                    continue
                columns = {"users": 1, "projects": 1, "issues": 1, "comments": 2}[table]
                values = ", ".join([str(id), *(some() for _ in range(columns)), f"'{body}'"])
                names = [
                    row["attname"]
                    for row in await postgres.fetch(
                        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 1 "
                        "AND NOT attisdropped ORDER BY attnum",
                        table,
                    )
                ]
                sets = ", ".join(f"{name} = excluded.{name}" for name in names)
                statements.append(f"INSERT INTO {table} VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {sets}")
            try:
                async with postgres.transaction():
                    for statement in statements:
                        await postgres.execute(statement)
            except (asyncpg.ForeignKeyViolationError, asyncpg.DeadlockDetectedError):
                continue
            if random.random() < 0.2:
                await asyncio.sleep(random.random() * 0.01)  # so that writers fall in with others' work differently
    finally:
        await postgres.close()


@asynccontextmanager
async def written_to(dsn: str, folder: Path) -> AsyncIterator[tuple[Tree, RawDevice, asyncio.Future[object]]]:
    """A service whose tables two writers are writing to, and a device that asks for nothing yet."""
    async with running(dsn, folder, SQL, TABLES) as tree:
        await scribble(dsn, 1, 60)
        writing = asyncio.gather(*(scribble(dsn, seed, 300) for seed in (2, 3)))
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            yield tree, device, writing


async def test_a_device_holds_what_belongs_to_its_shape_while_others_write(database: str, tmp_path: Path) -> None:
    async with written_to(database, tmp_path) as (tree, device, writing):
        wish = request("projects", project=request("issues", issue=request("comments")))
        await device.subscribe(wish)
        await writing

        async def equal() -> bool:
            return await held(tree, device) == await expected(tree.postgres)

        await until(equal)
        assert any(rows for rows in (await held(tree, device)).values())


async def test_a_clause_at_the_root_and_one_below(database: str, tmp_path: Path) -> None:
    async with written_to(database, tmp_path) as (tree, device, writing):
        comments = ShapeRequest("", "comments", "this.author IS NOT NULL AND this.author < 9")
        issues = ShapeRequest("", "issues", "this.id <> 5", include=((("issue",), comments),))
        wish = ShapeRequest(str(uuid.uuid4()), "projects", "this.id < 7 OR this.owner = 3", ((("project",), issues),))
        await device.subscribe(wish)
        await writing
        parts = (
            PROJECTS.replace("FROM projects)", "FROM projects WHERE id < 7 OR owner = 3)")
            .replace("(SELECT id FROM p))", "(SELECT id FROM p) AND id <> 5)")
            .replace("(SELECT id FROM i))", "(SELECT id FROM i) AND author < 9)")
        )

        async def equal() -> bool:
            return await held(tree, device) == await expected(tree.postgres, parts)

        await until(equal)


async def test_a_clause_alone(database: str, tmp_path: Path) -> None:
    items = "CREATE TABLE items (id int4 PRIMARY KEY, n int4, body text)"
    async with running(database, tmp_path, items) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute("INSERT INTO items SELECT i, i % 10, 'b' FROM generate_series(1, 100) i")
        await device.start()
        await device.subscribe(ShapeRequest(str(uuid.uuid4()), "items", "this.n < 5"))
        oid = await tree.postgres.fetchval("SELECT 'items'::regclass::oid::int8")
        assert len(device.rows[oid]) == 50
        for statement in (
            "UPDATE items SET n = 7 WHERE id = 1",
            "UPDATE items SET n = 1 WHERE id = 9",
            "INSERT INTO items VALUES (200, 3, 'new'), (201, 8, 'not')",
            "DELETE FROM items WHERE id IN (2, 8)",
            "UPDATE items SET id = 300 WHERE id = 3",
            "BEGIN; UPDATE items SET n = 7 WHERE id = 11; UPDATE items SET n = 1 WHERE id = 11; COMMIT",
            "UPDATE items SET n = NULL WHERE id = 4",  # the last one shows, so nothing is on its way once it has
        ):
            await tree.postgres.execute(statement)

        async def equal() -> bool:
            rows = await tree.postgres.fetch("SELECT * FROM items WHERE n < 5")
            wanted = {str(row[0]).encode(): tuple(str(cell).encode() for cell in row) for row in rows}
            return device.rows[oid] == wanted

        await until(equal)
        quiet = len(device.transactions)
        await tree.postgres.execute("UPDATE items SET body = 'x' WHERE n = 8")
        await tree.postgres.execute("UPDATE items SET body = 'x' WHERE id = 200")
        await until(equal)
        assert len(device.transactions) == quiet + 1, "what is not in the shape is no transaction"
        await tree.postgres.execute("TRUNCATE items")
        await until(equal)


async def test_a_clause_that_only_postgres_can_evaluate(database: str, tmp_path: Path) -> None:
    items = "CREATE TABLE items (id int4 PRIMARY KEY, n int4, body text)"
    clause = "length(this.body) > 1 AND 10 / this.n > 2"  # NULL and division by zero are outside, for all who ask
    async with running(database, tmp_path, items) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute("INSERT INTO items SELECT i, i % 10, 'b' || i FROM generate_series(1, 100) i")
        await device.start()
        await device.subscribe(ShapeRequest(str(uuid.uuid4()), "items", clause))
        oid = await tree.postgres.fetchval("SELECT 'items'::regclass::oid::int8")
        for statement in (
            "UPDATE items SET n = 7 WHERE id = 1",
            "UPDATE items SET n = 1 WHERE id = 9",
            "INSERT INTO items VALUES (200, 3, 'new'), (201, 8, 'not'), (202, 0, 'nought')",
            "UPDATE items SET n = 0 WHERE id = 2",
            "UPDATE items SET body = NULL WHERE id = 3",
        ):
            await tree.postgres.execute(statement)

        async def equal() -> bool:
            rows = await tree.postgres.fetch(
                f"SELECT * FROM items WHERE CASE WHEN n <> 0 THEN {clause} END".replace("this.", "")
            )
            wanted = {str(row[0]).encode(): tuple(str(cell).encode() for cell in row) for row in rows}
            return device.rows[oid] == wanted

        await until(equal)


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER TABLE issues RENAME TO former",
        "ALTER TABLE issues RENAME TO former; CREATE TABLE issues (LIKE former INCLUDING ALL)",
        "CREATE SCHEMA app; ALTER TABLE issues SET SCHEMA app",
        "ALTER TABLE issues RENAME title TO name",
        "ALTER TABLE issues DROP title",
        "ALTER TABLE issues RENAME id TO key",
    ],
)
async def test_what_comes_into_a_shape_brings_along_rows_of_a_table_that_was_altered(
    database: str, tmp_path: Path, alter: str
) -> None:
    title = None if "title" in alter else b"second"
    await _brings_along(database, tmp_path, alter, request("projects", project=request("issues")), title)


async def test_what_comes_into_a_shape_brings_along_rows_though_another_of_its_tables_was_dropped(
    database: str, tmp_path: Path
) -> None:
    tables = request("projects", project=request("issues", issue=request("comments")))
    await _brings_along(database, tmp_path, "DROP TABLE comments", tables, b"second")


async def _brings_along(database: str, tmp_path: Path, alter: str, tables: ShapeRequest, title: bytes | None) -> None:
    """A project comes into the shape of one's own after ``alter``, and its issue with this ``title``."""
    rows = """
    INSERT INTO users VALUES (1, NULL, 'ann');
    INSERT INTO projects VALUES (1, 1, 'in'), (2, NULL, 'not yet');
    INSERT INTO issues VALUES (1, 1, 'first'), (2, 2, 'second');
    """
    async with running(database, tmp_path, f"{SQL}; {rows}", TABLES) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        await device.subscribe(dataclasses.replace(tables, where="this.owner = 1"))
        (issues,) = (oid for oid, held in device.rows.items() if (b"1", b"1", b"first") in held.values())
        await tree.postgres.execute(alter)
        await tree.postgres.execute("UPDATE projects SET owner = 1 WHERE id = 2")
        await until(lambda: same(device.rows[issues].get(b"2"), (b"2", b"2", title)))


async def same(there: object, wanted: object) -> bool:
    return there == wanted


async def test_what_postgres_refuses_is_told_when_the_device_asks(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        for clause, says in (
            ("this.n > random() * 10", "random"),
            ("lower(this.n) = 'a'", "lower"),
            ("now() > this.n", ""),
        ):
            wish = ShapeRequest(str(uuid.uuid4()), "items", clause)
            await device.socket.send(device.session.subscribe(str(uuid.uuid4()), [wish]))
            refused = await device.expect(events.SubscribeRefused)
            assert says in refused.message


COMMENTS = """
WITH RECURSIVE c AS (SELECT * FROM comments WHERE author IN (3, 4, 5)),
i AS (SELECT * FROM issues WHERE id IN (SELECT issue FROM c)),
p AS (SELECT * FROM projects WHERE id IN (SELECT project FROM i)),
u AS (SELECT * FROM users WHERE id IN (SELECT owner FROM p UNION SELECT author FROM c)
      UNION SELECT users.* FROM u JOIN users ON users.id = u.boss)
"""
Tables = dict[str, dict[str, tuple[str | None, ...]]]


def union(*parts: Tables) -> Tables:
    return {table: {id: row for part in parts for id, row in part[table].items()} for table in TABLES}


async def test_a_row_that_leaves_one_shape_stays_while_another_holds_it(database: str, tmp_path: Path) -> None:
    async with written_to(database, tmp_path) as (tree, device, writing):
        wish = request("projects", project=request("issues", issue=request("comments")))
        await device.subscribe(dataclasses.replace(wish, where="this.id < 6"))
        projects = PROJECTS.replace("FROM projects)", "FROM projects WHERE id < 6)")
        second = await device.subscribe(
            ShapeRequest(str(uuid.uuid4()), "comments", "this.author IN (5, 4, 3)"),
            ShapeRequest(str(uuid.uuid4()), "users", "this.id > 6"),
        )
        users = "WITH RECURSIVE p AS (SELECT * FROM projects WHERE false), i AS (SELECT * FROM issues WHERE false), "
        users += "c AS (SELECT * FROM comments WHERE false), u AS (SELECT * FROM users WHERE id > 6 "
        users += "UNION SELECT users.* FROM u JOIN users ON users.id = u.boss)"
        await writing

        async def all_three() -> bool:
            parts = [await expected(tree.postgres, part) for part in (projects, COMMENTS, users)]
            return await held(tree, device) == union(*parts)

        await until(all_three)
        writing = asyncio.gather(*(scribble(database, seed, 60) for seed in (4, 5)))
        await device.socket.send(device.session.unsubscribe([second]))
        await device.expect(events.GonesEnded)
        await writing

        async def one() -> bool:
            return await held(tree, device) == await expected(tree.postgres, projects)

        await until(one)
