"""A device whose clock is ahead neither wins for ever nor comes to a stop."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from tests.integration.test_write_writer import NOBODY, writing
from tests.integration.tree_scene import ITEMS, running, until
from tests.integration.write_scene import Scene, scene

from syncline.actors.names import WRITER
from syncline.actors.postgres.write import RowOperation, Write
from syncline.cluster import Ref

pytestmark = pytest.mark.every_major


class Gone:
    """A device that has left: its answer is nobody's."""

    alive = False

    def cast(self, message: object) -> bool:
        return False


DAY_MS = 86_400_000
SCHEMA = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL); INSERT INTO items VALUES (1, 'at first')"


async def now_ms(s: Scene) -> int:
    return int(await s.connection.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"))


def named(s: Scene, client: str, lsn: int, ms: int, name: str, *seen: str) -> Write:
    return Write(client, lsn, ms, (RowOperation(s.relids["items"], "U", ("1", name), (False, True), seen),), NOBODY)


async def test_who_is_a_day_ahead_wins_until_the_skew_is_over_and_when_it_has_seen_the_others(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s, skew_ms=2_000) as (loop, ear):
        start_ms = await now_ms(s)

        async def name() -> str:
            return str(await s.connection.fetchval("SELECT name FROM items"))

        loop.add(named(s, "ann", 1, start_ms + DAY_MS, "ahead", "postgres_1@0"))
        await ear.until(1)
        loop.add(named(s, "bob", 1, await now_ms(s), "too early", "postgres_1@0"))
        await ear.until(2)
        assert await name() == "ahead"
        (tag,) = [tag for tag in await s.tags("items", "1") if tag.startswith("ann@")]
        assert start_ms + 2_000 <= int(tag.partition("@")[2]) < start_ms + DAY_MS // 2
        # Bob's clock comes to where ann's is believed to be.
        loop.add(named(s, "cyd", 1, int(tag.partition("@")[2]) + 1, "later", "postgres_1@0"))
        await ear.until(3)
        assert await name() == "later"
        seen = await s.tags("items", "1")
        loop.add(named(s, "ann", 2, start_ms + DAY_MS + 1, "having seen it", *seen))
        await ear.until(4)
        assert await name() == "having seen it"
        assert {status for _, _, status in await ear.until(4)} == {"applied"}


async def test_a_clock_that_was_ahead_and_is_set_right_goes_on(database: str) -> None:
    async with scene(database, SCHEMA, "items") as s, writing(s, skew_ms=2_000) as (loop, ear):
        start_ms = await now_ms(s)
        loop.add(named(s, "ann", 1, start_ms + DAY_MS, "ahead", "postgres_1@0"))
        loop.add(named(s, "ann", 2, start_ms + 1, "set right"))
        assert [status for _, _, status in await ear.until(2)] == ["applied", "applied"]
        assert await s.rows("items") == [(1, "set right")]


@pytest.mark.parametrize(("setting", "most_ms"), [(None, 1_000), ("600000", 600_000)])
async def test_how_far_a_clock_may_be_ahead_is_a_setting(
    database: str, tmp_path: Path, setting: str | None, most_ms: int
) -> None:
    environment = {} if setting is None else {"SYNCLINE_CLOCK_SKEW_MAX": setting}
    async with running(database, tmp_path, ITEMS, ("items",), environment) as tree:
        relid = await tree.postgres.fetchval("SELECT 'items'::regclass::oid")
        clock = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
        before_ms = await tree.postgres.fetchval(clock)
        row = ("11111111-1111-4111-8111-111111111111", "1", None)
        write = Write("ann", 1, before_ms + DAY_MS, (RowOperation(relid, "I", row),), cast(Ref, Gone()))
        tree.actor(WRITER).cast(write)

        async def applied() -> bool:
            return bool(await tree.postgres.fetchval("SELECT count(*) FROM items"))

        await until(applied)
        tag = await tree.postgres.fetchval("SELECT tags[1] FROM electric.shadow")
        assert before_ms + most_ms <= int(tag.partition("@")[2]) <= await tree.postgres.fetchval(clock) + most_ms
