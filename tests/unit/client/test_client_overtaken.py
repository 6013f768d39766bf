"""A transaction that lies within what one frame stood for comes back later than one that was written after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.referring_scene import Referring, referring

TITLE = "UPDATE nodes SET title = '{}' WHERE id = 'n'"


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Referring]:
    async with referring(tmp_path) as device:
        await device.receive(device.insert("nodes", "n", None, "old"), ms=50)
        yield device


async def test_it_is_not_shown_in_place_of_the_later_one(device: Referring) -> None:
    first = await device.write(TITLE.format("first"))
    second = await device.write(TITLE.format("second"))
    await device.echo(second, device.update("nodes", ("n", None, "first"), ("n", None, "second"), (f"me@{second}",)))
    by_sql = device.update("nodes", ("n", None, "second"), ("n", "n", "second"), ("postgres_1@2000",))
    await device.receive(by_sql, origin="postgres_1", ms=2_000)
    assert await device.rows("nodes") == [("n", "n", "second")]
    await device.echo(first, device.insert("nodes", "n", "n", "second", tags=("postgres_1@2000",)))
    assert await device.rows("nodes") == [("n", "n", "second")]


async def test_nor_does_it_bring_back_what_has_been_deleted_since(device: Referring) -> None:
    await device.write(TITLE.format("first"))
    second = await device.write("INSERT INTO projects VALUES ('p', 'second')")
    await device.echo(second, device.insert("projects", "p", "second", tags=(f"me@{second}",)))
    await device.receive(device.delete("nodes", "n", None, "first"), origin="postgres_1", ms=2_000)
    assert await device.rows("nodes") == []


async def test_where_no_row_has_come_since_it_stands(device: Referring) -> None:
    await device.write(TITLE.format("first"))
    second = await device.write("INSERT INTO projects VALUES ('p', 'second')")
    await device.echo(second, device.insert("projects", "p", "second", tags=(f"me@{second}",)))
    assert await device.rows("nodes") == [("n", None, "first")]


async def test_one_that_was_written_after_the_echo_is_pending_as_ever(device: Referring) -> None:
    first = await device.write(TITLE.format("first"))
    await device.echo(first, device.update("nodes", ("n", None, "old"), ("n", None, "first"), (f"me@{first}",)))
    await device.write(TITLE.format("second"))
    by_sql = device.update("nodes", ("n", None, "first"), ("n", "n", "first"), ("postgres_1@90",))
    await device.receive(by_sql, origin="postgres_1", ms=90)
    assert await device.rows("nodes") == [("n", "n", "second")]


async def test_a_row_that_it_gave_way_to_and_that_has_gone_is_not_in_its_way(device: Referring) -> None:
    """Postgres will find no such row, and make it as the device has written it."""
    await device.write("INSERT INTO projects VALUES ('p', 'first')", "UPDATE projects SET name = 'mine'")
    await device.receive(device.insert("projects", "p", "theirs", tags=("other@900",)), ms=900)
    assert await device.rows("projects") == [("p", "theirs")]
    await device.receive(device.delete("projects", "p", "theirs"), origin="postgres_1", ms=901)
    assert await device.rows("projects") == [("p", "mine")]
    await device.receive(device.insert("projects", "p", "nobody's", tags=("other@50",)), ms=50)
    assert await device.rows("projects") == [("p", "mine")]
