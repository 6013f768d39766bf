"""Long computations beside everything else of an event loop: generators that yield whenever others may have a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


async def paced(steps: Generator[None, None, T], pause_s: float = 0.0) -> T:
    """What ``steps`` return, with a turn for everybody else after each, of at least ``pause_s`` seconds."""
    try:
        while True:
            next(steps)
            await asyncio.sleep(pause_s)
    except StopIteration as end:
        made: T = end.value
        return made
    finally:
        steps.close()
