"""Those who read the rows and the log of one shape: who has to wait is answered later. A long log is folded beside it
all, and then packed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from syncline.actors.shapes.finalpages import FinalPages
from syncline.actors.shapes.image import THE_END, ImageChunk, Relations
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.logfiles import GenerationGone
from syncline.actors.shapes.messages import ReadPage
from syncline.actors.shapes.projection import Narrowing
from syncline.actors.shapes.rows import Reading, Rows, RowsGone
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster.cell import Reply

log = logging.getLogger(__name__)

Background = Callable[[Coroutine[Any, Any, None]], object]
Safe = Callable[[], Awaitable[int]]

# Files of a log that has a new beginning stay until nobody has read of them for that long.
UNREAD_S = 300.0


class Readers:
    """Works for a shape's actor, by whose ``background`` it does what takes long. ``safe_upto``: nobody reads at a
    position below. ``packed``: called with the LSN up to which the log has just become final."""

    def __init__(
        self,
        store: ShapeStore,
        relations: Relations,
        narrowing: Narrowing,
        background: Background,
        safe_upto: Safe,
        packed: Callable[[int], object],
    ) -> None:
        self._narrowing = narrowing
        self.rows = Rows(store, relations)
        self._finals = FinalPages(store, relations)
        self._store = store
        self._background = background
        self._safe_upto = safe_upto
        self._packed = packed
        self._asked: dict[Reading, list[tuple[int, bool, Reply]]] = {}  # those who wait for what is being made
        self._pages_asked: list[tuple[ReadPage, Reply]] = []
        self._answering = self._paging = self._folding = self._dropping = False

    def ask(self, lsn: int, cursor: int, defer: Callable[[], Reply], *, whole: bool) -> object:
        """The answer to ``ReadRows``, at once or by ``defer``. Raises RowsGone."""
        if cursor == THE_END:
            return None, THE_END
        reading = self.rows.reading(lsn, cursor)
        if self.rows.ready(reading):
            return self._read(reading, cursor, whole=whole)
        answer = defer()
        self._asked.setdefault(reading, []).append((cursor, whole, answer))
        if not self._answering:
            self._answering = True
            self._background(self._answer())
        return answer

    def page(self, ask: ReadPage, defer: Callable[[], Reply]) -> object:
        """The answer, at once or by ``defer``. Raises GenerationGone."""
        if not self._finals.needed(ask):
            return self._narrowed(self._store.read(ask.after, ask.upto, ask.bytes_max, ask.generation))
        answer = defer()
        self._pages_asked.append((ask, answer))
        if not self._paging:
            self._paging = True
            self._background(self._final_pages())
        return answer

    def fold_if_due(self) -> None:
        """Begin a new image if the log has grown long."""
        if not self._folding and self._store.fold_due:
            self._folding = True
            self._background(self._fold())

    def _narrowed(self, page: Page) -> Page:
        return replace(page, records=tuple(self._narrowing.records(page.records))) if self._narrowing else page

    def _read(self, reading: Reading, cursor: int, *, whole: bool) -> tuple[ImageChunk | None, int]:
        chunk, following = self.rows.read(reading, cursor)
        if chunk is None or whole or not self._narrowing:
            return chunk, following
        return self._narrowing.chunk(chunk), following

    async def _answer(self) -> None:
        """Those who asked, the earliest position first: the others begin with what was made for it."""
        while self._asked:
            reading = min(self._asked)
            with contextlib.suppress(RowsGone):  # reading says so too
                await self.rows.make(reading)
            for cursor, whole, answer in self._asked.pop(reading):
                try:
                    answer.set(self._read(reading, cursor, whole=whole))
                except RowsGone as gone:
                    answer.refuse(gone)
                await asyncio.sleep(0)
        self._answering = False

    async def _fold(self) -> None:
        shape = self._store.shape
        try:
            await self.rows.fold()
        except OSError as error:
            log.warning("no new image of %s could be written, the old one stays: %s", shape.table, error)
        else:
            log.info("new image of %s.%s: %d rows", shape.schema, shape.table, self._store.image_rows)
            await self._pack()
        self._folding = False
        self.fold_if_due()

    async def _pack(self) -> None:
        """What the new image covers of the log, unless a device may still be told of what happened there."""
        packing = self._store.begin_packing()
        if packing is None or await self._safe_upto() < packing.packed.lsn:
            return
        shape, before = self._store.shape, self._store.log_bytes
        try:
            await self._finals.pack(packing)
        except OSError as error:
            log.warning("the log of %s could not be packed, it stays as it is: %s", shape.table, error)
            return
        log.info("log of %s.%s packed: %d bytes of %d", shape.schema, shape.table, self._store.log_bytes, before)
        self._packed(packing.packed.lsn)
        if not self._dropping:
            self._dropping = True
            self._background(self._drop_unread())

    async def _drop_unread(self) -> None:
        waiting = self._store.drop_unread()
        while waiting:
            await asyncio.sleep(UNREAD_S)
            waiting = self._store.drop_unread()
        self._dropping = False

    async def _final_pages(self) -> None:
        while self._pages_asked:
            ask, answer = self._pages_asked.pop(0)
            try:
                answer.set(self._narrowed(await self._finals.page(ask)))
            except GenerationGone as gone:
                answer.refuse(gone)
        self._paging = False
