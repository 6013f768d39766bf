"""Of columns that constraints tie together a device may hold some. What it does not hold is never overwritten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.write_scene import Scene, scene, written

from syncline.actors.devices.inbound import HeldColumns, accept
from syncline.actors.postgres.catalog import load_catalog
from syncline.actors.postgres.write import encode_operations
from syncline.proto.values import Column, Insert, Relation, RowChange, Update

pytestmark = pytest.mark.every_major

P0 = "postgres_1@0"
RANGES = """
CREATE TABLE ranges (id text PRIMARY KEY, low int4 NOT NULL, high int4 NOT NULL DEFAULT 99, name text);
INSERT INTO ranges VALUES ('1', 1, 9, 'n');
"""
CHECK = "ALTER TABLE ranges ADD CHECK (low <= high);"
LOW = Relation(7, "public", "ranges", (Column("id", "text", primary_key=True), Column("low", "int4")))
RAISED = Update(7, (b"1", b"3"), (b"1", b"1"), (P0,))


async def of_low(s: Scene, change: RowChange) -> dict[str, Any]:
    """What becomes at the edge of a change by a device that holds ``low`` alone."""
    catalog = await load_catalog(s.connection)
    operations = accept(((LOW, change),), catalog.named, lambda _: HeldColumns(LOW.names, LOW.names))
    (operation,) = json.loads(b"[" + encode_operations(operations) + b"]")
    return dict(operation)


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_constraint_that_came_later_ties_a_column_to_one_that_the_device_does_not_hold(
    database: str, noticed: bool
) -> None:
    async with scene(database, RANGES, "ranges") as s:
        raised = await of_low(s, RAISED)
        await s.connection.execute(CHECK)
        if noticed:
            await s.refresh()
        assert await s.statuses(written("a", 100, raised)) == ["applied"]
        assert await s.rows("ranges") == [("1", 3, 9, "n")]


@pytest.mark.parametrize(("ms", "end"), [(90, (3, 9)), (110, (1, 5))])
async def test_what_is_not_held_counts_as_written_with_the_rest(database: str, ms: int, end: tuple[int, int]) -> None:
    """Who writes the other column earlier loses to it, and who does so later has both."""
    async with scene(database, RANGES + CHECK, "ranges") as s:
        lowered = s.update("ranges", "1", "1", "5", "n", changed=[2], seen=[P0])
        assert await s.statuses(written("a", 100, await of_low(s, RAISED)), written("b", ms, lowered)) == [
            "applied",
            "applied",
        ]
        assert (await s.rows("ranges"))[0][1:3] == end


async def test_what_is_not_held_comes_back_with_its_row(database: str) -> None:
    async with scene(database, RANGES + CHECK, "ranges") as s:
        delete = s.delete("ranges", "1", seen=[P0])
        assert await s.statuses(written("b", 90, delete), written("a", 100, await of_low(s, RAISED))) == [
            "applied",
            "applied",
        ]
        assert await s.rows("ranges") == [("1", 3, 9, "n")]


async def test_an_insert_takes_the_default_of_what_is_not_held_and_leaves_it_alone_where_the_row_is_there(
    database: str,
) -> None:
    async with scene(database, RANGES + CHECK, "ranges") as s:
        for key in (b"1", b"2"):
            insert = await of_low(s, Insert(7, (key, b"4")))
            assert await s.statuses(written("a", 100 + int(key), insert)) == ["applied"]
        assert await s.rows("ranges") == [("1", 4, 9, "n"), ("2", 4, 99, None)]


async def test_the_columns_at_fault_are_told_where_some_are_not_held(database: str) -> None:
    async with scene(database, RANGES + CHECK, "ranges") as s:
        (answer,) = await s.apply(written("a", 100, await of_low(s, Update(7, (b"1", b"30"), (b"1", b"1"), (P0,)))))
        assert (answer["status"], answer["sqlstate"], answer["columns"]) == ("rejected", "23514", ["low", "high"])
