"""Generated columns are Postgres' own: computed from what devices and direct SQL write, and on no device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Kind, conflict_scene, in_pairs, tick

pytestmark = pytest.mark.every_major

RANGES = """
CREATE TABLE ranges (
    id text PRIMARY KEY,
    low int4 NOT NULL,
    span int4 GENERATED ALWAYS AS (high - low) STORED CHECK (span >= 0),
    high int4 NOT NULL,
    label text
);
INSERT INTO ranges VALUES ('1', 1, DEFAULT, 9, 'one'), ('2', 2, DEFAULT, 2, 'two');
"""


@in_pairs
async def test_they_are_computed_from_what_anybody_writes(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    async with conflict_scene(database, tmp_path, kinds, RANGES, "ranges") as scene:
        ann, bob = scene.devices
        await ann.write(
            "INSERT INTO ranges VALUES ('3', 30, 33, 'three')", "UPDATE ranges SET high = 11 WHERE id = '1'"
        )
        await scene.settled()
        await scene.sql("UPDATE ranges SET low = 3 WHERE id = '1'", "DELETE FROM ranges WHERE id = '2'")
        await scene.settled()
        await bob.write("UPDATE ranges SET label = 'of bob' WHERE id = '3'")
        await scene.ends_with(ranges=[("1", 3, 11, "one"), ("3", 30, 33, "of bob")])
        spans = await scene.postgres.fetch("SELECT id, span FROM ranges ORDER BY id")
        assert [tuple(row) for row in spans] == [("1", 8), ("3", 3)]


@in_pairs
async def test_what_a_constraint_on_them_is_about_is_one_register(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """Each write is valid alone; column by column they make a row that is not."""
    async with conflict_scene(database, tmp_path, kinds, RANGES, "ranges") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE ranges SET low = 8, label = 'of ann' WHERE id = '1'")
        await tick()
        await bob.write("UPDATE ranges SET high = 3 WHERE id = '1'")
        for device in (bob, ann):
            await scene.delivers(device)
        await scene.ends_with(ranges=[("1", 1, 3, "of ann"), ("2", 2, 2, "two")])


@in_pairs
async def test_one_that_is_added_later_changes_nothing_for_devices(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, RANGES, "ranges") as scene:
        ann, bob = scene.devices
        await scene.sql("ALTER TABLE ranges ADD twice int GENERATED ALWAYS AS (high * 2) STORED")
        await scene.sql("UPDATE ranges SET low = 0 WHERE id = '1'")
        await scene.settled()
        await ann.write("UPDATE ranges SET high = 4 WHERE id = '1'")
        await bob.write("DELETE FROM ranges WHERE id = '2'")
        await scene.ends_with(ranges=[("1", 0, 4, "one")])
        assert await scene.postgres.fetchval("SELECT twice FROM ranges") == 8


@in_pairs
async def test_a_row_that_direct_sql_has_deleted_comes_back_without_them(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, RANGES, "ranges") as scene:
        ann, _ = scene.devices
        await scene.offline()
        await scene.sql("DELETE FROM ranges WHERE id = '1'")
        await ann.write("UPDATE ranges SET label = 'wanted' WHERE id = '1'")
        for device in scene.devices:
            await scene.delivers(device)
        await scene.ends_with(ranges=[("1", 1, 9, "wanted"), ("2", 2, 2, "two")])
        assert await scene.postgres.fetchval("SELECT span FROM ranges WHERE id = '1'") == 8


@in_pairs
@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ("slug text GENERATED ALWAYS AS (lower(name)) STORED, id int PRIMARY KEY, name text", "1"),
        ("a int, slug text GENERATED ALWAYS AS (lower(name)) STORED, b int, name text, PRIMARY KEY (b, a)", "1, 2"),
    ],
)
async def test_they_may_stand_before_the_columns_of_the_key(
    kinds: Sequence[Kind], database: str, tmp_path: Path, columns: str, row: str
) -> None:
    """A delete takes with it what its device has seen: of whom the row is comes with it."""
    async with conflict_scene(database, tmp_path, kinds, f"CREATE TABLE named ({columns})", "named") as scene:
        ann, bob = scene.devices
        await ann.write(f"INSERT INTO named VALUES ({row}, 'One')")
        await scene.settled()
        await tick()
        await ann.write("UPDATE named SET name = 'Two'")
        await scene.settled()
        assert await scene.postgres.fetchval("SELECT slug FROM named") == "two"
        assert await scene.postgres.fetchval("SELECT count(*) FROM electric.direct") == 0
        await tick()
        await bob.write("DELETE FROM named")
        await scene.ends_with(named=[])
