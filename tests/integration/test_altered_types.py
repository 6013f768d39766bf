"""The application alters columns of synced tables, and direct SQL writes and deletes what the old ones could not hold.

A running service reads that from the stream: it goes on, with every device, and records whose the rows were last. What
devices write is judged by the columns as they are now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.tree_scene import Tree, running
from tests.patience import until
from tests.tokens import insecure_token

from syncline.actors.names import ABSORBER, REPLICATOR, ROUTER
from syncline.client import Database, open_db

pytestmark = pytest.mark.every_major

NOTES = "CREATE TABLE notes (id int4 PRIMARY KEY);"
DEEP = "[" * 1_500 + "]" * 1_500


@dataclass(frozen=True)
class Altering:
    """``things`` is made by ``before``. ``after`` alters it and leaves two rows, of which direct SQL is to delete the
    one that is ``gone``, a condition. ``deleted``: what is recorded of it, its key and its row."""

    before: str
    after: str
    gone: str
    deleted: tuple[str, list[str | None]]


ALTERED = {
    "a label is added": Altering(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE things (id int4 PRIMARY KEY, v mood, n int4)",
        "ALTER TYPE mood ADD VALUE 'new'; INSERT INTO things VALUES (1, 'ok'), (2, 'new')",
        "id = 2",
        ('["2"]', ["2", "new", "5"]),
    ),
    "a label of the key is renamed": Altering(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE things (id mood PRIMARY KEY, v mood, n int4)",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; INSERT INTO things VALUES ('ok', 'ok'), ('blue', 'blue')",
        "id = 'blue'",
        ('["blue"]', ["blue", "blue", "5"]),
    ),
    "integers grow": Altering(
        "CREATE TABLE things (id int4 PRIMARY KEY, v int4, n int4)",
        "ALTER TABLE things ALTER id TYPE int8, ALTER v TYPE int8;"
        "INSERT INTO things VALUES (1, 1), (5000000000, 6000000000)",
        "v = 6000000000",
        ('["5000000000"]', ["5000000000", "6000000000", "5"]),
    ),
    "timestamps get a zone": Altering(
        "CREATE TABLE things (id timestamp PRIMARY KEY, v timestamp, n int4)",
        "ALTER TABLE things ALTER id TYPE timestamptz, ALTER v TYPE timestamptz;"
        "INSERT INTO things VALUES ('2001-02-03 04:05:06Z', NULL), ('2002-02-03 04:05:06Z', '2003-02-03 04:05:06.5Z')",
        "id > '2002-01-01'",
        ('["2002-02-03 04:05:06+00"]', ["2002-02-03 04:05:06+00", "2003-02-03 04:05:06.5+00", "5"]),
    ),
    "texts become bytes and bytes texts": Altering(
        "CREATE TABLE things (id bytea PRIMARY KEY, v text, n int4)",
        r"ALTER TABLE things ALTER id TYPE text USING 'was', ALTER v TYPE bytea USING v::bytea;"
        r"INSERT INTO things VALUES ('one Z', 'v'), ('two Z', '\xff00')",
        "id = 'two Z'",
        ('["two Z"]', ["two Z", r"\xff00", "5"]),
    ),
    "the key is renamed": Altering(
        "CREATE TABLE things (a int4, id int4, v text, n int4, PRIMARY KEY (id, a))",
        "ALTER TABLE things RENAME id TO key; INSERT INTO things VALUES (7, 1, 'one'), (8, 2, 'two')",
        "key = 2",
        ('["8","2"]', ["8", "2", "two", "5"]),
    ),
    "nothing is, and JSON is deep": Altering(
        "CREATE TABLE things (id int4 PRIMARY KEY, v json, n int4)",
        f"INSERT INTO things VALUES (1, '[]'), (2, '{DEEP}')",
        "id = 2",
        ('["2"]', ["2", DEEP, "5"]),
    ),
}


@pytest.mark.parametrize("altering", ALTERED.values(), ids=ALTERED)
async def test_direct_sql_goes_on_after_columns_were_altered(database: str, tmp_path: Path, altering: Altering) -> None:
    async with (
        running(database, tmp_path, NOTES + altering.before, ("notes", "things")) as tree,
        open_db(tmp_path / "device.db", tree.url.replace("http", "ws")) as db,
    ):
        await db.connect(insecure_token("ann"))
        for table in ("notes", "things"):
            await (await db.sync(table)).synced()
        actors = [tree.actor(name) for name in (REPLICATOR, ROUTER, ABSORBER)]
        # One transaction cannot both add a label and use it.
        for statement in altering.after.split(";"):
            await tree.postgres.execute(statement)
        await tree.postgres.execute("UPDATE things SET n = 5")
        await tree.postgres.execute(f"DELETE FROM things WHERE {altering.gone}")
        await tree.postgres.execute("INSERT INTO notes VALUES (1)")

        async def shown() -> bool:
            notes = [tuple(row) for row in await db.sql("SELECT id FROM notes")]
            return notes == [(1,)] and [tuple(row) for row in await db.sql("SELECT n FROM things")] == [(5,)]

        await until(shown)
        entries = "SELECT key, \"row\" FROM electric.direct WHERE relid = 'things'::regclass ORDER BY lsn"

        async def absorbed() -> bool:
            return [row["row"] is None for row in await tree.postgres.fetch(entries)] == [True, False]

        await until(absorbed)
        _, deleted = await tree.postgres.fetch(entries)
        assert (deleted["key"], deleted["row"]) == altering.deleted
        # Nothing had to be started again.
        assert [tree.actor(name) for name in (REPLICATOR, ROUTER, ABSORBER)] == actors


async def test_a_key_that_no_index_takes_twice_holds_nobody_up(database: str, tmp_path: Path) -> None:
    """Of bytes an index takes some 2,700; here they are spelled with two characters each."""
    sql = "CREATE TABLE things (id bytea PRIMARY KEY, n int4)"
    async with running(database, tmp_path, sql, ("things",)) as tree:
        long = "decode(string_agg(md5(i::text), ''), 'hex')"
        await tree.postgres.execute(f"INSERT INTO things SELECT {long} FROM generate_series(1, 160) AS s (i)")
        await tree.postgres.execute("INSERT INTO things VALUES ('one')")
        await tree.postgres.execute("UPDATE things SET n = 5")

        async def absorbed() -> bool:
            return await tree.postgres.fetch("SELECT key FROM electric.direct") == [(r'["\\x6f6e65"]',)]

        await until(absorbed)


@asynccontextmanager
async def device(tree: Tree, folder: Path, name: str) -> AsyncIterator[Database]:
    async with open_db(folder / f"{name}.db", tree.url.replace("http", "ws")) as db:
        await db.connect(insecure_token(name))
        for table in ("notes", "things"):
            await (await db.sync(table)).synced()
        yield db


@asynccontextmanager
async def altered(
    dsn: str, folder: Path, before: str, after: Sequence[str]
) -> AsyncIterator[tuple[Tree, Database, Database]]:
    """``things``, made by ``before``, that ann and bob hold when ``after`` alters it."""
    async with AsyncExitStack() as stack:
        tree = await stack.enter_async_context(running(dsn, folder, NOTES + before, ("notes", "things")))
        ann, bob = [await stack.enter_async_context(device(tree, folder, name)) for name in ("ann", "bob")]
        for statement in after:
            await tree.postgres.execute(statement)
        yield tree, ann, bob


def hold(expected: list[tuple[Any, ...]], *devices: Database) -> Callable[[], Awaitable[bool]]:
    """Whether all of these ``devices`` have these things, and have sent all they wrote."""

    async def holds() -> bool:
        for db in devices:
            rows = [tuple(row) for row in await db.sql("SELECT * FROM things ORDER BY id")]
            if rows != expected or db.status.pending_writes:
                return False
        return True

    return holds


WRITTEN = {
    "a column may be NULL": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v text NOT NULL, note text)",
        ["ALTER TABLE things ALTER v DROP NOT NULL", "INSERT INTO things VALUES (1, NULL)"],
        "UPDATE things SET note = 'ann'",
        (1, None, "ann"),
    ),
    "a label is added": (
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE things (id int4 PRIMARY KEY, v mood, note text)",
        ["ALTER TYPE mood ADD VALUE 'new'", "INSERT INTO things VALUES (1, 'new')"],
        "UPDATE things SET note = 'ann'",
        (1, "new", "ann"),
    ),
    "a label is added, and written": (
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE things (id int4 PRIMARY KEY, v mood, note text)",
        ["ALTER TYPE mood ADD VALUE 'new'", "INSERT INTO things VALUES (1, 'sad')"],
        "UPDATE things SET v = 'new'",
        (1, "new", None),
    ),
    "keys grow": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v int4, note text)",
        ["ALTER TABLE things ALTER id TYPE int8", "INSERT INTO things VALUES (5000000000, 1)"],
        "UPDATE things SET note = 'ann'",
        (5_000_000_000, 1, "ann"),
    ),
    "integers become fractions": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v int4, note text)",
        ["ALTER TABLE things ALTER v TYPE numeric", "INSERT INTO things VALUES (1, 1.5)"],
        "UPDATE things SET note = 'ann'",
        (1, 1.5, "ann"),
    ),
    "integers become texts": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v int4, note text)",
        ["ALTER TABLE things ALTER v TYPE text", "INSERT INTO things VALUES (1, '1.5 or so')"],
        "UPDATE things SET note = 'ann'",
        (1, "1.5 or so", "ann"),
    ),
    "truths become texts": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v bool, note text)",
        ["ALTER TABLE things ALTER v TYPE text", "INSERT INTO things VALUES (1, 'perhaps')"],
        "UPDATE things SET v = 'surely'",
        (1, "surely", None),
    ),
    "nothing is, and JSON is deep": (
        "CREATE TABLE things (id int4 PRIMARY KEY, v json, note text)",
        [f"INSERT INTO things VALUES (1, '{DEEP}')"],
        "UPDATE things SET note = 'ann'",
        (1, DEEP, "ann"),
    ),
}


@pytest.mark.parametrize(("before", "after", "write", "row"), WRITTEN.values(), ids=WRITTEN)
async def test_devices_write_to_tables_as_they_are_now(
    database: str, tmp_path: Path, before: str, after: list[str], write: str, row: tuple[Any, ...]
) -> None:
    """And what they cannot make a value of, they show as it is, also one that comes new."""
    async with altered(database, tmp_path, before, after) as (tree, ann, bob):

        async def arrived() -> bool:
            return len(await ann.sql("SELECT * FROM things")) == 1

        await until(arrived)
        await ann.execute(write)
        await until(hold([row], ann, bob))
        async with device(tree, tmp_path, "cat") as cat:
            await until(hold([row], cat))
            await cat.execute("UPDATE things SET note = 'cat'")
            await until(hold([(*row[:-1], "cat")], ann, bob, cat))
        assert await tree.postgres.fetchval("SELECT note FROM things") == "cat"
        assert await tree.postgres.fetch("SELECT * FROM electric.rejections") == []


@pytest.mark.parametrize(("key", "written"), [("int8", "5000000000"), ("numeric", "7.5"), ("text", "7")])
async def test_what_is_refused_of_a_row_whose_key_was_altered_is_undone(
    database: str, tmp_path: Path, key: str, written: str
) -> None:
    """The row as it is comes back, though no description knows such a key."""
    # Devices are told of no CHECK that asks for the time: Postgres alone judges.
    before = (
        "CREATE TABLE things (a int4, id int4, v int4 CHECK (v > 0 OR now() IS NULL), note text, PRIMARY KEY (id, a))"
    )
    after = [f"ALTER TABLE things ALTER id TYPE {key}", f"INSERT INTO things VALUES (1, {written}, 3)"]
    async with altered(database, tmp_path, before, after) as (tree, ann, bob):

        async def values() -> set[Any]:
            return {row["v"] for db in (ann, bob) for row in await db.sql("SELECT v FROM things")}

        async def arrived() -> bool:
            return await values() == {3}

        await until(arrived)
        await ann.execute("UPDATE things SET v = -1")

        async def undone() -> bool:
            refused: int = await tree.postgres.fetchval("SELECT count(*) FROM electric.rejections")
            return refused == 1 and not ann.status.pending_writes and await values() == {3}

        await until(undone)
        assert len(await ann.sql("SELECT * FROM things")) == 1


async def test_a_row_whose_key_a_device_cannot_hold_is_left_out_there(database: str, tmp_path: Path) -> None:
    """SQLite's own number of a row is an integer."""
    before = "CREATE TABLE things (id int4 PRIMARY KEY, v int4, note text); INSERT INTO things VALUES (1, 1)"
    after = ["ALTER TABLE things ALTER id TYPE text", "INSERT INTO things VALUES ('one', 1), ('2', 2)"]
    async with altered(database, tmp_path, before, after) as (tree, ann, bob):
        await until(hold([(1, 1, None), (2, 2, None)], ann, bob))
        async with device(tree, tmp_path, "cat") as cat:
            await until(hold([(1, 1, None), (2, 2, None)], cat))
            await tree.postgres.execute("UPDATE things SET v = 3")
            await until(hold([(1, 3, None), (2, 3, None)], ann, bob, cat))
            await tree.postgres.execute("DELETE FROM things WHERE v = 3")
            await until(hold([], ann, bob, cat))
