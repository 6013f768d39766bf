"""No row that a device shows refers to one that it has had and does not show, whatever is pending here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.referring_scene import Referring, referring


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Referring]:
    async with referring(tmp_path) as device:
        yield device


@pytest.fixture
async def chain(device: Referring) -> Referring:
    """A project with an issue, as another device has made them."""
    await device.receive(device.insert("projects", "p", "project"), device.insert("issues", "i", "p", "issue"), ms=50)
    return device


# --- what stays keeps what is above it --------------------------------------------------------------------------------


async def test_a_pending_child_keeps_what_its_parent_refers_to(chain: Referring) -> None:
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.receive(chain.delete("issues", "i", "p", "issue"), chain.delete("projects", "p", "project"))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]
    assert await chain.rows("issues") == [("i", "p", "issue")]


async def test_also_when_these_go_one_after_the_other(chain: Referring) -> None:
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    for gone in (chain.delete("issues", "i", "p", "issue"), chain.delete("projects", "p", "project")):
        await chain.receive(gone)
        assert await chain.dangling() == []
    await chain.receive(chain.insert("projects", "q", "another"), ms=1_001)
    assert await chain.rows("projects") == [("p", "project"), ("q", "another")]


async def test_it_keeps_them_as_they_were_in_the_end(chain: Referring) -> None:
    """Somebody writes to the project and deletes it, in one transaction."""
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.receive(
        chain.update("projects", ("p", "project"), ("p", "renamed"), ("other@1000",)),
        chain.delete("issues", "i", "p", "issue"),
        chain.delete("projects", "p", "renamed"),
    )
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "renamed")]


async def test_and_what_came_and_went_in_one_transaction(chain: Referring) -> None:
    await chain.write("UPDATE issues SET title = 'mine' WHERE id = 'i'")
    await chain.receive(
        chain.insert("projects", "q", "another", tags=("other@1000",)),
        chain.update("issues", ("i", "p", "issue"), ("i", "q", "issue"), ("other@1000",)),
        chain.delete("issues", "i", "q", "issue"),
        chain.delete("projects", "q", "another"),
    )
    assert await chain.rows("issues") == [("i", "q", "mine")]
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project"), ("q", "another")]


async def test_the_whole_chain_comes_back_with_the_echo_and_is_as_any_other(chain: Referring) -> None:
    ms = await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.receive(chain.delete("issues", "i", "p", "issue"), chain.delete("projects", "p", "project"))
    tags = (f"me@{ms}",)
    await chain.echo(
        ms,
        chain.insert("projects", "p", "project", tags=tags),
        chain.insert("issues", "i", "p", "issue", tags=tags),
        chain.insert("comments", "c", "i", "mine", tags=tags),
    )
    assert await chain.leaving() == []
    await chain.receive(chain.insert("projects", "q", "another"), ms=1_001)
    assert await chain.rows("projects") == [("p", "project"), ("q", "another")]


async def test_what_the_echo_does_not_bring_goes_with_it(chain: Referring) -> None:
    """The child was rejected, say."""
    ms = await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.receive(chain.delete("issues", "i", "p", "issue"), chain.delete("projects", "p", "project"))
    await chain.echo(
        ms,
        chain.delete("comments", "c", "i", "mine"),
        chain.delete("issues", "i", "p", "issue"),
    )
    assert [await chain.rows(table) for table in ("projects", "issues", "comments")] == [[], [], []]
    assert await chain.leaving() == []


async def test_rows_that_leave_the_shapes_keep_what_is_above_them(chain: Referring) -> None:
    ms = await chain.write("UPDATE issues SET title = 'mine' WHERE id = 'i'")
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.receive(chain.gone("issues", "i", "p", "issue"), chain.gone("projects", "p", "project"))
    assert await chain.dangling() == []
    await chain.echo(ms)
    assert await chain.dangling() == []
    await chain.echo(ms + 1)
    assert await chain.rows("projects") == []


async def test_a_row_keeps_what_another_author_has_made_it_refer_to(chain: Referring) -> None:
    await chain.receive(chain.insert("projects", "q", "another"), ms=60)
    await chain.write("UPDATE issues SET title = 'mine' WHERE id = 'i'")
    moved = chain.update("issues", ("i", "p", "issue"), ("i", "q", "issue"), ("other@70",))
    await chain.receive(moved, ms=70)
    assert await chain.rows("issues") == [("i", "q", "mine")]
    await chain.receive(chain.delete("issues", "i", "q", "issue"), chain.delete("projects", "q", "another"))
    assert await chain.rows("issues") == [("i", "q", "mine")]
    assert await chain.dangling() == []


async def test_a_tree_of_one_table_keeps_all_above_the_new_leaf(device: Referring) -> None:
    there = [device.insert("nodes", str(n), str(n - 1) if n > 1 else None, f"node {n}") for n in range(1, 6)]
    await device.receive(*there, ms=50)
    await device.write("INSERT INTO nodes VALUES ('leaf', '5', 'mine')")
    gone = [device.delete("nodes", str(n), str(n - 1) if n > 1 else None, f"node {n}") for n in range(5, 0, -1)]
    await device.receive_together(*(((one,), "other", 1_000 + n) for n, one in enumerate(gone)))
    assert await device.dangling() == []
    assert len(await device.rows("nodes")) == 6


async def test_rows_in_a_circle_go_when_nothing_else_keeps_them(device: Referring) -> None:
    await device.receive(device.insert("nodes", "1", None, "one"), device.insert("nodes", "2", "1", "two"), ms=50)
    circle = device.update("nodes", ("1", None, "one"), ("1", "2", "one"), ("other@60",))
    await device.receive(circle, ms=60)
    ms = await device.write("INSERT INTO nodes VALUES ('leaf', '1', 'mine')")
    await device.receive(device.delete("nodes", "1", "2", "one"), device.delete("nodes", "2", "1", "two"))
    assert len(await device.rows("nodes")) == 3
    await device.echo(ms, device.delete("nodes", "leaf", "1", "mine"), device.delete("nodes", "1", "2", "one"))
    assert await device.rows("nodes") == []


async def test_a_parent_with_a_key_of_several_columns_stays(device: Referring) -> None:
    await device.receive(device.insert("rooms", "room", 1, "h"), ms=50)
    await device.write("INSERT INTO beds VALUES ('b', 'h', 1)")
    await device.receive(device.delete("rooms", "room", 1, "h"))
    assert await device.rows("rooms") == [("room", 1, "h")]


async def test_a_reference_to_a_row_that_was_never_here_is_none(device: Referring) -> None:
    """A shape may be a part of the database; and NULL refers to nothing."""
    await device.receive(device.insert("issues", "i", "elsewhere", "issue"), ms=50)
    await device.write("UPDATE issues SET title = 'mine'")
    await device.receive(device.insert("issues", "j", None, "issue"))
    assert await device.rows("projects") == []
    assert await device.leaving() == []


async def test_after_everything_is_fetched_anew_too(chain: Referring) -> None:
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    await chain.replica.reset()
    assert await chain.dangling() == []
    await chain.repair(chain.insert("projects", "p", "new name"), chain.insert("issues", "i", "p", "issue"))
    assert await chain.rows("projects") == [("p", "new name")]
    assert await chain.leaving() == []


async def test_what_leaves_with_a_delivery_stays_above_what_is_pending(chain: Referring) -> None:
    await chain.write("INSERT INTO comments VALUES ('c', 'i', 'mine')")
    gone = (chain.gone("issues", "i", "p", "issue"), chain.gone("projects", "p", "project"))
    await chain.repair(gone=gone)
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]


# --- a delete of this device that another has not known of ------------------------------------------------------------


async def test_a_delete_is_shown_undone_when_a_row_comes_that_refers_to_it(chain: Referring) -> None:
    ms = await chain.write("DELETE FROM projects")  # and the issue with it
    await chain.receive(chain.insert("issues", "j", "p", "theirs", tags=("other@1000",)))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]
    assert await chain.rows("issues") == [("j", "p", "theirs")]
    kept = chain.update("projects", ("p", "project"), ("p", "project"), ("other@50",))
    await chain.echo(ms, kept, chain.delete("issues", "i", "p", "issue"))
    assert await chain.rows("projects") == [("p", "project")]
    assert await chain.leaving() == []


async def test_and_goes_with_the_echo_if_it_goes(chain: Referring) -> None:
    ms = await chain.write("DELETE FROM projects")
    theirs = chain.insert("issues", "j", "p", "theirs", tags=("other@1000",))
    await chain.receive(theirs)
    await chain.receive(chain.delete("issues", "j", "p", "theirs"), ms=1_001)
    assert await chain.dangling() == []
    await chain.echo(ms, chain.delete("issues", "i", "p", "issue"), chain.delete("projects", "p", "project"))
    assert await chain.rows("projects") == []
    assert await chain.leaving() == []


async def test_with_what_the_deleted_row_refers_to_in_turn(chain: Referring) -> None:
    await chain.write("DELETE FROM projects")
    await chain.receive(chain.insert("comments", "c", "i", "theirs", tags=("other@1000",)))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]


async def test_a_row_of_a_delivery_that_refers_to_it(chain: Referring) -> None:
    await chain.write("DELETE FROM projects")
    there = (chain.insert("projects", "p", "project"), chain.insert("issues", "i", "p", "issue"))
    await chain.repair(*there)
    assert await chain.rows("projects") == []
    await chain.repair(*there, chain.insert("issues", "j", "p", "theirs"))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]
    await chain.repair(*there)
    assert await chain.dangling() == []


async def test_the_application_deletes_once_more_what_came_back(chain: Referring) -> None:
    first = await chain.write("DELETE FROM projects")
    await chain.receive(chain.insert("issues", "j", "p", "theirs", tags=("other@1000",)))
    second = await chain.write("DELETE FROM projects")
    assert [await chain.rows("projects"), await chain.rows("issues")] == [[], []]
    entries = [entry for entry in await chain.replica.backlog(0, 100) if entry.table_name == "projects"]
    assert [(entry.op, set(entry.clear_tags)) for entry in entries] == [
        ("D", {"other@50", f"me@{first}"}),
        ("D", {"other@50", f"me@{second}"}),
    ]
    assert await chain.dangling() == []


async def test_a_parent_with_a_key_of_several_columns_comes_back(device: Referring) -> None:
    await device.receive(device.insert("rooms", "room", 1, "h"), ms=50)
    await device.write("DELETE FROM rooms")
    await device.receive(device.insert("beds", "b", "h", 1, tags=("other@1000",)))
    assert await device.rows("rooms") == [("room", 1, "h")]


# --- a delete comes back before an earlier write to its row -----------------------------------------------------------


async def test_a_parent_that_comes_with_a_later_echo_is_shown_with_its_child(device: Referring) -> None:
    """Others keep the two: the upper one comes with the last echo of what was written to it here."""
    await device.receive(device.insert("nodes", "a", None, "top"), device.insert("nodes", "b", "a", "leaf"), ms=50)
    first = await device.write("UPDATE nodes SET title = 'mine' WHERE id = 'a'")
    second = await device.write("DELETE FROM nodes")
    await device.echo(second, device.update("nodes", ("b", "a", "leaf"), ("b", "a", "leaf"), ("other@50",)))
    assert await device.dangling() == []
    assert await device.rows("nodes") == [("a", None, "mine"), ("b", "a", "leaf")]
    await device.echo(first, device.update("nodes", ("a", None, "top"), ("a", None, "mine"), ("other@50", "me@100")))
    assert await device.rows("nodes") == [("a", None, "mine"), ("b", "a", "leaf")]
    assert await device.leaving() == []


async def test_and_goes_with_that_one_if_it_goes(chain: Referring) -> None:
    first = await chain.write("UPDATE projects SET name = 'mine'")
    second = await chain.write("DELETE FROM projects")
    issue = ("i", "p", "issue")
    await chain.echo(second, chain.update("issues", issue, issue, ("other@50",)))
    assert await chain.rows("projects") == [("p", "mine")]
    await chain.receive(chain.delete("issues", *issue))
    assert await chain.dangling() == []
    await chain.echo(first, chain.delete("projects", "p", "mine"))
    assert await chain.rows("projects") == []
    assert await chain.leaving() == []


async def test_also_when_the_child_comes_in_a_later_commit(chain: Referring) -> None:
    await chain.write("UPDATE projects SET name = 'mine'")
    second = await chain.write("DELETE FROM projects")
    await chain.echo(second)
    assert await chain.rows("projects") == []
    await chain.receive(chain.insert("issues", "j", "p", "theirs", tags=("other@1000",)))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "mine")]


async def test_also_when_the_child_comes_with_a_delivery(chain: Referring) -> None:
    await chain.write("UPDATE projects SET name = 'mine'")
    second = await chain.write("DELETE FROM projects")
    await chain.echo(second)
    await chain.repair(chain.insert("issues", "j", "p", "theirs"))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "mine")]


async def test_as_it_was_when_it_was_deleted(chain: Referring) -> None:
    """What has come back in between is in it."""
    await chain.write("UPDATE projects SET name = 'mine'")
    second = await chain.write("UPDATE projects SET name = 'mine, too'")
    third = await chain.write("DELETE FROM projects")
    await chain.echo(second)
    issue = ("i", "p", "issue")
    await chain.echo(third, chain.update("issues", issue, issue, ("other@50",)))
    assert await chain.rows("projects") == [("p", "mine, too")]


async def test_and_where_the_earlier_write_only_refers_to_it(chain: Referring) -> None:
    await chain.write("INSERT INTO issues VALUES ('j', 'p', 'mine')")
    second = await chain.write("DELETE FROM projects")
    issue = ("i", "p", "issue")
    await chain.echo(second, chain.update("issues", issue, issue, ("other@50",)))
    assert await chain.dangling() == []
    assert await chain.rows("projects") == [("p", "project")]


async def test_the_application_deletes_it_once_more(chain: Referring) -> None:
    first = await chain.write("UPDATE projects SET name = 'mine'")
    second = await chain.write("DELETE FROM projects")
    await chain.echo(second, chain.insert("issues", "j", "p", "theirs", tags=("other@1000",)))
    third = await chain.write("DELETE FROM projects")
    assert [await chain.rows("projects"), await chain.rows("issues")] == [[], []]
    entry = next(entry for entry in await chain.replica.backlog(0, 100) if entry.commit_ms == third)
    assert (entry.table_name, entry.op) == ("issues", "D")
    assert await chain.dangling() == []
    await chain.echo(first)
    assert [await chain.rows("projects"), await chain.rows("issues")] == [[], []]


async def test_where_nothing_is_pending_nothing_is_kept(chain: Referring) -> None:
    """The server's own states hold together, or a shape is a part of the database."""
    await chain.receive(chain.gone("projects", "p", "project"))
    assert await chain.rows("projects") == []
    assert await chain.rows("issues") == [("i", "p", "issue")]
