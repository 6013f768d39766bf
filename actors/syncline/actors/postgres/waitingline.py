"""The writes of one device that are not decided, in its order. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from syncline.actors.postgres.batching import Load, Pending
from syncline.actors.postgres.write import Rejection, Write

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

Status = Literal["applied", "unheeded", "duplicate", "rejected", "overloaded"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A write that needs no more work here."""

    write: Write
    status: Status
    rejection: Rejection | None = None


@dataclass(slots=True)
class WaitingLine:
    """``load``: what they count towards. ``sender``: connection of the newest. Something has been ``put_off``
    until all that is here is decided."""

    load: Load
    sender: Ref
    pending: deque[Pending] = field(default_factory=deque)
    retries: int = 0
    waits: bool = False
    put_off: bool = False
    held: str = ""  # by this, until it passes or an operator mends it

    def append(self, pending: Pending) -> None:
        self.pending.append(pending)
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

    def _removed(self, pending: Pending) -> Pending:
        self.load.remove(pending)
        return pending
