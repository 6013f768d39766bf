"""Chunks of images as devices are sent them, kept for a moment: those who ask for the same shape at the same time go
through it at much the same pace, and a host asks its actor for each chunk once.

A chunk of a shape at a position never changes. What nobody has asked for during ``KEPT_S`` is let go.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TypeAlias

from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.messages import ReadRows
from syncline.cluster import Ref

IMAGE_TIMEOUT_S = 60.0
KEPT_S = 2.0
KEPT_BYTES_MAX = 16 << 20
ROW_BYTES = 100  # what a row takes beside its bytes

Answer: TypeAlias = tuple[ImageChunk | None, int]
"""Some rows, None after the last, and the next cursor."""
_Asked: TypeAlias = tuple[Ref, int, int, bool]


class Images:
    """Of all devices of a host."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Asked, Answer] = OrderedDict()  # what was not asked for for longest is first
        self._bytes = 0
        self._recent: set[_Asked] = set()  # asked for since others were let go
        self._asking: SharedAnswers[Answer] = SharedAnswers()
        self._letting_go = False  # it will, later

    async def read(self, shape: Ref, lsn: int, cursor: int, *, whole: bool = False) -> Answer:
        """What ``shape`` answers to ``ReadRows(lsn, cursor, whole)``. Raises what the call raises."""
        asked = (shape, lsn, cursor, whole)
        answer = self._kept.get(asked)
        if answer is None:
            answer = await self._asking.answer(asked, lambda: self._ask(asked))
        if asked in self._kept:
            self._kept.move_to_end(asked)
            self._recent.add(asked)
        return answer

    async def _ask(self, asked: _Asked) -> Answer:
        shape, lsn, cursor, whole = asked
        answer: Answer = await shape.call(ReadRows(lsn, cursor, whole), IMAGE_TIMEOUT_S)
        self._kept[asked] = answer
        self._bytes += _size(answer)
        while self._bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))
        self._let_go_later()
        return answer

    def _let_go_later(self) -> None:
        if not self._letting_go:
            self._letting_go = True
            asyncio.get_running_loop().call_later(KEPT_S, self._let_go)

    def _let_go(self) -> None:
        for asked in self._kept.keys() - self._recent:
            self._drop(asked)
        self._recent.clear()
        self._letting_go = False
        if self._kept:
            self._let_go_later()

    def _drop(self, asked: _Asked) -> None:
        self._bytes -= _size(self._kept.pop(asked))
        self._recent.discard(asked)


def _size(answer: Answer) -> int:
    chunk, _ = answer
    if chunk is None:
        return ROW_BYTES
    return sum(map(len, chunk.keys)) + sum(map(len, chunk.ops)) + ROW_BYTES * len(chunk.keys)
