"""Unique constraints from one end to the other: refused where it is known, decided by who was first where it is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import jwt
import pytest
from tests.npm.rig import eventually
from tests.npm.service import serving

from syncline.client import open_db

TAGS = """
CREATE TABLE tags (id text PRIMARY KEY, label text NOT NULL UNIQUE, place int, kind int);
ALTER TABLE tags ADD UNIQUE (kind, place), ADD CONSTRAINT later UNIQUE (place) DEFERRABLE;
INSERT INTO tags VALUES ('1', 'red', 1, 1), ('2', 'blue', 2, 1);
"""


@pytest.mark.every_major
async def test_a_value_that_is_there_is_refused_where_it_is_written_and_a_policy_takes_that_back(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=TAGS, electrified=("tags",)) as (service, postgres),
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as device,
    ):
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("tags")).synced()
        for sql, failed in (
            ("INSERT INTO tags VALUES ('3', 'red', NULL, NULL)", r"tags\.label"),
            ("UPDATE tags SET label = 'red' WHERE id = '2'", r"tags\.label"),
            ("UPDATE tags SET place = 1 WHERE id = '2'", r"tags\.kind, tags\.place"),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=f"^UNIQUE constraint failed: {failed}$"):
                await device.execute(sql)
        await device.execute("INSERT INTO tags VALUES ('3', 'green', NULL, 1), ('4', 'grey', NULL, 1)")
        await device.execute("UPDATE tags SET label = label")
        # Two rows swap, with one of them aside for a moment.
        # What is checked at the end of a transaction is not checked here.
        async with device.transaction() as tx:
            await tx.execute("UPDATE tags SET label = 'aside', place = NULL WHERE id = '1'")
            await tx.execute("UPDATE tags SET label = 'red', place = 1 WHERE id = '2'")
            await tx.execute("UPDATE tags SET label = 'blue', place = 2 WHERE id = '1'")
        await eventually(lambda: postgres.fetchval("SELECT label = 'blue' AND place = 2 FROM tags WHERE id = '1'"))
        assert await device.rejections() == []

        await postgres.execute("SELECT electric.unique_policy('tags_label_key', 'rename')")
        await postgres.execute("SELECT electric.refresh_merges()")

        async def renamed() -> bool:
            """Once the device has heard of the policy it refuses the value no more."""
            try:
                await device.execute("INSERT INTO tags VALUES ('5', 'red', NULL, NULL)")
            except sqlite3.IntegrityError:
                return False
            return True

        await eventually(renamed)
        await eventually(lambda: postgres.fetchval("SELECT label LIKE 'red ~%' FROM tags WHERE id = '5'"))

        async def shown() -> bool:
            wanted = [tuple(row) for row in await postgres.fetch("SELECT * FROM tags ORDER BY id")]
            return [tuple(row) for row in await device.sql("SELECT * FROM tags ORDER BY id")] == wanted

        await eventually(shown)
