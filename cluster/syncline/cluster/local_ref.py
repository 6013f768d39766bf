"""The address of an actor in this event loop: how a message gets into its mailbox, and how a caller waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from syncline.cluster.mailbox import CALL, CAST, Entry
from syncline.cluster.ref import CALL_TIMEOUT_S, ActorDown, Address, CallTimeout, Ref
from syncline.cluster.spec import SHUTDOWN, Exit, Overflow

if TYPE_CHECKING:
    from syncline.cluster.cell import Cell


class LocalRef(Ref):
    """A ref to an actor in this event loop. Use from the loop's thread only."""

    __slots__ = ("__weakref__", "_cell")

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<ref {self._cell.address}>"

    @property
    def address(self) -> Address:
        return self._cell.address

    @property
    def alive(self) -> bool:
        return self._cell.exit is None

    @property
    def exit(self) -> Exit | None:
        """How it ended; ``None`` while it lives."""
        return self._cell.exit

    def cast(self, message: object) -> bool:
        cell = self._cell
        if cell.mailbox.offer((CAST, message)):
            return True
        return cell.overflow_now((CAST, message))

    async def send(self, message: object) -> None:
        entry = (CAST, message)
        if not self._cell.mailbox.offer(entry):
            await self._cell.overflow(entry)

    async def call(self, message: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        cell = self._cell
        if asyncio.current_task() is cell.task:
            raise RuntimeError(f"{cell.address} calls itself, and would wait for itself")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        entry = (CALL, (message, future))
        timer = loop.call_later(timeout_s, _expire, future, cell.address, timeout_s)
        try:
            if not cell.mailbox.offer(entry):
                await self._enter(entry, future)
            return await future
        finally:
            timer.cancel()

    async def _enter(self, entry: Entry, future: asyncio.Future[Any]) -> None:
        """Waits for room no longer than for the answer: the timeout covers both."""
        if self._cell.mailbox.overflow is not Overflow.BLOCK:
            await self._cell.overflow(entry)  # decides without waiting
            return
        entering = asyncio.ensure_future(self._cell.overflow(entry))
        try:
            await asyncio.wait({entering, future}, return_when=asyncio.FIRST_COMPLETED)
            if entering.done() and (error := entering.exception()) is not None:
                future.cancel()
                raise error
        finally:
            entering.cancel()

    def ask(self, message: object) -> asyncio.Future[Any] | None:
        """A call without waiting, for links: the answer to come, or ``None`` when it would have to wait for room."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._cell.exit is not None:
            future.set_exception(ActorDown(self._cell.address, self._cell.exit))
        elif not self._cell.mailbox.offer((CALL, (message, future))):
            return None
        return future

    def inform(self, message: object) -> None:
        self._cell.mailbox.inform(message)

    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        return self._cell.watch(callback)

    def stop(self, exit: Exit = SHUTDOWN) -> None:
        self._cell.mailbox.stop(exit)

    def interrupt(self, exit: Exit) -> None:
        """Ends the actor now, in the middle of whatever it does: its handler is cancelled."""
        self._cell.kill(exit)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Tells the caller, if it still waits."""
    if not future.done():
        future.set_exception(error)


def _expire(future: asyncio.Future[Any], address: Address, timeout_s: float) -> None:
    fail(future, CallTimeout(address, timeout_s))
