"""A table is altered by direct SQL while devices hold it. One of them makes a write that is refused: it is put right,
and nothing of the device waits. And who comes later gets the table by the name that devices know it by.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.conflict_scene import Device, Kind, PythonDevice, Rows, Scene, alone, conflict_scene
from tests.integration.roles import set_another_role
from tests.npm.rig import eventually
from tests.npm.service import serving
from tests.tokens import insecure_token

from syncline.client import open_db

TABLES = """
CREATE TABLE items (id int4 PRIMARY KEY, body text, n int4);
CREATE TABLE notes (id int4 PRIMARY KEY, body text);
INSERT INTO items VALUES (1, 'one', 1), (2, 'two', 2);
"""
IN_ITS_PLACE = "CREATE TABLE items (LIKE former INCLUDING ALL); INSERT INTO items VALUES (1, 'of another table', 5)"
AS_THEY_WERE: Rows = [(1, "one", 1), (2, "two", 2)]
# What becomes of the table, and of the two rows on the device that had written to one of them.
ALTERED = {
    "renamed": ("ALTER TABLE items RENAME TO former", AS_THEY_WERE),
    "another in its place": (f"ALTER TABLE items RENAME TO former; {IN_ITS_PLACE}", AS_THEY_WERE),
    "in another schema": ("CREATE SCHEMA app; ALTER TABLE items SET SCHEMA app", AS_THEY_WERE),
    "a column renamed": ("ALTER TABLE items RENAME body TO text", [(1, None, 1), (2, "two", 2)]),
    "a column dropped": ("ALTER TABLE items DROP body", [(1, None, 1), (2, "two", 2)]),
    "its key renamed": ("ALTER TABLE items RENAME id TO key", AS_THEY_WERE),
    "its key dropped": ("ALTER TABLE items DROP id", [(1, "one", "no number"), (2, "two", 2)]),
    "dropped": ("DROP TABLE items", [(1, "one", "no number"), (2, "two", 2)]),
}


@alone
@pytest.mark.parametrize(("alter", "left"), ALTERED.values(), ids=ALTERED)
async def test_a_refused_write_to_a_table_that_was_altered_wedges_nobody(
    kinds: Sequence[Kind], alter: str, left: Rows, database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, TABLES, "items", "notes") as scene:
        (ann,) = scene.devices
        await scene.sql(alter)
        await ann.write("UPDATE items SET n = 'no number' WHERE id = 1")
        await ann.write("INSERT INTO notes VALUES (1, 'of the device')")
        await scene.sql("INSERT INTO notes VALUES (2, 'of direct SQL')")
        await eventually(lambda: _put_right(scene, left))
        (refused,) = await scene.postgres.fetch("SELECT sqlstate, table_name FROM electric.rejections")
        assert refused["table_name"] == "items"
        if isinstance(ann, PythonDevice):
            (rejection,) = await ann.db.rejections()
            assert rejection.sqlstate == refused["sqlstate"]
            assert [change.key for change in rejection.changes] == [{"id": 1}]


# What is taken from our role, what gives it back, what the table is called then, and what the log says meanwhile.
FORBIDDEN = {
    "USAGE": (
        "CREATE SCHEMA app; ALTER TABLE items SET SCHEMA app",
        "GRANT USAGE ON SCHEMA app TO {role}",
        "app.items",
        "permission denied for schema app",
    ),
    "SELECT": (
        "REVOKE SELECT ON items FROM {role}",
        "GRANT SELECT ON items TO {role}",
        "items",
        "permission denied for table items",
    ),
}


@alone
@pytest.mark.parametrize(("forbid", "allow", "name", "missing"), FORBIDDEN.values(), ids=FORBIDDEN)
async def test_a_refused_write_to_a_table_that_our_role_may_not_read_wedges_nobody(
    kinds: Sequence[Kind], forbid: str, allow: str, name: str, missing: str, database: str, tmp_path: Path
) -> None:
    """What it wrote stays on the device, which is told why, until the row changes."""
    await set_another_role(database)
    admin = await asyncpg.connect(database)
    await admin.execute("SET ROLE NONE; GRANT CREATE ON SCHEMA public TO PUBLIC")
    role = await admin.fetchval("SELECT current_database()")
    async with conflict_scene(database, tmp_path, kinds, TABLES, "items", "notes") as scene:
        (ann,) = scene.devices
        await admin.execute(forbid.format(role=role))
        await ann.write("UPDATE items SET n = 'no number' WHERE id = 1")
        await ann.write("INSERT INTO notes VALUES (1, 'of the device')")
        await scene.sql("INSERT INTO notes VALUES (2, 'of direct SQL')")
        await eventually(lambda: _put_right(scene, [(1, "one", "no number"), (2, "two", 2)]))
        (refused,) = await scene.postgres.fetch("SELECT sqlstate FROM electric.rejections")
        if isinstance(ann, PythonDevice):
            (rejection,) = await ann.db.rejections()
            assert rejection.sqlstate == refused["sqlstate"]
        (line,) = [line for line in scene.service.log.read_text().splitlines() if "is not undone" in line]
        assert missing in line

        await admin.execute(allow.format(role=role))
        await admin.execute(f"UPDATE {name} SET n = 3 WHERE id = 1")
        await eventually(lambda: _put_right(scene, [(1, "one", 3), (2, "two", 2)]))
        await ann.write("UPDATE items SET n = 'no number' WHERE id = 1")
        await eventually(lambda: _put_right(scene, [(1, "one", 3), (2, "two", 2)]))
    await admin.close()


NESTED = "[" * 200_000 + "]" * 200_000
DEEP = "CREATE TABLE deep (id jsonb PRIMARY KEY, body text); INSERT INTO deep VALUES ('1', 'one');"


@alone
async def test_a_key_that_its_column_does_not_take_wedges_nobody(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, TABLES + DEEP, "items", "notes", "deep") as scene:
        (ann,) = scene.devices
        await ann.write(f"INSERT INTO deep VALUES ('{NESTED}', 'nested too deeply')")
        await ann.write("INSERT INTO notes VALUES (1, 'of the device')")
        await scene.sql("CREATE DOMAIN positive AS int4 CHECK (VALUE > 0)", "ALTER TABLE items ALTER id TYPE positive")
        await ann.write("INSERT INTO items VALUES (-1, 'negative', 1)")
        await ann.write("INSERT INTO notes VALUES (2, 'later')")
        await scene.settled()
        assert await scene.rows("notes") == [(1, "of the device"), (2, "later")]
        refused = await scene.postgres.fetch("SELECT sqlstate FROM electric.rejections ORDER BY id")
        assert [row["sqlstate"] for row in refused] == ["54001", "23514"]


@pytest.mark.parametrize(
    "alter", [ALTERED[name][0] for name in ("renamed", "another in its place", "in another schema")]
)
async def test_who_comes_later_gets_the_table_itself_by_its_old_name(alter: str, database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=("items", "notes")) as (service, postgres),
        open_db(tmp_path / "device.db", service.url.replace("http", "ws")) as db,
    ):
        await postgres.execute(alter)
        await db.connect(insecure_token("ann"))
        await (await db.sync("items")).synced()
        assert [tuple(row) for row in await db.sql("SELECT * FROM items ORDER BY id")] == AS_THEY_WERE


LATE = """
CREATE TABLE late (id int4 PRIMARY KEY, body text, n int4);
INSERT INTO late VALUES (1, 'one', 1), (2, 'two', 2);
"""
# What becomes of a table that nobody has asked for yet, and its rows on devices: a column that is gone is NULL in them.
BARE: Rows = [(1, None, 1), (2, None, 2)]
ALTERED_BEFORE = {
    "renamed": ("ALTER TABLE late RENAME TO former", AS_THEY_WERE),
    "another in its place": (
        "ALTER TABLE late RENAME TO former; CREATE TABLE late (LIKE former INCLUDING ALL); "
        "INSERT INTO late VALUES (1, 'of another table', 5)",
        AS_THEY_WERE,
    ),
    "in another schema": ("CREATE SCHEMA app; ALTER TABLE late SET SCHEMA app", AS_THEY_WERE),
    "a column renamed": ("ALTER TABLE late RENAME body TO text", BARE),
    "a column dropped": ("ALTER TABLE late DROP body", BARE),
    "its key renamed": ("ALTER TABLE late RENAME id TO key", AS_THEY_WERE),
}


@alone
@pytest.mark.parametrize(("alter", "there"), ALTERED_BEFORE.values(), ids=ALTERED_BEFORE)
async def test_a_table_that_was_altered_comes_to_a_device_that_had_not_asked_for_it(
    kinds: Sequence[Kind], alter: str, there: Rows, database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, f"{TABLES}; {LATE}", "notes", unasked=["late"]) as scene:
        (ann,) = scene.devices
        await scene.sql(alter)
        await ann.sync("late")
        assert await ann.rows("SELECT * FROM late ORDER BY id") == there
        await scene.sql("INSERT INTO notes VALUES (1, 'of direct SQL')")
        await eventually(lambda: _has(ann, "notes", [(1, "of direct SQL")]))


@pytest.mark.parametrize(
    ("where", "there"),
    [
        ("this.body = 'one'", []),
        ("this.body IS NULL AND this.id = 2", [(2, None, 2)]),
        ("length(this.body) > 1", []),
        ("this.n = 2 AND coalesce(length(this.body), 7) = 7", [(2, None, 2)]),
    ],
)
@pytest.mark.parametrize("alter", [ALTERED_BEFORE[name][0] for name in ("a column renamed", "a column dropped")])
async def test_a_clause_takes_a_column_that_is_gone_for_null(
    alter: str, where: str, there: Rows, database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, ("python",), f"{TABLES}; {LATE}", "notes", unasked=["late"]) as scene:
        (ann,) = scene.devices
        await scene.sql(alter)
        await ann.sync("late", where)
        assert await ann.rows("SELECT * FROM late ORDER BY id") == there


@pytest.mark.parametrize("name", ["renamed", "a column renamed", "a column dropped", "its key renamed"])
async def test_a_service_that_lost_its_disk_reads_tables_as_they_are_by_then(
    name: str, database: str, tmp_path: Path
) -> None:
    alter, there = ALTERED_BEFORE[name]
    async with conflict_scene(database, tmp_path, ("python",), f"{TABLES}; {LATE}", "notes", "late") as scene:
        (ann,) = scene.devices
        await scene.service.kill()
        shutil.rmtree(scene.service.data_dir)
        await scene.sql("UPDATE late SET n = 7", alter)
        await scene.service.start()
        await eventually(lambda: _has(ann, "late", [(id, body, 7) for id, body, _ in there]))


async def _has(device: Device, table: str, rows: Rows) -> bool:
    assert await device.rows(f"SELECT * FROM {table} ORDER BY id") == rows
    return True


async def _put_right(scene: Scene, left: Rows) -> bool:
    (ann,) = scene.devices
    notes = [(1, "of the device"), (2, "of direct SQL")]
    assert await ann.rows("SELECT * FROM notes ORDER BY id") == notes
    assert await scene.rows("notes") == notes
    assert await ann.pending() == 0
    assert await ann.rows("SELECT * FROM items ORDER BY id") == left
    return True
