"""A set of shapes as one stream: what makes a device's transactions whole across its shapes.

Every device holds a set of shapes, and many devices hold the same set. The bundle of a set gathers the records its
shapes append, by transaction, and releases a transaction only when the watermark has passed it: then every shape has
appended its part, and the frame is encoded once for all devices of the set.

A shape joins with ``joined``: what it had appended by then is in its log, everything later arrives through ``arrived``.
The bundle opens when all its shapes have joined and the watermark has reached the furthest of those positions: before
that, a part of some transaction might be in a log only. It opens at the watermark: everything up to there is in the
logs, and nothing may come for a long time that would bring it there later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncline.actors.shapes.frames import Frame, whole_frame
from syncline.actors.shapes.log import Record
from syncline.proto.values import Relation


class Bundle:
    """The bundle of ``shapes`` (hashes). ``relations``: of those that may have rows in common. ``released`` is
    meaningful once ``open``."""

    def __init__(self, shapes: Iterable[str], watermark: int, relations: Iterable[Relation] = ()) -> None:
        self._relations = {relation.id: relation for relation in relations}
        self.shapes = frozenset(shapes)
        self.released = 0
        self.open = False
        self._missing = set(self.shapes)
        self._start = 0
        self._watermark = watermark
        self._below: dict[str, int] = {}
        self._pending: dict[int, list[Record]] = {}

    @property
    def waits(self) -> bool:
        """Whether the next watermark may change more than how far it is released."""
        return not self.open or bool(self._pending)

    def joined(self, shape: str, appended: int) -> None:
        """``shape`` sends us everything it appends after LSN ``appended`` (its ready position if that is later)."""
        self._missing.discard(shape)
        self._start = max(self._start, appended)
        self._try_open()

    def arrived(self, records: Sequence[Record]) -> None:
        """A shape of the set appended these. Repeats after a restart of the stream are harmless."""
        for record in records:
            if not self.open or record.lsn > self.released:
                self._pending.setdefault(record.lsn, []).append(record)

    def held(self, shape: str, lsn: int | None) -> None:
        """``shape`` has appended nothing beyond ``lsn``, whatever the watermark says; None: it has caught up."""
        if lsn is None:
            self._below.pop(shape, None)
        else:
            self._below[shape] = lsn

    def watermark(self, lsn: int) -> tuple[Frame, ...]:
        """Every shape has appended everything up to ``lsn``: the frames this releases, in commit order."""
        self._watermark = max(self._watermark, lsn)
        self._try_open()
        upto = self._upto
        if not self.open or upto <= self.released:
            return ()
        ready = sorted(pending for pending in self._pending if pending <= upto)
        frames = tuple(whole_frame(self._pending.pop(pending), self._relations) for pending in ready)
        self.released = upto
        return frames

    def safe_upto(self, shape: str) -> int | None:
        """Whoever follows begins to read nothing of ``shape`` at an earlier position; None: that is as ``shape`` will
        say."""
        if shape in self._missing:
            return None
        return self.released if self.open else self._start

    @property
    def _upto(self) -> int:
        """Every shape of the set has appended everything up to there."""
        return min((self._watermark, *self._below.values()))

    def _try_open(self) -> None:
        if self.open or self._missing or self._upto < self._start:
            return
        self.open = True
        self.released = self._upto
        self._pending = {lsn: records for lsn, records in self._pending.items() if lsn > self.released}
