"""Reads the logs of several shapes as one stream of frames, a page at a time."""

from __future__ import annotations

from dataclasses import replace

from syncline.actors.devices.holders import Holders, any_holds
from syncline.actors.devices.layers import Layers
from syncline.actors.devices.overlaps import holding, keeping, leaving_rows, shared
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.devices.steps import AnyHolds, Shapes
from syncline.actors.shapes.frames import Frame
from syncline.actors.shapes.log import Page, Record
from syncline.actors.shapes.logmerge import LogMerge
from syncline.actors.shapes.messages import ReadPage
from syncline.cluster import Refusal

PAGE_BYTES = 256 << 10
PAGE_TIMEOUT_S = 60.0


class TooFarBack(Refusal):
    """The logs have been packed beyond what is asked for: whoever asks has to begin anew."""


class LogReader:
    """The frames of ``shapes`` after LSN ``after`` up to ``upto``. ``asked``: what all devices of a host read: those
    that come back together stand at the same few positions.

    What is read are the files that there are when it begins, whatever is done with the logs meanwhile."""

    def __init__(self, holders: Holders, shapes: Shapes, after: int, upto: int, asked: SharedAnswers[Page]) -> None:
        self._holders = holders
        self._refs = holders.refs(shapes)
        self._shapes = shapes
        self._layers = Layers(shapes)
        self._asked = asked
        self._generations: dict[str, int] = {}
        migrating = [shape for shape, of_shape in shapes.items() if not of_shape]
        self._merge = LogMerge(shapes, after, upto, relations=shared(shapes), migrating=migrating)

    async def read(self) -> tuple[tuple[Frame, ...], bool]:
        """Some frames, at least one unless it is done: (frames, done). Raises ActorDown when a shape has crashed, and
        Refusal when it has to be begun anew."""
        frames: tuple[Frame, ...] = ()
        if not self._generations:
            await self._begin()
            frames = tuple(self._merge.frames())
        while not frames and not self._merge.done:
            for shape, position in self._merge.wanted():
                self._merge.feed(shape, await self._kept(shape, await self._page(shape, position)))
            frames = tuple(self._merge.frames())
        return frames, self._merge.done

    async def _begin(self) -> None:
        """The first pages tell up to where logs have only final operations, or are to be given as one transaction. Up
        to there the others are to have final operations, too."""
        merge = self._merge
        pages = {shape: await self._page(shape, position) for shape, position in merge.wanted()}
        final_upto = max(max(page.final_lsn, page.whole_upto) for page in pages.values())
        if final_upto > merge.upto or any(page.final_lsn and page.since > merge.after for page in pages.values()):
            raise TooFarBack(f"what changed between {merge.after} and {merge.upto} is no longer known")
        self._generations = {shape: page.generation for shape, page in pages.items()}
        merge.make_final(final_upto)
        for shape, position in merge.wanted():
            page = pages[shape]
            if page.final_lsn < merge.final_upto and merge.after < merge.final_upto and self._shapes[shape]:
                page = await self._page(shape, position)
            merge.feed(shape, await self._kept(shape, page))

    async def _page(self, shape: str, position: tuple[int, int]) -> Page:
        ref, upto = self._refs[shape], self._merge.upto
        question = ReadPage(position, upto, PAGE_BYTES, self._generations.get(shape), self._merge.final_upto)

        async def ask() -> Page:
            page = await ref.call(question, PAGE_TIMEOUT_S)
            assert isinstance(page, Page)
            return page

        return await self._asked.answer((ref, question), ask)

    async def _kept(self, shape: str, page: Page) -> Page:
        """``page`` without what it says of rows that leave ``shape`` and that another of the device's shapes holds."""
        if not any(record.gone for record in page.records) or not self._layers.share(self._shapes[shape], shape):
            return page
        final_upto = self._merge.final_upto
        others = self._layers.holders(self._shapes[shape])

        async def ask() -> Page:
            return replace(page, records=tuple([await self._staying(record, shape) for record in page.records]))

        first = page.records[0].position
        key = (self._refs[shape], first, self._merge.upto, page.generation, final_upto, others)
        return await self._asked.answer(key, ask)

    async def _staying(self, record: Record, shape: str) -> Record:
        """A row that leaves ``shape`` and that another one holds stays."""
        if not record.gone:
            return record
        rows = leaving_rows(record)
        # In a final stretch it counts who holds a row at its end.
        at = max(record.lsn, self._merge.final_upto)
        asking = holding(self._layers, at, [(insert.relation_id, insert.row) for insert in rows], shape)
        answer: object = None
        while True:
            try:
                step = asking.send(answer)
            except StopIteration as end:
                return keeping(record, rows, end.value, self._shapes[shape])
            assert isinstance(step, AnyHolds)
            answer = await any_holds(self._holders, step.shapes, step.lsn, step.rows, step.but)
