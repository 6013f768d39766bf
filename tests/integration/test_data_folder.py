"""Which folder a database finds: its own while its history goes on, and a fresh one when it is another history."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import drop_database
from tests.integration.write_scene import scene, written
from tests.patience import PATIENCE_S

from syncline.actors.datadir import FolderInUse, FolderLock, lineage_of, new_lineage, read_history, shapes_folder
from syncline.actors.postgres.absorption import Entry
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.slot import ensure_slot, slot_name, slot_state

SERVER = "00000000-0000-4000-8000-000000000001"


@asynccontextmanager
async def prepared(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that has a slot and one device, with a subscription."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                connection = await asyncpg.connect(dsn)
                break
            except asyncpg.CannotConnectNowError:  # a server that recovers says so until it has
                await asyncio.sleep(0.1)
    try:
        await bootstrap(connection)
        if await slot_state(connection, slot_name("mine")) is None:
            await new_lineage(connection)
            await connection.execute("INSERT INTO electric.clients (client_id, user_id) VALUES ('phone', 'ann')")
            await connection.execute(
                "INSERT INTO electric.subscriptions (client_id, subscription_id, shapes) VALUES ('phone', 's', '[]')"
            )
            await connection.execute(
                "INSERT INTO electric.positions SELECT 'phone', value FROM electric.meta WHERE key = 'slot_lineage'"
            )
        await ensure_slot(connection, slot_name("mine"))
        yield connection
    finally:
        await connection.close()


async def resumes(connection: asyncpg.Connection, folder: Path) -> bool:
    """Whether the position of the device counts for the shapes in ``folder``. Its subscription is there in any case."""
    assert await connection.fetchval("SELECT count(*) FROM electric.subscriptions") == 1
    lineage: str = await connection.fetchval("SELECT lineage FROM electric.positions WHERE client_id = 'phone'")
    return lineage == lineage_of(folder)


async def test_the_folder_stays_while_the_history_goes_on(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        (folder / "kept").touch()
    async with prepared(database) as connection:
        assert await shapes_folder(connection, tmp_path, SERVER) == folder
        assert await resumes(connection, folder)
    assert (folder / "kept").exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_slot_made_anew_begins_a_history_and_says_what_it_means_for_devices(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        await connection.execute("SELECT pg_drop_replication_slot($1)", slot_name("mine"))
        await new_lineage(connection)
        assert await shapes_folder(connection, tmp_path, SERVER) != folder
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "devices compare what they have with it" in warning.getMessage()


async def test_a_database_set_back_behind_what_is_on_the_disk_is_another_history(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a restored disk image of Postgres, which has the slot and all of schema electric."""
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        ahead = await connection.fetchval("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn + 1000000")
        (folder / "progress.json").write_text(json.dumps({"durable_lsn": int(ahead)}))
        newer = await shapes_folder(connection, tmp_path, SERVER)
        assert newer != folder
        assert not await resumes(connection, newer)
    assert not folder.exists()
    assert "devices compare what they have with it" in caplog.text


async def test_an_ordinary_role_may_ask_which_history_this_is(database: str, postgres: EmbeddedPostgres) -> None:
    admin = await asyncpg.connect(database)
    await admin.execute("CREATE ROLE history_reader LOGIN PASSWORD 'secret'")
    await admin.close()
    try:
        address = database.partition("@")[2]
        connection = await asyncpg.connect(f"postgresql://history_reader:secret@{address}")
        history = await read_history(connection)
        await connection.close()
        assert all(history.values())
    finally:
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute("DROP ROLE history_reader")
        await admin.close()


