"""The actor: a short loop around a good value.

``Actor`` is what an inhabitant subclasses. It handles one message at a time, so its state needs no locks. The loop
itself, the mailbox and all that the outside needs belong to its cell (``cell``). An actor that wants many things at
once keeps its waiting out of the loop: ``background`` for a socket to read, ``defer`` for an answer that comes later,
``send_after`` for time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from syncline.cluster.ref import Down
from syncline.cluster.spec import NORMAL, Exit

if TYPE_CHECKING:
    from syncline.cluster.cell import Cell, Reply
    from syncline.cluster.clock import Clock, Timer
    from syncline.cluster.context import Context
    from syncline.cluster.local_ref import LocalRef
    from syncline.cluster.ref import Monitor, Ref

__all__ = ["Actor", "Down"]  # what almost every module with an actor in it needs


class Actor:
    """Subclass and override. Everything here runs in the event loop's thread, one message at a time.

    Whatever an actor has to do at its start beyond plain assignment belongs in ``init``: ``__init__`` runs before
    ``ref`` and ``context`` exist, and need not be called by a subclass.
    """

    _cell: Cell  # set by the cell before init

    async def init(self) -> None:
        """Makes it ready; whoever started it waits. An exception here means that it never lived."""

    async def handle_call(self, message: Any) -> object:
        """Answers a ``call``: the value, or ``self.defer()``. A ``Refusal`` goes to the caller; any other crashes."""
        raise NotImplementedError(f"{type(self).__name__} answers no calls, got {type(message).__name__}")

    async def handle_cast(self, message: Any) -> None:
        """Takes a ``cast`` or a ``send``."""
        raise NotImplementedError(f"{type(self).__name__} takes no casts, got {type(message).__name__}")

    async def handle_info(self, message: Any) -> None:
        """Takes a ``Down``, a timer's message, or whatever came by ``inform``. Ignored unless overridden."""

    async def terminate(self, reason: Exit) -> None:
        """Lets go of what it holds. Runs once if ``init`` succeeded, however the actor ends."""

    @property
    def ref(self) -> LocalRef:
        """Its own address, to hand to others."""
        return self._cell.ref

    @property
    def context(self) -> Context:
        """What its host offers: clock, registry, pubsub."""
        return self._cell.context

    @property
    def clock(self) -> Clock:
        """The host's clock."""
        return self._cell.context.clock

    def send_after(self, delay_s: float, message: object) -> Timer:
        """``message`` comes to ``handle_info`` after ``delay_s`` seconds, unless cancelled or the actor has ended."""
        inform = self._cell.ref.inform
        return self.clock.call_after(delay_s, lambda: inform(message))

    def monitor(self, other: Ref) -> Monitor:
        """The end of ``other`` comes to ``handle_info`` as ``Down``."""
        return self._cell.ref.monitor(other)

    def stop(self, exit: Exit = NORMAL) -> None:
        """Ends this actor after the message it is at."""
        self._cell.ref.stop(exit)

    @property
    def quiet(self) -> bool:
        """Whether it waits for a message and does nothing else: no work is in the background, no answer owed."""
        return self._cell.quiet

    async def become(self, other: Actor) -> None:
        """``other`` gets the messages from now on, at this address, once its ``init`` has returned, and ``terminate``
        in the end. Call it of an actor that is ``quiet``, or from one of its handlers. What ``init`` raises leaves
        everything as it is."""
        await self._cell.become(other)

    def defer(self) -> Reply:
        """In ``handle_call``: to be returned, and answered later from any other handler or task."""
        return self._cell.defer()

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` beside the message loop. If it fails the actor crashes; it is cancelled when the actor ends."""
        return self._cell.background(work)
