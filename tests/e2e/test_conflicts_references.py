"""A child is written while somebody else, who has not seen it, deletes its parent: the parent stays, with its content.

Scenarios 03.11 (compensations) and 03.25 (the position of the key) of the old service's own end-to-end tests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Kind, alone, conflict_scene, in_pairs, tick
from tests.npm.rig import NpmError

ITEMS = """
CREATE TABLE items (id text PRIMARY KEY, content text NOT NULL, rank int4);
CREATE TABLE other_items (id text PRIMARY KEY, content text NOT NULL, item_id text REFERENCES items (id){action});
INSERT INTO items VALUES ('1', 'hello world', 1);
"""
PLAIN = ITEMS.format(action="")
TABLES = ("items", "other_items")

first_delivers = pytest.mark.parametrize("first", [0, 1], ids=["the child comes first", "the delete comes first"])


@in_pairs
@first_delivers
async def test_a_new_child_keeps_its_parent_with_its_content(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11"""
    async with conflict_scene(database, tmp_path, kinds, PLAIN, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO other_items VALUES ('a', 'child', '1')")
        await tick()
        await bob.write("DELETE FROM items")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("a", "child", "1")])


@in_pairs
async def test_a_parent_comes_back_as_it_was_when_it_was_deleted(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: the author of the child had not seen its last content either."""
    async with conflict_scene(database, tmp_path, kinds, PLAIN, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.settled()
        await ann.offline()
        await bob.write("UPDATE items SET content = 'updated', rank = 2")
        await bob.write("DELETE FROM items")
        await scene.delivers(bob)
        await ann.write("INSERT INTO other_items VALUES ('a', 'child', '1')")
        await scene.delivers(ann)
        await scene.ends_with(items=[("1", "updated", 2)], other_items=[("a", "child", "1")])


@in_pairs
@first_delivers
async def test_a_child_that_changes_its_parent_keeps_the_new_one(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11: and so does one that changes otherwise."""
    sql = f"""{PLAIN} INSERT INTO items VALUES ('2', 'second', 2), ('3', 'third', 3);
    INSERT INTO other_items VALUES ('a', 'child', '1'), ('b', 'child', '3');"""
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write(
            "UPDATE other_items SET item_id = '2' WHERE id = 'a'",
            "UPDATE other_items SET content = 'changed' WHERE id = 'b'",
        )
        await tick()
        await bob.write("DELETE FROM other_items", "DELETE FROM items WHERE id IN ('2', '3')")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(
            items=[("1", "hello world", 1), ("2", "second", 2), ("3", "third", 3)],
            other_items=[("a", "child", "2"), ("b", "changed", "3")],
        )


KEYS_LAST = """
CREATE TABLE items (content text NOT NULL, id text PRIMARY KEY, rank int4);
CREATE TABLE other_items (content text NOT NULL, id text PRIMARY KEY, item_id text REFERENCES items (id));
INSERT INTO items VALUES ('hello world', '1', 1);
"""


@in_pairs
async def test_the_key_need_not_be_the_first_column(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    """03.25"""
    async with conflict_scene(database, tmp_path, kinds, KEYS_LAST, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO other_items (id, content, item_id) VALUES ('a', 'child', '1')")
        await tick()
        await bob.write("DELETE FROM items")
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.ends_with(items=[("hello world", "1", 1)], other_items=[("child", "a", "1")])


@in_pairs
@first_delivers
async def test_a_cascade_takes_the_children_its_author_had_seen_and_no_other(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11: with ON DELETE CASCADE, which the device that deletes carries out on what it has."""
    sql = f"{ITEMS.format(action=' ON DELETE CASCADE')} INSERT INTO other_items VALUES ('a', 'seen', '1');"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO other_items VALUES ('b', 'unseen', '1')")
        await tick()
        await bob.write("DELETE FROM items")
        assert await bob.rows("SELECT * FROM other_items") == []
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("b", "unseen", "1")])


@in_pairs
@first_delivers
async def test_set_null_is_for_the_children_its_author_had_seen_and_no_other(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11: with ON DELETE SET NULL, likewise."""
    sql = f"{ITEMS.format(action=' ON DELETE SET NULL')} INSERT INTO other_items VALUES ('a', 'seen', '1');"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO other_items VALUES ('b', 'unseen', '1')")
        await tick()
        await bob.write("DELETE FROM items")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(items=[("1", "hello world", 1)], other_items=[("a", "seen", None), ("b", "unseen", "1")])


@in_pairs
async def test_a_restriction_is_no_reason_to_refuse_a_delete_that_had_not_seen_the_child(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """03.11: with ON DELETE RESTRICT. What else its author wrote in the transaction is carried out."""
    sql = f"{ITEMS.format(action=' ON DELETE RESTRICT')} INSERT INTO items VALUES ('2', 'second', 2);"
    async with conflict_scene(database, tmp_path, kinds, sql, *TABLES) as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO other_items VALUES ('a', 'child', '1')")
        await tick()
        await bob.write("DELETE FROM items WHERE id = '1'", "UPDATE items SET rank = 3")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(items=[("1", "hello world", 1), ("2", "second", 3)], other_items=[("a", "child", "1")])


TENANTS = """
CREATE TABLE users (tenant int4, id int4, PRIMARY KEY (tenant, id));
CREATE TABLE notes (
    id int4 PRIMARY KEY, tenant int4 NOT NULL DEFAULT 7, author int4, reader int4 DEFAULT 9,
    FOREIGN KEY (tenant, author) REFERENCES users ON DELETE SET NULL (author),
    FOREIGN KEY (tenant, reader) REFERENCES users ON DELETE SET DEFAULT
);
INSERT INTO users VALUES (1, 1), (1, 2), (1, 3), (7, 9);
INSERT INTO notes VALUES (1, 1, 1, NULL), (2, 1, 2, NULL), (3, 1, NULL, 3);
"""


@alone
async def test_what_a_device_cannot_do_as_postgres_does_it_does_not_do(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """SET NULL of some columns and SET DEFAULT: it would set others to NULL, and send that."""
    async with conflict_scene(database, tmp_path, kinds, TENANTS, "users", "notes") as scene:
        (ann,) = scene.devices
        await scene.settled()
        for user in (1, 3):
            with pytest.raises((sqlite3.IntegrityError, NpmError), match="FOREIGN KEY constraint failed"):
                await ann.write(f"DELETE FROM users WHERE id = {user}")
        await ann.write("UPDATE notes SET author = NULL WHERE id = 1", "DELETE FROM users WHERE id = 1")
        await scene.sql("DELETE FROM users WHERE id IN (2, 3)")
        await scene.ends_with(users=[(7, 9)], notes=[(1, 1, None, None), (2, 1, None, None), (3, 7, None, 9)])
