"""Chunks of images that many devices read: asked once, whoever is first, and kept no longer than they are of use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from syncline.actors.devices import images
from syncline.actors.devices.images import Images
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.messages import ReadRows
from syncline.actors.shapes.rows import RowsGone
from syncline.cluster.clock import VirtualClock
from syncline.cluster.testing import Probe, run_virtual, spawn


def chunk(size: int = 10) -> ImageChunk:
    return ImageChunk((b"key",), (bytes(size),))


class Shape:
    """Answers with chunks of ``size`` bytes, two of them, and notes what it is asked."""

    def __init__(self, size: int = 10) -> None:
        self.asked: list[ReadRows] = []
        self.refusing = False
        self._size = size

    def __call__(self, message: Any) -> object:
        assert isinstance(message, ReadRows)
        self.asked.append(message)
        if self.refusing:
            raise RowsGone("read anew")
        return (None, message.cursor) if message.cursor == 2 else (chunk(self._size), message.cursor + 1)


async def read_through(shared: Images, ref: Any, lsn: int = 100) -> int:
    """How many chunks there are."""
    cursor = chunks = 0
    while True:
        found, cursor = await shared.read(ref, lsn, cursor)
        if found is None:
            return chunks
        chunks += 1


async def test_devices_beside_each_other_and_those_behind_them_ask_once_for_all() -> None:
    shape, shared = Shape(), Images()
    ref = await spawn(Probe(shape))
    assert await asyncio.gather(*(read_through(shared, ref) for _ in range(5))) == [2] * 5
    assert await read_through(shared, ref) == 2
    assert len(shape.asked) == 3
    await read_through(shared, ref, lsn=101)
    assert len(shape.asked) == 6


async def test_of_a_large_image_the_part_is_kept_that_was_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "KEPT_BYTES_MAX", 1_500)
    shape, shared = Shape(size=1_000), Images()
    ref = await spawn(Probe(shape))
    await read_through(shared, ref)
    await shared.read(ref, 100, 1)
    assert [asked.cursor for asked in shape.asked] == [0, 1, 2]
    await shared.read(ref, 100, 0)
    assert [asked.cursor for asked in shape.asked] == [0, 1, 2, 0]


def test_what_nobody_reads_any_more_is_let_go() -> None:
    async def scene(clock: VirtualClock) -> None:
        shape, shared = Shape(), Images()
        ref = await spawn(Probe(shape))
        for _ in range(4):  # as long as somebody reads
            await read_through(shared, ref)
            await asyncio.sleep(images.KEPT_S * 0.6)  # virtual time: nobody waits
        assert len(shape.asked) == 3
        await asyncio.sleep(images.KEPT_S * 3)  # virtual time
        await read_through(shared, ref)
        assert len(shape.asked) == 6

    run_virtual(scene)


async def test_a_refusal_is_everybodys_and_is_not_kept() -> None:
    shape, shared = Shape(), Images()
    ref = await spawn(Probe(shape))
    shape.refusing = True
    refused = await asyncio.gather(*(shared.read(ref, 100, 0) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in refused] == [RowsGone] * 3
    shape.refusing = False
    assert await read_through(shared, ref) == 2
