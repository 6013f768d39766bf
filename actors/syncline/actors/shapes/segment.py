"""A stretch of a shape's log in one file, with an index of places in it.

Whatever the size of the file or of a transaction, reading takes a window of it at a time, and begins no further than an
index entry's distance before the place that is wanted.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path

from syncline.actors.shapes.log import FRAME_BYTES, Record, frame_size, scan

INDEX_EVERY_BYTES = 64 << 10
READ_WINDOW_BYTES = 256 << 10


class Segment:
    """``size``: bytes of whole records; whatever the file holds behind them does not count."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        # Offsets of records, thinned out: (position, offset), ascending. The first record is always there.
        self._index: list[tuple[tuple[int, int], int]] = []

    def note(self, position: tuple[int, int], offset: int) -> None:
        """A record stands at ``offset``, behind those noted before."""
        if not self._index or offset - self._index[-1][1] >= INDEX_EVERY_BYTES:
            self._index.append((position, offset))

    def cut(self, offset: int) -> None:
        """Nothing counts from ``offset`` on."""
        self.size = offset
        self._index = [entry for entry in self._index if entry[1] < offset]

    def begins_at_or_before(self, position: tuple[int, int]) -> bool:
        """Whether every earlier segment ends at or before ``position``."""
        return bool(self._index) and self._index[0][0] <= position

    def after(self, position: tuple[int, int]) -> Iterator[Record]:
        """The records behind ``position``. The segment may grow meanwhile."""
        place = bisect.bisect_right(self._index, position, key=lambda entry: entry[0]) - 1
        for record, _, _ in self._scan(self._index[place][1] if place >= 0 else 0):
            if record.position > position:
                yield record

    def load(self) -> Iterator[tuple[Record, int, int]]:
        """Takes in what the file holds: every whole record, its offset and the one after it, as it is found."""
        self.size = self.path.stat().st_size
        end = 0
        for record, offset, end in self._scan(0):
            self.note(record.position, offset)
            yield record, offset, end
        self.size = end

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
