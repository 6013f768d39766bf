"""What is said to a shape, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.actors.postgres.transaction import StreamChange, TransactionHead
from syncline.actors.shapes.log import Record
from syncline.cluster import Ref
from syncline.proto.values import Row


@dataclass(frozen=True, slots=True)
class Piece:
    """This shape's changes in (a piece of) one transaction.

    ``first``: none came before them. The stream may have been cut off in the middle of the transaction and begin it
    again: what came then does not count. ``last``: none of this transaction follow. ``since``, ``until``: between which
    places of the transaction they are, counted in the changes of all tables.
    """

    head: TransactionHead
    changes: Sequence[StreamChange]
    first: bool
    last: bool
    since: int = 0
    until: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is all that the transaction has for the shape."""
        return self.first and self.last


@dataclass(frozen=True, slots=True)
class Append:
    """Changes in stream order; answered to the shard with the info ``Appended(upto)``."""

    pieces: tuple[Piece | Record, ...]
    upto: int


@dataclass(frozen=True, slots=True)
class Appended:
    shape: str
    upto: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Info to the shard. The shape has been handed everything up to ``upto`` and rests before some of it; those who
    follow it know, and nobody else need wait. ``Appended`` comes later."""

    shape: str
    upto: int


@dataclass(frozen=True, slots=True)
class HeldBelow:
    """Call to an edge, answered with None; or info, to one that joins. Whatever the watermark says, ``shape`` has
    appended nothing beyond ``lsn`` yet; None: it has caught up."""

    shape: str
    lsn: int | None


@dataclass(frozen=True, slots=True)
class MarkSeen:
    """The stream has reached the mark of this shape's snapshot; every change before it has been sent to us."""

    mark: str
    lsn: int


@dataclass(frozen=True, slots=True)
class Join:
    """Info. Send ``edge`` a ``Joined``, once ready, and from then on ``Arrived`` for everything appended. ``number``
    comes back in the answer."""

    edge: Ref
    number: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Info. ``edge`` wants no more."""

    edge: Ref


@dataclass(frozen=True, slots=True)
class Joined:
    """Info. ``shape`` is ready; what it appended up to ``appended`` is in its log. A device may stand no earlier than
    ``ready_lsn``."""

    shape: str
    ready_lsn: int
    appended: int
    number: int


@dataclass(frozen=True, slots=True)
class NotifyReady:
    """Info. Send ``device`` a ``ShapeReady`` as soon as the shape is, or a ``ShapeGone`` when it never will be."""

    device: Ref


@dataclass(frozen=True, slots=True)
class ShapeReady:
    """Info."""

    shape: str


@dataclass(frozen=True, slots=True)
class ShapeGone:
    """Info. The shape's table was dropped before its rows could be read."""

    shape: str


@dataclass(frozen=True, slots=True)
class Arrived:
    shape: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Call. Answer: Page of records after ``after`` = (lsn, index), up to LSN ``upto``, of the files of that
    ``generation`` (None: those there are now). Up to ``final_upto`` it has only final operations (see ``finals``)."""

    after: tuple[int, int]
    upto: int
    bytes_max: int
    generation: int | None = None
    final_upto: int = 0


@dataclass(frozen=True, slots=True)
class ReadReleased:
    """Call to an edge. Answer: no device there will read of ``shape`` what was at an earlier position than this; None:
    none reads of it at all."""

    shape: str


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Call. Answer: (ImageChunk or None at the end, next cursor); the rows as of ``lsn``. The first cursor is 0.
    ``whole``: with all columns, also where devices get some only."""

    lsn: int
    cursor: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class CountImage:
    """Call. Answer: how many rows the newest image has (int), which is about how many the shape has."""


@dataclass(frozen=True, slots=True)
class AskHeld:
    """Call. Which of ``rows``, given by relation id and as they are after the transaction at ``lsn``, does the shape
    hold there? It has appended what came up to there. Answer: tuple of bool, in the same order."""

    lsn: int
    rows: tuple[tuple[int, Row], ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """Call. Answer: work for a thread; once it is done, everything appended by now is on the disk. The shape does not
    wait for the disk itself: changes go on to devices meanwhile."""
