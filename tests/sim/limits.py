"""The product's limits, made small, so that a run of a few seconds meets every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

SMALL = {
    "syncline.actors.shapes.frames.LIVE_TRANSACTION_BYTES_MAX": 600,
    "syncline.actors.shapes.consumer.LIVE_TRANSACTION_BYTES_MAX": 600,
    "syncline.actors.shapes.consumer.OVERLAYS_MAX": 2,
    "syncline.actors.shapes.image.OVERLAY_CHUNK_ROWS": 3,
    "syncline.actors.shapes.store.SEGMENT_BYTES_MAX": 4_000,
    "syncline.actors.shapes.store.INDEX_EVERY_BYTES": 500,
    "syncline.actors.shapes.store.READ_WINDOW_BYTES": 300,
    "syncline.actors.devices.logreader.PAGE_BYTES": 400,
    "syncline.actors.devices.outbound.LIVE_BYTES_MAX": 1_500,
    "syncline.actors.devices.outbound.MESSAGE_BYTES": 500,
    "syncline.actors.devices.device.WINDOW_TRANSACTIONS": 5,
    "syncline.actors.devices.device.FRAMES_WAITING_MAX": 3,
    "syncline.actors.devices.device.WRITES_OUT_MAX": 3,
    "syncline.actors.devices.device.UP_WAITING_MAX": 4,
    "syncline.client.connection.BACKLOG_ENTRIES": 4,
}


@contextmanager
def small() -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in SMALL.items():
            stack.enter_context(mock.patch(name, value))
        yield
