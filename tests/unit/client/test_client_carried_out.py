"""The server has said that a write is carried out, and it has not come back: what comes has it in it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.referring_scene import Referring, referring

NEW = "INSERT INTO projects VALUES ('p', 'new')"
NAME = "UPDATE projects SET name = '{}' WHERE id = 'p'"


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Referring]:
    async with referring(tmp_path) as device:
        yield device


async def told(device: Referring) -> list[int]:
    sql = "SELECT commit_ms FROM _syncline_oplog WHERE carried_out"
    return [ms for (ms,) in await device.store.read(lambda connection: connection.execute(sql).fetchall())]


async def test_who_has_seen_it_has_deleted_it(device: Referring) -> None:
    ms = await device.write(NEW)
    insert = device.insert("projects", "p", "new", tags=(f"me@{ms}",))
    await device.receive(insert, origin="postgres_1", ms=ms, carried_out=(ms,))
    assert await device.rows("projects") == [("p", "new")]
    await device.receive(device.delete("projects", "p", "new"), device.insert("nodes", "n", None, "mark"))
    assert await device.rows("projects") == []
    assert await device.rows("nodes") == [("n", None, "mark")]
    await device.echo(ms, device.gone("projects", "p", None))
    assert await device.rows("projects") == []


async def test_what_is_not_told_stays_on_top(device: Referring) -> None:
    """Of a rejected one, which is decided before, nobody says so."""
    await device.receive(device.insert("projects", "p", "old"), ms=50)
    rejected = await device.write(NAME.format("rejected"))
    ms = await device.write("INSERT INTO nodes VALUES ('n', NULL, 'carried out')")
    node = device.insert("nodes", "n", None, "carried out", tags=(f"me@{ms}",))
    await device.receive(node, origin="postgres_1", ms=ms, carried_out=(ms,))
    await device.receive(device.insert("projects", "p", "old", tags=("postgres_1@60",)), origin="postgres_1", ms=60)
    assert await device.rows("projects") == [("p", "rejected")]
    assert await told(device) == [ms]
    await device.echo(rejected, device.insert("projects", "p", "old", tags=("postgres_1@60",)))
    assert await device.rows("projects") == [("p", "old")]


async def test_a_later_write_stays_on_top_of_what_has_come(device: Referring) -> None:
    first = await device.write(NEW)
    second = await device.write(NAME.format("second"))
    insert = device.insert("projects", "p", "new", tags=(f"me@{first}",))
    await device.receive(insert, origin="postgres_1", ms=first, carried_out=(first,))
    assert await device.rows("projects") == [("p", "second")]
    await device.receive(device.delete("projects", "p", "new"), ms=90)
    assert await device.rows("projects") == [("p", "second")], "whoever deleted it had not seen that"
    revived = device.insert("projects", "p", "second", tags=(f"me@{second}",))
    await device.receive(revived, origin="postgres_1", ms=second, carried_out=(second,))
    await device.receive(device.delete("projects", "p", "second"), ms=91)
    assert await device.rows("projects") == []


async def test_of_one_row_what_was_written_before_is_decided_too(device: Referring) -> None:
    """It was carried out while nobody could say so, or rejected: it never comes back on top of the later one."""
    await device.receive(device.insert("projects", "p", "old"), ms=50)
    first = await device.write(NAME.format("first"))
    second = await device.write(NAME.format("second"))
    now = device.insert("projects", "p", "second", tags=(f"me@{second}",))
    await device.receive(now, origin="postgres_1", ms=second, carried_out=(second,))
    assert await device.rows("projects") == [("p", "second")]
    await device.echo(first, now)
    assert await device.rows("projects") == [("p", "second")]


async def test_it_is_as_old_as_it_is_though_it_comes_as_postgres(device: Referring) -> None:
    """Direct SQL has written another column of the row after both, by its clock: that is its tag, not ours."""
    await device.receive(device.insert("issues", "i", "p", "old"), ms=50)
    first = await device.write("UPDATE issues SET title = 'first'")
    second = await device.write("UPDATE issues SET title = 'second'")
    direct = ("postgres_1@900",)
    await device.receive(
        device.update("issues", ["i", "p", "old"], ["i", "q", "old"], direct), origin="postgres_1", ms=900
    )
    own = device.update("issues", ["i", "q", "old"], ["i", "q", "first"], (*direct, f"me@{first}"))
    await device.receive(own, origin="postgres_1", ms=first, carried_out=(first,))
    assert await device.rows("issues") == [("i", "q", "second")]
    await device.receive(device.update("issues", ["i", "q", "first"], ["i", "r", "first"], direct), ms=901)
    assert await device.rows("issues") == [("i", "r", "second")]
    await device.echo(second, device.update("issues", ["i", "r", "first"], ["i", "r", "second"], (f"me@{second}",)))
    assert await device.rows("issues") == [("i", "r", "second")]


async def test_a_row_leaves_with_the_transaction_that_moves_it(device: Referring) -> None:
    ms = await device.write(NEW)
    await device.receive(device.gone("projects", "p", None))
    assert await device.rows("projects") == [("p", "new")], "it is on its way"
    await device.receive(origin="postgres_1", ms=0, carried_out=(ms,))
    assert await device.rows("projects") == [("p", "new")], "nothing has come of the row since"
    await device.receive(device.gone("projects", "p", None))
    assert await device.rows("projects") == []


async def test_a_row_that_comes_once_more_is_here_to_stay(device: Referring) -> None:
    ms = await device.write(NEW)
    await device.receive(device.gone("projects", "p", None))
    insert = device.insert("projects", "p", "new", tags=(f"me@{ms}",))
    await device.receive(insert, origin="postgres_1", ms=ms, carried_out=(ms,))
    assert await device.leaving() == []
    await device.echo(ms)
    assert await device.rows("projects") == [("p", "new")]


async def test_a_row_with_another_and_what_it_refers_to_go_together(device: Referring) -> None:
    await device.receive(device.insert("projects", "p", "old"), ms=50)
    ms = await device.write("INSERT INTO issues VALUES ('i', 'p', 'mine')")
    issue = device.insert("issues", "i", "p", "mine", tags=(f"me@{ms}",))
    await device.receive(issue, origin="postgres_1", ms=ms, carried_out=(ms,))
    await device.receive(device.delete("issues", "i", "p", "mine"), device.delete("projects", "p", "old"))
    assert (await device.rows("projects"), await device.rows("issues")) == ([], [])


@pytest.mark.parametrize("before", [True, False], ids=["told before", "told with it"])
async def test_it_is_in_rows_as_they_stand(device: Referring, before: bool) -> None:
    """Of a delivery, or of a repair."""
    projects = (NEW, "INSERT INTO projects VALUES ('q', 'new')")
    ms = await device.write(*projects, "INSERT INTO nodes VALUES ('n', NULL, 'a')")
    if before:
        await device.receive(origin="postgres_1", ms=0, carried_out=(ms,))
    by_other = device.insert("projects", "p", "by another", tags=("other@50",))
    await device.repair(by_other, gone=[device.gone("projects", "q", None)], carried_out=[] if before else [ms])
    assert await device.rows("projects") == [("p", "by another")]
    assert await device.rows("nodes") == [("n", None, "a")], "of this nobody has said anything"


async def test_it_is_known_when_the_file_is_opened_again(tmp_path: Path) -> None:
    async with referring(tmp_path) as device:
        ms = await device.write(NEW)
        await device.receive(origin="postgres_1", ms=0, carried_out=(ms, 7))
    async with referring(tmp_path) as device:
        assert await told(device) == [ms]
        await device.receive(device.delete("projects", "p", "new"))
        assert await device.rows("projects") == []


async def test_who_starts_over_may_have_come_to_another_server(device: Referring) -> None:
    ms = await device.write(NEW)
    await device.receive(origin="postgres_1", ms=0, carried_out=(ms,))
    await device.replica.reset()
    assert await told(device) == []


async def test_of_what_was_written_under_the_id_that_a_copy_had_its_transaction_tells(device: Referring) -> None:
    ms = await device.write(NEW)

    def under_another_id(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE _syncline_oplog SET origin = 'original'")

    await device.store.write(under_another_id)
    insert = device.insert("projects", "p", "new", tags=(f"original@{ms}",))
    await device.receive(insert, origin="stranger", ms=ms)
    assert await told(device) == []
    await device.receive(insert, origin="original", ms=ms)
    assert await told(device) == [ms]
    await device.receive(device.delete("projects", "p", "new"))
    assert await device.rows("projects") == []
