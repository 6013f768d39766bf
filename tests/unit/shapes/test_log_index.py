"""A start reads what stands beside a log, and the log only where that says nothing, or nothing true."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.shapes.shape_scene import SHAPE

from syncline.actors.shapes import segment as segment_module
from syncline.actors.shapes.index import Index, decode_index, encode_index
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.store import ShapeStore

TRANSACTIONS, BYTES = 60, 1_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.shapes.logfiles.SEGMENT_BYTES_MAX", 10_000)
    monkeypatch.setattr(segment_module, "INDEX_AGAIN_BYTES", 3_000)
    monkeypatch.setattr(segment_module, "INDEX_EVERY_BYTES", 2_000)


def record(lsn: int, index: int = 0, last: bool = True, size: int = BYTES) -> Record:
    return Record(lsn, lsn, "postgres_1", index, last, 1, bytes([lsn % 251]) * size)


def written(directory: Path) -> ShapeStore:
    store = ShapeStore(directory, SHAPE)
    store.finish_image(1)
    for lsn in range(100, 100 + TRANSACTIONS):
        store.append([record(lsn)])
    store.flush()
    return store


def loaded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ShapeStore, int]:
    """The store, and how many records were looked at for it."""
    scanned: list[object] = []
    with monkeypatch.context() as patch:
        scan = segment_module.scan
        patch.setattr(segment_module, "scan", lambda data: (scanned.append(found) or found for found in scan(data)))
        store = ShapeStore.load(directory)
    assert store is not None
    return store, len(scanned)


def lsns(store: ShapeStore) -> list[int]:
    return [found.lsn for found in store.records(0, 1 << 60)]


def write_and_wait(directory: Path, ready: multiprocessing.synchronize.Event) -> None:
    store = written(directory)
    store.append([record(500, last=False)])
    ready.set()
    signal.pause()


def test_a_start_after_a_kill_reads_only_what_was_appended_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=write_and_wait, args=(tmp_path / "shape", ready))
    process.start()
    ready.wait()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store, scanned = loaded(tmp_path / "shape", monkeypatch)
    assert scanned < 6
    assert store.appended_lsn == 99 + TRANSACTIONS
    assert lsns(store) == list(range(100, 100 + TRANSACTIONS))
    store.close()


def torn(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def emptied(index: Path) -> None:
    os.truncate(index, 0)


def flipped(index: Path) -> None:
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)


def of_another_size(index: Path) -> None:
    found = decode_index(index.read_bytes())
    assert found is not None
    index.write_bytes(encode_index(Index(found.size + 1_000_000, *encoded_rest(found))))


def of_a_size_within_a_record(index: Path) -> None:
    found = decode_index(index.read_bytes())
    assert found is not None
    index.write_bytes(encode_index(Index(found.size - 7, *encoded_rest(found))))


def encoded_rest(index: Index) -> tuple[int, bytes, int, int | None, tuple[tuple[int, int, int], ...]]:
    return index.last, index.head, index.whole_lsn, index.unfinished, index.places


def of_another_segment(index: Path) -> None:
    index.write_bytes(index.with_name("index-000002").read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        torn,
        flipped,
        of_another_size,
        of_a_size_within_a_record,
        of_another_segment,
        Path.unlink,
        emptied,
    ],
)
def test_an_index_that_is_not_true_of_its_segment_counts_for_nothing_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    written(tmp_path / "shape").close()
    spoil(tmp_path / "shape" / "index-000001")
    store, scanned = loaded(tmp_path / "shape", monkeypatch)
    assert 5 < scanned < 20, "that segment was read, and no other"
    assert lsns(store) == list(range(100, 100 + TRANSACTIONS))
    store.close()
    store, scanned = loaded(tmp_path / "shape", monkeypatch)
    assert scanned < 6
    store.close()


def test_no_index_outlives_what_it_speaks_of_when_a_long_transaction_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path / "shape")
    store.append([record(500, index, last=False) for index in range(30)])
    late = store.flushing()
    store.flush()
    store.append([record(500, 0, last=False, size=700)])
    late()
    store.append([record(500, index, index == 29, size=700) for index in range(1, 30)])
    store.close()
    store, _ = loaded(tmp_path / "shape", monkeypatch)
    assert lsns(store) == [*range(100, 100 + TRANSACTIONS), *([500] * 30)]
    page = store.read((500, 20), 500, 1 << 20)
    assert [found.index for found in page.records] == list(range(21, 30))
    store.close()


def test_nothing_is_written_beside_a_log_that_was_closed(tmp_path: Path) -> None:
    store = ShapeStore(tmp_path / "shape", SHAPE)
    store.finish_image(1)
    for lsn in range(100, 150):
        store.append([record(lsn)])
    late = store.flushing()
    store.close()
    late()
    assert not list((tmp_path / "shape").glob("index-*"))


def test_a_log_damaged_where_it_was_on_the_disk_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    written(tmp_path / "shape").close()
    with (tmp_path / "shape" / "log-000001").open("r+b") as file:
        file.seek(4_000)
        file.write(b"damage")
    store = ShapeStore.load(tmp_path / "shape")
    assert store is not None, "nobody has looked yet"
    with pytest.raises(OSError, match="damaged at byte"):
        lsns(store)
    store.close()
    assert ShapeStore.load(tmp_path / "shape") is None


def test_a_fold_leaves_what_of_an_unfinished_transaction_was_there_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.shapes.store.FOLD_BYTES_MIN", 5_000)
    store = written(tmp_path / "shape")
    store.append([record(500, index, last=False) for index in range(20)])
    image = store.begin_fold()
    store.finishing(image)()
    store.finished(image)
    assert not store.fold_due, "nothing whole has come since"
    store.append([record(500, 20)])
    assert store.fold_due
    store.close()
    reloaded = ShapeStore.load(tmp_path / "shape")
    assert reloaded is not None
    assert reloaded.fold_due
    reloaded.close()


def test_what_was_discarded_of_a_transaction_makes_no_fold_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.shapes.store.FOLD_BYTES_MIN", 5_000)
    store = ShapeStore(tmp_path / "shape", SHAPE)
    store.finish_image(1)
    for _ in range(10):
        store.append([record(500, last=False)])
        store.discard_unfinished()
    store.append([record(500)])
    assert not store.fold_due
    store.close()


def test_a_log_of_which_the_end_was_cut_off_is_read_again_whatever_its_index_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished transaction is dropped when its like begins anew; the log may be written out at that moment."""
    directory = tmp_path / "shape"
    store = ShapeStore(directory, SHAPE)
    store.finish_image(1)
    for lsn in range(100, 104):
        store.append([record(lsn)])
    store.append([record(200, last=False)])
    store.append([record(200, last=False)])  # the stream was cut, and begins the transaction again
    store.flush()
    segment = store._log._segments[-1]
    monkeypatch.setattr(segment_module, "INDEX_AGAIN_BYTES", 1)
    store._log._truncate((segment, segment._last))
    write = segment.indexing()
    if write is not None:
        write()
    store.close()
    again = ShapeStore.load(directory)
    assert again is not None
    assert [lsn for lsn in lsns(again) if lsn < 200] == list(range(100, 104))
    again.close()
