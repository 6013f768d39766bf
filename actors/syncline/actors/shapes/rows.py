"""The rows of one shape at any position, put together without holding up the event loop.

An overlay takes some 25 microseconds a row of the log, so it is made a few rows at a time, with a turn for everybody
else in between. (A thread would take the interpreter's lock for longer at a stretch, and as much time.) Nothing that
happens meanwhile matters to it: it reads the log up to its own position, and what is there never changes.

Devices that ask for the same position wait for one making, and a later position begins with the overlay of an earlier
one. What they read begins with the newest image that is not beyond their position, and goes on with it to the end,
whatever newer image there is by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from syncline.actors.shapes.image import EMPTY, OVERLAY_CHUNK_ROWS, THE_END, ImageChunk, Overlay, Relations, overlaying
from syncline.actors.shapes.paced import paced
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Refusal

# Positions of which the overlay is kept. They share their rows; each has a table of its own.
OVERLAYS_MAX = 16
FOLD_CHUNK_BYTES = 1 << 20
# Nobody waits for a fold: between its steps, of a millisecond or two, it leaves the loop to what somebody waits for.
FOLD_PAUSE_S = 0.002
# A cursor, from the top: the image's number and one, whether the image is done, the place in it or in the overlay.
_IMAGE_SHIFT = 48
_IN_OVERLAY = 1 << 47
_PLACE_MASK = _IN_OVERLAY - 1


class RowsGone(Refusal):
    """The image somebody was in the middle of has been replaced more than once since, or a position lies too far back:
    whoever asks has to begin anew."""


class Reading(NamedTuple):
    """What is read: the rows as of ``lsn``, from the image of number ``image`` on."""

    lsn: int
    image: int


@dataclass(frozen=True, slots=True)
class Laid:
    """An overlay with its rows in chunks."""

    overlay: Overlay
    chunks: tuple[ImageChunk, ...]


class Rows:
    """The rows of the shape in ``store``. ``make`` first, then ``read``."""

    def __init__(self, store: ShapeStore, relations: Relations) -> None:
        self._store = store
        self._relations = relations
        self._made: dict[Reading, Laid] = {}  # the one not read for longest is first

    def reading(self, lsn: int, cursor: int) -> Reading:
        """What somebody reads who asks for ``cursor`` (0: the beginning). Raises RowsGone when it lies too far back."""
        if not cursor and lsn < self._store.final_lsn:
            raise RowsGone(f"rows of {self._store.shape.table} at {lsn} are known no more")
        return Reading(lsn, (cursor >> _IMAGE_SHIFT) - 1 if cursor else self._store.image_at(lsn).number)

    def ready(self, reading: Reading) -> bool:
        """Whether ``read`` can answer at once."""
        return reading in self._made

    async def make(self, reading: Reading) -> None:
        """Put together what ``read`` needs; the log must hold every transaction up to there. Raises RowsGone."""
        if reading in self._made:
            return
        made = await self._lay(reading)
        while len(self._made) >= OVERLAYS_MAX:
            del self._made[next(iter(self._made))]
        self._made[reading] = made

    def read(self, reading: Reading, cursor: int) -> tuple[ImageChunk | None, int]:
        """Some rows, and the next cursor, ``THE_END`` with the last of them; None for no rows. Raises RowsGone, and
        OSError for a damaged file."""
        made = self._made.pop(reading, None)
        if made is None:
            raise self._gone(reading)
        self._made[reading] = made
        return self._read(reading, made, cursor)

    async def all(self, lsn: int, pause_s: float = 0.0) -> AsyncIterator[ImageChunk]:
        """Every row as of ``lsn``, of which the log may hold a part only: then it is as of that part."""
        reading = self.reading(lsn, 0)
        made = await self._lay(reading, pause_s)
        chunk, cursor = self._read(reading, made, 0)
        while chunk is not None:
            yield chunk
            if cursor == THE_END:
                return
            chunk, cursor = self._read(reading, made, cursor)

    async def fold(self) -> None:
        """Write an image of the rows at the newest whole transaction; whoever begins to read from now on, begins
        there. Raises OSError when the disk has no room or a file is damaged; then everything stays as it was."""
        store = self._store
        image = store.begin_fold()
        try:
            parts: list[ImageChunk] = []
            rows = size = 0
            async for chunk in self.all(image.lsn, FOLD_PAUSE_S):
                parts.append(chunk)
                rows += len(chunk.keys)
                size += sum(map(len, chunk.ops))
                if rows >= OVERLAY_CHUNK_ROWS or size >= FOLD_CHUNK_BYTES:
                    image.write(ImageChunk.joined(parts))
                    parts, rows, size = [], 0, 0
                await asyncio.sleep(FOLD_PAUSE_S)
            if rows:
                image.write(ImageChunk.joined(parts))
            await asyncio.to_thread(store.finishing(image))
        except OSError:
            store.abandon_fold(image)
            raise
        store.finished(image)
        self._made = {reading: laid for reading, laid in self._made.items() if store.image(reading.image) is not None}

    def _read(self, reading: Reading, made: Laid, cursor: int) -> tuple[ImageChunk | None, int]:
        place = cursor & _PLACE_MASK
        before = (reading.image + 1) << _IMAGE_SHIFT
        if not cursor & _IN_OVERLAY:
            image = self._store.image(reading.image)
            if image is None:
                raise self._gone(reading)
            chunk, following = (None, 0) if made.overlay.truncated else image.read(place)
            if chunk is not None:
                more = following < image.size_bytes or made.chunks
                return made.overlay.apply(chunk), before | following if more else THE_END
            place = 0
        if place >= len(made.chunks):
            return None, THE_END
        following = place + 1
        return made.chunks[place], before | _IN_OVERLAY | following if following < len(made.chunks) else THE_END

    def _gone(self, reading: Reading) -> RowsGone:
        return RowsGone(f"the rows of {self._store.shape.table} at {reading.lsn} have to be read anew")

    async def _lay(self, reading: Reading, pause_s: float = 0.0) -> Laid:
        image = self._store.image(reading.image)
        if image is None:
            raise self._gone(reading)
        known = [made for made in self._made if made.image == image.number and made.lsn <= reading.lsn]
        after, base = image.covers, EMPTY
        if known:
            newest = max(known)
            after, base = newest.lsn, self._made[newest].overlay
        if after < self._store.final_lsn:
            raise self._gone(reading)  # the log has not all that the image lacks
        steps = overlaying(self._store.records(after, reading.lsn), self._relations, base)
        overlay = await paced(steps, pause_s)
        chunks = []
        for chunk in overlay.chunks():
            chunks.append(chunk)
            await asyncio.sleep(0)
        return Laid(overlay, tuple(chunks))
