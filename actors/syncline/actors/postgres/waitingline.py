"""The writes of one device that are not decided, in its order, and to whom each is answered. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from syncline.actors.postgres.batching import Load, Pending
from syncline.actors.postgres.write import Rejection, Write

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

# Of connections that are answered beside the one a write has first come by: beyond, those are left out that have ended.
REPEATS_MAX = 3

Status = Literal["applied", "unheeded", "duplicate", "rejected", "overloaded"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A write that needs no more work here."""

    write: Write
    status: Status
    rejection: Rejection | None = None


def answers(pending: Pending, status: Status, rejection: Rejection | None = None) -> list[Decision]:
    """To each connection that it has come by."""
    writes = (pending.write, *(replace(pending.write, reply_to=repeat) for repeat in pending.repeats))
    return [Decision(write, status, rejection) for write in writes]


@dataclass(slots=True)
class WaitingLine:
    """``load``: what they count towards. ``sender``: connection and turn of the newest. Something has been ``put_off``
    until all that is here is decided."""

    load: Load
    sender: tuple[Ref, int]
    pending: deque[Pending] = field(default_factory=deque)
    retries: int = 0
    waits: bool = False
    put_off: bool = False
    held: str = ""  # by this, until it passes or an operator mends it
    _places: dict[tuple[int, int], Pending] = field(default_factory=dict)  # by position and time

    def append(self, pending: Pending) -> None:
        self.pending.append(pending)
        self._places.setdefault(_place(pending), pending)
        self.load.add(pending)

    def popleft(self) -> Pending:
        return self._removed(self.pending.popleft())

    def move(self, load: Load, has_room: Callable[[Load, Pending], bool]) -> list[Pending]:
        """They count towards ``load`` from now on. What it has no room for is here no more, and nothing behind that."""
        moving, self.pending = self.pending, deque()
        for pending in moving:
            self._removed(pending)
        self.load = load
        while moving and has_room(load, moving[0]):
            self.append(moving.popleft())
        return list(moving)

    def comes_again(self, write: Write) -> bool:
        """Whether ``write`` is here already, by another connection of its device: then this one is answered as well.

        By the same connection it is another one: a device may repeat a position and a time."""
        pending = self._places.get((write.lsn, write.ms))
        if pending is None or write.reply_to in (pending.write.reply_to, *pending.repeats):
            return False
        pending.repeats = (*pending.repeats, write.reply_to)
        if len(pending.repeats) > REPEATS_MAX:
            pending.repeats = tuple(repeat for repeat in pending.repeats if repeat.alive)
        return True

    def _removed(self, pending: Pending) -> Pending:
        if self._places.get(_place(pending)) is pending:
            del self._places[_place(pending)]
        self.load.remove(pending)
        return pending


def _place(pending: Pending) -> tuple[int, int]:
    return pending.write.lsn, pending.write.ms
