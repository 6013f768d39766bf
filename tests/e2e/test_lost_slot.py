"""Another history begins: a device of ours keeps its rows and is sent what differs, and no position of the old history
counts in the new one."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import drop_database, drop_slots
from tests.e2e.repair_scene import (
    CHANGED,
    CHANGES,
    ITEMS,
    connected,
    counted,
    current,
    fetched_anew,
    killed_in_the_middle,
    position_of,
    rows_of,
    same,
)
from tests.npm.rig import devices, eventually
from tests.npm.service import ServiceProcess, serving
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.client import Database
from syncline.proto.digest import ROWS_PER_BUCKET


async def lose_slot(service: ServiceProcess, postgres: asyncpg.Connection, meanwhile: str = "SELECT 1") -> None:
    await service.kill()
    await drop_slots(postgres)
    await postgres.execute(meanwhile)
    await service.start()


@pytest.mark.each_runtime
async def test_what_differs_comes_and_nothing_else(database: str, tmp_path: Path) -> None:
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        await (await db.sync("items")).synced()
        await db.disconnect()
        await db.execute("UPDATE items SET title = 'mine' WHERE id IN (1, 17)")
        await db.execute("INSERT INTO items (id, title) VALUES (60001, 'offline')")
        await lose_slot(service, postgres, CHANGES)
        counts.clear()
        await db.connect()
        await eventually(lambda: current(postgres, db))
        await eventually(lambda: same(db.status.pending_writes, 0))
        assert (counts["repairs"], counts["deliveries"]) == (1, 0)
        assert CHANGED - 2 <= counts["rows"] <= CHANGED * 2 * ROWS_PER_BUCKET
        assert await postgres.fetchval("SELECT count(*) FROM items WHERE title IN ('mine', 'offline')") == 3
        assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        await postgres.execute("UPDATE items SET title = 'live' WHERE id = 1")
        await eventually(lambda: current(postgres, db))
        # From then on it is of this history: it resumes.
        await service.kill()
        await postgres.execute("UPDATE items SET title = 'resumed' WHERE id = 2")
        await service.start()
        await eventually(lambda: current(postgres, db))
        assert (counts["repairs"], counts["deliveries"]) == (1, 0)


async def test_killed_in_the_middle_it_begins_again(database: str, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    path = tmp_path / "device.db"
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await (await db.sync("items")).synced()
        position = position_of(path)
        await lose_slot(service, postgres, CHANGES)
        await killed_in_the_middle(path, service.url)
        assert position_of(path) == position
        # Its shapes are there now, and by its position it might go on: but that is one of the old history.
        await service.kill()
        await service.start()
        await killed_in_the_middle(path, service.url)
        assert position_of(path) == position
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await eventually(lambda: current(postgres, db))
            assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        assert (counts["repairs"], counts["deliveries"]) == (1, 1)


async def restore(dsn: str, admin: asyncpg.Connection) -> None:
    """Nobody may be connected to it."""
    name = dsn.rpartition("/")[2]
    await drop_database(dsn.rpartition("/")[0] + "/postgres", name)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{name}_backup"')


async def test_what_a_restored_database_lacks_leaves_and_what_was_never_sent_comes(
    database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """A subscription that the backup does not know is told to it by the device."""
    name = database.rpartition("/")[2]
    admin = await asyncpg.connect(postgres.dsn())
    counts: Counter[str] = Counter()
    service = ServiceProcess(database, tmp_path)
    try:
        sql = await asyncpg.connect(database)
        await sql.execute(ITEMS + "CREATE TABLE notes (id int8 PRIMARY KEY, title text);")
        await service.start()
        for table in ("items", "notes"):
            await sql.execute(f"CALL electric.electrify('{table}')")
        async with counted(tmp_path / "device.db", service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await (await db.sync("items")).synced()
            await service.kill()
            await drop_slots(sql)
            await sql.close()
            await admin.execute(f'CREATE DATABASE "{name}_backup" TEMPLATE "{name}"')
            await service.start()
            notes = await db.sync("notes")
            await notes.synced()
            await db.execute("INSERT INTO items (id, title) VALUES (70001, 'acknowledged')")
            await db.execute("UPDATE items SET title = 'acknowledged' WHERE id = 5")
            await eventually(lambda: same(db.status.pending_writes, 0))
            await db.disconnect()
            await db.execute("INSERT INTO items (id, title) VALUES (70002, 'not sent yet')")
            await db.execute("UPDATE items SET title = 'not sent yet' WHERE id = 6")
            await service.kill()
            sql = await asyncpg.connect(database)
            await drop_slots(sql)
            await sql.close()
            await restore(database, admin)
            sql = await asyncpg.connect(database)
            await sql.execute("INSERT INTO notes VALUES (1, 'after the restore')")
            await service.start()
            counts.clear()
            await db.connect()
            await eventually(lambda: current(sql, db))
            await eventually(lambda: current(sql, db, "notes"))
            await eventually(lambda: same(db.status.pending_writes, 0))
            assert await sql.fetchval("SELECT count(*) FROM items WHERE title = 'not sent yet'") == 2
            assert await db.sql("SELECT 1 FROM items WHERE title = 'acknowledged'") == []
            assert (counts["repairs"], counts["deliveries"]) == (1, 0)
            assert counts["rows"] < 10 * ROWS_PER_BUCKET
            # That subscription is one like any other.
            await sql.execute("INSERT INTO notes VALUES (2, 'live')")
            await eventually(lambda: current(sql, db, "notes"))
            await notes.unsubscribe()
            await eventually(lambda: _empty(db, "notes"))
            await sql.close()
    finally:
        await service.kill()
        await drop_database(postgres.dsn(), f"{name}_backup")
        await admin.close()


async def _empty(db: Database, table: str) -> bool:
    return await db.sql(f"SELECT 1 FROM {table}") == []


async def test_a_position_that_the_new_history_has_reached_too_does_not_count_in_it(
    original: EmbeddedPostgres, server_dir: Path, tmp_path: Path
) -> None:
    """The new history begins at a lower position than the device's, and has passed it when the device comes."""
    path, counts = tmp_path / "device.db", Counter[str]()
    backup = server_dir / "backup"
    service = ServiceProcess(original.dsn(), tmp_path)
    restored = None
    try:
        sql = await asyncpg.connect(original.dsn())
        await sql.execute(ITEMS)
        await service.start()
        await sql.execute("CALL electric.electrify('items')")
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await (await db.sync("items")).synced()
            await service.kill()
            await drop_slots(sql)
            await sql.close()
            original.stop()
            await asyncio.to_thread(subprocess.run, ["cp", "-a", original.folder, backup], check=True)
            sql = await asyncpg.connect(original.start())
            service = _moved(service, original, tmp_path)
            await service.start()
            await sql.execute("UPDATE items SET title = 'never happened' WHERE id <= 1000")
            await sql.execute("DELETE FROM items WHERE id > 15000")
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await eventually(lambda: current(sql, db))
        await service.kill()
        await sql.close()
        original.stop()
        position = position_of(path)
        restored = EmbeddedPostgres(backup, settings={"fsync": "off"})
        sql = await asyncpg.connect(restored.start())
        service = _moved(service, restored, tmp_path)
        await service.start()
        await fetched_anew(tmp_path / "first.db", service.url)  # so its shape is there, at a lower position
        assert await _wal_end(sql) < int(position)
        while await _wal_end(sql) <= int(position):
            await sql.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))")
        counts.clear()
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await eventually(lambda: current(sql, db))
            assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        assert (counts["repairs"], counts["deliveries"]) == (1, 0)
        assert int(position_of(path)) > int(position)
        await sql.close()
    finally:
        await service.kill()
        if restored is not None:
            restored.stop("immediate")