async def test_a_copy_recovered_from_the_archive_is_another_history(
    original: EmbeddedPostgres, server_dir: Path, tmp_path: Path
) -> None:
    async with prepared(original.dsn()) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        was = await read_history(connection)
    original.stop()
    await asyncio.to_thread(subprocess.run, ["cp", "-a", original.folder, server_dir / "recovered"], check=True)
    signal = server_dir / "recovered" / "cluster" / "recovery.signal"
    signal.touch()
    owner = signal.parent.stat()
    os.chown(signal, owner.st_uid, owner.st_gid)
    settings = {"fsync": "off", "restore_command": "false", "hot_standby": "off"}
    recovered = EmbeddedPostgres(server_dir / "recovered", settings=settings)
    try:
        async with prepared(recovered.start()) as connection:
            assert await resumes(connection, folder), "slot and schema came along"
            is_now = await read_history(connection)
            assert {part for part in was if was[part] != is_now[part]} == {"timeline"}
            newer = await shapes_folder(connection, tmp_path, SERVER)
            assert newer != folder
            assert not await resumes(connection, newer)
    finally:
        recovered.stop("immediate")


async def test_a_database_copied_under_another_name_and_put_in_its_place_is_another_history(
    database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        await connection.execute("SELECT pg_drop_replication_slot($1)", slot_name("mine"))
    name = database.rpartition("/")[2]
    admin = await asyncpg.connect(postgres.dsn())
    try:
        await admin.execute(f'CREATE DATABASE "{name}_copy" TEMPLATE "{name}"')
        copy = await asyncpg.connect(postgres.dsn(f"{name}_copy"))
        assert await shapes_folder(copy, tmp_path, SERVER) != folder
        await copy.close()
    finally:
        await admin.close()
        await drop_database(postgres.dsn(), f"{name}_copy")


async def test_the_lock_of_a_folder_goes_with_it(database: str, tmp_path: Path) -> None:
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        FolderLock(folder).release()
        await new_lineage(connection)
        newer = await shapes_folder(connection, tmp_path, SERVER)
        assert {path.name for path in newer.parent.iterdir()} == {newer.name}


async def test_a_former_folder_that_is_in_use_stays_with_its_lock(database: str, tmp_path: Path) -> None:
    async with prepared(database) as connection:
        folder = await shapes_folder(connection, tmp_path, SERVER)
        lock = FolderLock(folder)
        await new_lineage(connection)
        newer = await shapes_folder(connection, tmp_path, SERVER)
        assert {path.name for path in newer.parent.iterdir()} == {newer.name, folder.name, f"{folder.name}.lock"}
        with pytest.raises(FolderInUse):
            FolderLock(folder)
        lock.release()


async def test_what_comes_in_a_new_history_is_later_than_what_was_in_another_wal(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id text PRIMARY KEY, v text)", "items") as s:
        await s.apply(written("ann", 100, s.insert("items", "1", "ann's")))
        await s.connection.execute("UPDATE electric.shadow SET at_lsn = 'FFFF/0', row_xmin = coalesce(row_xmin, xmin)")
        await new_lineage(s.connection)
        await s.connection.execute("UPDATE items SET v = 'direct'")
        await s.absorb("items", "1", 200, changed=[1])
        await s.apply(written("bob", 150, s.update("items", "1", "bob's", changed=[1], seen=["ann@100"])))
        assert await s.rows("items") == [("1", "direct")]


async def test_what_direct_sql_overwrote_stays_the_earlier_where_only_one_of_the_two_was_ahead(database: str) -> None:
    """As a dump of another server has it, whose WAL was beyond ours when SQL wrote, and not when the device had."""
    async with scene(database, "CREATE TABLE items (id text PRIMARY KEY, x text, y text)", "items") as s:
        await s.apply(written("ann", 100, s.insert("items", "1", "x", "y")))
        await s.connection.execute("UPDATE items SET y = 'direct'")
        ahead = await s.here() + (1 << 40)
        await s.absorb_entry("items", "1", Entry(ahead, 300, (None, None, 300), (None, None, ahead)))
        await new_lineage(s.connection)
        await s.apply(written("bob", 200, s.update("items", "1", "x", "earlier", changed=[2], seen=["ann@100"])))
        assert await s.rows("items") == [("1", "x", "direct")]
        await s.connection.execute("UPDATE items SET x = 'later'")
        await s.absorb("items", "1", 400, changed=[1])
        await s.apply(written("bob", 350, s.update("items", "1", "bob's", "y", changed=[1], seen=["ann@100"]), lsn=2))
        assert await s.rows("items") == [("1", "later", "direct")]
