"""A shape of which nobody wants anything is asleep: it has its address and its files, and little else in memory.

With the first message that it gets it is a consumer again, as if it had been started anew, but for what it has to know
to be asleep: what concerns it (``Concerning``). So nobody who has its address need know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.interest import Interest
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.matcher import images
from syncline.actors.shapes.messages import Piece
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Actor, Exit

Pieces = Sequence[Piece | Record]

ASLEEP_AFTER_S = 60.0
"""Without a message."""


class Concerning(Protocol):
    """What of ``pieces``, in stream order, a shape has to be told. The shard asks, who hands them over: with very many
    shapes it is much to hear of what one has nothing to do with. ``at_rest``: all it was handed is done."""

    def __call__(self, pieces: Pieces, *, at_rest: bool) -> Pieces: ...


def everything(pieces: Pieces, *, at_rest: bool) -> Pieces:
    """Of a shape of which nobody knows better."""
    return pieces


@dataclass(frozen=True, slots=True)
class Satisfying:
    """Of a shape of one table: what has a row that satisfies its clause, which is compiled."""

    clauses: Clauses

    def __call__(self, pieces: Pieces, *, at_rest: bool) -> Pieces:
        return [
            piece
            for piece in pieces
            if isinstance(piece, Record) or not piece.whole or not all(map(self._outside, piece.changes))
        ]

    def _outside(self, change: StreamChange) -> bool:
        if isinstance(change, Truncated):
            return False
        rows = list(images(change))
        return bool(rows) and all(self.clauses.judge(0, row) is False for row in rows)


def interesting(pieces: Pieces, interest: Interest) -> Pieces:
    """Those of ``pieces`` that may do something to a tree, and what comes behind: it may be of rows that they bring."""
    for number, piece in enumerate(pieces):
        if isinstance(piece, Record) or not piece.whole or any(map(interest.concerns, piece.changes)):
            return pieces[number:]
    return ()


@dataclass(frozen=True, slots=True)
class Interesting:
    """Of an include tree."""

    interest: Interest

    def __call__(self, pieces: Pieces, *, at_rest: bool) -> Pieces:
        return interesting(pieces, self.interest) if at_rest and not self.interest.full else pieces


@dataclass(frozen=True, slots=True)
class Kept:
    """What a consumer knows that falls asleep, and the one that follows it need not find out again. ``clauses``,
    ``interest``: None if it has to. ``concerning``: what does that stand for meanwhile."""

    concerning: Concerning
    clauses: Clauses | None = None
    interest: Interest | None = None


class Waker(ABC):
    """Whoever put a shape to sleep. ``hash``: which one."""

    @abstractmethod
    async def awaken(self, hash: str, kept: Kept) -> Actor:
        """The actor that it becomes."""

    @abstractmethod
    def awoken(self, hash: str, actor: Any) -> None:
        """That one is ready."""


UNKNOWN = Kept(everything)
"""It has to find out."""


class Asleep(Actor):
    """``kept``: what the consumer knew that it was."""

    def __init__(self, waker: Waker, store: ShapeStore, kept: Kept) -> None:
        self._waker = waker
        self._store = store
        self._kept = kept

    async def handle_call(self, message: object) -> object:
        return await (await self._awake()).handle_call(message)

    async def handle_cast(self, message: object) -> None:
        await (await self._awake()).handle_cast(message)

    async def handle_info(self, message: object) -> None:
        await (await self._awake()).handle_info(message)

    async def terminate(self, reason: Exit) -> None:
        self._store.close()

    async def _awake(self) -> Actor:
        hash = self._store.shape.hash
        actor = await self._waker.awaken(hash, self._kept)
        await self.become(actor)
        self._waker.awoken(hash, actor)
        return actor


class Wakes:
    """Which shapes are awake, and when each was last of use. ``clock_s``: the time, in seconds."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._used_s: dict[str, float] = {}  # the one not used for longest is first

    def used(self, shape: str) -> None:
        """``shape`` is awake, or wakes up now."""
        self._used_s.pop(shape, None)
        self._used_s[shape] = self._clock_s()

    def forget(self, shape: str) -> None:
        """It is asleep, or no more."""
        self._used_s.pop(shape, None)

    def unused(self) -> Iterator[str]:
        """Those that may fall asleep. Each that is given out counts as used if it is not forgotten."""
        before_s = self._clock_s() - ASLEEP_AFTER_S
        while self._used_s:
            shape, used_s = next(iter(self._used_s.items()))
            if used_s > before_s:
                return
            self.used(shape)
            yield shape
