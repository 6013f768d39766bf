"""One query for all who ask while another is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from syncline.actors.postgres import gathering
from syncline.actors.postgres.gathering import Gathering


class Asked:
    """Queries, each answered with the square of every key once it is let through."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.let_through = asyncio.Semaphore(0)
        self.fails = False
        self.gathering = Gathering(self.ask)

    async def ask(self, keys: Sequence[int]) -> dict[int, int]:
        self.queries.append(sorted(keys))
        await self.let_through.acquire()
        if self.fails:
            raise ConnectionError("gone")
        return {key: key * key for key in keys}

    async def coming(self, *keys: int) -> list[asyncio.Task[int]]:
        """They ask; those who can have asked when this returns."""
        tasks = [asyncio.create_task(self.gathering.answer(key)) for key in keys]
        for _ in range(10):
            await asyncio.sleep(0)
        return tasks


async def test_who_asks_during_a_query_is_answered_by_the_next_with_all_others_who_do() -> None:
    asked = Asked()
    first = await asked.coming(1)
    others = await asked.coming(2, 3, 1, 3)
    assert asked.queries == [[1]], "one at a time, and the answer to a later question is not an earlier one"
    asked.let_through.release()
    asked.let_through.release()
    assert await asyncio.gather(*first, *others) == [1, 4, 9, 1, 9]
    assert asked.queries == [[1], [1, 2, 3]]
    asked.let_through.release()
    assert await asked.gathering.answer(5) == 25


async def test_a_query_that_fails_fails_those_it_was_for() -> None:
    asked = Asked()
    first = await asked.coming(1, 2)
    second = await asked.coming(3)
    asked.fails = True
    asked.let_through.release()
    assert all(isinstance(error, ConnectionError) for error in await asyncio.gather(*first, return_exceptions=True))
    asked.fails = False
    asked.let_through.release()
    assert await asyncio.gather(*second) == [9]


async def test_who_gives_up_takes_the_answer_from_nobody() -> None:
    asked = Asked()
    one, other = await asked.coming(1, 1)
    one.cancel()
    asked.let_through.release()
    assert await other == 1


async def test_a_query_is_for_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "QUESTIONS_MAX", 2)
    asked = Asked()
    for _ in range(3):
        asked.let_through.release()
    assert [await task for task in await asked.coming(1, 2, 3, 4, 5)] == [1, 4, 9, 16, 25]
    assert asked.queries == [[1, 2], [3, 4], [5]]
