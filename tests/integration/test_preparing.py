"""Whoever prepares a start leaves alone what another service works with, until the slot is its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.integration.roles import set_another_role
from tests.patience import PATIENCE_S

from syncline.actors.config import Config, load
from syncline.actors.datadir import FolderLock, new_lineage
from syncline.actors.postgres import turns
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.ownership import Superseded, take_over
from syncline.actors.postgres.slot import slot_state
from syncline.actors.preparing import claimed, owning, prepare, settle_for_hosts, settle_shapes

HOMES = [("a shape", "shard-1")]


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


def configured(dsn: str, folder: Path) -> Config:
    settings = {"DATABASE_URL": dsn, "AUTH_MODE": "insecure", "SYNCLINE_DATA_DIR": str(folder)}
    dedicated = {"SYNCLINE_RUNTIME": "ray", "SYNCLINE_SHAPES_HOSTS": "2", "SYNCLINE_SHAPES_PLACEMENT": "dedicated"}
    return load({}, settings | dedicated)


async def homes(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await connection.fetch("SELECT shape, shard FROM electric.shape_homes ORDER BY shape")
    return [tuple(row) for row in rows]


async def test_files_and_homes_are_settled_once_the_slot_is_our_own_and_not_before(
    database: str, tmp_path: Path, admin: asyncpg.Connection
) -> None:
    config = configured(database, tmp_path)
    _, settings = await prepare(config, database, 2)
    shape = settings.shapes_dir / "shard-1" / "a shape"
    shape.mkdir(parents=True)
    (shape.parent / "progress.json").write_text(json.dumps({"durable_lsn": 1}))
    await admin.execute("INSERT INTO electric.shape_homes VALUES ($1, $2)", *HOMES[0])

    _, settings = await prepare(config, database, 1)  # a second service, which may only find the first one
    assert shape.exists()
    assert await homes(admin) == HOMES

    settings = await owning(config, settings)
    await settle_for_hosts(config, settings)
    assert (settings.shapes_dir / "a shape").exists()
    assert not shape.exists()
    assert await homes(admin) == [("a shape", "shard")]
    FolderLock(settings.shapes_dir).release()


async def test_a_service_that_was_taken_over_from_writes_no_homes(
    database: str, tmp_path: Path, admin: asyncpg.Connection
) -> None:
    config = configured(database, tmp_path)
    _, settings = await prepare(config, database, 2)
    settings = await owning(config, settings)
    owner = await claimed(settings, "bring-up")
    await take_over(admin, settings.slot)
    await admin.execute("INSERT INTO electric.shape_homes VALUES ($1, $2)", *HOMES[0])
    with pytest.raises(Superseded):
        await settle_shapes(config, settings, owner)
    with pytest.raises(Superseded):
        await settle_for_hosts(config, settings)
    assert await homes(admin) == HOMES


async def test_what_the_earlier_owner_has_confirmed_while_it_was_waited_for_counts(
    database: str, tmp_path: Path, admin: asyncpg.Connection
) -> None:
    """Shapes of ours that end before it would be taken for whole otherwise."""
    config = configured(database, tmp_path)
    _, settings = await prepare(config, database, 2)
    await admin.execute("CREATE TABLE some_wal AS SELECT 1 AS id")
    await admin.execute("SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", settings.slot)
    slot = await slot_state(admin, settings.slot)
    assert slot is not None
    assert int(slot.done) > settings.start_lsn
    assert (await owning(config, settings)).start_lsn == int(slot.done)


async def test_of_services_that_start_together_on_a_new_database_one_begins_its_history(
    database: str, tmp_path: Path, admin: asyncpg.Connection
) -> None:
    """A second lineage would forget the subscriptions made under the first."""
    await bootstrap(database)
    await admin.execute("CREATE TABLE lineages (value text)")
    await admin.execute(
        "CREATE FUNCTION note_lineage() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO lineages VALUES (new.value); RETURN NULL; END'"
    )
    await admin.execute(
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON electric.meta FOR EACH ROW "
        "WHEN (new.key = 'slot_lineage') EXECUTE FUNCTION note_lineage()"
    )
    folders = [tmp_path / str(number) for number in range(4)]
    for _ in range(3):
        await admin.execute("DELETE FROM lineages")
        prepared = await asyncio.gather(*(prepare(configured(database, folder), database) for folder in folders))
        assert len({settings.shapes_dir.name for _, settings in prepared}) == 1
        assert await admin.fetchval("SELECT count(*) FROM lineages") == 1
        await admin.execute("SELECT pg_drop_replication_slot($1)", prepared[0][1].slot)


async def test_whoever_is_frozen_where_a_history_begins_does_not_hold_up_the_next_and_goes_on_with_nothing(
    database: str, tmp_path: Path, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bootstrap(database)
    monkeypatch.setattr(turns, "SILENT_S", 1.0)
    async with turns.alone(admin):  # as whoever does nothing for a while
        _, settings = await prepare(configured(database, tmp_path), database)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await new_lineage(admin)
    assert settings.shapes_dir.exists()


async def test_whoever_is_frozen_there_is_found_where_another_role_is_set_for_the_one_that_logs_in(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SILENT_S", 1.0)
    await set_another_role(database)
    frozen, next_one = [await asyncpg.connect(database) for _ in range(2)]
    role = await next_one.fetchval("SELECT current_user")
    async with turns.alone(frozen), asyncio.timeout(PATIENCE_S), turns.alone(next_one):
        assert await next_one.fetchval("SELECT current_user") == role
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await frozen.execute("SELECT")
    await next_one.close()


async def test_whoever_waits_for_postgres_where_a_history_begins_is_waited_for(
    database: str, tmp_path: Path, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot is made once all transactions of that moment have ended."""
    await bootstrap(database)
    monkeypatch.setattr(turns, "SILENT_S", 1.0)
    held = await asyncpg.connect(database)
    try:
        transaction = held.transaction()
        await transaction.start()
        await held.execute("CREATE TABLE unrelated ()")
        preparing = [
            asyncio.create_task(prepare(configured(database, tmp_path / name), database)) for name in ("one", "two")
        ]
        done, _ = await asyncio.wait(preparing, timeout=3 * turns.SILENT_S, return_when=asyncio.FIRST_COMPLETED)
        assert not done
        await transaction.rollback()
        (_, one), (_, two) = await asyncio.gather(*preparing)
        assert one.shapes_dir.name == two.shapes_dir.name
    finally:
        held.terminate()
