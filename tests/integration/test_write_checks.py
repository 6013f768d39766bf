"""What devices are told of a table's constraints, and when that changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.write_scene import Scene, scene

from syncline.actors.postgres.checks import checks, registers
from syncline.actors.postgres.history import SchemaHistory

pytestmark = pytest.mark.every_major

STAYS = """
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$');
CREATE TABLE stays (
    id text PRIMARY KEY, first date, last date CHECK (last IS NOT NULL), code code, guests int4 CHECK (guests > 0),
    name varchar(10), price numeric(6,2), nights int4 GENERATED ALWAYS AS (last - first) STORED,
    CONSTRAINT in_order CHECK (first <= last), CONSTRAINT short CHECK (nights < 30), UNIQUE (name, code)
);
"""
UNIQUE = "stays_name_code_key"


async def described(s: Scene) -> dict[str, Any]:
    text = await s.connection.fetchval("SELECT description FROM electric.tables WHERE table_name = 'stays'")
    found: dict[str, Any] = json.loads(text)
    return found


async def names(s: Scene) -> list[str]:
    return [check.name or check.message.partition(":")[0] for check in checks(await described(s), "stays")]


async def steps(s: Scene) -> list[int]:
    """Of each migration, how many statements a device runs, and how many checks it is told of."""
    history = SchemaHistory()
    await history.read(s.connection)
    found = [step for migration in history.migrations for step in migration.steps["sqlite"] if step.table is not None]
    return [(len(step.statements), len(step.table.checks)) for step in found if step.table is not None]


async def test_devices_are_told_of_checks_of_domains_of_lengths_and_of_what_is_tied(database: str) -> None:
    async with scene(database, STAYS, "stays") as s:
        assert await names(s) == [
            *("value too long for type character varying(10)", "numeric field overflow", "in_order"),
            *("stays_guests_check", "stays_last_check", "code_check", UNIQUE),
        ]
        assert set(registers(await described(s))) == {("first", "last"), ("code", "name")}
        # Whoever electrifies, and whatever his settings.
        before = await described(s)
        await s.connection.execute("SET search_path = electric; SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'")
        assert json.loads(await s.connection.fetchval("SELECT electric.describe('public.stays'::regclass)")) == before


async def test_what_comes_and_goes_later_is_told_by_a_migration_of_its_own(database: str) -> None:
    async with scene(database, STAYS, "stays") as s:
        assert await steps(s) == [(1, 7)]
        await s.connection.execute("""
            ALTER TABLE stays DROP CONSTRAINT in_order, ADD CONSTRAINT few CHECK (guests < 5) NOT VALID;
            ALTER DOMAIN code DROP CONSTRAINT code_check;
            ALTER TABLE stays ALTER name TYPE text;
        """)
        assert await s.refresh()
        assert await names(s) == ["numeric field overflow", "few", "stays_guests_check", "stays_last_check", UNIQUE]
        assert await steps(s) == [(1, 7), (0, 5)]
        assert not await s.refresh()


async def test_a_table_that_was_electrified_before_gets_its_checks_with_the_procedures(database: str) -> None:
    async with scene(database, STAYS, "stays") as s:
        await s.connection.execute(
            "UPDATE electric.tables SET description = description - '{checks,limited,ties,uniques}'::text[]"
        )
        await s.connection.execute(
            "UPDATE electric.migrations SET tables = tables #- '{0,checks}' #- '{0,limited}' #- '{0,uniques}'"
        )
        assert await names(s) == []
        await s.connection.execute("SELECT electric.generate_all()")
        assert await steps(s) == [(1, 0), (0, 7)]


@pytest.mark.parametrize(
    ("trigger", "told"),
    [
        ("BEGIN NEW.guests := greatest(NEW.guests, 1); RETURN NEW; END", False),
        ("BEGIN NEW := jsonb_populate_record(NEW, '{}'); RETURN NEW; END", False),
        ("BEGIN NEW.name := lower(NEW.name); RETURN NEW; END", True),
    ],
)
async def test_what_a_trigger_may_put_right_is_not_checked_before(database: str, trigger: str, told: bool) -> None:
    async with scene(database, STAYS, "stays") as s:
        await s.connection.execute(
            f"CREATE FUNCTION put_right() RETURNS trigger LANGUAGE plpgsql AS $${trigger}$$;"
            "CREATE TRIGGER put_right BEFORE INSERT OR UPDATE ON stays FOR EACH ROW EXECUTE FUNCTION put_right()"
        )
        assert await s.refresh()
        assert ("stays_guests_check" in await names(s)) == told
        await s.connection.execute("ALTER TABLE stays DISABLE TRIGGER put_right")
        assert await s.refresh()
        assert "stays_guests_check" in await names(s)


async def test_a_partitioned_table_is_as_one_and_triggers_of_a_partition_count(database: str) -> None:
    table = """
    CREATE TABLE stays (id int4 PRIMARY KEY, guests int4 CHECK (guests > 0)) PARTITION BY RANGE (id);
    CREATE TABLE few PARTITION OF stays FOR VALUES FROM (0) TO (10);
    CREATE FUNCTION put_right() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.guests := 1; RETURN NEW; END';
    """
    async with scene(database, table, "stays") as s:
        assert await names(s) == ["stays_guests_check"]
        await s.connection.execute(
            "CREATE TRIGGER put_right BEFORE INSERT ON few FOR EACH ROW EXECUTE FUNCTION put_right()"
        )
        assert await s.refresh()
        assert await names(s) == []


async def test_operators_and_functions_of_the_application_are_not_taken_for_those_of_postgres(database: str) -> None:
    """``length`` and ``=`` of the schema public are others, though they are found first."""
    own = """
    CREATE FUNCTION length(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    CREATE FUNCTION alike(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = alike);
    SET search_path = public, pg_catalog;
    CREATE TABLE stays (id text PRIMARY KEY, name text CHECK (length(name) < 5), other text CHECK (other = 'a'));
    RESET search_path;
    """
    async with scene(database, own, "stays") as s:
        assert await names(s) == []


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        ("UNIQUE (a, b)", True),
        ("UNIQUE (a, b) DEFERRABLE", False),
        ("CHECK (a > 0)", False),
    ],
)
async def test_of_unique_constraints_those_are_told_that_a_device_can_look_after(
    database: str, constraint: str, told: bool
) -> None:
    table = f"CREATE TABLE stays (id int4 PRIMARY KEY, a int4, b int4, CONSTRAINT c {constraint})"
    others = """
    CREATE UNIQUE INDEX folded ON stays ((a + 1)); CREATE UNIQUE INDEX part ON stays (a) WHERE b > 0;
    CREATE INDEX plain ON stays (b);
    """
    async with scene(database, table + ";" + others, "stays") as s:
        assert ("c" in [unique["name"] for unique in (await described(s))["uniques"]]) == told
        assert len((await described(s))["uniques"]) == told
        if told:
            await s.connection.execute("SELECT electric.unique_policy('c', 'nullify', 'a')")
            assert await s.refresh()
            assert (await described(s))["uniques"] == []
