"""The doctor on a real Postgres: it finds one of each, says what ``electrify`` would do, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from tests.integration.doctor_scene import TABLES, connected
from tests.integration.write_scene import scene

from syncline.actors.doctor import reading
from syncline.actors.doctor.facts import Facts
from syncline.actors.doctor.reading import read
from syncline.actors.doctor.report import Report, report, to_json
from syncline.actors.faults import Fault
from syncline.actors.postgres.bootstrap import PUBLICATION, STEPS, bootstrap
from syncline.actors.postgres.dialect import operations
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.slot import slot_name

pytestmark = pytest.mark.every_major

# What is there, whoever has written it: names and definitions, without what counting rows changes.
SNAPSHOT = """
SELECT (SELECT array_agg((n.oid, n.nspname, n.nspacl::text)::text ORDER BY n.oid) FROM pg_namespace n),
    (SELECT array_agg((c.oid, c.relname, c.relnamespace, c.relfilenode, c.relreplident, c.relacl::text)::text
        ORDER BY c.oid) FROM pg_class c),
    (SELECT array_agg(p::text ORDER BY p.oid) FROM pg_proc p),
    (SELECT array_agg(t::text ORDER BY t.oid) FROM pg_type t),
    (SELECT array_agg(t::text ORDER BY t.oid) FROM pg_trigger t),
    (SELECT array_agg(a::text ORDER BY a.attrelid, a.attnum) FROM pg_attribute a),
    (SELECT array_agg(d::text ORDER BY d::text) FROM pg_depend d),
    (SELECT array_agg(p::text ORDER BY p.oid) FROM pg_publication p),
    (SELECT array_agg(s.slot_name ORDER BY 1) FROM pg_replication_slots s WHERE s.database = current_database()),
    (SELECT array_agg(s::text ORDER BY s::text) FROM pg_db_role_setting s)
