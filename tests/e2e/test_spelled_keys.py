"""A device spells a key otherwise than Postgres prints it: it ends with the one row that everybody has.

SQLite compares texts byte by byte, so to a device the key that it wrote and the one that comes back are of two rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Device, Kind, Scene, alone, conflict_scene, in_pairs, tick
from tests.npm.rig import eventually

UPPER, LOWER = "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
CHILD = "00000000-0000-4000-8000-00000000000c"
NOTES = "CREATE TABLE notes (id {kind} PRIMARY KEY, body text, n int4);"
COLUMNS = """
SELECT string_agg(CASE WHEN data_type = 'timestamp with time zone'
    THEN format('replace(%I::text, ''+00'', ''Z'')', column_name) ELSE format('%I::text', column_name) END,
    ', ' ORDER BY ordinal_position)
FROM information_schema.columns WHERE table_name = $1
"""
FAMILY = f"""
CREATE TABLE items (id uuid PRIMARY KEY, body text);
CREATE TABLE parts (id uuid PRIMARY KEY, item_id uuid NOT NULL REFERENCES items{{action}});
INSERT INTO items VALUES ('{CHILD}', 'somebody else''s');
"""


async def alike(scene: Scene) -> None:
    """All hold what Postgres does, by the texts that Postgres prints; nothing is on its way."""
    await scene.postgres.execute("SET TimeZone = 'UTC'")
    tables = [row[0] for row in await scene.postgres.fetch("SELECT table_name FROM electric.tables ORDER BY depth")]
    await eventually(lambda: _alike(scene, tables))


async def _alike(scene: Scene, tables: Sequence[str]) -> bool:
    for table in tables:
        columns = await scene.postgres.fetchval(COLUMNS, table)
        there = sorted(tuple(row) for row in await scene.postgres.fetch(f"SELECT {columns} FROM {table}"))
        for number, device in enumerate(scene.devices):
            assert await device.pending() == 0, f"device {number} waits"
            rows = [tuple(map(str, row)) for row in await device.rows(f"SELECT * FROM {table}")]
            assert sorted(rows) == there, f"device {number}, {table}"
    return True


async def orphans(device: Device) -> None:
    """Looks again and again whether a reader of the file may see a part without its item."""
    while True:
        found = await device.rows("SELECT * FROM parts WHERE item_id NOT IN (SELECT id FROM items)")
        assert found == []
        await asyncio.sleep(0)  # the npm rig may answer at once, and others are to have their turn


@alone
@pytest.mark.parametrize(
    ("kind", "spelled", "printed"),
    [
        ("uuid", UPPER, LOWER),
        ("timestamptz", "2024-05-06T07:08:09.500+00:00", "2024-05-06 07:08:09.5+00"),
        ("timestamp", "2024-05-06T07:08:09", "2024-05-06 07:08:09"),
        ("timestamp(0)", "2024-05-06 07:08:09.6", "2024-05-06 07:08:10"),
        ("time", "07:08:09.500", "07:08:09.5"),
        ("jsonb", '{"b":1,"a":2}', '{"a": 2, "b": 1}'),
        ("varchar(3)", "abc   ", "abc"),
        ("float4", "0.123456789", "0.12345679"),
    ],
)
async def test_the_author_is_left_with_the_row_as_everybody_has_it(
    kinds: Sequence[Kind], kind: str, spelled: str, printed: str, database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, NOTES.format(kind=kind), "notes") as scene:
        (ann,) = scene.devices
        await ann.write(f"INSERT INTO notes VALUES ('{spelled}', 'first', 1)")
        await alike(scene)
        assert await scene.postgres.fetch("SELECT id::text, body FROM notes") == [(printed, "first")]
        assert await ann.rows("SELECT body, n FROM notes") == [("first", 1)]
        await ann.write("UPDATE notes SET body = 'second'")
        await alike(scene)
        assert await scene.postgres.fetch("SELECT id::text, body FROM notes") == [(printed, "second")]
        await ann.write("DELETE FROM notes")
        await alike(scene)
        assert await scene.postgres.fetch("SELECT FROM notes") == []
        assert await scene.rejections() == []


@in_pairs
async def test_a_backlog_that_goes_on_with_the_key_as_it_was_spelled_comes_to_one_row(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, NOTES.format(kind="uuid"), "notes") as scene:
        ann, _ = scene.devices
        await ann.offline()
        await ann.write(f"INSERT INTO notes VALUES ('{UPPER}', 'first', 1)")
        await tick()
        await ann.write(f"UPDATE notes SET body = 'second' WHERE id = '{UPPER}'")
        await tick()
        await ann.write(f"UPDATE notes SET n = 3 WHERE id = '{UPPER}'")
        await scene.delivers(ann)
        await alike(scene)
        assert await ann.rows("SELECT id, body, n FROM notes") == [(LOWER, "second", 3)]


@in_pairs
async def test_the_row_may_be_there_already(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    sql = f"{NOTES.format(kind='uuid')} INSERT INTO notes VALUES ('{LOWER}', 'of SQL', 1);"
    async with conflict_scene(database, tmp_path, kinds, sql, "notes") as scene:
        ann, _ = scene.devices
        await alike(scene)
        await ann.write(f"INSERT INTO notes VALUES ('{UPPER}', 'of ann', 2)")
        await alike(scene)
        assert await ann.rows("SELECT id, body, n FROM notes") == [(LOWER, "of ann", 2)]


@alone
@pytest.mark.parametrize("action", ["", " ON DELETE CASCADE", " ON DELETE RESTRICT"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
async def test_children_that_refer_to_the_key_as_it_was_spelled_keep_their_parent(
    kinds: Sequence[Kind], apart: bool, action: str, database: str, tmp_path: Path
) -> None:
    """Also while the child is on its way still: the Python library never shows it without its parent. The npm client,
    which does not look at foreign keys when something comes in, may do so until the child has come back."""
    family = FAMILY.format(action=action)
    async with conflict_scene(database, tmp_path, kinds, family, "items", "parts") as scene:
        (ann,) = scene.devices
        await alike(scene)
        await ann.offline()
        parent = f"INSERT INTO items VALUES ('{UPPER}', 'of ann')"
        child = f"INSERT INTO parts VALUES ('{CHILD}', '{UPPER}')"
        if apart:
            await ann.write(parent)
            await tick()
            await ann.write(child)
        else:
            await ann.write(parent, child)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(orphans(ann)) if kinds == ("python",) else None
            await scene.delivers(ann)
            await alike(scene)
            if watching is not None:
                watching.cancel()
        assert await ann.rows("SELECT item_id FROM parts JOIN items ON items.id = item_id") == [(LOWER,)]
        assert await ann.rows("SELECT count(*) FROM items") == [(2,)]


@in_pairs
async def test_a_rejected_row_leaves_under_the_key_as_it_was_spelled(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    # Devices are told of no CHECK that asks for the time: Postgres alone judges.
    sql = NOTES.format(kind="uuid").replace("n int4", "n int4 CHECK (n < 10 OR now() IS NULL)")
    sql += f"INSERT INTO notes VALUES ('{LOWER}', 'of SQL', 1);"
    async with conflict_scene(database, tmp_path, kinds, sql, "notes") as scene:
        ann, _ = scene.devices
        await alike(scene)
        await ann.write(f"INSERT INTO notes VALUES ('{UPPER}', 'of ann', 20)")
        await alike(scene)
        assert await ann.rows("SELECT id, body, n FROM notes") == [(LOWER, "of SQL", 1)]
