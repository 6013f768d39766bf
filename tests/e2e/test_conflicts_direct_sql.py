"""Direct SQL writes what a device writes at the same time: it is one more writer, by the rules of all.

The scenarios of the old service's own end-to-end tests, whose other writer is nearly always Postgres; numbers in
docstrings are those of its scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Kind, alone, conflict_scene, tick

ENTRIES = """
CREATE TABLE entries (id text PRIMARY KEY, content text NOT NULL, content_b text);
INSERT INTO entries VALUES ('1', 'original', NULL);
"""
ITEMS = """
CREATE TABLE items (id text PRIMARY KEY, content text NOT NULL, rank int4);
CREATE TABLE other_items (id text PRIMARY KEY, content text NOT NULL, item_id text REFERENCES items (id){action});
INSERT INTO items VALUES ('1', 'hello world', 1);
"""
PLAIN = ITEMS.format(action="")
TABLES = ("items", "other_items")


@alone
async def test_an_update_made_before_that_of_sql_and_delivered_after_it_is_discarded(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.01: of the column that both changed."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await ann.write("UPDATE entries SET content = 'earlier', content_b = 'earlier'")
        await tick()
        await scene.sql("UPDATE entries SET content = 'later, by SQL'")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "later, by SQL", "earlier")])


@alone
async def test_an_insert_made_before_that_of_sql_and_delivered_after_it_is_discarded(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.01"""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO entries VALUES ('2', 'earlier', 'earlier')")
        await tick()
        await scene.sql("INSERT INTO entries VALUES ('2', 'later, by SQL', NULL)")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "original", None), ("2", "later, by SQL", None)])


@alone
async def test_an_update_made_after_that_of_sql_is_kept(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.02: of the column that both changed."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("UPDATE entries SET content = 'earlier, by SQL', content_b = 'by SQL'")
        await ann.write("UPDATE entries SET content = 'later'")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "later", "by SQL")])


@alone
async def test_sql_wins_by_the_time_of_its_commit(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """05.03: it updates before the device does and commits after it; the device delivers last."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        async with scene.postgres.transaction():
            await scene.postgres.execute("UPDATE entries SET content = 'by SQL'")
            await ann.write("UPDATE entries SET content = 'by a device'")
            await tick()
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "by SQL", None)])


@alone
async def test_an_update_that_had_not_seen_a_delete_by_sql_brings_the_row_back_as_it_was_deleted(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04: also what the device had not seen."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("UPDATE entries SET content = 'updated'")
        await scene.sql("DELETE FROM entries")
        await ann.write("UPDATE entries SET content_b = 'new'")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "updated", "new")])


@alone
async def test_a_row_that_sql_inserted_updated_and_deleted_in_three_lives_comes_back_from_the_last(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04: as the device's update of the first had not seen any of them."""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        for life in ("second", "third"):
            await scene.sql("DELETE FROM entries")
            await scene.sql(f"INSERT INTO entries VALUES ('1', '{life}', NULL)")
        await scene.sql("UPDATE entries SET content = 'third, updated'", "DELETE FROM entries")
        await ann.write("UPDATE entries SET content_b = 'new'")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "third, updated", "new")])


@alone
async def test_a_delete_of_a_row_that_a_device_saw_sql_write_does_not_remove_what_sql_wrote_meanwhile(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04"""
    async with conflict_scene(database, tmp_path, kinds, ENTRIES, "entries") as scene:
        (ann,) = scene.devices
        await scene.sql("UPDATE entries SET content = 'seen'")
        await scene.offline()
        await scene.sql("UPDATE entries SET content_b = 'by SQL'")
        await ann.write("DELETE FROM entries")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "seen", "by SQL")])


@alone
async def test_a_delete_of_a_row_that_a_device_fetched_does_not_remove_what_sql_wrote_meanwhile(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04: the one row as it was inserted, the other as it was updated before."""
    sql = f"{ENTRIES} INSERT INTO entries VALUES ('2', 'second', NULL), ('3', 'third', NULL);"
    async with conflict_scene(database, tmp_path, kinds, sql, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("UPDATE entries SET content_b = 'by SQL' WHERE id < '3'")
        await ann.write("DELETE FROM entries WHERE id <> '2'")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "original", "by SQL"), ("2", "second", "by SQL")])


