"""One shape on disk: images at known positions and the log of everything after the first.

    <dir>/shape.json        the shape, its ready position and its images; written last, so its presence means "ready"
    <dir>/image             the rows of the snapshot
    <dir>/image-<n>         the rows at a later position: an earlier image and the log up to there, folded into one
    <dir>/log-<n>           segments of the log; the next one begins once one is full, within a transaction if need be
    <dir>/index-<n>         what that segment holds, so that a start need not read it; every one of them may be missing

The snapshot and the log overlap on purpose: the log starts where the router began to send us changes, before the
snapshot was taken. For every key the newest version in the log is the truth, and the image is the truth for keys the
log does not mention, from the ready position on. A folded image is exact: the log counts from its position on.

Appends go to the page cache at once and to the disk at ``flush``; after a kill of the process nothing is lost, after a
loss of the machine the slot sends again what was not flushed. An image counts once ``shape.json`` names it, and is
named once it and the log up to its position are on the disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from syncline.actors.shapes.disk import private, replace_file, sync_file
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.imagefile import Image
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record, encode_record
from syncline.actors.shapes.segment import Damaged, Segment
from syncline.actors.shapes.shape import Shape

log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 64 << 20
# A new image is written when the log since the last one is larger than this, and than that share of it: so who comes
# new waits for no more of the log than that, and a table is written about as often as so much of it has changed.
FOLD_BYTES_MIN = 16 << 20
FOLD_SHARE = 1 / 4
FOLDS_KEPT = 2
FORMAT = 2


class ShapeStore:
    """The files of one shape. Not thread-safe, except for what ``flushing`` returns.

    ``appended_lsn``: the newest transaction that is whole in the log (0: none).
    """

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        self.shape = shape
        self.appended_lsn = 0
        self._snapshot = Image(directory, 0)  # being written, until it is the first of the images
        self._images: list[Image] = []
        # Of the log: all of it; what ends with the newest whole transaction; of that, what the newest image covers, or
        # was there when writing one has failed; and what the image being written will cover.
        self._log_bytes = self._whole_bytes = self._folded_bytes = self._folding_bytes = 0
        self._naming = threading.Lock()
        self._closed = False
        self._segments: list[Segment] = []
        self._unindexed: list[Segment] = []  # those which are full, and on the disk
        self._appending: int | None = None
        # Where the transaction being appended began: (segment number, offset); None between transactions.
        self._partial: tuple[int, int] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    # --- life -----------------------------------------------------------------------------------------------------

    @staticmethod
    def load(directory: Path) -> ShapeStore | None:
        """The store in ``directory``, or None when its snapshot never finished, its files are not ours to read, or
        its log is damaged: what is missing then comes from nowhere."""
        try:
            meta = json.loads((directory / "shape.json").read_text())
            if meta["format"] != FORMAT:
                return None
            store = ShapeStore(directory, Shape.from_json(meta["shape"]))
            snapshot = Image(directory, 0, meta["ready_lsn"], meta["image_rows"])
            folds = [Image(directory, *fold) for fold in meta.get("folds", ())]
            store._take_images([snapshot, *(fold for fold in folds if fold.path.exists())])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        try:
            store._load_segments()
        except Damaged as damaged:
            log.warning("%s: the table is read anew, and devices that lack something fetch it anew", damaged)
            store.close()
            return None
        store.flush()  # and what had to be read whole is indexed now
        return store

    def remove(self) -> None:
        """Close and delete everything."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Nothing of this store writes to the folder any more when this returns."""
        with self._naming:
            self._closed = True
        for segment in self._segments:
            segment.detach()
        if self._appending is not None:
            os.close(self._appending)
            self._appending = None

    # --- images ---------------------------------------------------------------------------------------------------

    @property
    def ready_lsn(self) -> int | None:
        """From here on rows can be given; None while the first snapshot is being written."""
        return self._images[0].lsn if self._images else None

    @property
    def image_rows(self) -> int:
        """How many rows the newest image has."""
        return self._images[-1].rows if self._images else self._snapshot.rows

    def restart_image(self) -> None:
        """Forget the rows of a snapshot that was never finished."""
        self._snapshot = Image(self.directory, 0)
        self._snapshot.path.unlink(missing_ok=True)

    def write_image_chunk(self, chunk: ImageChunk) -> None:
        """Add rows to the snapshot being written."""
        self._snapshot.write(chunk)

    def finish_image(self, ready_lsn: int) -> None:
        """``finishing`` and ``finished`` of the snapshot, where nobody minds waiting for the disk."""
        self.finishing(self.snapshot_at(ready_lsn))()
        self.finished(self._snapshot)

    def snapshot_at(self, ready_lsn: int) -> Image:
        """The snapshot is whole, and this is its place. It counts once it is ``finished``."""
        self._snapshot.lsn = ready_lsn
        self._snapshot.path.touch(0o600)
        return self._snapshot

    @property
    def fold_due(self) -> bool:
        """Whether so much was appended since the newest image that it is better to write a new one."""
        if not self._images or self.shape.kind != "table" or self.appended_lsn <= self._images[-1].lsn:
            return False
        return self._whole_bytes - self._folded_bytes > max(FOLD_BYTES_MIN, self._images[-1].size_bytes * FOLD_SHARE)

    def begin_fold(self) -> Image:
        """A new image to be written, as of the newest whole transaction. It counts once it is ``finished``."""
        self._folding_bytes = self._whole_bytes
        image = Image(self.directory, self._images[-1].number + 1, self.appended_lsn)
        image.path.unlink(missing_ok=True)
        image.path.touch(0o600)
        return image

    def abandon_fold(self, image: Image) -> None:
        """It could not be written. Another is due when as much again was appended."""
        image.path.unlink(missing_ok=True)
        self._folded_bytes = self._whole_bytes

    def finishing(self, image: Image) -> Callable[[], None]:
        """Makes ``image``, which is whole, and with it the shape durable: work for any thread, to be done once.

        Whatever happens on the way, ``shape.json`` names images only that are on the disk, and never none.
        """
        flush = self.flushing()
        kept = self._kept_with(image)
        meta = {
            "format": FORMAT,
            "shape": self.shape.to_json(),
            "ready_lsn": kept[0].lsn,
            "image_rows": kept[0].rows,
            "folds": [[fold.number, fold.lsn, fold.rows] for fold in kept[1:]],
        }

        def finish() -> None:
            sync_file(image.path)
            flush()
            with self._naming:
                if not self._closed:
                    replace_file(self.directory / "shape.json", json.dumps(meta))

        return finish

    def finished(self, image: Image) -> None:
        """``finishing`` is done: rows are given with ``image`` from now on."""
        kept = self._kept_with(image)
        for former in self._images:
            if former not in kept:
                former.path.unlink(missing_ok=True)
        self._images = kept
        self._folded_bytes = self._folding_bytes

    def image_at(self, lsn: int) -> Image:
        """The newest image from which rows can be given as of ``lsn``, which is not below ``ready_lsn``."""
        return next((image for image in reversed(self._images) if image.lsn <= lsn), self._images[0])

    def image(self, number: int) -> Image | None:
        """The image of that number, if it is there still."""
        return next((image for image in self._images if image.number == number), None)

    def _kept_with(self, image: Image) -> list[Image]:
        """The snapshot stays: with the whole log it gives the rows at any position. So do the newest folds, of which
        somebody may be in the middle."""
        images = [*self._images, image]
        return [images[0], *images[1:][-FOLDS_KEPT:]]

    # --- log ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> None:
        """Append records in order. A record with index 0 after an unfinished transaction discards the unfinished one;
        transactions at or below ``appended_lsn`` are skipped: they are repeats after a restart of the stream."""
        run = bytearray()
        for record in records:
            if record.lsn <= self.appended_lsn:
                continue
            if record.index == 0:
                if self._partial is not None:
                    self._write(run)
                    self._truncate(self._partial)
            elif self._partial is None:
                raise ValueError(f"record {record.position} continues a transaction that never began")
            self._place(record, run)
            encoded = encode_record(record)
            run += encoded
            self._log_bytes += len(encoded)
            if record.last:
                self._partial = None
                self.appended_lsn = record.lsn
                self._whole_bytes = self._log_bytes
        self._write(run)

    def discard_unfinished(self) -> None:
        """Forget the transaction that has begun and not ended, if there is one: it comes again from its beginning."""
        if self._partial is not None:
            self._truncate(self._partial)

    def read(self, after: tuple[int, int], upto: int, bytes_max: int) -> Page:
        """Records after position ``after`` = (lsn, index) and at or below LSN ``upto``, about ``bytes_max`` of them.

        To read after whole transactions pass an index larger than any (``END_OF_TRANSACTION``)."""
        records: list[Record] = []
        size = 0
        for record in self._records_after(after):
            if record.lsn > upto:
                break
            if size >= bytes_max:
                return Page(tuple(records), more=True)
            records.append(record)
            size += len(record.ops) + 64
        return Page(tuple(records), more=False)

    def records(self, after: int, upto: int) -> Iterator[Record]:
        """Every record after LSN ``after`` and at or below ``upto``; of an unfinished transaction what is there."""
        return takewhile(lambda record: record.lsn <= upto, self._records_after((after, END_OF_TRANSACTION)))

    @property
    def segment_full(self) -> bool:
        """The next append moves on to another file, for which everything in this one has to be on the disk."""
        return bool(self._segments) and self._segments[-1].size >= SEGMENT_BYTES_MAX

    def flush(self) -> None:
        """Everything appended so far is on the disk when this returns."""
        self.flushing()()

    def flushing(self) -> Callable[[], None]:
        """The work of ``flush`` for what is appended by now, to be called once, from any thread.

        It has a descriptor of its own: the log may grow, move on to its next segment or be closed meanwhile.
        """
        if self._appending is None:
            return lambda: None
        descriptor = os.dup(self._appending)
        indexing = [segment.indexing(full=True) for segment in self._unindexed] + [self._segments[-1].indexing()]
        self._unindexed.clear()

        def flush() -> None:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            for write in indexing:
                if write is not None:
                    write()

        return flush

    # --- inside ---------------------------------------------------------------------------------------------------

    def _records_after(self, position: tuple[int, int]) -> Iterator[Record]:
        for number, segment in enumerate(self._segments):
            rest = self._segments[number + 1 : number + 2]
            if not (rest and rest[0].begins_at_or_before(position)):
                yield from segment.after(position)

    def _place(self, record: Record, run: bytearray) -> None:
        """``record`` is written next, behind ``run``."""
        if not self._segments or self._segments[-1].size + len(run) >= SEGMENT_BYTES_MAX:
            self._write(run)
            self._open_segment(len(self._segments))
        segment = self._segments[-1]
        segment.note(record, segment.size + len(run))
        if record.index == 0:
            self._partial = (len(self._segments) - 1, segment.size + len(run))

    def _open_segment(self, number: int) -> None:
        if self._appending is not None:
            os.fsync(self._appending)
            os.close(self._appending)
            self._unindexed.append(self._segments[-1])
        path = self.directory / f"log-{number:06d}"
        self._appending = private(str(path), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        sync_file(self.directory)  # or a loss of the machine could take the new name with it
        self._segments.append(Segment(path, os.fstat(self._appending).st_size))

    def _write(self, run: bytearray) -> None:
        if not run:
            return
        if self._appending is None:
            raise ValueError("the log is closed")
        view = memoryview(bytes(run))
        while view:
            view = view[os.write(self._appending, view) :]
        self._segments[-1].size += len(run)
        run.clear()

    def _truncate(self, position: tuple[int, int]) -> None:
        number, offset = position
        segment, later = self._segments[number], self._segments[number + 1 :]
        for removed in reversed(later):
            removed.remove()
        del self._segments[number + 1 :]
        self._unindexed = [full for full in self._unindexed if full in self._segments[:number]]
        if segment.cut(offset) or later:
            sync_file(self.directory)  # or a loss of the machine could bring back what was of the longer log
        if self._appending is not None:
            os.close(self._appending)
        self._appending = os.open(segment.path, os.O_RDWR | os.O_APPEND)
        os.ftruncate(self._appending, offset)
        self._partial = None
        self._log_bytes = self._whole_bytes

    def _take_images(self, images: list[Image]) -> None:
        for image in images:
            image.size_bytes = image.path.stat().st_size
        named = {image.path for image in images}
        for path in self.directory.glob("image*"):
            if path not in named:  # one that was never finished, or no longer needed
                path.unlink()
        self._images = images

    def _load_segments(self) -> None:
        """Raises Damaged."""
        paths = sorted(self.directory.glob("log-*"))
        for number, path in enumerate(paths):
            segment = Segment(path)
            self._segments.append(segment)
            intact = segment.load()
            if segment.whole_lsn:
                self._partial = None
                self.appended_lsn = segment.whole_lsn
            if segment.unfinished is not None:
                self._partial = (number, segment.unfinished)
            if path != paths[-1]:  # all of it was on the disk before the next one began
                if not intact:
                    raise Damaged(f"{path} is damaged at byte {segment.size}")
                self._unindexed.append(segment)
        if self._segments:
            last = self._segments[-1]
            self._appending = os.open(last.path, os.O_RDWR | os.O_APPEND)
            os.ftruncate(self._appending, last.size)
            self._log_bytes = self._whole_bytes = sum(segment.size for segment in self._segments)
            if self._partial is not None:
                number, offset = self._partial
                self._whole_bytes = sum(segment.size for segment in self._segments[:number]) + offset
                self._truncate(self._partial)
        self._folded_bytes = self._bytes_upto(self._images[-1].covers)

    def _bytes_upto(self, lsn: int) -> int:
        """How much of the log its records at or below ``lsn`` take."""
        position, size = (lsn, END_OF_TRANSACTION), 0
        for segment, following in pairwise((*self._segments, None)):
            assert segment is not None
            if following is None or not following.begins_at_or_before(position):
                return size + segment.offset_after(position)
            size += segment.size
        return size
