"""A shape's log on disk: what is appended, in whatever portions, is read from any place, also after a crash."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.actors.shapes import logfiles as logfiles_module
from syncline.actors.shapes import segment as segment_module
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.log import END_OF_TRANSACTION, Record
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ShapeStore

SHAPE = Shape("table", "public", "items", 7, ("id",))

# A transaction is the sizes of its records' operations; LSNs rise by the gaps.
TRANSACTIONS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 90), min_size=1, max_size=4)), min_size=1, max_size=14
)
# A portion of a sequence, as a share of it.
SHARE = st.floats(0, 1)


def records_of(transactions: list[tuple[int, list[int]]]) -> list[Record]:
    records: list[Record] = []
    lsn = 100
    for gap, sizes in transactions:
        lsn += gap
        for index, size in enumerate(sizes):
            last = index == len(sizes) - 1
            records.append(Record(lsn, lsn, "postgres_1", index, last, 1, bytes([index]) * size))
    return records


@contextmanager
def directory() -> Iterator[Path]:
    """A place for one store, with limits so small that a few records meet all of them."""
    small = mock.patch.object(logfiles_module, "SEGMENT_BYTES_MAX", 400)
    near = mock.patch.multiple(segment_module, INDEX_EVERY_BYTES=100, INDEX_AGAIN_BYTES=120, READ_WINDOW_BYTES=64)
    with tempfile.TemporaryDirectory() as place, small, near, mock.patch("os.fsync"):
        yield Path(place) / SHAPE.hash


def ready_store(place: Path) -> ShapeStore:
    store = ShapeStore(place, SHAPE)
    store.finish_image(1)
    return store


def reopened(store: ShapeStore) -> ShapeStore:
    store.close()
    loaded = ShapeStore.load(store.directory)
    assert loaded is not None
    return loaded


def read_all(store: ShapeStore, after: tuple[int, int], upto: int, bytes_max: int) -> list[Record]:
    """Page by page."""
    found: list[Record] = []
    while True:
        page = store.read(after, upto, bytes_max)
        found += page.records
        if not page.more:
            return found
        assert page.records, "a page that promises more brings something"
        after = page.records[-1].position


def append_in_portions(store: ShapeStore, records: list[Record], cuts: list[float]) -> None:
    places = sorted({0, len(records), *(int(cut * len(records)) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        store.append(records[start:end])


@settings(max_examples=60)
@given(TRANSACTIONS, st.lists(SHARE, max_size=4), SHARE, SHARE, st.integers(1, 300), st.booleans())
def test_what_is_appended_is_read_from_any_place_in_pages_of_any_size(
    transactions: list[tuple[int, list[int]]], cuts: list[float], start: float, end: float, page: int, reload: bool
) -> None:
    records = records_of(transactions)
    first, last = (records[min(len(records) - 1, int(share * len(records)))] for share in (start, end))
    with directory() as place:
        store = ready_store(place)
        append_in_portions(store, records, cuts)
        if reload:
            store = reopened(store)
        assert store.appended_lsn == records[-1].lsn
        wanted = [record for record in records if record.position > first.position and record.lsn <= last.lsn]
        assert read_all(store, first.position, last.lsn, page) == wanted
        wanted = [record for record in records if first.lsn < record.lsn <= last.lsn]
        assert read_all(store, (first.lsn, END_OF_TRANSACTION), last.lsn, page) == wanted
        assert list(store.records(first.lsn, last.lsn)) == wanted
        store.close()


@settings(max_examples=60)
@given(TRANSACTIONS, SHARE, SHARE)
def test_a_torn_tail_costs_nothing_but_what_the_stream_sends_again(
    transactions: list[tuple[int, list[int]]], torn: float, again: float
) -> None:
    records = records_of(transactions)
    with directory() as place:
        store = ready_store(place)
        store.append(records)
        store.close()
        newest = max(place.glob("log-*"))
        size = newest.stat().st_size
        with newest.open("r+b") as file:
            file.truncate(int(torn * size))
        loaded = ShapeStore.load(place)
        assert loaded is not None
        kept = [record for record in records if record.lsn <= loaded.appended_lsn]
        assert read_all(loaded, (0, 0), records[-1].lsn, 1 << 20) == kept
        # The stream begins anywhere at or before the first transaction that is missing.
        starts = sorted({record.lsn for record in records if record.lsn <= loaded.appended_lsn} | {0})
        start = starts[min(len(starts) - 1, int(again * len(starts)))]
        loaded.append([record for record in records if record.lsn > start])
        assert read_all(loaded, (0, 0), records[-1].lsn, 1 << 20) == records
        loaded = reopened(loaded)
        assert read_all(loaded, (0, 0), records[-1].lsn, 1 << 20) == records
        loaded.close()


@settings(max_examples=60)
@given(TRANSACTIONS, SHARE, st.booleans(), st.booleans())
def test_a_transaction_that_is_cut_off_and_begins_again_is_there_once(
    transactions: list[tuple[int, list[int]]], cut: float, reload: bool, discard: bool
) -> None:
    records = records_of(transactions)
    place_of_cut = int(cut * len(records))
    done = max((record.lsn for record in records[:place_of_cut] if record.last), default=0)
    with directory() as place:
        store = ready_store(place)
        store.append(records[:place_of_cut])
        if reload:
            store = reopened(store)
        elif discard:
            store.discard_unfinished()
        assert store.appended_lsn == done
        store.append([record for record in records if record.lsn > done])
        assert read_all(store, (0, 0), records[-1].lsn, 1 << 20) == records
        store.close()


@settings(max_examples=60)
@given(TRANSACTIONS, st.lists(SHARE, max_size=6), st.sets(st.integers(0, 5)), SHARE)
def test_a_log_taken_in_by_its_indexes_is_the_log_that_was_read_whole(
    transactions: list[tuple[int, list[int]]], flushes: list[float], lost: set[int], discarded: float
) -> None:
    records = records_of(transactions)
    with directory() as place:
        store = ready_store(place)
        places = sorted({0, len(records), *(int(cut * len(records)) for cut in flushes)})
        for start, end in itertools.pairwise(places):
            store.append(records[start:end])
            store.flush()
            if discarded < start / len(records):
                store.discard_unfinished()  # and what was of it comes again
                store.append([record for record in records[:end] if record.lsn > store.appended_lsn])
        store.close()
        for number in lost:
            (place / f"index-{number:06d}").unlink(missing_ok=True)
        known = taken_in(place)
        for index in place.glob("index-*"):
            index.unlink()
        assert known == taken_in(place)
        assert known[1] == records


def taken_in(place: Path) -> tuple[object, ...]:
    """Everything a start learns of a log."""
    store = ShapeStore.load(place)
    assert store is not None
    pages = [tuple(store.read(record.position, record.lsn, 200).records) for record in store.records(0, 1 << 60)]
    sizes = [(segment.size, segment._places, segment.whole_lsn, segment.unfinished) for segment in store._log._segments]
    found = store.appended_lsn, list(store.records(0, 1 << 60)), store._log.whole_bytes, pages, sizes
    store.close()
    return found


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=30)), max_size=4), max_size=6))
def test_an_image_comes_back_in_the_chunks_it_was_written_in(chunks: list[list[tuple[bytes, bytes]]]) -> None:
    written = [ImageChunk(tuple(k for k, _ in chunk), tuple(op for _, op in chunk)) for chunk in chunks]
    with directory() as place:
        store = ShapeStore(place, SHAPE)
        store.write_image_chunk(ImageChunk((b"never finished",), (b"",)))
        store.restart_image()
        for chunk in written:
            store.write_image_chunk(chunk)
        assert ShapeStore.load(place) is None, "an image counts once it is finished"
        store.finish_image(5)
        loaded = reopened(store)
        assert (loaded.ready_lsn, loaded.image_rows) == (5, sum(len(chunk) for chunk in chunks))
        read: list[ImageChunk] = []
        cursor = 0
        while True:
            found, cursor = loaded.image_at(5).read(cursor)
            if found is None:
                break
            read.append(found)
        assert read == written
        loaded.close()
