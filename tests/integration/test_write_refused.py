"""What is refused at the edge is recorded in Postgres, whatever it is, and later writes know what it had observed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.write_scene import Scene, scene, written

from syncline.actors.devices.refused import encode_refused
from syncline.actors.postgres.catalog import load_catalog
from syncline.proto.values import Column, Delete, Insert, Relation, RowChange, Update

pytestmark = pytest.mark.every_major

NOTES = """
CREATE TABLE notes (note int, id text, body text, PRIMARY KEY (id, note));
"""
COLUMNS = (Column("id", "TEXT"), Column("note", "INTEGER"), Column("body", "TEXT"))
HERE = Relation(0, "public", "notes", COLUMNS)
WIDER = Relation(1, "public", "notes", (*COLUMNS, Column("sur\0prise", "BLOB")))
NOWHERE = Relation(2, "public", "now\0here", (Column("id", "TEXT"), Column("x", "BLOB")))


async def refused(s: Scene, ms: int, *changes: tuple[Relation, RowChange]) -> dict[str, Any]:
    catalog = await load_catalog(s.connection)
    ops = json.loads(b"[" + encode_refused(changes, catalog.named) + b"]")
    return written("a", ms, *ops) | {"refuse": {"sqlstate": "22P02", "message": "no number"}}


async def test_whatever_a_device_has_written_can_be_recorded(database: str) -> None:
    async with scene(database, NOTES, "notes") as s:
        transaction = await refused(
            s,
            1,
            (HERE, Insert(0, (b"\xff\0", b"no\0number", None), ("b\0@1",))),
            (HERE, Delete(0, (None, b"1", b"x"))),
            (WIDER, Insert(1, (b"1", b"1", b"x", b"\xff\0"))),
            (NOWHERE, Update(2, (b"1", b"\xfe"), None, ("a@0",))),
        )
        assert await s.statuses(transaction) == ["rejected"]
        ops = json.loads(await s.connection.fetchval("SELECT ops FROM electric.rejections"))
        assert ops == transaction["ops"]
        assert len(ops) == 4


async def test_a_delete_knows_what_a_transaction_refused_at_the_edge_had_seen(database: str) -> None:
    async with scene(database, NOTES, "notes") as s:
        await s.apply(written("b", 100, *(s.insert("notes", "1", row, "") for row in ("seen", "moved", "unseen"))))
        edge = await refused(
            s,
            200,
            (NOWHERE, Insert(2, (b"seen", b""), ("b@100",))),
            (WIDER, Update(1, (b"seen", b"1", b"x", b"y"), None, ("b@100",))),
            (HERE, Update(0, (b"elsewhere", b"1", b"x"), (b"moved", b"1", b""), ("b@100",))),
        )
        deleted = (s.delete("notes", "1", row, None, seen=["a@200", "a@201"]) for row in ("seen", "moved", "unseen"))
        assert await s.statuses(edge, written("a", 201, *deleted)) == ["rejected", "applied"]
        assert await s.rows("notes") == [(1, "unseen", "")]
