"""So many at a time, and the others wait their turn.

When all devices come back at once, each has only a little to ask of the service. Were all of them served side by side,
every one would be done last, and each answer on the way would be as late as all of them together make it: later than
anybody waits for it. A few at a time are answered soon, and the wait is in front of them, as long as the queue is.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """``async with turns`` waits for its turn, first come first served; ``at_once`` are inside."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: deque[asyncio.Event] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.Event()
        self._waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._pass_on()
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1
