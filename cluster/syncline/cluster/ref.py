"""An address of an actor, and what can be done with it from anywhere: cast, send, call, watch.

A ``Ref`` is the same whether the actor lives in this event loop, behind a registered name, or in another host behind a
link. It never exposes the actor itself: messages go in, replies and the news of its end come out.

*   ``cast`` never waits and promises nothing: ``False`` says that the message was certainly not accepted.
*   ``send`` waits for room: the way to pass on back-pressure.
*   ``call`` asks and waits for the answer. It ends in one of four ways: the answer; ``ActorDown`` (at once when the
    actor is or goes down, never a hang); ``CallTimeout``; or the ``Refusal`` that ``handle_call`` raised for us. After
    a timeout the call may still be executed; a call that times out while still queued is skipped.
*   ``on_end`` and ``join`` tell of its end, once, also when it had already ended.

Between two actors, messages arrive in the order they were sent.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from syncline.cluster.spec import SHUTDOWN, Exit

CALL_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an actor lives: its host, and its number or registered name there. ``label`` is for people to read."""

    host: str
    target: int | str
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label or self.target}@{self.host}"


class ActorDown(Exception):
    """The actor has ended, so nobody will take this message or answer this call. ``exit`` says how it ended."""

    def __init__(self, address: Address, exit: Exit) -> None:
        super().__init__(f"{address} is down: {exit}")
        self.address = address
        self.exit = exit
        self.__cause__ = exit.cause


class CallTimeout(TimeoutError):
    """No answer within the time the caller was willing to wait."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(f"{address} did not answer within {timeout_s:g} s")
        self.address = address
        self.timeout_s = timeout_s


class Refusal(Exception):
    """Raised in ``handle_call`` to make ``call`` raise it at the caller, without harm to the actor.

    Across a link a subclass arrives as ``Refusal`` with the same text.
    """


@dataclass(frozen=True, slots=True, eq=False)
class Monitor:
    """One actor's interest in the end of another. It comes back in ``Down``; ``cancel`` ends the interest."""

    cancel: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Down:
    """To ``handle_info`` of a monitoring actor: ``ref`` ended this way."""

    ref: Ref
    exit: Exit
    monitor: Monitor


class Ref(ABC):
    """See the module."""

    __slots__ = ()

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where the actor lives."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it has not been seen to end. Another host may know better."""

    @abstractmethod
    def cast(self, message: object) -> bool:
        """Hands over ``message`` to ``handle_cast`` if that needs no waiting; ``False``: certainly not accepted."""

    @abstractmethod
    async def send(self, message: object) -> None:
        """Like ``cast``, but waits for room. Raises ``ActorDown``, and ``MailboxFull`` under the policy REFUSE."""

    @abstractmethod
    async def call(self, message: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """What ``handle_call`` answers. Raises ``ActorDown``, ``CallTimeout``, ``MailboxFull`` or a ``Refusal``."""

    @abstractmethod
    def inform(self, message: object) -> None:
        """Hands over ``message`` to ``handle_info``, above the mailbox's bound. For facts, not for work."""

    @abstractmethod
    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        """Calls back once with the end of the actor, at once if it has ended. Returns what cancels that."""

    @abstractmethod
    def stop(self, exit: Exit = SHUTDOWN) -> None:
        """Asks the actor to stop after the message it is at. Does not wait, and does not insist."""

    def monitor(self, other: Ref) -> Monitor:
        """From now on the end of ``other`` is told to *this* actor: ``Down`` to its ``handle_info``, once."""
        cancel: Callable[[], None] | None = None
        cancelled = False

        def stop() -> None:
            nonlocal cancelled
            cancelled = True
            if cancel is not None:
                cancel()

        monitor = Monitor(stop)

        def tell(exit: Exit) -> None:
            if not cancelled:
                self.inform(Down(other, exit, monitor))

        cancel = other.on_end(tell)
        return monitor

    async def join(self) -> Exit:
        """Waits for the end of the actor, and returns it."""
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        cancel = self.on_end(lambda exit: None if ended.done() else ended.set_result(exit))
        try:
            return await ended
        finally:
            cancel()
