"""For tests of actors: a probe that keeps what it gets, time that does not pass by itself, and crashes on order.

``run_virtual`` runs a coroutine in an event loop whose time is a ``VirtualClock``: when nothing is left to do at this
moment, the clock jumps to the next timer. A test with hours of timeouts runs in milliseconds, always in the same
order, and ends with ``Stalled`` instead of hanging when everybody waits for somebody else.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from syncline.cluster.actor import Actor
from syncline.cluster.cell import Cell
from syncline.cluster.clock import VirtualClock
from syncline.cluster.context import Context
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.spec import ChildSpec, Exit, ExitKind

T = TypeVar("T")


class Stalled(Exception):
    """Nothing is scheduled and nothing can happen any more, yet the coroutine has not ended."""


class Probe(Actor):
    """Keeps every message, and lets a test wait for the next one. Calls are answered by ``answer``."""

    def __init__(self, answer: Callable[[Any], object] | None = None) -> None:
        self.received: list[object] = []  # those that ``next`` has not handed out
        self.exit: Exit | None = None
        self._answer = answer or (lambda message: message)
        self._arrived = asyncio.Event()

    async def handle_call(self, message: Any) -> object:
        self._keep(message)
        return self._answer(message)

    async def handle_cast(self, message: Any) -> None:
        self._keep(message)

    async def handle_info(self, message: Any) -> None:
        self._keep(message)

    async def terminate(self, reason: Exit) -> None:
        self.exit = reason

    async def next(self, timeout_s: float = 5.0) -> Any:
        """The oldest message not yet handed out. Raises ``TimeoutError``."""
        async with asyncio.timeout(timeout_s):
            while not self.received:
                self._arrived.clear()
                await self._arrived.wait()
        return self.received.pop(0)

    def _keep(self, message: object) -> None:
        self.received.append(message)
        self._arrived.set()


async def spawn(actor: Actor, context: Context | None = None, **options: Any) -> LocalRef:
    """Starts ``actor`` without a supervisor; ``options`` are fields of its ``ChildSpec``. Raises ``ActorDown``."""
    options.setdefault("id", type(actor).__name__)
    return await Cell(ChildSpec(start=lambda: actor, **options), context or Context()).started()


async def probe(context: Context | None = None, **options: Any) -> Probe:
    """A running probe; its ``ref`` is what to hand to others."""
    actor = Probe()
    await spawn(actor, context, **options)
    return actor


def crash(ref: LocalRef, error: Exception | None = None) -> None:
    """Crashes the actor wherever it is, as if ``error`` had left its handler. Only the actor's supervisor is asked."""
    ref.interrupt(Exit(ExitKind.CRASHED, error or RuntimeError("a crash on order")))


def kill(ref: LocalRef) -> None:
    """Kills the actor wherever it is."""
    ref.interrupt(Exit(ExitKind.KILLED))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that lives in the time of ``clock``. Sockets and threads of others still wake it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_VirtualSelector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.monotonic_s()


class _VirtualSelector(selectors.DefaultSelector):
    """Where the loop would sleep, the clock is moved instead."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        next_s = self._clock.next_after_s()
        waits = [wait for wait in (timeout, next_s) if wait is not None]
        if not waits:
            raise Stalled("everybody waits, and nothing is scheduled")
        self._clock.advance(min(waits))
        return []


def run_virtual(main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Runs ``main(clock)`` to its end in virtual time. Raises what it raises, or ``Stalled``."""
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main(clock))
