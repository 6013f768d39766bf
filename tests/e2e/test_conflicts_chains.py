"""A new child keeps everything above it that somebody else has deleted, who had not seen it: scenario 03.11 of the old
service's own end-to-end tests, where no device says all of it.

A device says only of the row that its child refers to that it stays, and not of what that one refers to; and where
a key has several columns, the npm client says nothing. The Python library shows what comes of it beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conflict_scene import Device, Kind, PythonDevice, conflict_scene, in_pairs, tick

first_delivers = pytest.mark.parametrize("first", [0, 1], ids=["the child comes first", "the delete comes first"])

CHAIN = """
CREATE TABLE projects (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE issues (id text PRIMARY KEY, project_id text NOT NULL REFERENCES projects, title text NOT NULL);
CREATE TABLE comments (id text PRIMARY KEY, issue_id text NOT NULL REFERENCES issues, body text NOT NULL);
INSERT INTO projects VALUES ('p', 'project');
INSERT INTO issues VALUES ('i', 'p', 'issue');
"""


@in_pairs
@first_delivers
async def test_of_a_chain_everything_above_the_new_child_stays(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11: its parent, and what that refers to, although the child itself names only its parent."""
    async with conflict_scene(database, tmp_path, kinds, CHAIN, "projects", "issues", "comments") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO comments VALUES ('c', 'i', 'comment')")
        await tick()
        await bob.write("DELETE FROM issues", "DELETE FROM projects")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(
            projects=[("p", "project")], issues=[("i", "p", "issue")], comments=[("c", "i", "comment")]
        )


DANGLING = """
SELECT id FROM comments WHERE issue_id NOT IN (SELECT id FROM issues)
UNION ALL SELECT id FROM issues WHERE project_id NOT IN (SELECT id FROM projects)
"""


@pytest.mark.parametrize("kinds", [("python", "python")], ids="+".join)
@first_delivers
async def test_nobody_ever_sees_a_row_without_what_it_refers_to(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """Neither on the device of the new child, nor on that of the delete; whoever reads, whenever."""
    async with conflict_scene(database, tmp_path, kinds, CHAIN, "projects", "issues", "comments") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO comments VALUES ('c', 'i', 'comment')")
        await tick()
        await bob.write("DELETE FROM issues", "DELETE FROM projects")
        seen: list[tuple[Any, ...]] = []
        async with asyncio.TaskGroup() as watching:
            watchers = [watching.create_task(watch(device, DANGLING, seen)) for device in scene.devices]
            await scene.delivers(scene.devices[first])
            await scene.delivers(scene.devices[1 - first])
            await scene.settled()
            for watcher in watchers:
                watcher.cancel()
        assert seen == []


async def watch(device: Device, sql: str, seen: list[tuple[Any, ...]]) -> None:
    """Adds to ``seen`` whatever a live query ever gives."""
    assert isinstance(device, PythonDevice)
    async with device.db.sql(sql).live() as results:
        async for rows in results:
            seen += map(tuple, rows)


COMPOSITE = """
CREATE TABLE regions (name text NOT NULL, code int4, country text, PRIMARY KEY (country, code));
CREATE TABLE sites (name text NOT NULL, country text, code int4, id text PRIMARY KEY,
                    FOREIGN KEY (country, code) REFERENCES regions (country, code));
INSERT INTO regions VALUES ('region', 1, 'a'), ('another', 2, 'a');
"""


@in_pairs
@first_delivers
async def test_a_parent_with_a_key_of_several_columns_stays(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11, 03.25: which stand in another order in the key than in the table."""
    async with conflict_scene(database, tmp_path, kinds, COMPOSITE, "regions", "sites") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO sites (id, name, country, code) VALUES ('s', 'site', 'a', 1)")
        await tick()
        await bob.write("DELETE FROM regions")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(regions=[("region", 1, "a")], sites=[("site", "a", 1, "s")])


NODES = """
CREATE TABLE nodes (id text PRIMARY KEY, parent text REFERENCES nodes, title text NOT NULL);
INSERT INTO nodes VALUES ('1', NULL, 'root'), ('2', '1', 'branch');
"""


@in_pairs
@first_delivers
async def test_in_a_tree_of_one_table_everything_above_the_new_leaf_stays(
    kinds: Sequence[Kind], first: int, database: str, tmp_path: Path
) -> None:
    """03.11"""
    async with conflict_scene(database, tmp_path, kinds, NODES, "nodes") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("INSERT INTO nodes VALUES ('3', '2', 'leaf')")
        await tick()
        await bob.write("DELETE FROM nodes WHERE id = '2'", "DELETE FROM nodes WHERE id = '1'")
        await scene.delivers(scene.devices[first])
        await scene.delivers(scene.devices[1 - first])
        await scene.ends_with(nodes=[("1", None, "root"), ("2", "1", "branch"), ("3", "2", "leaf")])


@in_pairs
async def test_a_tree_may_be_inserted_by_one_statement_leaves_first(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """SQLite checks foreign keys at its end, as Postgres does."""
    async with conflict_scene(database, tmp_path, kinds, NODES, "nodes") as scene:
        ann, _ = scene.devices
        before = await scene.rows("nodes")
        await ann.write("INSERT INTO nodes VALUES ('z3', 'z2', 'leaf'), ('z2', 'z1', 'branch'), ('z1', NULL, 'root')")
        await scene.ends_with(
            nodes=[*before, ("z1", None, "root"), ("z2", "z1", "branch"), ("z3", "z2", "leaf")],
        )
