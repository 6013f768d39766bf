"""Columns with defaults of every kind: an insert on a device that leaves them out takes them, offline too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.e2e.conflict_scene import Kind, alone, conflict_scene, in_pairs
from tests.npm.rig import eventually

pytestmark = pytest.mark.every_major

SQL = """
CREATE TYPE status AS ENUM ('draft', 'done');
CREATE DOMAIN starred AS int4 DEFAULT 3;
CREATE FUNCTION slug() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'slug ' || length(current_user) $$;
CREATE TABLE notes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    title text NOT NULL,
    body text NOT NULL DEFAULT 'it''s
 empty',
    state status NOT NULL DEFAULT 'draft',
    done bool NOT NULL DEFAULT false,
    rank int8 DEFAULT -5,
    ratio float8 DEFAULT 0.1,
    tags text[] DEFAULT ARRAY[]::text[],
    meta jsonb DEFAULT '{"a": 1}',
    stars starred,
    raw bytea DEFAULT '\\x00ff',
    price numeric(6,2) DEFAULT 1,
    made timestamptz NOT NULL DEFAULT now(),
    local_time timestamp DEFAULT (now() AT TIME ZONE 'utc'),
    day date DEFAULT CURRENT_DATE,
    number int4 GENERATED ALWAYS AS IDENTITY,
    place bigserial,
    slug text NOT NULL DEFAULT slug(),
    due timestamptz NOT NULL DEFAULT now() + '7 days',
    full_title text GENERATED ALWAYS AS (title || '!') STORED
);
"""
LITERALS = "body, state, done, rank, ratio, tags, meta, stars, raw, price"
LEFT = "number, place, slug, due"


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace(" ", "T").replace("Z", "+00:00")).timestamp()


@alone
async def test_a_device_fills_in_what_it_can_and_postgres_the_rest(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    async with conflict_scene(database, tmp_path, kinds, SQL, "notes") as scene:
        [device] = scene.devices
        await scene.offline()
        before = time.time()
        await device.write("INSERT INTO notes (title) VALUES ('mine')")
        [literals] = await device.rows(f"SELECT {LITERALS} FROM notes")
        [(id, made, local_time, day)] = await device.rows("SELECT id, made, local_time, day FROM notes")
        # Of sequences our library has values of its own.
        number = 1 if kinds == ("python",) else None
        assert await device.rows(f"SELECT {LEFT} FROM notes") == [(number, number, None, None)]
        assert UUID(id).version == 4
        assert before - 0.002 <= moment(made) <= time.time()
        assert made == f"{local_time}Z"
        assert made.startswith(day)
        await scene.delivers(device)
        shown = "id, made::text AS made, local_time, day, full_title"
        [row] = await scene.postgres.fetch(f"SELECT {shown}, {LEFT} FROM notes")
        assert (str(row["id"]), row["full_title"]) == (id, "mine!")
        assert moment(row["made"]) == moment(made)
        assert (row["number"], row["place"], row["slug"]) == (1, 1, "slug 8")
        assert row["due"] is not None
        await scene.postgres.execute("INSERT INTO notes (title) VALUES ('theirs')")
        assert await scene.postgres.fetchval(f"SELECT count(DISTINCT ({LITERALS})) FROM notes") == 1
        # The row of direct SQL is as Postgres has it, the other as the device filled it in: the same.
        await device.sync("notes", "this.title = 'theirs'")

        async def shown_here() -> bool:
            here = await device.rows(f"SELECT {LITERALS} FROM notes ORDER BY title")
            assert here == [literals, literals]
            [mine, theirs] = await device.rows(f"SELECT {LEFT} FROM notes ORDER BY title")
            assert mine[:3] == (1, 1, "slug 8")
            assert theirs[:3] == ((2, 2, "slug 8") if number is None else (101, 101, "slug 8"))
            assert None not in (*mine, *theirs)
            return True

        await eventually(shown_here)
        assert await scene.rejections() == []


@in_pairs
async def test_what_one_fills_in_is_what_all_have(kinds: Sequence[Kind], database: str, tmp_path: Path) -> None:
    columns = "id, title, body, stars, made, local_time, slug, place"
    table = SQL.replace("notes", "every_note")
    async with conflict_scene(database, tmp_path, kinds, table, "every_note") as scene:
        await scene.offline()
        for device in scene.devices:
            await device.write("INSERT INTO every_note (title) VALUES ('one'), ('two')")
        for device in scene.devices:
            await scene.delivers(device)
        wanted = await scene.postgres.fetch(
            "SELECT count(*), count(DISTINCT id), count(DISTINCT place) FROM every_note"
        )
        assert tuple(wanted[0]) == (4, 4, 4)

        async def agree() -> bool:
            first, second = [sorted(await device.rows(f"SELECT {columns} FROM every_note")) for device in scene.devices]
            assert first == second
            return len(first) == 4 and None not in (cell for row in first for cell in row)

        await eventually(agree)
        assert await scene.rejections() == []
