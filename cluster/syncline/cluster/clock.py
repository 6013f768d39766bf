"""Time as something you are given: the system's, or one that a test moves by hand.

Monotonic seconds measure intervals and order timers; wall milliseconds are what a human or another machine calls
"when". Code that asks a ``Clock`` for either can be replayed; code that reads the operating system cannot.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something scheduled."""

    def cancel(self) -> None:
        """It will not fire any more; harmless after it did."""


class Clock(Protocol):
    """Where time comes from."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 in UTC; may jump when somebody sets the clock."""

    def call_after(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Calls back once, ``delay_s`` seconds from now, in the event loop's thread."""


class SystemClock:
    """The operating system's time and the running event loop's timers."""

    __slots__ = ()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_after(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Needs a running event loop (``RuntimeError`` otherwise)."""
        return asyncio.get_running_loop().call_later(delay_s, callback)


class _VirtualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """Time that moves only when told; timers fire in order of their moment, equal moments in order of creation."""

    def __init__(self, monotonic_s: float = 0.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now = monotonic_s
        self._wall_origin_ms = wall_ms - int(monotonic_s * 1000)
        self._timers: list[tuple[float, int, _VirtualTimer]] = []
        self._serial = itertools.count()

    def monotonic_s(self) -> float:
        return self._now

    def wall_ms(self) -> int:
        return self._wall_origin_ms + int(self._now * 1000)

    def call_after(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        timer = _VirtualTimer(callback)
        heapq.heappush(self._timers, (self._now + max(delay_s, 0.0), next(self._serial), timer))
        return timer

    def next_after_s(self) -> float | None:
        """Seconds until the next timer, or ``None`` when nothing is scheduled."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(self._timers[0][0] - self._now, 0.0) if self._timers else None

    def advance(self, seconds: float) -> None:
        """Moves time forward, firing every timer that falls due on the way, each at its own moment."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, at)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        self._now = until
