"""Homes of shapes that are kept in Postgres: everybody is told the same, whoever asks first."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.database import connect_pool
from syncline.actors.postgres.homes import Homes, write_homes
from syncline.actors.postgres.ownership import claim, take_over

SHARDS = ("a", "b", "c")


async def test_all_who_ask_at_once_are_told_the_same_and_no_home_is_given_twice(database: str) -> None:
    await bootstrap(database)
    shapes = [f"shape {number}" for number in range(len(SHARDS))]
    pools = [await connect_pool(database, "test") for _ in range(4)]
    try:
        askers = [Homes(pool, SHARDS) for pool in pools for _ in range(3)]
        answers = await asyncio.gather(*(asker.home(shape) for asker in askers for shape in shapes))
        told = [answers[start : start + len(shapes)] for start in range(0, len(answers), len(shapes))]
        assert told == [told[0]] * len(askers)
        assert sorted(told[0]) == sorted(SHARDS)
        assert await Homes(pools[0], SHARDS).home("shape 0") == told[0][0], "and so is who asks later"
    finally:
        for pool in pools:
            pool.terminate()


async def test_more_shapes_than_shards_share_evenly_and_the_log_says_so(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await bootstrap(database)
    pool = await connect_pool(database, "test")
    try:
        homes = Homes(pool, SHARDS)
        for number in range(3):
            await homes.home(f"shape {number}")
        assert not caplog.records
        given = [await homes.home(f"shape {number}") for number in range(9)]
        assert set(Counter(given).values()) == {3}
        assert "shape 3 shares" in caplog.text
    finally:
        pool.terminate()


async def test_who_has_the_files_of_a_shape_nobody_knows_keeps_it_and_a_shard_that_is_no_more_has_nothing(
    database: str,
) -> None:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    owner = await claim(connection, "a_slot", await take_over(connection, "a_slot"), "bring-up")
    await write_homes(database, {"old": "z", "there": "c"}, owner)
    pool = await connect_pool(database, "test")
    try:
        homes = Homes(pool, SHARDS)
        assert await homes.home("new", "b") == "b"
        assert await homes.home("there", "b") == "c"
        assert await homes.home("old") == "a"
        await homes.release("there")
        assert await homes.home("there", "a") == "a", "a shape that was removed is given anew"
    finally:
        pool.terminate()
    await write_homes(database, {"there": "a"}, owner)
    rows = await connection.fetch("SELECT shape, shard FROM electric.shape_homes")
    await connection.close()
    assert [tuple(row) for row in rows] == [("there", "a")]