@alone
async def test_a_delete_of_what_sql_had_updated_before_it_was_fetched_removes_it(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """05.04"""
    sql = f"{ENTRIES} UPDATE entries SET content_b = 'by SQL'"
    async with conflict_scene(database, tmp_path, kinds, sql, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await ann.write("DELETE FROM entries")
        await scene.delivers(ann)
        await scene.ends_with(entries=[])


@alone
async def test_a_new_child_brings_back_the_parent_that_sql_deleted(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: with what SQL wrote to it before."""
    async with conflict_scene(database, tmp_path, kinds, PLAIN, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("UPDATE items SET rank = 2")
        await scene.sql("DELETE FROM items")
        await ann.write("INSERT INTO other_items VALUES ('a', 'child', '1')")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "hello world", 2)], other_items=[("a", "child", "1")])


@alone
async def test_the_key_of_a_parent_that_sql_deleted_need_not_be_its_first_column(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.25"""
    sql = """
    CREATE TABLE items (content text NOT NULL, id text PRIMARY KEY, rank int4);
    CREATE TABLE other_items (content text NOT NULL, id text PRIMARY KEY, item_id text REFERENCES items (id));
    """
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        (ann,) = scene.devices
        await ann.write("INSERT INTO items (id, content) VALUES ('1', 'hello world')")
        await scene.offline()
        await scene.sql("DELETE FROM items")
        await ann.write("INSERT INTO other_items (id, content, item_id) VALUES ('a', 'child', '1')")
        await scene.delivers(ann)
        await scene.ends_with(items=[("hello world", "1", None)], other_items=[("child", "a", "1")])


@alone
async def test_a_new_child_brings_back_everything_above_it_that_sql_deleted(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: a chain of three, the last reference by a key of two columns, and what refers to its own table."""
    sql = """
    CREATE TABLE regions (country text, code int4, name text NOT NULL, PRIMARY KEY (country, code));
    CREATE TABLE sites (id text PRIMARY KEY, country text, code int4, part_of text REFERENCES sites (id),
                        name text NOT NULL,
                        FOREIGN KEY (country, code) REFERENCES regions (country, code));
    CREATE TABLE visits (id text PRIMARY KEY, site_id text NOT NULL REFERENCES sites (id));
    INSERT INTO regions VALUES ('a', 1, 'region'), ('a', 2, 'another');
    INSERT INTO sites VALUES ('s', 'a', 1, NULL, 'whole'), ('t', 'a', 1, 's', 'part');
    """
    async with conflict_scene(database, tmp_path, kinds, sql, "regions", "sites", "visits") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("DELETE FROM sites", "DELETE FROM regions")
        await ann.write("INSERT INTO visits VALUES ('v', 't')")
        await scene.delivers(ann)
        await scene.ends_with(
            regions=[("a", 1, "region")],
            sites=[("s", "a", 1, None, "whole"), ("t", "a", 1, "s", "part")],
            visits=[("v", "t")],
        )


@alone
@pytest.mark.parametrize("action", ["", " ON DELETE RESTRICT"])
async def test_a_child_by_sql_keeps_the_parent_that_a_device_deletes(
    kinds: Sequence[Kind], action: str, database: str, tmp_path: Path
) -> None:
    """03.11: what else is in the transaction of the device is carried out."""
    sql = f"{ITEMS.format(action=action)} INSERT INTO items VALUES ('2', 'second', 2);"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("INSERT INTO other_items VALUES ('a', 'child', '1')")
        await ann.write("DELETE FROM items WHERE id = '1'", "UPDATE items SET rank = 3")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "hello world", 1), ("2", "second", 3)], other_items=[("a", "child", "1")])


@alone
async def test_a_cascade_by_sql_takes_the_children_there_are_and_not_the_one_that_is_on_its_way(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: with ON DELETE CASCADE."""
    sql = f"{ITEMS.format(action=' ON DELETE CASCADE')} INSERT INTO other_items VALUES ('a', 'there', '1');"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("DELETE FROM items")
        await ann.write("INSERT INTO other_items VALUES ('b', 'on its way', '1')")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("b", "on its way", "1")])


@alone
async def test_a_child_that_changes_while_a_cascade_by_sql_takes_it_comes_back_with_its_parent(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: with ON DELETE CASCADE."""
    sql = f"{ITEMS.format(action=' ON DELETE CASCADE')} INSERT INTO other_items VALUES ('a', 'there', '1');"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("DELETE FROM items")
        await ann.write("UPDATE other_items SET content = 'changed'")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("a", "changed", "1")])


@alone
async def test_a_cascade_in_postgres_does_not_remove_a_child_by_sql_that_the_device_had_not_seen(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: the device deletes the parent and, by its own cascade, the children it has."""
    sql = f"{ITEMS.format(action=' ON DELETE CASCADE')} INSERT INTO other_items VALUES ('a', 'seen', '1');"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("INSERT INTO other_items VALUES ('b', 'unseen', '1')")
        await ann.write("DELETE FROM items")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("b", "unseen", "1")])


VARIABLES = [
    "op",
    "cells",
    "modified",
    "observed",
    "origin",
    "ms",
    "tag",
    "row_key",
    "row_xid",
    "alive",
    "entry",
    "unknown",
    "tags_now",
    "column_tags_now",
    "wins",
    "holder",
    "holder_loses",
    "grave",
    "buried_ms",
    "setters",
    "tags",
    "relid",
    "key",
]


async def test_columns_may_have_the_names_of_our_variables(database: str, tmp_path: Path) -> None:
    """05.06: whatever the merge calls its own. The npm client has columns of its own names too, and others of ours."""
    columns = ", ".join(f'"{name}" text' for name in VARIABLES)
    sql = f"CREATE TABLE things (id text PRIMARY KEY, {columns}); INSERT INTO things (id) VALUES ('1'), ('2'), ('3')"
    async with conflict_scene(database, tmp_path, ("python", "python"), sql, "things") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE things SET ms = 'earlier', origin = 'earlier', cells = 'cells' WHERE id <> '3'")
        await tick()
        await bob.write(
            "UPDATE things SET ms = 'later', wins = 'wins' WHERE id = '1'", "DELETE FROM things WHERE id > '1'"
        )
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.settled()
        rows = await scene.postgres.fetch("SELECT id, ms, origin, cells, wins FROM things ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("1", "later", "earlier", "cells", "wins"),
            ("2", "earlier", "earlier", "cells", None),
        ]


@alone
async def test_a_key_that_sql_changed_is_another_row_beside_the_one_that_a_device_wrote_to(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """Also what its child referred to, which follows the new key: the device had compensated the old one."""
    schema = ITEMS.format(action=" ON UPDATE CASCADE") + "INSERT INTO other_items VALUES ('1', 'a child', '1');"
    async with conflict_scene(database, tmp_path, kinds, schema, *TABLES) as scene:
        (ann,) = scene.devices
        await scene.offline()
        await scene.sql("UPDATE items SET id = '2'")
        await ann.write("UPDATE items SET content = 'by a device'", "UPDATE other_items SET content = 'changed'")
        await scene.delivers(ann)
        await scene.ends_with(
            items=[("1", "by a device", 1), ("2", "hello world", 1)], other_items=[("1", "changed", "2")]
        )
