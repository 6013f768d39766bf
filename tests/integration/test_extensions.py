"""What only peers of our own protocol are sent: and no peer of the old line ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.npm.rig import eventually
from tests.npm.service import ServiceProcess, serving
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import open_db
from syncline.proto import events
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import Migrate, ShapeRequest

ID = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a001"
ROWS = 50
TABLES = f"""
CREATE TABLE items (id int PRIMARY KEY, title text CHECK (title <> ''));
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, {ROWS}) i;
"""


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    async with serving(database, tmp_path, sql=TABLES, electrified=("items",)) as (service, _):
        yield service


async def estimate(service: ServiceProcess, protocol: str) -> int | None:
    async with RawDevice.connected(service.url, protocol=protocol) as device:
        await device.start()
        await device.socket.send(device.session.subscribe(ID, [ShapeRequest(ID, "items")]))
        begun = await device.expect(events.ShapeDataBegun)
        await device.expect(events.ShapeDataEnded)
        return begun.rows_estimate


async def test_a_device_of_ours_is_told_how_many_rows_will_come(service: ServiceProcess) -> None:
    assert await estimate(service, OWN) == ROWS


@pytest.mark.parametrize("protocol", OLD)
async def test_a_device_of_the_old_line_is_never_sent_an_extension(service: ServiceProcess, protocol: str) -> None:
    assert await estimate(service, protocol) is None  # and no frame breaks the rules, which hold every field of them


async def test_our_device_shows_what_it_was_told(service: ServiceProcess, tmp_path: Path) -> None:
    async with open_db(tmp_path / "device.db", service.url) as db:
        await db.connect(insecure_token("user"))
        shape = await db.sync("items")
        await shape.synced()
        assert (shape.status.rows, shape.status.rows_estimate) == (ROWS, ROWS)


def told_of(device: RawDevice) -> dict[str, int]:
    """By table, of how many checks."""
    changes = [change for transaction in device.transactions for change in transaction.changes]
    tables = [change.table for change in changes if isinstance(change, Migrate) and change.table is not None]
    return {table.name: len(table.checks) for table in tables}


@pytest.mark.parametrize(("protocol", "checks"), [(OWN, 1), *((old, 0) for old in OLD)])
async def test_checks_are_told_to_devices_of_ours_alone(
    service: ServiceProcess, database: str, protocol: str, checks: int
) -> None:
    """In the migrations that a device lacks, and in those that come while it is there."""
    async with RawDevice.connected(service.url, protocol=protocol) as device:
        await device.start()
        await eventually(lambda: told(device, {"items": checks}))
        connection = await asyncpg.connect(database)
        await connection.execute("CREATE TABLE more (id int PRIMARY KEY, n int CHECK (n > 0))")
        await connection.execute("CALL electric.electrify('public.more')")
        await connection.execute("ALTER TABLE items ADD CHECK (id > 0); SELECT electric.refresh_merges()")
        await connection.close()
        await eventually(lambda: told(device, {"items": 2 * checks, "more": checks}))


async def told(device: RawDevice, expected: dict[str, int]) -> bool:
    return told_of(device) == expected
