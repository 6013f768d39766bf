"""A write that Postgres refuses is taken back on the device that made it, and holds up nobody, not even its author."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest
from tests.npm.rig import NpmDevice, devices, eventually
from tests.npm.service import serving

SQL = """
CREATE TABLE items (id int PRIMARY KEY, title varchar(10), rank int CHECK (rank >= 0));
INSERT INTO items SELECT i, 'item ' || i, i FROM generate_series(1, 20) i;
CREATE FUNCTION keep_the_first() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN IF OLD.id = 1 THEN RAISE ''the first item stays''; END IF; RETURN OLD; END';
CREATE TRIGGER keep_the_first BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION keep_the_first();
"""


async def test_what_postgres_refuses_is_taken_back(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("items")
        await bob.sync("items")
        before = await ann.dump("items")
        for refused in (
            "INSERT INTO items VALUES (21, 'new', -1)",
            "INSERT INTO items VALUES (21, 'longer than ten', 1)",
            "UPDATE items SET rank = -1 WHERE id = 2",
            "UPDATE items SET rank = 'no number' WHERE id = 2",
            "DELETE FROM items WHERE id = 1",
            "UPDATE items SET rank = rank - 10",
        ):
            await ann.execute((refused,))
            assert await ann.dump("items") != before
            await eventually(lambda: _agree(postgres, ann, bob))
            assert await ann.dump("items") == before, refused


async def test_a_refused_write_takes_its_transaction_with_it_and_no_other(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        await ann.disconnect()
        for statements in (
            ("INSERT INTO items VALUES (21, 'good', 1)",),
            ("UPDATE items SET title = 'refused' WHERE id = 3", "UPDATE items SET rank = -1 WHERE id = 4"),
            ("UPDATE items SET title = 'good' WHERE id = 5",),
        ):
            seen = len(ann.events)
            await ann.execute(*((sql,) for sql in statements))
            await ann.event("changed", after=seen, origin="local")  # the client joins what it has not noted yet
        await ann.connect()
        await eventually(lambda: _agree(postgres, ann))
        rows = await postgres.fetch("SELECT id, title, rank FROM items WHERE id IN (3, 4, 5, 21) ORDER BY id")
        assert [tuple(row) for row in rows] == [(3, "item 3", 3), (4, "item 4", 4), (5, "good", 5), (21, "good", 1)]


async def test_what_is_refused_at_the_edge_is_kept_with_what_the_device_had_written(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        await ann.execute(("INSERT INTO items VALUES (30, 'precious', 'no number')",))
        await eventually(lambda: _agree(postgres, ann))
        (recorded,) = await postgres.fetch("SELECT ops, key FROM electric.rejections")
        (operation,) = json.loads(recorded["ops"])
        assert (operation["op"], operation["row"]) == ("I", ["30", "precious", "no number"])
        assert json.loads(recorded["key"]) == ["30"]


@pytest.mark.parametrize("refused", ["-1", "'no number'"], ids=["by Postgres", "at the edge"])
async def test_a_delete_stands_after_a_transaction_that_is_refused(database: str, tmp_path: Path, refused: str) -> None:
    """All that its author had seen of the rows he had seen when he wrote what is refused; but not what came since."""
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("items")
        await bob.sync("items")
        await bob.execute(("UPDATE items SET title = 'of bob' WHERE id IN (7, 8, 9)",))
        await eventually(lambda: _agree(postgres, ann, bob))
        await ann.disconnect()
        for statements in (
            (
                "UPDATE items SET title = 'refused' WHERE id IN (6, 7, 8)",
                f"UPDATE items SET rank = {refused} WHERE id = 9",
            ),
            ("UPDATE items SET title = 'good' WHERE id = 8",),
            ("DELETE FROM items WHERE id IN (6, 7, 8, 9)",),
        ):
            seen = len(ann.events)
            await ann.execute(*((sql,) for sql in statements))
            await ann.event("changed", after=seen, origin="local")  # the client joins what it has not noted yet
        await bob.execute(("UPDATE items SET title = 'since' WHERE id = 9",))
        await eventually(lambda: _agree(postgres, bob))
        await ann.connect()
        await eventually(lambda: _agree(postgres, ann, bob))
        assert await postgres.fetchval("SELECT array_agg(id) FROM items WHERE id IN (6, 7, 8, 9)") == [9]


async def _agree(postgres: asyncpg.Connection, *npm: NpmDevice) -> bool:
    there = {row["id"]: dict(row) for row in await postgres.fetch("SELECT * FROM items")}
    for device in npm:
        assert await device.dump("items") == there
        assert await device.pending() == 0
        assert device.unhandled == []
    return True
