"""Devices that write the same rows without having seen each other, by the conflict scenarios of the old service's own
end-to-end tests. Numbers in docstrings are those of its scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Kind, alone, conflict_scene, in_pairs, tick

ENTRIES = """
CREATE TABLE entries (id text PRIMARY KEY, content text NOT NULL, content_b text);
INSERT INTO entries VALUES ('1', 'original', NULL);
"""
CHILDREN = """
CREATE TABLE items (id text PRIMARY KEY, content text NOT NULL);
CREATE TABLE other_items (id text PRIMARY KEY, content text NOT NULL, item_id text NOT NULL REFERENCES items);
INSERT INTO items VALUES ('1', 'original');
"""

first_delivers = pytest.mark.parametrize("first", [0, 1], ids=["the first delivers first", "the second delivers first"])


@in_pairs
async def test_an_earlier_update_that_is_delivered_later_is_discarded(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.01: of the column that both changed. The other one of the same update is kept."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE entries SET content = 'earlier', content_b = 'earlier'")
        await tick()
        await bob.write("UPDATE entries SET content = 'later'")
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "later", "earlier")])


@in_pairs
async def test_updates_of_different_columns_are_all_kept(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.02: of two devices, and of direct SQL beside them."""
    sql = f"{ENTRIES} ALTER TABLE entries ADD rank int4;"
    async with conflict_scene(database, tmp_path, kinds, sql, "entries") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE entries SET content = 'by the first'")
        await scene.sql("UPDATE entries SET rank = 3")
        await bob.write("UPDATE entries SET content_b = 'by the second'")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(entries=[("1", "by the first", "by the second", 3)])


@in_pairs
async def test_of_one_column_the_later_update_is_kept(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.02: the same in the order of the clocks, and of one transaction that writes the row twice."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE entries SET content = 'earlier'", "UPDATE entries SET content_b = 'from the earlier'")
        await tick()
        await bob.write("UPDATE entries SET content = 'later'")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(entries=[("1", "later", "from the earlier")])


@alone
async def test_postgres_wins_over_what_it_has_applied_whatever_the_clock_of_the_device(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.03: its transaction begins before the write of a device whose clock is a day ahead, and updates after it."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries", ahead_ms=86_400_000) as scene:
        (ann,) = scene.devices
        await scene.settled()
        async with scene.postgres.transaction():
            await scene.postgres.execute("SELECT now()")
            await ann.write("UPDATE entries SET content = 'by a device ahead'")
            await scene.delivers(ann)
            await scene.postgres.execute("UPDATE entries SET content = 'by Postgres'")
        await scene.ends_with(entries=[("1", "by Postgres", None)])


@in_pairs
async def test_an_update_that_had_not_seen_a_delete_brings_the_row_back_as_it_was_deleted(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04: the column it changed as it changed it, the others as they were last, which it had not seen either."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await scene.settled()
        await ann.offline()
        await ann.write("UPDATE entries SET content_b = 'new'")
        await bob.write("UPDATE entries SET content = 'updated'")
        await bob.write("DELETE FROM entries")
        await scene.delivers(bob)
        assert await scene.rows("entries") == []
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "updated", "new")])


@in_pairs
async def test_a_later_delete_does_not_remove_an_earlier_update_it_had_not_seen(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04, delivered the other way round."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE entries SET content_b = 'new'")
        await tick()
        await bob.write("DELETE FROM entries")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(entries=[("1", "original", "new")])


@in_pairs
async def test_a_delete_that_had_seen_everything_removes_the_row_until_somebody_who_had_not_writes_it(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04: only what was written without having seen the delete brings the row back."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await ann.write("UPDATE entries SET content = 'seen'")
        await scene.settled()
        await bob.write("DELETE FROM entries")
        await scene.ends_with(entries=[])
        await bob.write("INSERT INTO entries VALUES ('1', 'again', NULL)")
        await scene.offline()
        await bob.write("DELETE FROM entries")
        await ann.write("UPDATE entries SET content_b = 'unseen'")
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "again", "unseen")])


