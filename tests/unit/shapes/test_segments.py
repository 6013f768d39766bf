"""A log of any size, in files of bounded size, read in bounded memory and from near the place that is wanted."""

from __future__ import annotations

import stat
import tracemalloc
from pathlib import Path

import pytest
from tests.unit.shapes.shape_scene import SHAPE
from tests.unit.shapes.test_consumer import image_chunk

from syncline.actors.shapes import segment as segment_module
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.store import ShapeStore

PIECES, PIECE_BYTES = 2_000, 4_000


@pytest.fixture
def store(tmp_path: Path) -> ShapeStore:
    """A log that holds one large transaction and a small one."""
    store = ShapeStore(tmp_path / "shape", SHAPE)
    store.write_image_chunk(image_chunk(1, 2))
    store.finish_image(1)
    for index in range(PIECES):
        store.append([Record(100, 100, "postgres_1", index, index == PIECES - 1, 1, bytes(PIECE_BYTES))])
    store.append([Record(200, 200, "postgres_1", 0, True, 1, b"")])
    return store


def test_a_log_is_taken_in_without_being_held_in_memory(store: ShapeStore) -> None:
    store.close()
    tracemalloc.start()
    loaded = ShapeStore.load(store.directory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded is not None
    assert loaded.appended_lsn == 200
    assert peak < PIECES * PIECE_BYTES / 4
    loaded.close()


@pytest.mark.parametrize("reload", [False, True])
def test_a_page_from_within_a_large_transaction_is_read_from_near_its_place(
    store: ShapeStore, monkeypatch: pytest.MonkeyPatch, reload: bool
) -> None:
    if reload:
        store.close()
        loaded = ShapeStore.load(store.directory)
        assert loaded is not None
        store = loaded
    scanned, scan = [], segment_module.scan
    monkeypatch.setattr(segment_module, "scan", lambda data: (scanned.append(found) or found for found in scan(data)))
    page = store.read((100, PIECES - 10), 200, 1 << 20)
    assert [record.position for record in page.records] == [
        *((100, index) for index in range(PIECES - 9, PIECES)),
        (200, 0),
    ]
    assert len(scanned) < 100
    store.close()


def test_a_large_transaction_goes_on_in_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.shapes.logfiles.SEGMENT_BYTES_MAX", 10_000)
    store = ShapeStore(tmp_path / "shape", SHAPE)
    store.finish_image(1)
    for index in range(20):
        store.append([Record(100, 100, "postgres_1", index, False, 1, bytes(1_000))])
    assert max(path.stat().st_size for path in store.directory.glob("log-*")) < 12_000
    store.discard_unfinished()
    store.append([Record(100, 100, "postgres_1", 0, True, 1, b"")])
    assert [record.index for record in store.records(0, 100)] == [0]
    assert len(list(store.directory.glob("log-*"))) == 1
    store.close()


def test_nobody_else_can_read_what_a_shape_keeps(store: ShapeStore) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.directory.iterdir()} == {0o600}
    assert len(list(store.directory.iterdir())) == 3
