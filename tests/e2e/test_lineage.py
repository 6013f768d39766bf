"""What is on the disk belongs to one database and one slot; another history never gets it."""

from __future__ import annotations

import stat
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import drop_database
from tests.npm.service import ServiceFailedError, ServiceProcess, serving
from tests.rawdevice import RawDevice

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.proto import events

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, body text)"


async def test_a_database_made_anew_under_the_same_name_shows_nothing_of_the_old_one(
    postgres: EmbeddedPostgres, database: str, tmp_path: Path
) -> None:
    name = database.rpartition("/")[2]
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, sql):
        await sql.execute("INSERT INTO items SELECT n, 'old' FROM generate_series(1, 2000) n")
        async with RawDevice.connected(service.url) as device:
            await device.start()
            subscription = await device.subscribe("items")
        await service.stop()
    await drop_database(postgres.dsn(), name)
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f'CREATE DATABASE "{name}"')
    await admin.close()
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, sql):
        await sql.execute("INSERT INTO items VALUES (7, 'new')")
        async with RawDevice.connected(service.url) as fresh:
            await fresh.start()
            await fresh.subscribe("items")
            await sql.execute("INSERT INTO items VALUES (8, 'newer')")
            await fresh.expect(events.TransactionReceived)
            assert [set(table) for table in fresh.rows.values()] == [{b"7", b"8"}]
        async with RawDevice.connected(service.url, client_id=device.client_id) as old:
            await old.socket.send(old.session.start(device.lsn, [subscription], None, "sqlite"))
            refused = await old.expect(events.StreamRefused)
            assert refused.code in ("BEHIND_WINDOW", "SUBSCRIPTION_NOT_FOUND")


@pytest.mark.one_process(
    "on ray the second command finds the service of the first: tests/integration/test_ray_service.py"
)
async def test_two_services_do_not_share_a_data_folder(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, _):
        (tmp_path / "second").mkdir()
        second = ServiceProcess(database, tmp_path / "second", {"SYNCLINE_DATA_DIR": str(tmp_path / "data")})
        with pytest.raises(ServiceFailedError) as failed:
            await second.start()
        assert f"another service (process {service.pid})" in str(failed.value)
        assert "SYNCLINE_DATA_DIR" in str(failed.value)


async def test_only_the_owner_can_read_what_is_on_the_disk(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, sql):
        await sql.execute("INSERT INTO items VALUES (1, 'secret')")
        async with RawDevice.connected(service.url) as device:
            await device.start()
            await device.subscribe("items")
            await sql.execute("INSERT INTO items VALUES (2, 'secret')")
            await device.expect(events.TransactionReceived)
        (folder,) = [path for path in (tmp_path / "data" / "shapes").iterdir() if path.is_dir()]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = [path for path in folder.parent.rglob("*") if path.is_file()]
        assert {path.name for path in files} >= {"image", "shape.json", "log-000000", "progress.json"}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
