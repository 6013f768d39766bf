"""Installing schema electric."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.bootstrap import PUBLICATION, STEPS, BootstrapError, bootstrap

pytestmark = pytest.mark.every_major


async def test_a_second_bootstrap_finds_the_same_server(database: str) -> None:
    first = await bootstrap(database)
    assert await bootstrap(database) == first
    assert first.schema_version == len(STEPS)


async def test_operators_of_an_extension_do_not_come_in_between(database: str) -> None:
    """The extension intarray has its own for arrays of integers, in the search path."""
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE EXTENSION intarray")
    await connection.close()
    async with scene(database, "CREATE TABLE items (id text PRIMARY KEY, v text)", "items") as s:
        await s.apply(written("ann", 100, s.insert("items", "1", "v")))
        assert await s.rows("items") == [("1", "v")]


async def test_servers_that_start_together_agree_on_who_they_are(database: str) -> None:
    identities = await asyncio.gather(*(bootstrap(database) for _ in range(4)))
    assert len(set(identities)) == 1


async def test_the_publication_holds_what_the_stream_needs_of_our_own_tables(database: str) -> None:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    published = await connection.fetch("SELECT tablename FROM pg_publication_tables WHERE pubname = $1", PUBLICATION)
    await connection.close()
    assert {row["tablename"] for row in published} == {"clients", "migrations", "shadow"}


async def test_a_schema_electric_of_somebody_else_is_refused_and_left_alone(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE SCHEMA electric; CREATE TABLE electric.ddl_commands (id int)")
    with pytest.raises(BootstrapError, match="not Syncline's") as refused:
        await bootstrap(connection)
    assert "DROP SCHEMA electric CASCADE" in refused.value.hint
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'ddl_commands'") == 1
    await connection.close()


async def test_a_publication_of_somebody_else_is_refused(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(f"CREATE PUBLICATION {PUBLICATION}")
    with pytest.raises(BootstrapError, match="publication") as refused:
        await bootstrap(connection)
    assert f"DROP PUBLICATION {PUBLICATION}" in refused.value.hint
    await connection.close()


async def test_a_schema_of_a_newer_server_is_refused(database: str) -> None:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE electric.meta SET value = '999' WHERE key = 'schema_version'")
    with pytest.raises(BootstrapError, match="version 999"):
        await bootstrap(connection)
    await connection.close()


async def test_changed_procedures_are_installed_again_with_the_merge_functions_of_all_tables(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id int PRIMARY KEY, name text)", "items") as s:
        await s.connection.execute(
            f"UPDATE electric.meta SET value = 'older' WHERE key = 'procedures';"
            f"DROP FUNCTION electric.merge_{s.relids['items']};"
            f"CREATE FUNCTION electric.advance(text, bigint, bigint) RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        await bootstrap(s.connection)
        assert await s.statuses(written("a", 100, s.insert("items", "1", "one"))) == ["applied"]


async def _login(database: str, role: str) -> str:
    url = urlsplit(database)
    return url._replace(netloc=f"{role}:secret@{url.hostname}:{url.port}").geturl()


ROLES = """
CREATE ROLE {owner} NOLOGIN;
CREATE ROLE {syncline} LOGIN REPLICATION PASSWORD 'secret' IN ROLE {owner};
GRANT CREATE ON DATABASE {database} TO {syncline};
GRANT CREATE ON SCHEMA public TO {owner};
SET ROLE {owner};
CREATE TABLE items (id int PRIMARY KEY, name text);
RESET ROLE;
"""


async def test_a_role_with_the_documented_rights_and_no_more_suffices(database: str) -> None:
    name = urlsplit(database).path[1:]
    owner, syncline = f"owner_{name}", f"syncline_{name}"
    admin = await asyncpg.connect(database)
    await admin.execute(ROLES.format(owner=owner, syncline=syncline, database=name))
    try:
        async with scene(await _login(database, syncline), "", "items") as s:
            assert await s.statuses(written("a", 100, s.insert("items", "1", "one"))) == ["applied"]
            await s.connection.execute(
                f"SELECT pg_create_logical_replication_slot('s_{name}', 'pgoutput');"
                f"SELECT pg_drop_replication_slot('s_{name}')"
            )
    finally:
        await admin.execute(f"DROP OWNED BY {syncline}, {owner} CASCADE; DROP ROLE {syncline}; DROP ROLE {owner}")
        await admin.close()


async def test_a_role_that_may_not_create_is_told_which_rights_it_needs(database: str) -> None:
    role = f"poor_{urlsplit(database).path[1:]}"
    admin = await asyncpg.connect(database)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        with pytest.raises(BootstrapError, match="lacks a right") as refused:
            await bootstrap(await _login(database, role))
        assert "CREATE on the database" in refused.value.hint
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()
