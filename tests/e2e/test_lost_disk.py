"""The service loses its disk: a device of ours is sent what differs, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.repair_scene import (
    CHANGED,
    CHANGES,
    ITEMS,
    connected,
    counted,
    current,
    fetched_anew,
    killed_in_the_middle,
    position_of,
    rows_of,
    same,
)
from tests.e2e.shape_scene import ANNS, MOVES, SQL, TABLES, TREE, expected, issues_where, move
from tests.e2e.test_columns import SQL as NOTES
from tests.e2e.test_shapes import INCLUDE, dangling, here
from tests.npm.rig import eventually
from tests.npm.service import ServiceProcess, serving
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import Database
from syncline.proto.digest import ROWS_PER_BUCKET


async def lose_disk(service: ServiceProcess, postgres: asyncpg.Connection, meanwhile: str = "SELECT 1") -> None:
    await service.kill()
    shutil.rmtree(service.data_dir)
    await postgres.execute(meanwhile)
    await service.start()


@pytest.mark.each_runtime
async def test_what_differs_comes_and_nothing_else(database: str, tmp_path: Path) -> None:
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        shape = await db.sync("items")
        await shape.synced()
        await postgres.execute("UPDATE items SET title = 'streamed' WHERE id % 1000 = 0")
        await eventually(lambda: current(postgres, db))
        counts.clear()
        stages: set[str] = set()
        watching = asyncio.create_task(_stages(shape, stages))
        await lose_disk(service, postgres, CHANGES)
        await eventually(lambda: current(postgres, db))
        watching.cancel()
        assert (counts["repairs"], counts["deliveries"]) == (1, 0)
        # Buckets have half as many rows as they may have at least.
        assert CHANGED - 2 <= counts["rows"] <= CHANGED * 2 * ROWS_PER_BUCKET
        assert "repairing" in stages
        await eventually(lambda: same(shape.status.state, "delivered"))
        assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        # And it lives on.
        await postgres.execute("UPDATE items SET title = 'live' WHERE id = 1")
        await db.execute("UPDATE items SET title = 'mine' WHERE id = 2")
        await eventually(lambda: current(postgres, db))
        assert counts["deliveries"] == 0


async def _stages(shape: object, stages: set[str]) -> None:
    async for status in shape.status_changes():  # type: ignore[attr-defined]
        stages.add(status.state)


async def test_where_nothing_differs_no_row_comes(database: str, tmp_path: Path) -> None:
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        await (await db.sync("items")).synced()
        for times in (1, 2):
            counts["rows"] = 0
            await lose_disk(service, postgres)
            await eventually(lambda times=times: same(counts["repairs"], times))  # type: ignore[misc]
            await postgres.execute(f"UPDATE items SET title = 'after loss {times}' WHERE id = 5")
            await eventually(lambda: current(postgres, db))
            assert counts["rows"] == 1


async def test_what_was_written_offline_is_kept_and_merged(database: str, tmp_path: Path) -> None:
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        await (await db.sync("items")).synced()
        await db.disconnect()
        await db.execute("UPDATE items SET title = 'mine' WHERE id IN (1, 17)")
        await db.execute("DELETE FROM items WHERE id IN (2, 4711)")
        await db.execute("INSERT INTO items (id, title) VALUES (60001, 'offline')")
        await lose_disk(service, postgres, CHANGES + "UPDATE items SET n = 100 WHERE id = 1")
        counts.clear()
        await db.connect()
        await eventually(lambda: current(postgres, db))
        await eventually(lambda: same(db.status.pending_writes, 0))
        assert counts["repairs"] == 1
        assert await postgres.fetchrow("SELECT title, n FROM items WHERE id = 1") == ("mine", 100)
        assert await postgres.fetchval("SELECT title FROM items WHERE id = 17") == "changed", "later, by direct SQL"
        assert await postgres.fetchval("SELECT count(*) FROM items WHERE id IN (2, 60001)") == 1
        assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        assert await db.sql("SELECT 1 FROM _syncline_oplog UNION ALL SELECT 1 FROM _syncline_leaving") == []


@pytest.mark.parametrize("overlapping", [False, True])
async def test_parts_of_tables_and_trees_are_repaired(overlapping: bool, database: str, tmp_path: Path) -> None:
    clause = "this.rank > 3"
    async with connected(database, tmp_path, SQL, TABLES) as (service, postgres, db, counts):
        await (await db.sync("projects", ANNS, include=INCLUDE)).synced()
        part = TREE
        if overlapping:
            await (await db.sync("issues", clause)).synced()
            part = _union(TREE, issues_where(clause.replace("this.", "")))
        for number, name in enumerate(MOVES):
            await service.kill()
            shutil.rmtree(service.data_dir)
            await move(postgres, name)
            await service.start()
            await eventually(lambda number=number: same(counts["repairs"], number + 1))  # type: ignore[misc]
            await eventually(partial(_agree, postgres, db, part))
        assert counts["deliveries"] == 1 + overlapping


def _union(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return {table: f"{one[table]} UNION {other[table]}" for table in one}


async def _agree(postgres: asyncpg.Connection, db: Database, part: dict[str, str]) -> bool:
    if await here(db, [*part]) != await expected(postgres, part):
        return False
    assert await dangling(db) == []
    return True


async def test_a_device_killed_in_the_middle_begins_again(database: str, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    path = tmp_path / "device.db"
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        async with counted(path, service.url, counts) as db:
            await db.connect(insecure_token("ann"))
            await (await db.sync("items")).synced()
            before = await rows_of(db)
        position = position_of(path)
        await lose_disk(service, postgres, CHANGES)
        for _ in range(2):
            await killed_in_the_middle(path, service.url)
            assert position_of(path) == position
            await lose_disk(service, postgres)
        async with counted(path, service.url, counts) as db:
            assert await rows_of(db) == before
            await db.connect(insecure_token("ann"))
            await eventually(lambda: current(postgres, db))
            assert await rows_of(db) == await fetched_anew(tmp_path / "new.db", service.url)
        assert (counts["repairs"], counts["deliveries"]) == (1, 1)


async def test_what_was_unsubscribed_meanwhile_leaves_and_what_was_asked_for_comes(
    database: str, tmp_path: Path
) -> None:
    async with connected(database, tmp_path, SQL, TABLES) as (service, postgres, db, counts):
        leaving = await db.sync("comments")
        await leaving.synced()
        await (await db.sync("users")).synced()
        await db.disconnect()
        await leaving.unsubscribe()
        await db.sync("projects")
        await lose_disk(service, postgres, "UPDATE users SET name = 'Annabel' WHERE id = 'ann'; DELETE FROM comments")
        await db.connect()
        part = {"users": "SELECT * FROM users", "projects": "SELECT * FROM projects"}
        part |= {table: f"SELECT * FROM {table} WHERE false" for table in ("issues", "comments")}
        await eventually(partial(_agree, postgres, db, part))
        assert counts["repairs"] == 1


async def test_a_device_of_the_old_line_is_told_to_start_over(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with RawDevice.connected(service.url) as device:
            await device.start()
            subscription = await device.subscribe("users")
            lsn, client_id = device.lsn, device.client_id
        await lose_disk(service, postgres)
        async with RawDevice.connected(service.url, client_id=client_id) as device:
            await device.told_to_start_over(lsn, subscription)


async def test_rows_that_were_written_and_are_as_they_were_do_not_come(database: str, tmp_path: Path) -> None:
    """By SQL, which leaves other tags on those who see it happen; and numbers that Python would write otherwise."""
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        await postgres.execute("UPDATE items SET weight = id * 1e14, small = id * 1e5 - 0.5 WHERE id < 1000")
        await (await db.sync("items")).synced()
        await db.disconnect()
        await lose_disk(service, postgres)
        await fetched_anew(tmp_path / "new.db", service.url)  # the shape is there, and sees what follows
        await postgres.execute("UPDATE items SET title = title")
        counts.clear()
        await db.connect()
        await eventually(lambda: same(counts["repairs"], 1))
        await postgres.execute("UPDATE items SET title = 'after the repair' WHERE id = 5")
        await eventually(lambda: current(postgres, db))
        assert counts["rows"] == 1


async def test_of_a_shape_that_names_columns_what_differs_in_these_comes(database: str, tmp_path: Path) -> None:
    async with connected(database, tmp_path, ITEMS, ("items",)) as (service, postgres, db, counts):
        await (await db.sync("items", columns=["title"])).synced()
        counts.clear()
        await lose_disk(service, postgres, CHANGES)
        await eventually(lambda: current(postgres, db))
        assert (counts["repairs"], counts["deliveries"]) == (1, 0)
        assert CHANGED - 2 <= counts["rows"] <= CHANGED * 2 * ROWS_PER_BUCKET
        counts.clear()
        await lose_disk(service, postgres, "UPDATE items SET weight = 7, n = 7")
        await eventually(lambda: same(counts["repairs"], 1))
        await postgres.execute("UPDATE items SET title = 'live' WHERE id = 5")
        await eventually(lambda: current(postgres, db))
        assert (counts["rows"], counts["deliveries"]) == (1, 0)
        # Rows that came in the repair and after it have the others as NULL.
        assert [tuple(row) for row in await db.sql("SELECT max(weight), max(n), max(raw) FROM items")] == [(None,) * 3]


LIKED = "CASE WHEN stars > 3 THEN {} END".format
BODY = "CASE WHEN stars > 3 OR stars < 2 THEN body END"
SOME = f"SELECT id, author, title, {BODY} AS body, {LIKED('stars')} AS stars FROM notes"


async def test_rows_of_which_several_shapes_have_columns_have_those_of_all_of_them(
    database: str, tmp_path: Path
) -> None:
    part = {"notes": SOME, "users": "SELECT * FROM users"}
    async with connected(database, tmp_path, NOTES, ("users", "notes")) as (service, postgres, db, counts):
        await (await db.sync("notes", columns=["title"])).synced()
        await (await db.sync("notes", "this.stars > 3")).synced()
        await (await db.sync("notes", "this.stars < 2", columns=["body"])).synced()
        await eventually(partial(_agree_on, postgres, db, part))
        counts.clear()
        changes = (
            "UPDATE notes SET stars = 1 WHERE id = 'n6'",  # it has the body still, but not the stars
            "UPDATE notes SET stars = 2 WHERE id IN ('n5', 'n1')",  # only the title
            "UPDATE notes SET stars = 9, title = 'most', body = 'all' WHERE id IN ('n1', 'n2')",
            "UPDATE notes SET stars = 3, body = 'unseen'; INSERT INTO notes VALUES ('n8', 'bob', 'eighth', 'new', 0)",
            "DELETE FROM notes WHERE id IN ('n2', 'n8'); UPDATE notes SET stars = 5",
        )
        for times, sql in enumerate(changes):
            await lose_disk(service, postgres, sql)
            await eventually(lambda times=times: same(counts["repairs"], times + 1))  # type: ignore[misc]
            await eventually(partial(_agree_on, postgres, db, part))
        await db.execute("UPDATE notes SET title = 'mine' WHERE id = 'n1'")
        await eventually(lambda: same(db.status.pending_writes, 0))
        await eventually(partial(_agree_on, postgres, db, part))
        assert counts["deliveries"] == 0


async def _agree_on(postgres: asyncpg.Connection, db: Database, part: dict[str, str]) -> bool:
    for table, sql in part.items():
        there = [tuple(row) for row in await postgres.fetch(f"SELECT * FROM ({sql}) t ORDER BY id")]
        assert await rows_of(db, table) == there
    return True
