"""Values of sequences that devices reserve: from the sequence itself, so that nobody else is ever given one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene

from syncline.actors.postgres.catalog import load_catalog
from syncline.actors.postgres.database import connect
from syncline.actors.postgres.reserving import NothingReserved, release, reserve
from syncline.proto.blocks import Block

pytestmark = pytest.mark.every_major

ITEMS = "CREATE TABLE items (id serial PRIMARY KEY, place bigserial, n int GENERATED ALWAYS AS IDENTITY, name text)"


class Reserving:
    def __init__(self, s: Scene, pool: asyncpg.Pool) -> None:
        self.scene, self.pool = s, pool

    async def reserve(
        self, device: str, count: int, *, left: int = 0, column: str = "id", table: str = "items"
    ) -> tuple[Block, ...] | NothingReserved:
        known = (await load_catalog(self.pool)).named(table)
        return await reserve(self.pool, device, known, column, count, left)

    async def values(self, device: str, count: int, **more: Any) -> list[int]:
        answer = await self.reserve(device, count, **more)
        assert not isinstance(answer, NothingReserved), answer
        return values_of(answer)

    async def release(self, device: str, *blocks: Block, column: str = "id") -> None:
        known = (await load_catalog(self.pool)).named("items")
        await release(self.pool, device, known, column, blocks)

    async def refused(self, device: str, count: int, **more: Any) -> str:
        answer = await self.reserve(device, count, **more)
        assert isinstance(answer, NothingReserved)
        return answer.code

    async def inserted(self) -> int:
        """By SQL."""
        return int(await self.pool.fetchval("INSERT INTO items (name) VALUES ('direct') RETURNING id"))


def values_of(blocks: Sequence[Block]) -> list[int]:
    return [value for block in blocks for value in range(block.first, block.last + block.step, block.step)]


@pytest.fixture
async def reserving(database: str) -> AsyncIterator[Reserving]:
    async with scene(database, ITEMS, "items") as s:
        opened = await connect(database, "test")
        yield Reserving(s, opened.pool)
        opened.terminate()


async def test_values_are_those_that_an_insert_would_have_taken(reserving: Reserving) -> None:
    assert await reserving.inserted() == 1
    assert await reserving.reserve("ann", 3) == (Block(2, 4, 1),)
    assert await reserving.inserted() == 5
    assert await reserving.reserve("bob", 100) == (Block(6, 105, 1),)
    assert await reserving.values("ann", 2, column="place") == [3, 4]
    assert await reserving.values("ann", 2, column="n") == [3, 4]


async def test_nobody_is_given_one_twice_whoever_takes_values_meanwhile(reserving: Reserving) -> None:
    async def device(name: str) -> list[int]:
        return [value for _ in range(10) for value in await reserving.values(name, 200)]

    async def writer() -> list[int]:
        return [await reserving.inserted() for _ in range(100)]

    given = await asyncio.gather(device("ann"), device("bob"), writer(), writer())
    values = [value for one in given for value in one]
    assert len(values) == len(set(values)) == 4_200


async def test_steps_are_those_of_the_sequence(reserving: Reserving) -> None:
    await reserving.pool.execute("ALTER SEQUENCE items_id_seq INCREMENT BY 10 CACHE 5")
    assert await reserving.values("ann", 4) == [1, 11, 21, 31]
    await reserving.pool.execute("ALTER SEQUENCE items_id_seq INCREMENT BY -3 MINVALUE -100 RESTART 5")
    assert await reserving.reserve("ann", 4) == (Block(5, -4, -3),)
    await reserving.release("ann", Block(-1, -4, -3))
    assert await reserving.values("bob", 4) == [-1, -4, -7, -10]


async def test_a_sequence_that_ends_gives_what_it_has_and_then_nothing(reserving: Reserving) -> None:
    await reserving.pool.execute("ALTER SEQUENCE items_id_seq MAXVALUE 12")
    assert await reserving.values("ann", 10) == list(range(1, 11))
    assert await reserving.values("ann", 10) == [11, 12]
    assert await reserving.refused("ann", 10) == "EXHAUSTED"


@pytest.mark.parametrize(("column", "last"), [("int2", 32_767), ("int4", 2_147_483_647)])
async def test_no_value_is_one_that_the_column_cannot_hold(database: str, column: str, last: int) -> None:
    table = f"CREATE TABLE items (id {column} DEFAULT nextval('numbers') PRIMARY KEY)"
    sql = f"CREATE SEQUENCE numbers START {last - 2}; {table}"
    async with scene(database, sql, "items") as s:
        opened = await connect(database, "test")
        reserving = Reserving(s, opened.pool)
        assert await reserving.values("ann", 100) == [last - 2, last - 1, last]
        assert await reserving.refused("ann", 100) == "EXHAUSTED"
        opened.terminate()


async def test_what_has_no_sequence_of_its_own_has_no_values(reserving: Reserving) -> None:
    assert await reserving.refused("ann", 1, column="name") == "NO_SEQUENCE"
    assert await reserving.refused("ann", 1, column="none") == "NO_SEQUENCE"
    assert await reserving.refused("ann", 1, column="id\0") == "NO_SEQUENCE"
    assert await reserving.refused("ann", 1, table="none") == "NO_SEQUENCE"
    await reserving.pool.execute("ALTER SEQUENCE items_place_seq CYCLE")
    assert await reserving.refused("ann", 1, column="place") == "NO_SEQUENCE"
    await reserving.pool.execute("ALTER TABLE items ALTER id DROP DEFAULT")
    assert await reserving.refused("ann", 1) == "NO_SEQUENCE"


async def test_what_is_given_back_is_given_to_the_next_and_never_to_two(reserving: Reserving) -> None:
    assert await reserving.values("ann", 100) == list(range(1, 101))
    await reserving.release("ann", Block(41, 100, 1))
    await reserving.release("ann", Block(41, 100, 1))  # it is not ann's any more
    assert await reserving.values("bob", 10) == list(range(41, 51))
    assert await reserving.values("eve", 60) == [*range(51, 101), *range(101, 111)]
    assert await reserving.inserted() == 111


async def test_who_asks_at_the_same_time_shares_what_was_given_back(reserving: Reserving) -> None:
    await reserving.values("ann", 1_000)
    await reserving.release("ann", Block(1, 1_000, 1))
    given = await asyncio.gather(*(reserving.values(name, 400) for name in ("bob", "eve", "joe")))
    values = [value for one in given for value in one]
    assert len(values) == len(set(values)) == 1_200


async def test_only_who_has_values_can_give_them_back(reserving: Reserving) -> None:
    await reserving.values("ann", 10)
    for block in (Block(5, 10, 1), Block(100, 200, 1)):
        await reserving.release("bob", block)
    for block in (Block(5, 9, 1), Block(0, 10, 1), Block(2, 10, 2), Block(11, 20, 1)):
        await reserving.release("ann", block)
    await reserving.release("ann", Block(5, 10, 1), column="place")
    assert await reserving.values("eve", 3) == [11, 12, 13]


async def test_what_was_given_back_before_the_sequence_was_restarted_is_the_sequences(reserving: Reserving) -> None:
    await reserving.values("ann", 10)
    await reserving.release("ann", Block(3, 10, 1))
    await reserving.pool.execute("TRUNCATE items RESTART IDENTITY")
    assert await reserving.values("bob", 5) == [1, 2, 3, 4, 5]
    assert await reserving.inserted() == 6


async def test_of_what_a_device_has_used_up_nothing_is_kept(reserving: Reserving) -> None:
    async def rows() -> list[tuple[int, int]]:
        found = await reserving.pool.fetch(
            "SELECT first, last FROM electric.blocks WHERE client_id = 'ann' ORDER BY id"
        )
        return [tuple(row) for row in found]

    await reserving.values("ann", 100)
    await reserving.values("ann", 100, left=30)
    assert await rows() == [(1, 100), (101, 200)]
    await reserving.values("ann", 100, left=90)
    assert await rows() == [(101, 200), (201, 300)]
    await reserving.values("ann", 100, left=0)
    assert await rows() == [(301, 400)]


async def test_of_a_device_that_stays_away_the_values_are_nobodys(reserving: Reserving) -> None:
    opened = await connect(reserving.scene.dsn, "test")
    assert await opened.device_seen("ann", "user", proven=True)
    await reserving.values("ann", 10)
    assert await opened.forget_unseen(-1) == 1
    assert await reserving.pool.fetchval("SELECT count(*) FROM electric.blocks") == 0
    assert await reserving.values("bob", 3) == [11, 12, 13]
    opened.terminate()
