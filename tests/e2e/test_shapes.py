"""Parts of a database on devices of ours, against the service: clauses, trees, keys; in, out, away and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.shape_scene import (
    ANNS,
    COMPOSITE,
    COMPOSITE_TABLES,
    MOVES,
    SQL,
    TABLES,
    TREE,
    Rows,
    expected,
    issues_where,
    move,
)
from tests.npm.rig import eventually
from tests.npm.service import serving
from tests.patience import until
from tests.tokens import insecure_token

from syncline.client import Database, Include, ShapeRefused, open_db

INCLUDE = [
    Include("issues", on="project", include=[Include("comments", on="issue", include=[Include("users", on="author")])])
]


@asynccontextmanager
async def device(path: Path, url: str, *, connected: bool = True) -> AsyncIterator[Database]:
    async with open_db(path, url) as db:
        if connected:
            await db.connect(insecure_token("ann"))
        yield db


async def here(db: Database, tables: Sequence[str]) -> Rows:
    return {t: {row["id"]: dict(row) for row in await db.sql(f"SELECT * FROM {t}")} for t in tables}


async def agree(postgres: asyncpg.Connection, db: Database, part: Mapping[str, str]) -> bool:
    assert await here(db, [*part]) == await expected(postgres, dict(part))
    return not await dangling(db)


async def dangling(db: Database) -> list[str]:
    return [str(tuple(row)) for row in await db.sql("SELECT * FROM pragma_foreign_key_check")]


COLUMNS_OF_ISSUES = "SELECT attname FROM pg_attribute WHERE attrelid = 'issues'::regclass AND attnum > 0"
CLAUSES = [
    "this.rank > 6",
    "this.rank IN (1, 2, 3) OR this.title LIKE '%0'",
    "this.title ILIKE 'ISSUE _' AND NOT this.rank = 4",
    "this.rank % 2 = 0",
    "this.rank IS NULL",
    "true",  # all of them, and of what they refer to no more than that
    "false",
]


@pytest.mark.each_runtime
async def test_rows_are_here_while_their_condition_holds(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        for number, clause in enumerate(CLAUSES):
            part = issues_where(clause.replace("this.", ""))
            async with device(tmp_path / f"{number}.db", service.url) as db:
                await (await db.sync("issues", clause)).synced()
                assert await agree(postgres, db, part)
                await postgres.execute("UPDATE issues SET rank = CASE WHEN rank < 12 THEN rank + 1 END")
                await eventually(partial(agree, postgres, db, part))
                await postgres.execute("UPDATE issues SET rank = substr(id, 2)::int4")
                await eventually(partial(agree, postgres, db, part))


async def test_a_tree_is_followed_through_every_kind_of_move(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        shape = await db.sync("projects", ANNS, include=INCLUDE)
        await shape.synced()
        assert shape.status.rows > 20
        assert await agree(postgres, db, TREE)
        seen: list[str] = []

        async def watch() -> None:
            async with db.sql("SELECT * FROM pragma_foreign_key_check").live() as results:
                async for rows in results:
                    seen.extend(str(tuple(row)) for row in rows)

        watching = asyncio.create_task(watch())
        for name in MOVES:
            await move(postgres, name)
            await eventually(partial(agree, postgres, db, TREE))
        watching.cancel()
        assert seen == []


async def test_a_device_that_was_away_gets_what_moved_meanwhile(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with device(tmp_path / "ann.db", service.url) as db:
            await (await db.sync("projects", ANNS, include=INCLUDE)).synced()
        for name in MOVES:
            if name == "a child moves out":
                assert await service.stop() == 0
                await move(postgres, name)
                await service.start()
            else:
                await move(postgres, name)
            async with device(tmp_path / "ann.db", service.url) as db:
                shape = await db.sync("projects", ANNS, include=INCLUDE)
                assert shape.status.state == "delivered"
                await eventually(partial(agree, postgres, db, TREE))


async def test_what_overlapping_shapes_hold_leaves_with_the_last_of_them(database: str, tmp_path: Path) -> None:
    low, high = "this.rank < 8", "this.rank > 4"
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        first, second = await db.sync("issues", low), await db.sync("issues", high)
        await first.synced()
        await second.synced()
        await eventually(partial(agree, postgres, db, issues_where("true")))
        await postgres.execute("UPDATE issues SET title = title || '!', rank = 13 - rank")
        await eventually(partial(agree, postgres, db, issues_where("true")))
        await first.unsubscribe()
        await eventually(partial(agree, postgres, db, issues_where("rank > 4")))
        await postgres.execute("UPDATE issues SET rank = 13 - rank")
        await eventually(partial(agree, postgres, db, issues_where("rank > 4")))
        await second.unsubscribe()
        await eventually(partial(agree, postgres, db, issues_where("false")))


async def test_a_row_deleted_and_inserted_anew_stays_where_all_rows_are(database: str, tmp_path: Path) -> None:
    """Whoever is found by the value that it had, and has no more, may not take it away from a device."""
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        for rank in range(1, 7):  # whose shapes come in any order
            await (await db.sync("issues", f"this.rank = {rank}")).synced()
        await (await db.sync("issues")).synced()
        columns = [name for (name,) in await postgres.fetch(COLUMNS_OF_ISSUES) if name != "rank"]
        names = ", ".join(columns)
        await postgres.execute(
            f"CREATE TEMPORARY TABLE anew AS SELECT * FROM issues;"
            f"BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM comments; DELETE FROM issues;"
            f"INSERT INTO issues ({names}, rank) SELECT {names}, rank + 100 FROM anew; COMMIT"
        )
        await eventually(partial(agree, postgres, db, {"issues": issues_where("true")["issues"]}))


async def test_under_a_key_only_the_difference_travels(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        low = await db.sync("issues", "this.rank <= 8", key="list")
        await low.synced()
        seen: list[int] = []

        async def watch() -> None:
            async with db.sql("SELECT count(*) FROM issues WHERE rank BETWEEN 5 AND 8").live() as results:
                async for rows in results:
                    seen.extend(rows[0])

        watching = asyncio.create_task(watch())
        high = await db.sync("issues", "this.rank >= 5", key="list")
        await high.synced()
        await eventually(partial(agree, postgres, db, issues_where("rank >= 5")))
        watching.cancel()
        assert seen == [4], "what both hold is never missing"
        assert (high.status.state, high.status.rows) == ("delivered", 4)
        with pytest.raises(ShapeRefused, match="nosuch") as refused:
            await db.sync("issues", "this.nosuch = 1", key="list")
        assert refused.value.code == "INVALID_WHERE_CLAUSE"
        await postgres.execute("UPDATE issues SET rank = rank - 1")
        await eventually(partial(agree, postgres, db, issues_where("rank >= 5")))


async def test_a_write_outside_of_what_is_here_goes_once_it_has_arrived(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        await (await db.sync("projects", ANNS, include=INCLUDE)).synced()
        await db.disconnect()
        await db.execute("INSERT INTO comments VALUES ('mine', 'i3', 'ann', 'written offline')")
        await db.execute("UPDATE projects SET name = 'renamed offline' WHERE id = 'p1'")
        await db.execute("DELETE FROM comments WHERE issue = 'i6'")
        # The project of the issue leaves, and what is written to it must reach it all the same.
        await postgres.execute("UPDATE projects SET owner = 'bob' WHERE id IN ('p1', 'p3')")
        await db.connect()

        async def nothing_pending() -> bool:
            return db.status.connected and db.status.pending_writes == 0

        await until(nothing_pending)
        await eventually(partial(agree, postgres, db, TREE))
        assert await postgres.fetchval("SELECT body FROM comments WHERE id = 'mine'") == "written offline"
        assert await postgres.fetchval("SELECT name FROM projects WHERE id = 'p1'") == "renamed offline"
        assert await postgres.fetchval("SELECT count(*) FROM comments WHERE issue = 'i6'") == 0


async def test_composite_keys_and_references_to_oneself(database: str, tmp_path: Path) -> None:
    async def regions(db: Database) -> set[str]:
        return {row["name"] for row in await db.sql("SELECT name FROM regions")}

    async def sites(db: Database) -> set[str]:
        return {row["id"] for row in await db.sql("SELECT id FROM sites")}

    async def has(wanted_sites: set[str], wanted_regions: set[str]) -> bool:
        return (await sites(db), await regions(db)) == (wanted_sites, wanted_regions) and not await dangling(db)

    async with (
        serving(database, tmp_path, sql=COMPOSITE, electrified=COMPOSITE_TABLES) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as db,
    ):
        big = await db.sync("sites", "this.size >= 3")
        await big.synced()
        assert await has({"s1", "s2", "s3", "s4"}, {"a1", "a2", "b2"})
        await postgres.execute("UPDATE sites SET part_of = NULL, code = 3 WHERE id = 's3'")
        await eventually(lambda: has({"s3", "s4"}, {"b3"}))
        down = await db.sync("regions", "this.country = 'a'", include=[Include("sites", on=("country", "code"))])
        await down.synced()
        await eventually(lambda: has({"s1", "s2", "s3", "s4"}, {"a1", "a2", "a3", "b3"}))
        await postgres.execute("UPDATE sites SET country = 'b' WHERE id = 's2'")
        await eventually(lambda: has({"s1", "s3", "s4"}, {"a1", "a2", "a3", "b3"}))
        await down.unsubscribe()
        await eventually(lambda: has({"s3", "s4"}, {"b3"}))
