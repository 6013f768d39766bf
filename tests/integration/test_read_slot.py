"""Slot, publication and catalog against a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from tests.patience import PATIENCE_S

from syncline.actors.postgres.bootstrap import PUBLICATION, bootstrap
from syncline.actors.postgres.catalog import load_catalog
from syncline.actors.postgres.slot import (
    PreconditionError,
    SlotState,
    check_server,
    ensure_publication,
    ensure_slot,
    slot_name,
    slot_state,
)

pytestmark = pytest.mark.every_major


@pytest.fixture
async def app(database: str) -> AsyncIterator[asyncpg.Connection]:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    await connection.execute("CREATE TABLE items (b int, m mood, a text, PRIMARY KEY (a, b))")
    await connection.execute("CALL electric.electrify('public.items')")
    yield connection
    await connection.close()


async def published(app: asyncpg.Connection) -> set[str]:
    rows = await app.fetch("SELECT tablename FROM pg_publication_tables WHERE pubname = $1", PUBLICATION)
    return {row[0] for row in rows}


async def test_a_slot_is_made_once(app: asyncpg.Connection) -> None:
    name = slot_name(await app.fetchval("SELECT current_database()"))
    assert await slot_state(app, name) is None
    made = await ensure_slot(app, name)
    again = await ensure_slot(app, name)
    assert (made.created, again.created) == (True, False)
    assert made.confirmed == again.confirmed
    assert made.done < made.confirmed


async def test_a_slot_of_another_plugin_is_not_taken_over(app: asyncpg.Connection) -> None:
    name = "foreign_" + await app.fetchval("SELECT current_database()")
    await app.execute("SELECT pg_create_physical_replication_slot($1)", name)
    with pytest.raises(PreconditionError, match="not for pgoutput"):
        await ensure_slot(app, name)
    await app.execute("SELECT pg_drop_replication_slot($1)", name)


async def test_servers_that_start_together_share_the_slot(app: asyncpg.Connection, database: str) -> None:
    name = "together_" + await app.fetchval("SELECT current_database()")
    async with asyncpg.create_pool(database, min_size=3) as pool:

        async def ensure() -> bool:
            async with pool.acquire() as connection:
                return (await ensure_slot(connection, name)).created

        assert sum(await asyncio.gather(*(ensure() for _ in range(3)))) == 1


@pytest.mark.parametrize("maker_survives", [True, False])
async def test_a_slot_that_another_is_still_making_is_waited_for(
    app: asyncpg.Connection, database: str, maker_survives: bool
) -> None:
    name = "waited_" + await app.fetchval("SELECT current_database()")
    async with (
        asyncpg.create_pool(database, min_size=3) as pool,
        pool.acquire() as maker,
        pool.acquire() as watching,
        pool.acquire() as running,
    ):
        async with asyncio.TaskGroup() as tasks, running.transaction():
            await running.fetchval("SELECT txid_current()")  # making a slot waits for this transaction
            making = tasks.create_task(outcome(ensure_slot(maker, name)))
            state = await slot_state(watching, name)
            async with asyncio.timeout(PATIENCE_S):
                while state is None or state.active_pid is None:
                    await asyncio.sleep(0.01)  # Postgres tells nobody that it has begun to make a slot
                    state = await slot_state(watching, name)
            second = tasks.create_task(ensure_slot(watching, name))
            await asyncio.sleep(0.1)  # time for a wrong answer; the right one cannot come before the transaction ends
            assert not second.done()
            if not maker_survives:
                await app.execute("SELECT pg_terminate_backend($1)", state.active_pid)
                assert isinstance(await making, asyncpg.PostgresError)
        found, made = second.result(), making.result()
        assert found.confirmed is not None
        assert found.created is not maker_survives
        if maker_survives:
            assert isinstance(made, SlotState)
            assert (made.created, made.confirmed) == (True, found.confirmed)


async def outcome(making: Awaitable[SlotState]) -> SlotState | Exception:
    try:
        return await making
    except Exception as cause:
        return cause


async def test_this_server_will_do(app: asyncpg.Connection) -> None:
    assert await check_server(app) >= 140000


async def test_a_role_that_may_not_replicate_is_told_how(app: asyncpg.Connection, database: str) -> None:
    role = "plain_" + await app.fetchval("SELECT current_database()")
    await app.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    parts = urlsplit(database)
    dsn = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))
    plain = await asyncpg.connect(dsn)
    try:
        with pytest.raises(PreconditionError, match=f"ALTER ROLE {role} WITH REPLICATION"):
            await check_server(plain)
    finally:
        await plain.close()
        await app.execute(f"DROP ROLE {role}")


async def test_a_publication_somebody_changed_is_put_right(app: asyncpg.Connection) -> None:
    whole = await published(app)
    assert whole == {"items", "clients", "migrations", "shadow"}
    await app.execute(f"ALTER PUBLICATION {PUBLICATION} DROP TABLE items, electric.shadow")
    await app.execute(f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert')")
    await app.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT")
    await ensure_publication(app, PUBLICATION)
    assert await published(app) == whole
    assert await app.fetchval("SELECT pubupdate AND pubdelete AND pubtruncate FROM pg_publication")
    assert await app.fetchval("SELECT relreplident FROM pg_class WHERE relname = 'items'") == b"f"


@pytest.mark.parametrize(
    "broken",
    ["DROP PUBLICATION {0}", "DROP PUBLICATION {0}; CREATE PUBLICATION {0} WITH (publish_generated_columns = none)"],
)
async def test_a_publication_that_is_gone_or_made_by_somebody_is_made_again(
    app: asyncpg.Connection, broken: str
) -> None:
    """Without the setting Postgres 18, which knows it first, refuses UPDATE where a table has a generated column."""
    if app.get_server_version().major < 18:
        broken = broken.replace(" WITH (publish_generated_columns = none)", "")
    whole = await published(app)
    await app.execute(broken.format(PUBLICATION))
    await app.execute("ALTER TABLE items ADD computed int GENERATED ALWAYS AS (1) STORED")
    await ensure_publication(app, PUBLICATION)
    assert await published(app) == whole
    await app.execute("INSERT INTO items (b, a) VALUES (1, 'new'); UPDATE items SET m = 'sad'")


async def test_the_catalog_tells_columns_keys_types_and_labels(app: asyncpg.Connection) -> None:
    table = (await load_catalog(app)).named("items")
    assert table is not None
    assert table.oid == await app.fetchval("SELECT 'items'::regclass::oid::bigint")
    assert table.relation.names == ("b", "m", "a")
    assert table.key_names == ("b", "a")
    assert table.types == {"b": "int4", "m": "mood", "a": "text"}
    assert table.enum_labels == {"m": ("sad", "ok")}


async def test_what_the_catalog_tells_of_a_column_it_tells_by_the_name_that_devices_know(
    app: asyncpg.Connection,
) -> None:
    await app.execute(
        "CREATE TABLE moods (m mood, a varchar(9), gone mood, PRIMARY KEY (m, a)); CALL electric.electrify('moods');"
        "ALTER TABLE moods RENAME m TO feeling; ALTER TABLE moods RENAME a TO name; ALTER TABLE moods DROP gone"
    )
    table = (await load_catalog(app)).named("moods")
    assert table is not None
    assert [table.column_now(name) for name in table.relation.names] == ["feeling", "name", None]
    assert table.enum_labels == {"m": ("sad", "ok"), "gone": ("sad", "ok")}
    assert [name for name, _ in table.key_spellings] == ["a"], "it may be cut to its length"
    types = [table.cast_type(name) for name in table.relation.names]
    assert types == ["public.mood", 'pg_catalog."varchar"', "pg_catalog.text"]


async def test_a_table_that_was_dropped_leaves_the_catalog(app: asyncpg.Connection) -> None:
    await app.execute("DROP TABLE items")
    assert (await load_catalog(app)).tables == {}
