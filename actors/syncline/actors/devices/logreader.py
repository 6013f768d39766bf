"""Reads the logs of several shapes as one stream of frames, a page at a time."""

from __future__ import annotations

from dataclasses import replace

from syncline.actors.devices.holders import Holders, any_holds
from syncline.actors.devices.overlaps import keeping, leaving_rows, overlap, sharing
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.devices.steps import Shapes
from syncline.actors.shapes.frames import Frame, LogMerge
from syncline.actors.shapes.log import Page, Record
from syncline.actors.shapes.messages import ReadPage

PAGE_BYTES = 256 << 10
PAGE_TIMEOUT_S = 60.0


class LogReader:
    """The frames of ``shapes`` after LSN ``after`` up to ``upto``. ``asked``: what all devices of a host read: those
    that come back together stand at the same few positions."""

    def __init__(self, holders: Holders, shapes: Shapes, after: int, upto: int, asked: SharedAnswers[Page]) -> None:
        self._holders = holders
        self._refs = holders.refs(shapes)
        self._shapes = shapes
        self._asked = asked
        self._merge = LogMerge(shapes, after, upto, overlap=overlap(shapes))

    async def read(self) -> tuple[tuple[Frame, ...], bool]:
        """Some frames, at least one unless it is done: (frames, done). Raises ActorDown when a shape has crashed."""
        frames: tuple[Frame, ...] = ()
        while not frames and not self._merge.done:
            for shape, position in self._merge.wanted():
                self._merge.feed(shape, await self._page(shape, position))
            frames = tuple(self._merge.frames())
        return frames, self._merge.done

    async def _page(self, shape: str, position: tuple[int, int]) -> Page:
        ref, upto = self._refs[shape], self._merge.upto
        others = sharing({other: its for other, its in self._shapes.items() if other != shape}, self._shapes[shape])

        async def ask() -> Page:
            page = await ref.call(ReadPage(position, upto, PAGE_BYTES), PAGE_TIMEOUT_S)
            assert isinstance(page, Page)
            if not others or not any(record.gone for record in page.records):
                return page
            return replace(page, records=tuple([await self._kept(record, shape, others) for record in page.records]))

        return await self._asked.answer((ref, position, upto, frozenset(others)), ask)

    async def _kept(self, record: Record, shape: str, others: Shapes) -> Record:
        """A row that leaves ``shape`` and that one of the ``others`` holds stays."""
        if not record.gone:
            return record
        rows = leaving_rows(record)
        held = await any_holds(self._holders, others, record.lsn, rows)
        kept = [row for row, holds in zip(rows, held, strict=True) if holds]
        return keeping(record, kept, self._shapes[shape])
