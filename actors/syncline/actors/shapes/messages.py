"""What is said to a shape and to a shard of shapes, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncline.actors.postgres.streamed import StreamChange, TransactionHead
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.shape import Shape
from syncline.cluster import Ref
from syncline.proto.values import Relation, Row


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
    """Call. Answer: (ImageChunk or None for no rows, next cursor or ``image.THE_END``); the rows as of ``lsn``. The
    first cursor is 0. ``whole``: with all columns, also where devices get some only."""

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


# --- a shard ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnTransaction:
    """A device's transaction has passed in the stream: its author must see it come back."""

    lsn: int
    client_id: str
    commit_ms: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Everything of this host's shapes in a stretch of the stream that ends with commit LSN ``upto``.

    ``marks``: (shape hash, mark id, LSN) of snapshots whose place has been reached.
    """

    upto: int
    entries: Mapping[str, tuple[Piece | Record, ...]]
    own: tuple[OwnTransaction, ...] = ()
    marks: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Watermark:
    """Every shape of ``shard`` has appended everything up to ``lsn``; ``own``: device transactions passed with it."""

    shard: str
    lsn: int
    own: tuple[OwnTransaction, ...]


@dataclass(frozen=True, slots=True)
class FollowWatermark:
    """Call by an edge. Answer: the current watermark; every later one is sent to ``edge`` as ``Watermark``."""

    edge: Ref


@dataclass(frozen=True, slots=True)
class EnsureShape:
    """Call. Answer: ``ShapePlace``; the shape is started if there is none yet."""

    shape: Shape
    relations: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class FindShapes:
    """Call. Answer: dict of shape hash -> Ref for those that live here."""

    hashes: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadWatermark:
    """Call. Answer: the current watermark (int)."""


@dataclass(frozen=True, slots=True)
class LiveShapes:
    """Call. Answer: tuple of the Shapes that live here."""


@dataclass(frozen=True, slots=True)
class ShapePlace:
    """``ready_lsn`` None: the snapshot is still being taken."""

    ref: Ref
    ready_lsn: int | None
