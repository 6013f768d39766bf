"""Many questions of the same kind in one query.

After a restart every device asks Postgres the same few things at the same time. Whoever asks while a query is under way
is answered by the next one, together with all others who do. So a single question waits for nobody, and a thousand cost
a few queries, whatever the way to Postgres takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

QUESTIONS_MAX = 200  # of one query: what it answers is held in memory

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gathering(Generic[K, V]):
    """``ask``: the answers to several keys, each of them in it; it runs once at a time."""

    def __init__(self, ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._ask = ask
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def answer(self, key: K) -> V:
        """The answer to ``key``, of a query that begins after this was called. Raises what ``ask`` raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[V] = loop.create_future()
        self._waiting.setdefault(key, []).append(answer)
        if self._asking is None:
            self._asking = loop.create_task(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                keys = tuple(self._waiting)[:QUESTIONS_MAX]
                asked = {key: self._waiting.pop(key) for key in keys}
                await self._answer(asked)
        finally:
            self._asking = None

    async def _answer(self, asked: Mapping[K, Sequence[asyncio.Future[V]]]) -> None:
        try:
            answers = await self._ask(tuple(asked))
        except Exception as error:
            for waiting in asked.values():
                for answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            return
        for key, waiting in asked.items():
            for answer in waiting:
                if not answer.done():
                    answer.set_result(answers[key])
