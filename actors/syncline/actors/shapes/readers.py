"""Those who read the rows of one shape: who has to wait is answered later, and a long log is folded beside it all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from syncline.actors.shapes.image import Relations
from syncline.actors.shapes.rows import Reading, Rows, RowsGone
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster.cell import Reply

log = logging.getLogger(__name__)

Background = Callable[[Coroutine[Any, Any, None]], object]


class Readers:
    """Works for a shape's actor, by whose ``background`` it does what takes long."""

    def __init__(self, store: ShapeStore, relations: Relations, background: Background) -> None:
        self.rows = Rows(store, relations)
        self._store = store
        self._background = background
        self._asked: dict[Reading, list[tuple[int, Reply]]] = {}  # those who wait for what is being made
        self._answering = self._folding = False

    def ask(self, lsn: int, cursor: int, defer: Callable[[], Reply]) -> object:
        """The answer to ``ReadRows``, at once or by ``defer``. Raises RowsGone."""
        reading = self.rows.reading(lsn, cursor)
        if self.rows.ready(reading):
            return self.rows.read(reading, cursor)
        answer = defer()
        self._asked.setdefault(reading, []).append((cursor, answer))
        if not self._answering:
            self._answering = True
            self._background(self._answer())
        return answer

    def fold_if_due(self) -> None:
        """Begin a new image if the log has grown long."""
        if not self._folding and self._store.fold_due:
            self._folding = True
            self._background(self._fold())

    async def _answer(self) -> None:
        """Those who asked, the earliest position first: the others begin with what was made for it."""
        while self._asked:
            reading = min(self._asked)
            with contextlib.suppress(RowsGone):  # reading says so too
                await self.rows.make(reading)
            for cursor, answer in self._asked.pop(reading):
                try:
                    answer.set(self.rows.read(reading, cursor))
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
        self._folding = False
        self.fold_if_due()
