"""The application alters columns of synced tables, and direct SQL writes and deletes what the old ones could not hold.

A running service reads that from the stream: it goes on, with every device, and records whose the rows were last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.tree_scene import running
from tests.patience import until
from tests.tokens import insecure_token

from syncline.actors.names import ABSORBER, REPLICATOR, ROUTER
from syncline.client import open_db

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
        r"INSERT INTO things VALUES ('one Z', 'v'), ('two Z', '\x7677')",
        "id = 'two Z'",
        ('["two Z"]', ["two Z", r"\x7677", "5"]),
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
            return len(await tree.postgres.fetch(entries)) == 2

        await until(absorbed)
        updated, deleted = await tree.postgres.fetch(entries)
        assert updated["row"] is None
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
