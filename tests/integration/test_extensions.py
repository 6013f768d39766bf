"""What only peers of our own protocol are sent: and no peer of the old line ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.npm.service import ServiceProcess, serving
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import open_db
from syncline.proto import events
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import ShapeRequest

ID = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a001"
ROWS = 50
TABLES = f"""
CREATE TABLE items (id int PRIMARY KEY, title text);
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
