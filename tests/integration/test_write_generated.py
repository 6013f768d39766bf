"""Generated columns of the application's tables, when devices' writes are merged."""

from __future__ import annotations

import pytest
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.catalog import load_catalog

pytestmark = pytest.mark.every_major

EITHER = """
CREATE TABLE either (id int PRIMARY KEY, a int4, b int4, one int4 GENERATED ALWAYS AS (coalesce(a, b)) STORED {0});
INSERT INTO either VALUES (1, 1, 2);
"""


async def test_what_one_is_computed_from_is_one_register(database: str) -> None:
    """Each write is valid alone, and column by column they make a row for which Postgres could compute nothing."""
    async with scene(database, EITHER.format("NOT NULL"), "either") as s:
        without_a = s.update("either", "1", None, "2", changed=[1], seen=["postgres_1@0"])
        without_b = s.update("either", "1", "1", None, changed=[2], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 200, without_a), written("bob", 100, without_b)) == [
            "applied",
            "applied",
        ]
        assert await s.rows("either") == [(1, None, 2, 2)]
        (table,) = (await load_catalog(s.connection)).tables.values()
        assert table.tied == (frozenset({"a", "b"}),)


async def test_one_that_came_later_counts_where_it_cannot_be_computed(database: str) -> None:
    """Each write is valid alone, and nobody has looked at the table since."""
    async with scene(
        database, "CREATE TABLE t (id int PRIMARY KEY, a int4, b int4); INSERT INTO t VALUES (1, 1, 2)"
    ) as s:
        await s.electrify("t")
        await s.connection.execute("ALTER TABLE t ADD COLUMN ratio int4 GENERATED ALWAYS AS (a / (b - a)) STORED")
        a = s.update("t", "1", "3", "2", changed=[1], seen=["postgres_1@0"])
        b = s.update("t", "1", "1", "3", changed=[2], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 200, a), written("bob", 100, b)) == ["applied", "applied"]
        assert await s.rows("t") == [(1, 3, 2, -3)]


@pytest.mark.parametrize("constraint", ["NOT NULL", "CHECK (one IS NOT NULL)", "CHECK (one > 0 AND a < 10)"])
async def test_a_rejection_names_the_columns_that_a_device_has(database: str, constraint: str) -> None:
    async with scene(database, EITHER.format(constraint), "either") as s:
        wrong = s.update("either", "1", "-1" if "one > 0" in constraint else None, None, changed=[1, 2])
        (answer,) = await s.apply(written("ann", 200, wrong))
        assert (answer["status"], sorted(answer["columns"])) == ("rejected", ["a", "b"])