"""


@asynccontextmanager
async def role(connection: asyncpg.Connection, attributes: str = "") -> AsyncIterator[str]:
    """``connection`` has the rights of an ordinary role."""
    name = "doctor_" + await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE {name} {attributes}; SET ROLE {name}")
    try:
        yield name
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


async def examined(connection: asyncpg.Connection, *schemas: str) -> Report:
    return reported(await read(connection, schemas))


def reported(facts: Facts) -> Report:
    return report(facts, slot_name(facts.server.database), PUBLICATION, len(STEPS))


def codes(found: Report, table: str) -> list[str]:
    (of_table,) = [each for each in found.tables if each.table.name == table]
    return [finding.code for finding in of_table.findings]


def hints(found: Report, *wanted: str) -> list[str]:
    findings = [*found.findings, *(finding for table in found.tables for finding in table.findings)]
    return [finding.hint for finding in findings if finding.code in wanted]


def refused(found: Report) -> set[str]:
    return {each.table.name for each in found.tables if each.verdict == "refused"}


def of_server(found: Report) -> set[str]:
    return {finding.code for finding in found.findings}


# --- tables -----------------------------------------------------------------------------------------------------------


async def test_each_table_has_the_finding_that_it_is_named_for(database: str) -> None:
    async with connected(database, TABLES) as connection:
        found = await examined(connection)
    for each in found.tables:
        code = each.table.table.rstrip("_")
        if each.table.schema == "app" and code not in ("heir", "foreign_key_outside"):
            assert code in codes(found, each.table.name)
            assert each.verdict != "refused"
    assert codes(found, "app.heir") == ["inheritance"]
    assert codes(found, "public.plain") == []
    assert codes(found, '"Odd name"."select"') == []
    assert refused(found) == {
        *("public.no_key", "public.nearly_key", "public.unlogged"),
        *('public."Items"', "public.items", "public.parent_refused"),
    }
    assert codes(found, "public.nearly_key") == ["no_key"]
    assert codes(found, "public.unlogged") == ["unlogged"]
    assert codes(found, "public.items") == codes(found, 'public."Items"') == ["name_clash"]
    assert codes(found, "public.parent_refused") == ["parent_refused"]
    assert not found.ready


async def test_the_statements_that_it_gives_mend_what_is_wrong(database: str) -> None:
    async with connected(database, TABLES) as connection:
        found = await examined(connection)
        for hint in hints(found, "no_key", "unlogged", "name_clash"):
            statement = hint.partition("or, without a column for one: ")[2] or hint
            if "RENAME" in statement:
                statement = 'ALTER TABLE public."Items" RENAME TO things'
                if await connection.fetchval("SELECT to_regclass('things')") is not None:
                    continue
            await connection.execute(statement)
        found = await examined(connection)
    assert refused(found) == set()
    assert found.ready


async def test_of_one_schema_it_says_what_the_tables_refer_to_outside(database: str) -> None:
    async with connected(database, TABLES) as connection:
        found = await examined(connection, "app")
        assert {each.table.schema for each in found.tables} == {"app"}
        assert codes(found, "app.foreign_key_outside") == ["foreign_key_outside"]
        assert found.command == "syncline electrify --schema app --with-parents"
        assert (found.ready, found.opens) == (True, len(found.tables))
        with pytest.raises(Fault, match="there is no schema apps"):
            await read(connection, ["apps"])


async def test_it_refuses_what_electrify_refuses_before_there_is_anything_of_ours(database: str) -> None:
    async with connected(database, TABLES) as connection:
        before = await examined(connection)
    async with scene(database) as s:
        planned = await s.connection.fetch("SELECT * FROM electric.plan()")
        assert {row["name"] for row in planned if row["action"] == "refused"} == refused(before)
        assert len([row for row in planned if row["action"] == "electrify"]) == before.opens
        await s.connection.execute("CALL electric.electrify_all()")
        await s.connection.execute("SELECT electric.unique_policy('app.unique__email_key', 'nullify')")
        after = await examined(s.connection)
        policies = {
            index.name: index.policy
            for each in after.tables
            for index in each.table.unique_indexes
            if each.verdict == "notes"
        }
        assert (policies["unique__email_key"], policies["lower_name"]) == ("nullify", "first-wins")
        assert (after.electrified, after.opens) == (before.opens, 0)
        assert refused(after) == refused(before)
        assert after.facts.server.schema is not None
        assert after.facts.server.schema.version == len(STEPS)


async def test_the_foreign_keys_that_it_says_devices_have_are_those_of_their_tables(database: str) -> None:
    async with connected(database, TABLES) as connection:
        found = await examined(connection)
    descriptions = [each.table.description for each in found.tables if each.verdict != "refused"]
    assert None not in descriptions
    ((_, steps),) = operations([("1", [each for each in descriptions if each is not None])], "sqlite")
    ddl = "\n".join(sql for step in steps for _, sql in step.statements)
    kept = sum(
        len([constraint for constraint in each.table.constraints if constraint.kind == "f"])
        - sum(len(finding.names) for finding in each.findings if finding.code == "foreign_key_left_out")
        for each in found.tables
        if each.verdict != "refused"
    )
    assert ddl.count("FOREIGN KEY") == kept == 1


async def test_sizes_are_those_that_postgres_has_counted(database: str) -> None:
    async with connected(database, TABLES) as connection:
        await connection.execute("INSERT INTO plain SELECT gen_random_uuid(), 'x' FROM generate_series(1, 1000)")
        await connection.execute("INSERT INTO app.partitions SELECT n, '2025-06-01' FROM generate_series(1, 500) n")
        await connection.execute("INSERT INTO app.partitions SELECT n, '2026-06-01' FROM generate_series(1, 500) n")
        await connection.execute("ANALYZE plain; ANALYZE app.partition_2025; ANALYZE app.partition_2026")
        found = await examined(connection)
    sizes = {each.table.name: each.table.size for each in found.tables}
    assert (sizes["public.plain"].rows, sizes["public.plain"].analysed) == (1000, True)
    assert sizes["public.plain"].bytes == sizes["public.plain"].bytes // 8192 * 8192 > 0
    assert (sizes["app.partitions"].rows, sizes["app.partitions"].analysed) == (1000, True)
    assert sizes["app.large_values"].analysed is False
    assert sizes["app.large_values"].toast_bytes > 9_000_000


# --- the server, the role, and what is there --------------------------------------------------------------------------


async def test_a_role_without_rights_is_told_which_it_lacks(database: str) -> None:
    async with connected(database, TABLES) as connection, role(connection) as name:
        found = await examined(connection)
        assert of_server(found) >= {"role_replication", "role_create", "role_owner", "role_usage"}
        assert refused(found) == {each.table.name for each in found.tables}
        (owner,) = [finding for finding in found.findings if finding.code == "role_owner"]
        assert owner.hint == f"as postgres or an administrator: GRANT postgres TO {name}"
        assert len(owner.names) == len(found.tables)


async def test_the_rights_that_it_names_are_enough(database: str) -> None:
    async with connected(database, "CREATE ROLE app_of_doctor; SET ROLE app_of_doctor") as connection:
        try:
            await connection.execute(
                "RESET ROLE; CREATE SCHEMA app AUTHORIZATION app_of_doctor; SET ROLE app_of_doctor"
            )
            await connection.execute("CREATE TABLE app.t (id uuid PRIMARY KEY); RESET ROLE")
            async with role(connection) as name:
                found = await examined(connection)
                assert {"role_replication", "role_create", "role_owner", "role_usage"} <= of_server(found)
                await connection.execute("RESET ROLE")
                for hint in hints(found, "role_replication", "role_create", "role_owner", "role_usage"):
                    await connection.execute(hint.partition(" (Amazon")[0].rpartition(": ")[2])
                await connection.execute(f"SET ROLE {name}")
                assert (await examined(connection)).ready
                await connection.execute("RESET ROLE")
        finally:
            await connection.execute("RESET ROLE; DROP OWNED BY app_of_doctor; DROP ROLE app_of_doctor")


async def test_forced_row_security_without_a_policy_is_a_missing_right(database: str) -> None:
    async with connected(database) as connection, role(connection, "REPLICATION") as name:
        await connection.execute(f"RESET ROLE; CREATE SCHEMA app AUTHORIZATION {name}; SET ROLE {name}")
        await connection.execute("CREATE TABLE app.t (id uuid PRIMARY KEY)")
        await connection.execute("ALTER TABLE app.t ENABLE ROW LEVEL SECURITY")
        assert "role_row_security" not in of_server(await examined(connection))
        await connection.execute("ALTER TABLE app.t FORCE ROW LEVEL SECURITY")
        found = await examined(connection)
        assert "role_row_security" in of_server(found)
        (hint,) = hints(found, "role_row_security")
        await connection.execute(hint.rpartition("for each: ")[2])
        found = await examined(connection)
        assert "role_row_security" not in of_server(found)
        assert codes(found, "app.t") == ["row_security"]


async def test_what_is_there_of_others_is_told(database: str) -> None:
    async with connected(database, TABLES) as connection:
        await connection.execute("CREATE PUBLICATION reports FOR TABLE plain")
        await connection.execute("CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
        await connection.execute("CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watch()")
        await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", f"of_{os.getpid()}")
        try:
            found = await examined(connection)
        finally:
            await connection.execute("SELECT pg_drop_replication_slot($1)", f"of_{os.getpid()}")
            await connection.execute("DROP EVENT TRIGGER watcher")
    assert of_server(found) >= {"publications", "event_triggers", "slots_idle"}
    assert f"of_{os.getpid()}" in {slot.name for slot in found.facts.server.slots}


async def test_a_schema_electric_of_somebody_else_is_in_the_way(database: str) -> None:
    async with connected(database, f"CREATE SCHEMA electric; CREATE PUBLICATION {PUBLICATION}") as connection:
        found = await examined(connection)
        assert "schema_foreign" in of_server(found)
        await connection.execute("DROP SCHEMA electric")
        assert "publication_foreign" in of_server(await examined(connection))


async def test_a_schema_of_ours_that_the_role_does_not_own_is_told(database: str) -> None:
    await bootstrap(database)
    async with connected(database) as connection, role(connection):
        found = await examined(connection)
        assert of_server(found) >= {"role_electric", "role_create"}
        assert found.facts.server.schema is not None
        assert found.facts.server.schema.version is None


async def test_a_slot_of_the_services_name_for_something_else_is_in_the_way(
    database: str, postgres: EmbeddedPostgres
) -> None:
    async with connected(database) as connection, connected(postgres.dsn()) as other:
        name = slot_name(await connection.fetchval("SELECT current_database()"))
        await other.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
        try:
            assert "slot_foreign" in of_server(await examined(connection))
        finally:
            await other.execute("SELECT pg_drop_replication_slot($1)", name)


# --- it leaves nothing behind, and stands in nobody's way -------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True], ids=["before", "with schema electric"])
async def test_nothing_is_left_behind(database: str, ours: bool) -> None:
    if ours:
        await bootstrap(database)
    async with connected(database, TABLES) as connection:
        before = await connection.fetchrow(SNAPSHOT)
        await read(connection)
        assert await connection.fetchrow(SNAPSHOT) == before
        assert not connection.is_in_transaction()


async def test_it_asks_where_sessions_are_read_only_and_impatient_and_look_elsewhere_first(database: str) -> None:
    settings = {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "statement_timeout": "1ms",
        "search_path": "odd, pg_catalog",
    }
    odd = """
    CREATE SCHEMA odd;
    CREATE VIEW odd.pg_class AS SELECT 1 AS oid;
    CREATE FUNCTION odd.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT ''odd''';
    """
    async with connected(database, TABLES + odd) as connection:
        expected = to_json(await examined(connection))
        await connection.execute("SELECT set_config(key, value, false) FROM json_each_text($1)", json.dumps(settings))
        assert to_json(await examined(connection)) == expected


async def test_it_waits_for_nobody_who_has_a_table_locked_and_locks_none_itself(database: str) -> None:
    async with connected(database, TABLES) as connection, connected(database) as other:
        async with other.transaction():
            tables = await other.fetchval(
                "SELECT string_agg(format('app.%I', tablename), ', ') FROM pg_tables WHERE schemaname = 'app'"
            )
            await other.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            found = await asyncio.wait_for(examined(connection), 30)
        locked = {each.table.name for each in found.tables if [finding.code for finding in each.findings] == ["locked"]}
        assert locked == {each.table.name for each in found.tables if each.table.schema == "app"}
        assert codes(found, "public.no_key") == ["no_key"]
        async with reading._passing_transaction(connection):
            await reading._read(connection, ())
            held = await connection.fetch(
                """
                SELECT DISTINCT l.relation::regclass FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                WHERE l.pid = pg_backend_pid() AND c.relnamespace IN ('public'::regnamespace, 'app'::regnamespace)
                """
            )
        assert held == []


async def test_without_the_right_to_temporary_functions_it_says_which(database: str) -> None:
    async with connected(database) as connection, role(connection) as name:
        name_of_database = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"RESET ROLE; REVOKE TEMP ON DATABASE {name_of_database} FROM PUBLIC; SET ROLE {name}")
        with pytest.raises(Fault, match="may not make temporary functions") as fault:
            await read(connection)
        assert f"GRANT TEMPORARY ON DATABASE {name_of_database} TO {name}" in fault.value.hint
        assert not connection.is_in_transaction()


async def test_a_name_that_is_no_text_is_a_message(database: str) -> None:
    name = f"ascii_{os.getpid()}"
    async with connected(database, f"DROP DATABASE IF EXISTS {name}") as admin:
        await admin.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            async with connected(urlunsplit(urlsplit(database)._replace(path=f"/{name}"))) as connection:
                assert "encoding" in of_server(await examined(connection))
                await connection.execute(
                    "DO $$ BEGIN EXECUTE format('CREATE TABLE %I (id int)', convert_from('\\xff', 'SQL_ASCII')); END $$"
                )
                with pytest.raises(Fault, match="no UTF-8"):
                    await read(connection)
                assert not connection.is_in_transaction()
        finally:
            await admin.execute(f"DROP DATABASE {name}")


async def test_an_event_trigger_that_refuses_its_functions_is_named_as_the_cause(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no DDL here'; END$$"
        )
        await connection.execute("CREATE EVENT TRIGGER forbidding ON ddl_command_start EXECUTE FUNCTION forbid()")
        try:
            with pytest.raises(Fault, match="no DDL here") as fault:
                await read(connection)
            assert "event trigger" in fault.value.hint
        finally:
            await connection.execute("DROP EVENT TRIGGER forbidding")
