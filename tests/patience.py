"""How long a test waits for what has to happen: long enough for a machine ten times slower than ours.

No test shows how fast anything is. A deadline only turns a hang into a failure that says what was waited for, so it
lies far beyond what is usual, and within the fifteen minutes after which pytest ends a test that hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PATIENCE_S: Final = 120.0
PAUSE_S: Final = 0.05


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S) -> None:
    """Waits for an async condition of which nothing tells: it is asked again and again."""
    began = time.monotonic()
    while not await holds():
        assert time.monotonic() - began < within_s, "it does not come to hold"
        await asyncio.sleep(PAUSE_S)
