"""Unique indexes and exclusion constraints tie columns together that their expressions and conditions make use of."""

from __future__ import annotations

import pytest
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.catalog import load_catalog

pytestmark = pytest.mark.every_major

P0 = "postgres_1@0"
PERIODS = """
CREATE TABLE periods (id text PRIMARY KEY, low int4 NOT NULL, high int4 NOT NULL, name text, live bool NOT NULL);
INSERT INTO periods VALUES ('1', 1, 10, 'A', false), ('2', 20, 30, 'b', true);
"""
EXCLUDE = "ALTER TABLE periods ADD CONSTRAINT tie EXCLUDE USING gist (int4range(low, high) WITH &&)"
PARTIAL = "CREATE UNIQUE INDEX tie ON periods (name) WHERE live"


@pytest.mark.parametrize("when", ["before", "refreshed", "at once"])
async def test_columns_of_an_exclusion_over_an_expression_are_one_register(database: str, when: str) -> None:
    """Each write is valid alone; column by column they are no range at all. Also where nobody has looked at the table
    since it has the constraint."""
    async with scene(database, PERIODS + (EXCLUDE if when == "before" else ""), "periods") as s:
        if when != "before":
            await s.connection.execute(EXCLUDE)
        if when == "refreshed":
            assert await s.refresh()
        low = s.update("periods", "1", "8", "10", "A", "f", changed=[1], seen=[P0])
        high = s.update("periods", "1", "1", "5", "A", "f", changed=[2], seen=[P0])
        assert await s.statuses(written("ann", 100, low), written("bob", 200, high)) == ["applied", "applied"]
        assert (await s.rows("periods"))[0] == ("1", 1, 5, "A", False)


@pytest.mark.parametrize("index", [PARTIAL, "CREATE UNIQUE INDEX ON periods ((CASE WHEN live THEN lower(name) END))"])
@pytest.mark.parametrize("refreshed", [True, False])
async def test_columns_of_the_condition_and_the_expressions_of_a_unique_index_are_one_register(
    database: str, index: str, refreshed: bool
) -> None:
    """Ann gives row 1 a name that row 2 has while row 1 is not live, Bob makes row 1 live."""
    async with scene(database, PERIODS, "periods") as s:
        await s.connection.execute(index)
        if refreshed:
            assert await s.refresh()
        name = s.update("periods", "1", "1", "10", "b", "f", changed=[3], seen=[P0])
        live = s.update("periods", "1", "1", "10", "A", "t", changed=[4], seen=[P0])
        assert await s.statuses(written("ann", 100, name), written("bob", 200, live)) == ["applied", "applied"]
        assert (await s.rows("periods"))[0] == ("1", 1, 10, "A", True)


@pytest.mark.parametrize("tie", [EXCLUDE, PARTIAL])
async def test_columns_are_registers_of_their_own_again_when_nothing_ties_them_any_more(
    database: str, tie: str
) -> None:
    async with scene(database, PERIODS + tie, "periods") as s:
        await s.connection.execute("DROP INDEX tie" if tie is PARTIAL else "ALTER TABLE periods DROP CONSTRAINT tie")
        assert await s.refresh()
        assert not await s.refresh()
        one = s.update("periods", "1", "8", "10", "b", "f", changed=[1, 3], seen=[P0])
        other = s.update("periods", "1", "1", "15", "A", "t", changed=[2, 4], seen=[P0])
        assert await s.statuses(written("ann", 100, one), written("bob", 200, other)) == ["applied", "applied"]
        assert (await s.rows("periods"))[0] == ("1", 8, 15, "b", True)


@pytest.mark.parametrize(
    ("tie", "together"),
    [
        (EXCLUDE, {"low", "high"}),
        ("ALTER TABLE periods ADD EXCLUDE USING gist (int4range(low, low + 9) WITH &&) WHERE (live)", {"low", "live"}),
        (PARTIAL, {"name", "live"}),
        ("CREATE UNIQUE INDEX ON periods (lower(name), (low + high)) WHERE live", {"name", "low", "high", "live"}),
        ("CREATE UNIQUE INDEX ON periods (name) INCLUDE (low, high) WHERE live", {"name", "live"}),
        ("CREATE UNIQUE INDEX ON periods (name) INCLUDE (live, low) WHERE live", {"name", "live"}),
        ("ALTER TABLE periods ADD UNIQUE (name, live) INCLUDE (low)", {"name", "live"}),
        ("ALTER TABLE periods ADD UNIQUE (name, live)", {"name", "live"}),
        ("CREATE UNIQUE INDEX ON periods (lower(name))", set()),
        ("CREATE UNIQUE INDEX ON periods (name) INCLUDE (live)", set()),
        ("CREATE INDEX ON periods (name, (low + high)) WHERE live", set()),
        (
            "ALTER TABLE periods ADD total int4 GENERATED ALWAYS AS (low + high) STORED;"
            "CREATE UNIQUE INDEX ON periods (name) WHERE total > 0",
            {"low", "high", "name"},
        ),
    ],
)
async def test_what_is_tied_is_what_has_to_be_known_to_tell_whether_a_row_is_valid(
    database: str, tie: str, together: set[str]
) -> None:
    """The catalogue says so of shapes, and the merge of writes: the columns are the same."""
    async with scene(database, PERIODS, "periods") as s:
        await s.connection.execute(tie)
        (table,) = (await load_catalog(s.connection)).tables.values()
        assert frozenset().union(*table.tied) == together
        places = await s.connection.fetch(
            "SELECT electric.tied_columns(relid, description) AS places FROM electric.tables"
        )
        names = table.relation.names
        assert [{names[place - 1] for place in row["places"]} for row in places] == ([together] if together else [])
