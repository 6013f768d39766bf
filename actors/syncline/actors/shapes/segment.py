"""A stretch of a shape's log in one file, with an index of places in it.

Whatever the size of the file or of a transaction, reading takes a window of it at a time, and begins no further than an
index entry's distance before the place that is wanted. The index is kept in a file of its own as the segment grows, of
what is on the disk by then; loading reads that, and of the segment only what came after.

An index must never outlive what it speaks of. So it is removed before its segment is cut, and what another thread was
about to write of it is not written any more.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from syncline.actors.shapes.index import Index, read_index, write_index
from syncline.actors.shapes.log import FRAME_BYTES, Record, frame_size, scan

INDEX_EVERY_BYTES = 64 << 10
# The index is written again when the segment has grown by this: so much of each log is read at a start.
INDEX_AGAIN_BYTES = 1 << 20
READ_WINDOW_BYTES = 256 << 10


class Damaged(OSError):
    """A file holds something else than what was written to it."""


class Segment:
    """``size``: bytes of whole records; whatever the file holds behind them does not count. ``whole_lsn``,
    ``unfinished``: as an ``Index`` has them."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        self.whole_lsn = 0
        self.unfinished: int | None = None
        # Offsets of records, thinned out: (position, offset), ascending. The first record is always there.
        self._places: list[tuple[tuple[int, int], int]] = []
        self._last = 0  # the offset of the last record
        self.index_path = path.with_name(f"index-{path.name.partition('-')[2]}")
        self._indexed = 0  # bytes that the index in the file speaks of
        self._writing = threading.Lock()
        self._cuts = 0

    def note(self, record: Record, offset: int) -> None:
        """``record`` stands at ``offset``, behind those noted before."""
        if not self._places or offset - self._places[-1][1] >= INDEX_EVERY_BYTES:
            self._places.append((record.position, offset))
        self._last = offset
        if record.index == 0:
            self.unfinished = offset
        if record.last:
            self.unfinished = None
            self.whole_lsn = record.lsn

    def cut(self, offset: int) -> bool:
        """Nothing counts from ``offset`` on, where the unfinished transaction begins. Answers whether the index was
        removed for that: the file may be cut once the disk knows."""
        with self._writing:
            self._cuts += 1
            stale = self._indexed > offset
            if stale:
                self._forget_index()
        self.size = offset
        self.unfinished = None
        self._places = [entry for entry in self._places if entry[1] < offset]
        return stale

    def remove(self) -> None:
        """Delete the files."""
        self.detach()
        self._forget_index()
        self.path.unlink(missing_ok=True)

    def detach(self) -> None:
        """No index is written any more when this returns."""
        with self._writing:
            self._cuts += 1

    def begins_at_or_before(self, position: tuple[int, int]) -> bool:
        """Whether every earlier segment ends at or before ``position``."""
        return bool(self._places) and self._places[0][0] <= position

    def after(self, position: tuple[int, int]) -> Iterator[Record]:
        """The records behind ``position``. The segment may grow meanwhile. Raises Damaged."""
        return (record for record, _ in self._after(position))

    def offset_after(self, position: tuple[int, int]) -> int:
        """Where the first record behind ``position`` begins; ``size`` if there is none. Raises Damaged."""
        return next((offset for _, offset in self._after(position)), self.size)

    def load(self) -> bool:
        """Takes in what the file holds: every whole record. Answers whether there is nothing else behind them."""
        length = self.path.stat().st_size
        self._take_index(length)
        known, self.size = self.size, length
        for record, offset, end in self._scan(known):
            self.note(record, offset)
            known = end
        self.size = known
        return known == length

    def indexing(self, *, full: bool = False) -> Callable[[], None] | None:
        """Writes the index of what is in the file by now: work for any thread, to be done once that is on the disk.
        None unless it is worth it: the segment is ``full``, or has grown enough since the last one."""
        if self.size - self._indexed < (1 if full else INDEX_AGAIN_BYTES):
            return None
        if self._last >= self.size:  # it was cut off, and nothing has come since
            return None
        size, last, cuts = self.size, self._last, self._cuts
        facts = self.whole_lsn, self.unfinished, tuple((*position, offset) for position, offset in self._places)

        def write() -> None:
            with self._writing:
                # Without an index the next start takes longer, that is all.
                if self._cuts == cuts and self._indexed < size:
                    with contextlib.suppress(OSError):
                        write_index(self.index_path, Index(size, last, self._head(last), *facts))
                        self._indexed = size

        return write

    # --- inside ---------------------------------------------------------------------------------------------------

    def _after(self, position: tuple[int, int]) -> Iterator[tuple[Record, int]]:
        place = bisect.bisect_right(self._places, position, key=lambda entry: entry[0]) - 1
        reached = self._places[place][1] if place >= 0 else 0
        for record, offset, end in self._scan(reached):
            if record.position > position:
                yield record, offset
            reached = end
        if reached < self.size:
            self._forget_index()  # the next start looks at everything
            raise Damaged(f"{self.path} is damaged at byte {reached}")

    def _take_index(self, length: int) -> None:
        """What the index says of a file of ``length`` bytes, if it is to be believed."""
        index = read_index(self.index_path)
        if index is None or index.size > length or self._head(index.last) != index.head:
            return
        if len(index.head) < FRAME_BYTES:
            return
        if index.last + frame_size(index.head) != index.size:
            return
        self.size = self._indexed = index.size
        self._last = index.last
        self.whole_lsn, self.unfinished = index.whole_lsn, index.unfinished
        self._places = [((lsn, number), offset) for lsn, number, offset in index.places]

    def _forget_index(self) -> None:
        self.index_path.unlink(missing_ok=True)
        self._indexed = 0

    def _head(self, offset: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(FRAME_BYTES)

    def _scan(self, position: int) -> Iterator[tuple[Record, int, int]]:
        with self.path.open("rb") as file:
            window = READ_WINDOW_BYTES
            while position < self.size:
                file.seek(position)
                data = file.read(min(window, self.size - position))
                used = 0
                for record, offset, end in scan(data):
                    used = end
                    yield record, position + offset, position + end
                window = READ_WINDOW_BYTES
                if used == 0:
                    needed = frame_size(data) if len(data) >= FRAME_BYTES else self.size
                    if needed <= len(data) or needed > self.size - position:
                        return  # broken, or cut off
                    window = needed  # one record larger than the window
                position += used
