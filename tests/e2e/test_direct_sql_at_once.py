"""What direct SQL does in one transaction is known whole, however large it is and whatever it empties."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.conflict_scene import conflict_scene, tick

MANY = """
CREATE TABLE entries (id text PRIMARY KEY, content text NOT NULL, more text);
INSERT INTO entries SELECT n, 'original', NULL FROM generate_series(1, 30000) n;
"""
FEW = """
CREATE TABLE entries (id text PRIMARY KEY, content text NOT NULL, more text);
INSERT INTO entries VALUES ('1', 'original', 'original');
"""


@pytest.mark.parametrize(
    ("second", "more"), [("UPDATE entries SET more = 'by SQL'", "by SQL"), ("DELETE FROM entries", "earlier")]
)
async def test_rows_that_one_large_transaction_writes_twice(
    database: str, tmp_path: Path, second: str, more: str
) -> None:
    """The stream brings it in pieces, and both writes to a row are in different ones."""
    async with conflict_scene(database, tmp_path, ("python",), MANY, unasked=("entries",)) as scene:
        (ann,) = scene.devices
        await ann.sync("entries", "this.id = '1'")
        await ann.offline()
        await ann.write("UPDATE entries SET more = 'earlier'")
        await tick()
        await scene.sql("UPDATE entries SET content = 'by SQL'", second)
        await scene.delivers(ann)
        row = await scene.postgres.fetchrow("SELECT * FROM entries WHERE id = '1'")
        assert tuple(row) == ("1", "by SQL", more)
        assert await scene.rejections() == []


@pytest.mark.parametrize("write", ["UPDATE entries SET more = 'earlier'", "DELETE FROM entries"])
@pytest.mark.parametrize("empty", ["DELETE FROM entries", "TRUNCATE entries"])
async def test_a_table_that_is_filled_anew_is_later_than_what_a_device_wrote_before(
    database: str, tmp_path: Path, empty: str, write: str
) -> None:
    async with conflict_scene(database, tmp_path, ("python",), FEW, "entries") as scene:
        (ann,) = scene.devices
        await scene.offline()
        await ann.write(write)
        await tick()
        await scene.sql(empty, "INSERT INTO entries VALUES ('1', 'anew', 'anew')")
        await scene.delivers(ann)
        await scene.ends_with(entries=[("1", "anew", "anew")])