def _moved(service: ServiceProcess, postgres: EmbeddedPostgres, folder: Path) -> ServiceProcess:
    """The service at the same port, for a server at another one."""
    moved = ServiceProcess(postgres.dsn(), folder)
    moved.port = service.port
    return moved


async def _wal_end(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))


async def test_a_device_of_the_old_line_is_told_to_start_over(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        async with RawDevice.connected(service.url) as device:
            await device.start()
            subscription = await device.subscribe("items")
            lsn, client_id = device.lsn, device.client_id
        await lose_slot(service, postgres)
        async with RawDevice.connected(service.url, client_id=client_id) as device:
            await device.told_to_start_over(lsn, subscription)
        async with RawDevice.connected(service.url, client_id=client_id) as device:
            await device.start()
            subscription = await device.subscribe("items")
            lsn = device.lsn
        async with RawDevice.connected(service.url, client_id=client_id) as device:
            await device.start(lsn, (subscription,))  # it has nothing of the old one any more


async def test_the_npm_client_fetches_its_tables_anew_and_keeps_what_it_has_written(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        await ann.disconnect()
        await ann.update("items", {"id": 1}, title="written offline")
        await lose_slot(service, postgres, CHANGES)
        await ann.connect()

        async def asked_again() -> bool:
            await ann.sync("items")  # it forgets what it was subscribed to
            there = await postgres.fetch("SELECT id, title FROM items ORDER BY id")
            here = [(id, row["title"]) for id, row in sorted((await ann.dump("items")).items())]
            return here == [*map(tuple, there)]

        await eventually(asked_again)
        assert await postgres.fetchval("SELECT title FROM items WHERE id = 1") == "written offline"
