"""One question for all who ask the same at the same time, however it ends."""

from __future__ import annotations

import asyncio

import pytest

from syncline.actors.devices.shared import SharedAnswers


class Source:
    """Answers when it is told to, with the number of the question."""

    def __init__(self) -> None:
        self.questions = asyncio.Semaphore(0)
        self.answers: list[asyncio.Future[None]] = []
        self.shared: SharedAnswers[int] = SharedAnswers()

    async def _ask(self) -> int:
        self.answers.append(asyncio.get_running_loop().create_future())
        self.questions.release()
        number = len(self.answers)
        await self.answers[-1]
        return number

    async def asked(self, key: str = "a") -> asyncio.Task[int]:
        """Somebody asks, and waits."""
        task = asyncio.create_task(self.shared.answer(key, self._ask))
        await asyncio.sleep(0)  # the task has its first turn, in which it asks
        return task


async def test_who_asks_the_same_meanwhile_has_the_same_answer_and_whoever_asks_later_a_new_one() -> None:
    source = Source()
    tasks = [await source.asked(), await source.asked(), await source.asked("b")]
    for answer in source.answers:
        answer.set_result(None)
    assert await asyncio.gather(*tasks) == [1, 1, 2]
    later = await source.asked()
    source.answers[-1].set_result(None)
    assert await later == 3


async def test_an_error_goes_to_all_who_asked() -> None:
    source = Source()
    tasks = [await source.asked() for _ in range(3)]
    source.answers[0].set_exception(ConnectionError("away"))
    for task in tasks:
        with pytest.raises(ConnectionError):
            await task


async def test_when_who_asked_is_cancelled_another_asks_for_all_who_wait() -> None:
    source = Source()
    first, *others = [await source.asked() for _ in range(3)]
    first.cancel()
    for _ in range(2):  # the first one's, and another's
        await source.questions.acquire()
    source.answers[1].set_result(None)
    assert await asyncio.gather(*others) == [2, 2]


async def test_who_waits_may_be_cancelled_and_nobody_else_notices() -> None:
    source = Source()
    first, second, third = [await source.asked() for _ in range(3)]
    second.cancel()
    source.answers[0].set_result(None)
    assert [await first, await third] == [1, 1]
