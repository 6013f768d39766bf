"""Parts of a database on the published npm client, by its own API: the old line's scenarios of shapes, and more."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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
from tests.npm.rig import NpmDevice, NpmError, devices, eventually
from tests.npm.service import serving

INCLUDE = {"issues": {"include": {"comments": {"include": {"users": True}}}}}


async def here(device: NpmDevice, part: Mapping[str, str]) -> Rows:
    return {table: await device.dump(table) for table in part}


async def agree(postgres: asyncpg.Connection, device: NpmDevice, part: Mapping[str, str]) -> bool:
    assert await here(device, part) == await expected(postgres, dict(part))
    assert not device.unhandled
    return await device.query("SELECT * FROM pragma_foreign_key_check") == []


def wiped(device: NpmDevice) -> bool:
    """Whether the client has ever said that it starts over."""
    return any(event["event"] == "connectivity" and event["reason"] for event in device.events)


# What the client makes of objects, and texts as they are; beside them the same for Postgres.
CLAUSES: list[tuple[Any, str]] = [
    ({"rank": 5}, "rank = 5"),
    ({"rank": None}, "rank IS NULL"),
    ({"rank": {"gt": 3, "lte": 9}}, "rank > 3 AND rank <= 9"),
    ({"rank": {"in": [1, 2, 40]}, "title": {"not": "issue 2"}}, "rank IN (1, 2, 40) AND title <> 'issue 2'"),
    ({"title": {"startsWith": "issue 1"}}, "title LIKE 'issue 1%'"),
    ({"OR": [{"rank": 1}, {"title": "issue 2", "rank": 2}]}, "rank = 1 OR title = 'issue 2' AND rank = 2"),
    ({"NOT": [{"rank": 1}, {"rank": 2}]}, "NOT rank = 1 AND NOT rank = 2"),
    ("this.title ILIKE '%SUE 1_'", "title ILIKE '%SUE 1_'"),
]


async def test_rows_are_here_while_their_condition_holds(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        for number, (clause, condition) in enumerate(CLAUSES):
            async with devices(tmp_path, service.url, f"user{number}") as [device]:
                await device.sync("issues", where=clause)
                assert await agree(postgres, device, issues_where(condition))
                await postgres.execute("UPDATE issues SET rank = CASE WHEN rank < 12 THEN rank + 1 END")
                await eventually(partial(agree, postgres, device, issues_where(condition)))
                await postgres.execute("UPDATE issues SET rank = substr(id, 2)::int4")
                await eventually(partial(agree, postgres, device, issues_where(condition)))


@pytest.mark.each_runtime
async def test_a_tree_is_followed_through_every_kind_of_move(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("projects", where=ANNS, include=INCLUDE)
        assert await agree(postgres, ann, TREE)
        for name in MOVES:
            await move(postgres, name)
            await eventually(partial(agree, postgres, ann, TREE))


async def test_rows_that_have_just_arrived_can_be_deleted_and_changed(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("projects", where=ANNS, include=INCLUDE)
        await ann.execute(("DELETE FROM comments WHERE issue = 'i3'",))
        await ann.update("issues", {"id": "i3"}, title="by ann")
        await ann.create("comments", id="mine", issue="i6", author="ann", body="by ann")
        await eventually(partial(_sent, ann))
        await eventually(partial(agree, postgres, ann, TREE))
        assert await postgres.fetchval("SELECT count(*) FROM comments WHERE issue = 'i3'") == 0
        assert await postgres.fetchval("SELECT title FROM issues WHERE id = 'i3'") == "by ann"


async def test_a_device_that_was_away_gets_what_moved_meanwhile(database: str, tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("projects", where=ANNS, include=INCLUDE)
        for name in MOVES:
            restarts = name == "a child moves out"
            if restarts:
                assert await service.stop() == 0
            await move(postgres, name)
            if restarts:
                await service.start()
            async with await NpmDevice.open(path, service.url) as ann:
                await ann.connect("ann")
                await eventually(partial(agree, postgres, ann, TREE))
                assert {event["origin"] for event in ann.events if event["event"] == "changed"} <= {"remote"}


async def test_a_connection_lost_under_a_tree_is_taken_up_again(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("projects", where=ANNS, include=INCLUDE)
        for name in list(MOVES)[:4]:
            await ann.disconnect()
            await move(postgres, name)
            await ann.connect()
            await eventually(partial(agree, postgres, ann, TREE))


async def test_a_device_without_shapes_resumes_and_subscribes_later(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.create("users", id="eve", name="written without a shape")
        await eventually(partial(_sent, ann))
        await ann.disconnect()
        await service.stop()
        await service.start()
        await ann.connect()
        await ann.sync("issues", where="this.rank < 3")
        part = issues_where("rank < 3")
        del part["users"]  # what it writes while it has no shape at all stays with it
        await eventually(partial(agree, postgres, ann, part))
        assert await postgres.fetchval("SELECT count(*) FROM users WHERE id = 'eve'") == 1


async def test_composite_keys_in_what_is_referred_to(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=COMPOSITE, electrified=COMPOSITE_TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):

        async def has(sites: set[str], regions: set[str]) -> bool:
            return (await ann.dump("sites")).keys() == sites and (
                await ann.dump("regions", key="name")
            ).keys() == regions

        await ann.sync("sites", where="this.size >= 3")
        await eventually(partial(has, {"s1", "s2", "s3", "s4"}, {"a1", "a2", "b2"}))
        await postgres.execute("UPDATE sites SET part_of = NULL, code = 3 WHERE id = 's3'")
        await eventually(partial(has, {"s3", "s4"}, {"b3"}))
        await postgres.execute("UPDATE sites SET size = 9, country = 'b' WHERE id = 's2'")
        await eventually(partial(has, {"s1", "s2", "s3", "s4"}, {"a1", "b2", "b3"}))


async def test_what_overlapping_shapes_hold_leaves_with_the_last_of_them(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        first = await ann.sync("issues", where="this.rank < 8")
        second = await ann.sync("issues", where="this.rank > 4")
        await eventually(partial(agree, postgres, ann, issues_where("true")))
        await ann.unsubscribe(first)
        await eventually(partial(agree, postgres, ann, issues_where("rank > 4")))
        await postgres.execute("UPDATE issues SET rank = 13 - rank")
        await eventually(partial(agree, postgres, ann, issues_where("rank > 4")))
        await ann.unsubscribe(second)
        await eventually(partial(agree, postgres, ann, issues_where("false")))


async def test_a_shape_it_has_ended_and_still_names_does_no_harm(database: str, tmp_path: Path) -> None:
    """The client forgets on each restart that the rows have gone: it names the shape again, and ends it again."""
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres):
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("issues", where="this.rank > 4")
            ended = await ann.sync("issues", where="this.rank < 8")
            await ann.unsubscribe(ended)
            await eventually(partial(agree, postgres, ann, issues_where("rank > 4")))
        for _ in range(2):
            await postgres.execute("UPDATE issues SET rank = 13 - rank")
            async with await NpmDevice.open(path, service.url) as ann:
                await ann.connect("ann")
                await eventually(partial(agree, postgres, ann, issues_where("rank > 4")))
                assert not wiped(ann)


async def test_under_a_key_another_shape_replaces_the_one_before(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("issues", where="this.rank <= 8", key="list")
        await ann.sync("issues", where="this.rank >= 5", key="list")
        await eventually(partial(agree, postgres, ann, issues_where("rank >= 5")))
        await postgres.execute("UPDATE issues SET rank = rank - 1")
        await eventually(partial(agree, postgres, ann, issues_where("rank >= 5")))


REFUSED = {
    "this.nosuch = 1": "nosuch",
    "rank = 1": "write this.rank",
    "this.rank = 1; DROP TABLE issues": "without a semicolon",
    "this.rank > (SELECT 1)": "subquery",
}


async def test_a_shape_that_is_refused_touches_nothing(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("issues", where="this.rank > 4")
        for clause, reason in REFUSED.items():
            with pytest.raises(NpmError, match=reason):
                await ann.sync("issues", where=clause)
        await postgres.execute("UPDATE issues SET rank = 13 - rank")
        await eventually(partial(agree, postgres, ann, issues_where("rank > 4")))
        assert ann.connected


async def _sent(device: NpmDevice) -> bool:
    return await device.pending() == 0
