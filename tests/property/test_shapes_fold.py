"""Images folded from an image and the log: wherever that was done, the rows at every position are what they were."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_shapes_image import HISTORY, ITEMS, Rows, image_of, played, rows_of

from syncline.actors.shapes import image as image_module
from syncline.actors.shapes import rows as rows_module
from syncline.actors.shapes.image import THE_END, ImageChunk
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ShapeStore

SHAPE = Shape("table", "public", "items", ITEMS.id, ITEMS.names)


async def rows_at(rows: rows_module.Rows, lsn: int) -> Rows:
    """As a device reads them."""
    reading = rows.reading(lsn, 0)
    await rows.make(reading)
    chunks: list[ImageChunk] = []
    cursor = 0
    while cursor != THE_END:
        chunk, cursor = rows.read(rows.reading(lsn, cursor), cursor)
        if chunk is not None:
            chunks.append(chunk)
    return rows_of(chunks)


@settings(max_examples=60, deadline=None)
@given(HISTORY, st.integers(0, 4), st.sets(st.integers(0, 12), max_size=5), st.integers(1, 3), st.booleans())
def test_rows_at_every_position_are_what_the_table_held_wherever_images_were_folded(
    transactions: list[list[tuple[bytes, bytes | None]] | None],
    snapshot: int,
    folds: set[int],
    chunk: int,
    reload: bool,
) -> None:
    log, states = played(transactions)
    snapshot = min(snapshot, len(log))

    async def go(place: Path) -> None:
        store = ShapeStore(place, SHAPE)
        for part in image_of(states[snapshot], chunk):
            store.write_image_chunk(part)
        store.finish_image(snapshot)
        rows = rows_module.Rows(store, {ITEMS.id: ITEMS})
        for record in log:
            store.append([record])
            if record.lsn in folds and record.lsn > snapshot:
                await rows.fold()
                assert store.image_at(record.lsn).lsn == record.lsn
        if reload:
            store.close()
            loaded = ShapeStore.load(place)
            assert loaded is not None
            store, rows = loaded, rows_module.Rows(loaded, {ITEMS.id: ITEMS})
        for lsn in range(snapshot, len(log) + 1):
            assert await rows_at(rows, lsn) == states[lsn]
        store.close()

    small = mock.patch.multiple(rows_module, OVERLAYS_MAX=2, OVERLAY_CHUNK_ROWS=2)
    steps = mock.patch.multiple(image_module, OVERLAY_CHUNK_ROWS=2, STEP_ROWS=2, STEP_COPIED_ROWS=2)
    with tempfile.TemporaryDirectory() as place, small, steps, mock.patch("os.fsync"):
        asyncio.run(go(Path(place) / SHAPE.hash))
