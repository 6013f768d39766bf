"""One question for all who ask the same at the same time.

When the devices of an edge come back at once, each asks where the same few shapes live. An answer that was given while
it waited is as good for it as one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class SharedAnswers(Generic[V]):
    """Nothing is remembered: who asks when no question is under way asks anew."""

    def __init__(self) -> None:
        # Who waits for each question that is under way; told None, they have to ask themselves.
        self._waiting: dict[Hashable, list[asyncio.Future[tuple[V] | None]]] = {}

    async def answer(self, key: Hashable, ask: Callable[[], Awaitable[V]]) -> V:
        """What ``ask`` returns, whose ever it is that is under way for ``key``. Raises what that raises."""
        while (waiting := self._waiting.get(key)) is not None:
            told: asyncio.Future[tuple[V] | None] = asyncio.get_running_loop().create_future()
            waiting.append(told)
            found = await told
            if found is not None:
                return found[0]
        self._waiting[key] = []
        found = None
        try:
            found = (await ask(),)
        except Exception as error:
            for told in self._told(key):
                told.set_exception(error)
            raise
        finally:  # nothing found: whoever asked has been cancelled
            for told in self._told(key):
                told.set_result(found)
        return found[0]

    def _told(self, key: Hashable) -> list[asyncio.Future[tuple[V] | None]]:
        """Those who still wait, to be told now."""
        return [told for told in self._waiting.pop(key, ()) if not told.done()]
