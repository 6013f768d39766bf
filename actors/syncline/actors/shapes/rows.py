"""The rows of one shape at any position, put together without holding up the event loop.

An overlay takes some 25 microseconds a row of the log, so it is made a few rows at a time, with a turn for everybody
else in between. (A thread would take the interpreter's lock for longer at a stretch, and as much time.) Nothing that
happens meanwhile matters to it: it reads the log up to its own position, and what is there never changes.

Devices that ask for the same position wait for one making, and a later position begins with the overlay of an earlier
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from syncline.actors.shapes.image import EMPTY, Overlay, overlaying
from syncline.actors.shapes.store import ImageChunk, ShapeStore
from syncline.proto.values import Relation

# Positions of which the overlay is kept. They share their rows; each has a table of its own.
OVERLAYS_MAX = 16


@dataclass(frozen=True, slots=True)
class Laid:
    """An overlay with its rows in chunks."""

    overlay: Overlay
    chunks: tuple[ImageChunk, ...]


class Rows:
    """The rows of the table shape in ``store``. ``make`` first, then ``read``."""

    def __init__(self, store: ShapeStore, relation: Relation) -> None:
        self._store = store
        self._relation = relation
        self._made: dict[int, Laid] = {}  # the one not read for longest is first

    def ready(self, lsn: int) -> bool:
        """Whether ``read`` can answer at once."""
        return lsn in self._made

    async def make(self, lsn: int) -> None:
        """Put together what ``read`` needs at ``lsn``; the log must hold every transaction up to there."""
        if lsn in self._made:
            return
        made = await self._lay(lsn)
        while len(self._made) >= OVERLAYS_MAX:
            del self._made[next(iter(self._made))]
        self._made[lsn] = made

    def read(self, lsn: int, cursor: int) -> tuple[ImageChunk | None, int]:
        """Some rows as of ``lsn``, and the next cursor; None after the last. The first cursor is 0.

        Cursors from 0 up are places in the stored image, those below 0 count chunks of the overlay."""
        made = self._made[lsn] = self._made.pop(lsn)
        return self._read(made, cursor)

    async def all(self, lsn: int) -> AsyncIterator[ImageChunk]:
        """Every row as of ``lsn``, of which the log may hold a part only: then it is as of that part."""
        made = await self._lay(lsn)
        chunk, cursor = self._read(made, 0)
        while chunk is not None:
            yield chunk
            chunk, cursor = self._read(made, cursor)

    def _read(self, made: Laid, cursor: int) -> tuple[ImageChunk | None, int]:
        if cursor >= 0 and not made.overlay.truncated:
            chunk, following = self._store.read_image(cursor)
            if chunk is not None:
                return made.overlay.apply(chunk), following
        place = max(0, -cursor - 1)
        return (made.chunks[place], -(place + 2)) if place < len(made.chunks) else (None, cursor)

    async def _lay(self, lsn: int) -> Laid:
        base_lsn = max((known for known in self._made if known <= lsn), default=0)
        base = self._made[base_lsn].overlay if base_lsn else EMPTY
        steps = overlaying(self._store.records(base_lsn, lsn), self._relation, base)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                overlay: Overlay = end.value
                break
            await asyncio.sleep(0)
        chunks = []
        for chunk in overlay.chunks():
            chunks.append(chunk)
            await asyncio.sleep(0)
        return Laid(overlay, tuple(chunks))
