"""Reads the logs of several shapes as one stream of frames, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping

from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.shapes.frames import Frame, LogMerge
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.messages import ReadPage
from syncline.cluster import Ref

PAGE_BYTES = 256 << 10
PAGE_TIMEOUT_S = 60.0


class LogReader:
    """The frames of ``shapes`` (hash -> actor) after LSN ``after`` up to ``upto``. ``asked``: what all devices of a
    host read: those that come back together stand at the same few positions."""

    def __init__(self, shapes: Mapping[str, Ref], after: int, upto: int, asked: SharedAnswers[Page]) -> None:
        self._shapes = shapes
        self._asked = asked
        self._merge = LogMerge(shapes, after, upto)

    async def read(self) -> tuple[tuple[Frame, ...], bool]:
        """Some frames, at least one unless it is done: (frames, done). Raises ActorDown when a shape has crashed."""
        frames: tuple[Frame, ...] = ()
        while not frames and not self._merge.done:
            for shape, position in self._merge.wanted():
                self._merge.feed(shape, await self._page(shape, position))
            frames = tuple(self._merge.frames())
        return frames, self._merge.done

    async def _page(self, shape: str, position: tuple[int, int]) -> Page:
        ref, upto = self._shapes[shape], self._merge.upto

        async def ask() -> Page:
            page = await ref.call(ReadPage(position, upto, PAGE_BYTES), PAGE_TIMEOUT_S)
            assert isinstance(page, Page)
            return page

        return await self._asked.answer((ref, position, upto), ask)