@in_pairs
@first_delivers
async def test_of_two_inserts_of_one_key_the_later_is_kept_and_its_delete_by_the_author_of_the_other_is_none(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """05.04: who deletes his own row has not seen the other's."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO entries VALUES ('2', 'earlier', 'earlier')")
        await tick()
        await bob.write("INSERT INTO entries VALUES ('2', 'later', NULL)")
        await tick()
        await ann.write("DELETE FROM entries WHERE id = '2'")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(entries=[("1", "original", None), ("2", "later", None)])


@alone
async def test_a_parent_and_its_child_in_one_transaction(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.05: the child says that the parent stays, which was new in the same transaction and keeps its content."""
    async with conflict_scene(database, tmp_path, kinds, CHILDREN, "items", "other_items") as scene:
        (ann,) = scene.devices
        await ann.write(
            "INSERT INTO items VALUES ('2', 'content')", "INSERT INTO other_items VALUES ('a', 'child', '2')"
        )
        await scene.ends_with(items=[("1", "original"), ("2", "content")], other_items=[("a", "child", "2")])


@alone
async def test_a_parent_deleted_and_inserted_and_given_a_child_in_one_transaction(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.05: the last write of the row counts."""
    async with conflict_scene(database, tmp_path, kinds, CHILDREN, "items", "other_items") as scene:
        (ann,) = scene.devices
        await ann.write(
            "DELETE FROM items WHERE id = '1'",
            "INSERT INTO items VALUES ('1', 'anew')",
            "INSERT INTO other_items VALUES ('a', 'child', '1')",
        )
        await scene.ends_with(items=[("1", "anew")], other_items=[("a", "child", "1")])


@in_pairs
@first_delivers
async def test_a_parent_that_one_replaces_and_gives_a_child_and_another_deletes(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """05.05, beside a delete that had not seen any of it."""
    async with conflict_scene(database, tmp_path, kinds, CHILDREN, "items", "other_items") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write(
            "DELETE FROM items WHERE id = '1'",
            "INSERT INTO items VALUES ('1', 'anew')",
            "INSERT INTO other_items VALUES ('a', 'child', '1')",
        )
        await tick()
        await bob.write("DELETE FROM items")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(items=[("1", "anew")], other_items=[("a", "child", "1")])


CAMEL = """
CREATE TABLE "camelCase" (id text PRIMARY KEY, "userId" text, "ofWhat" text);
INSERT INTO "camelCase" VALUES ('1', NULL, NULL), ('2', 'by SQL', NULL);
"""


@in_pairs
async def test_columns_and_tables_may_have_capitals(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.06: in an insert, in a merge, in a delete, and in a row that comes back."""
    async with conflict_scene(database, tmp_path, kinds, CAMEL, "camelCase") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write(
            """INSERT INTO "camelCase" VALUES ('3', 'by a device', NULL)""",
            """UPDATE "camelCase" SET "userId" = 'updated', "ofWhat" = 'first' WHERE id = '1'""",
            """UPDATE "camelCase" SET "ofWhat" = 'back' WHERE id = '2'""",
        )
        await tick()
        await bob.write(
            """UPDATE "camelCase" SET "ofWhat" = 'second' WHERE id = '1'""",
            """DELETE FROM "camelCase" WHERE id = '2'""",
        )
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.ends_with(
            camelCase=[("1", "updated", "second"), ("2", "by SQL", "back"), ("3", "by a device", None)]
        )


ODD = """
CREATE TABLE "order" (id text PRIMARY KEY, "select" text, "two words" text, "a ""quote"" in it" text, "50%" text);
INSERT INTO "order" VALUES ('1', NULL, NULL, NULL, NULL), ('2', 'by SQL', NULL, NULL, NULL);
"""


async def test_columns_and_tables_may_have_any_names(database: str, tmp_path: Path) -> None:
    """05.06: words of SQL, spaces, quotes. The npm client does not quote the names of columns."""
    async with conflict_scene(database, tmp_path, ("python", "python"), ODD, "order") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write(
            """INSERT INTO "order" VALUES ('3', 'by a device', 'a', 'b', 'c')""",
            """UPDATE "order" SET "select" = 'updated', "two words" = 'first' WHERE id = '1'""",
            """UPDATE "order" SET "a ""quote"" in it" = 'back' WHERE id = '2'""",
        )
        await tick()
        await bob.write(
            """UPDATE "order" SET "two words" = 'second', "50%" = 'x' WHERE id = '1'""",
            """DELETE FROM "order" WHERE id = '2'""",
        )
        await scene.delivers(bob)
        await scene.delivers(ann)
        rows = [
            ("1", "updated", "second", None, "x"),
            ("2", "by SQL", None, "back", None),
            ("3", "by a device", "a", "b", "c"),
        ]
        await scene.ends_with(order=rows)
