"""A row that comes as it stands does not say when Postgres wrote it: its tag is of the time at which it was read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.unit.client.referring_scene import Referring, referring

from syncline.proto.values import Update

READ_LATER = "postgres_1@900"


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Referring]:
    async with referring(tmp_path) as device:
        project = device.insert("projects", "p", "old", tags=("other@50", "postgres_1@60"))
        await device.receive(project, origin="postgres_1", ms=60)
        yield device


def standing(device: Referring, tags: Sequence[str]) -> Update:
    """As what heals has it."""
    insert = device.insert("projects", "p", "old", tags=tags)
    return Update(insert.relation_id, insert.row, None, insert.tags)


@pytest.mark.parametrize("tags", [(READ_LATER,), ("other@50", READ_LATER)], ids=["of Postgres", "of both"])
async def test_what_has_been_deleted_here_stays_so_when_a_former_write_comes_back(
    device: Referring, tags: tuple[str, ...]
) -> None:
    first = await device.write("UPDATE projects SET name = 'first'")
    await device.write("DELETE FROM projects")
    await device.echo(first, standing(device, tags))
    assert await device.rows("projects") == []


@pytest.mark.parametrize("tags", [(READ_LATER,), ("other@50", READ_LATER)], ids=["of Postgres", "of both"])
async def test_and_when_its_shape_is_delivered(device: Referring, tags: tuple[str, ...]) -> None:
    await device.write("DELETE FROM projects")
    await device.repair(device.insert("projects", "p", "old", tags=tags))
    assert await device.rows("projects") == []


async def test_what_another_device_had_written_and_was_not_seen_comes(device: Referring) -> None:
    first = await device.write("UPDATE projects SET name = 'first'")
    await device.write("DELETE FROM projects")
    await device.echo(first, standing(device, ("other@70", READ_LATER)))
    assert await device.rows("projects") == [("p", "old")]


async def test_so_does_what_direct_sql_wrote_at_a_time_that_is_known(device: Referring) -> None:
    await device.write("DELETE FROM projects")
    by_sql = device.update("projects", ("p", "old"), ("p", "new"), (READ_LATER,))
    await device.receive(by_sql, origin="postgres_1", ms=900)
    assert await device.rows("projects") == [("p", "new")]


async def test_whoever_writes_after_it_came_has_seen_what_direct_sql_had_written(device: Referring) -> None:
    """Also where a write of the device's own was on its way then."""
    await device.write("UPDATE projects SET name = 'first'")
    await device.repair(device.insert("projects", "p", "by direct SQL", tags=(READ_LATER,)))
    assert await device.rows("projects") == [("p", "first")]
    await device.write("DELETE FROM projects")
    sql = "SELECT clear_tags FROM _syncline_oplog ORDER BY id DESC LIMIT 1"
    [(observed,)] = await device.store.read(lambda connection: connection.execute(sql).fetchall())
    assert READ_LATER in json.loads(observed)
