"""Virtual time, and coroutines that wait by it.

``Scheduler`` is the heap of what happens next. ``Task`` drives a coroutine: it runs until it awaits a ``Future``, and
goes on when that is done. ``Waiting`` stands in for the module ``asyncio`` inside the modules that are simulated; it
offers the few names they use. There is no event loop and no thread anywhere.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

from tests.sim.limits import having

Work = Callable[[], None]


class Stopped(BaseException):
    """Thrown into a coroutine whose owner has ended; what ``asyncio.CancelledError`` is elsewhere."""


class Scheduler:
    """``now_us``: virtual microseconds since the run began."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_us = 0
        self.events = 0
        self._heap: list[tuple[int, int, Work]] = []
        self._sequence = itertools.count()

    def after(self, delay_us: int, work: Work) -> None:
        heapq.heappush(self._heap, (self.now_us + delay_us, next(self._sequence), work))

    def soon(self, most_us: int, work: Work) -> None:
        """After a random time; short ones are the likeliest."""
        self.after(int(most_us * self.rng.random() ** 3), work)

    def step(self) -> bool:
        """Does what is next; False when nothing is."""
        if not self._heap:
            return False
        self.now_us, _, work = heapq.heappop(self._heap)
        self.events += 1
        work()
        return True


class Future(Awaitable[Any]):
    """A result that will be there later."""

    __slots__ = ("_callbacks", "_done", "_error", "_result")

    def __init__(self) -> None:
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Work] = []

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self._settle(result, None)

    def set_exception(self, error: BaseException) -> None:
        self._settle(None, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self._done:
            return
        self._done, self._result, self._error = True, result, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def when_done(self, callback: Work) -> None:
        if self._done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
        return self.result()


class Task(Future):
    """A coroutine on its way."""

    __slots__ = ("_awaited", "_coroutine", "_running")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__()
        self._coroutine = coroutine
        self._awaited: Future | None = None
        self._running = False

    def run(self) -> None:
        """Goes on until it has to wait again."""
        if self._done:
            return
        self._running = True
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as end:
            self.set_result(end.value)
        except Stopped as stopped:
            self.set_exception(stopped)
        except Exception as error:
            self.set_exception(error)
        else:
            self._awaited = awaited
            awaited.when_done(self.run)
        finally:
            self._running = False

    def cancel(self) -> None:
        """Ends it where it waits."""
        if self._done:
            return
        if not self._running:
            with suppress(Stopped, StopIteration, Exception):
                self._coroutine.throw(Stopped())
            self._coroutine.close()
        self.set_exception(Stopped())


class Event:
    """A flag that can be waited for."""

    def __init__(self) -> None:
        self._set = False
        self._future = Future()

    def set(self) -> None:
        self._set = True
        future, self._future = self._future, Future()
        future.set_result(True)

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> bool:
        while not self._set:
            await self._future
        return True


class Lock:
    """One at a time, in the order of their coming."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Future] = deque()

    async def __aenter__(self) -> None:
        while self._held:
            turn = Future()
            self._waiting.append(turn)
            await turn
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._waiting:
            self._waiting.popleft().set_result(True)


class Waiting:
    """What the simulated modules find under the name ``asyncio``."""

    CancelledError = Stopped
    Event = Event
    Lock = Lock
    Task = Task
    Future = Future

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def get_running_loop(self) -> Waiting:
        return self

    def create_future(self) -> Future:
        return Future()

    def call_later(self, delay_s: float, work: Work) -> None:
        self._scheduler.after(int(delay_s * 1e6), work)

    async def sleep(self, delay_s: float) -> None:
        await self.pause(int(delay_s * 1e6))

    async def pause(self, delay_us: int) -> None:
        over = Future()
        self._scheduler.after(delay_us, lambda: over.set_result(None))
        await over

    async def pause_up_to(self, most_us: int) -> None:
        over = Future()
        self._scheduler.soon(most_us, lambda: over.set_result(None))
        await over

    async def to_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        await self.pause_up_to(2_000)
        return work(*args)

    async def gather(self, *awaited: Any, return_exceptions: bool = False) -> list[Any]:
        """All go on side by side; whoever still waits when one fails, or the caller is ended, is ended too."""
        waiting = [one if isinstance(one, Future) else Task(one) for one in awaited]
        started = [one for one in waiting if isinstance(one, Task) and one not in awaited]
        for task in started:
            task.run()
        results: list[Any] = []
        try:
            for future in waiting:
                try:
                    results.append(await future)
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
        finally:
            for task in started:
                task.cancel()
        return results


@contextmanager
def in_place_of_asyncio(waiting: Waiting) -> Iterator[None]:
    """Within the block everything that takes part waits by virtual time."""
    with ExitStack() as stack:
        for module in having("asyncio"):
            stack.enter_context(mock.patch.object(module, "asyncio", waiting))
        for module in having("whole"):
            stack.enter_context(mock.patch.object(module, "whole", _as_it_is))
        yield


async def _as_it_is(work: Coroutine[Any, Any, Any]) -> Any:
    """In place of ``syncline.client.store.whole``: nothing is cancelled half way here."""
    return await work


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    task = Task(coroutine)
    task.run()
    if not task.done():
        task.cancel()
        raise AssertionError("this was not supposed to wait")
    return task.result()
