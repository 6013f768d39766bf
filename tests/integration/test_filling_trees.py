"""A shape of many rows is filled a part at a time, however much hangs on each of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_shape_trees import SQL, TABLES, request
from tests.integration.tree_scene import running
from tests.rawdevice import RawDevice

from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.filling import PART_ROWS
from syncline.proto.values import ShapeRequest

PROJECTS, ISSUES = 300, 40


async def test_many_projects_with_many_issues_come_in_parts(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    add = Bulk.add

    def noted(self: Bulk, relation_id: int, keys: Sequence[bytes], nodes: int, rows: Any, *, once: bool) -> None:
        sizes.append(len(rows))
        add(self, relation_id, keys, nodes, rows, once=once)

    monkeypatch.setattr(Bulk, "add", noted)
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await tree.postgres.execute(
            f"INSERT INTO projects SELECT n, NULL, 'p' FROM generate_series(0, {PROJECTS - 1}) n;"
            f"INSERT INTO issues SELECT n, n / {ISSUES}, 'i' FROM generate_series(0, {PROJECTS * ISSUES - 1}) n"
        )
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            await device.subscribe(request("projects", project=request("issues")))
            assert sum(map(len, device.rows.values())) == PROJECTS * (1 + ISSUES)
    assert sum(sizes) == PROJECTS * (1 + ISSUES)
    assert max(sizes) <= PART_ROWS


SPELLED = """
CREATE TABLE points (at float8 PRIMARY KEY);
CREATE TABLE notes (id int4 PRIMARY KEY, at float8 REFERENCES points);
INSERT INTO points VALUES (0), (1);
INSERT INTO notes VALUES (1, '0'), (2, '-0'), (3, '1')
"""


async def test_what_is_referred_to_in_several_spellings_comes_once(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, SPELLED, ("points", "notes")) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await device.start()
        await device.subscribe(ShapeRequest(str(uuid.uuid4()), "notes", where="true"))
        assert sorted(map(len, device.rows.values())) == [2, 3]


COMPOSITE = """
CREATE TABLE people (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "na%me" text NOT NULL UNIQUE, friend text);
ALTER TABLE people ADD FOREIGN KEY (friend) REFERENCES people ("na%me");
CREATE TABLE firms (number int4, land text, size int4, PRIMARY KEY (land, number));
CREATE TABLE sites (id int4 PRIMARY KEY, land text, number int4, size int4, above int4 REFERENCES sites,
                    FOREIGN KEY (number, land) REFERENCES firms (number, land));
CREATE TABLE rooms (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), site int4 REFERENCES sites, host text,
                    photo bytea, seen timestamptz, FOREIGN KEY (host) REFERENCES people ("na%me"));
INSERT INTO people ("na%me") SELECT 'p' || n FROM generate_series(0, 99) n;
UPDATE people SET friend = 'p' || (substr("na%me", 2)::int * 7 + 3) % 100 WHERE "na%me" LIKE 'p_3';
INSERT INTO firms SELECT n, 'l' || n % 3, n % 4 FROM generate_series(0, 19) n;
INSERT INTO sites SELECT n, 'l' || n % 20 % 3, n % 20, n % 5, nullif((n * 3 + 1) % 90, n) FROM generate_series(0, 89) n;
UPDATE sites SET land = NULL WHERE id % 10 = 9;
INSERT INTO rooms (site, host, photo, seen) SELECT n % 90, nullif('p' || n % 7, 'p6'), decode('5c00', 'hex'),
    '2026-01-01'::timestamptz + n * interval '1 day' FROM generate_series(0, 399) n
"""


@pytest.mark.parametrize(
    ("firms", "sites"),
    [
        ("", ""),
        ("size = 1", "size < 3"),
        ("8 / size > 4", "size < 3"),  # raises an error for some
        ("size > 0", "8 / size > 4"),
        ("8 / size > 4 AND land ~ '[01]$'", "8 / size > 4 OR id < 20"),
    ],
)
async def test_a_tree_is_filled_whatever_its_clauses_are(database: str, tmp_path: Path, firms: str, sites: str) -> None:
    """Keys of several columns in another order, references to what is no key, to the table itself, in circles; by
    columns without an index."""

    def satisfied(clause: str) -> str:
        return clause.replace("8 / size > 4", "size = 1") or "true"

    rooms = ShapeRequest(str(uuid.uuid4()), "rooms")
    below = ShapeRequest(str(uuid.uuid4()), "sites", this(sites), include=((("site",), rooms),))
    wanted = ShapeRequest(str(uuid.uuid4()), "firms", this(firms), include=((("number", "land"), below),))
    found = f"""
    WITH RECURSIVE f AS (SELECT * FROM firms WHERE {satisfied(firms)}),
    i AS (SELECT * FROM sites s WHERE ({satisfied(sites)}) AND EXISTS (
        SELECT FROM f WHERE (f.land, f.number) = (s.land, s.number))),
    s AS (SELECT * FROM i UNION SELECT sites.* FROM s JOIN sites ON sites.id = s.above),
    r AS (SELECT * FROM rooms WHERE site IN (SELECT id FROM i)),
    p AS (SELECT * FROM people WHERE "na%me" IN (SELECT host FROM r)
          UNION SELECT people.* FROM p JOIN people ON people."na%me" = p.friend),
    f2 AS (SELECT * FROM firms WHERE (land, number) IN (SELECT land, number FROM s) UNION SELECT * FROM f)
    """
    tables = {"people": "p", "firms": "f2", "sites": "s", "rooms": "r"}
    async with running(database, tmp_path, COMPOSITE, tuple(tables)) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        await device.subscribe(wanted)
        for table, part in tables.items():
            expected = await tree.postgres.fetchval(f"{found} SELECT count(*) FROM {part}")
            keys = await tree.postgres.fetch(f"{found} SELECT {'id' if table != 'firms' else 'number'} FROM {part}")
            oid = await tree.postgres.fetchval(f"SELECT '{table}'::regclass::oid::int8")
            rows = device.rows.get(oid, {})
            assert sorted(row[0] or b"" for row in rows.values()) == sorted(str(key[0]).encode() for key in keys)
            assert len(rows) == expected > 0


def this(clause: str) -> str:
    return clause.replace("size", "this.size").replace("land", "this.land").replace("id <", "this.id <")
