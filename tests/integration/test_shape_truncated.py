"""Rows that a TRUNCATE has removed before a shape that needs them could ask for them: nobody is shown a part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.integration.tree_scene import running
from tests.rawdevice import RawDevice

from syncline.actors.shapes.treeconsumer import TreeConsumer
from syncline.proto import events
from syncline.proto.values import Insert, ShapeRequest, Update

SQL = """
CREATE TABLE projects (id int4 PRIMARY KEY, mine bool NOT NULL);
CREATE TABLE issues (id int4 PRIMARY KEY, project int4 REFERENCES projects);
CREATE TABLE notes (id int4 PRIMARY KEY);
INSERT INTO projects VALUES (1, false);
INSERT INTO issues VALUES (1, 1), (2, 1)
"""
TABLES = ("projects", "issues", "notes")
MINE = ShapeRequest(
    "mine", "projects", "this.mine", include=((("project",), ShapeRequest("issues of mine", "issues")),)
)


async def test_what_was_committed_until_then_comes_as_one_transaction(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    ask = TreeConsumer._ask_once

    async def late(self: TreeConsumer, queries: Any) -> None:
        asked.set()
        await go_on.wait()
        await ask(self, queries)

    async with running(database, tmp_path, SQL, TABLES) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        await device.subscribe(MINE, "notes")
        monkeypatch.setattr(TreeConsumer, "_ask_once", late)
        async with tree.postgres.transaction():
            await tree.postgres.execute("UPDATE projects SET mine = true")
            await tree.postgres.execute("INSERT INTO notes VALUES (1)")
        await asked.wait()
        await tree.postgres.execute("INSERT INTO notes VALUES (2)")
        async with tree.postgres.transaction():
            await tree.postgres.execute("TRUNCATE issues")
            await tree.postgres.execute("INSERT INTO issues VALUES (3, 1)")
            await tree.postgres.execute("INSERT INTO notes VALUES (3)")
        await tree.postgres.execute("INSERT INTO notes VALUES (4)")
        oids = {
            row["oid"]: row["relname"] for row in await tree.postgres.fetch("SELECT oid::int8, relname FROM pg_class")
        }
        go_on.set()
        came = []
        while not came or ("notes", b"4") not in came[-1]:
            transaction = (await device.expect(events.TransactionReceived)).transaction
            rows = [change for change in transaction.changes if isinstance(change, Insert | Update)]
            came.append({(oids[row.relation_id], row.row[0]) for row in rows})
        upto = {("projects", b"1"), ("issues", b"3"), ("notes", b"1"), ("notes", b"2"), ("notes", b"3")}
        assert came in ([upto, {("notes", b"4")}], [{*upto, ("notes", b"4")}])
