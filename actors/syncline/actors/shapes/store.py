"""One shape on disk: images at known positions and the log of everything after the first.

    <dir>/shape.json        the shape, its ready position, its images and the beginning of its log; written last, so its
                            presence means "ready"
    <dir>/image             the rows of the snapshot
    <dir>/image-<n>         the rows at a later position: an earlier image and the log up to there, folded into one
    <dir>/...               the log: see ``logfiles``

The snapshot and the log overlap on purpose: the log starts where the router began to send us changes, before the
snapshot was taken. For every key the newest version in the log is the truth, and the image is the truth for keys the
log does not mention, from the ready position on. A folded image is exact: the log counts from its position on.

Up to the position of a folded image the log may be *packed*: then it has only final operations there (see ``finals``).
Rows can be given from that position on.

Appends go to the page cache at once and to the disk at ``flush``; after a kill of the process nothing is lost, after a
loss of the machine the slot sends again what was not flushed. An image counts once ``shape.json`` names it, and is
named once it and the log up to its position are on the disk. So does the beginning of a log that is packed.

A new shape whose snapshot is small has neither ``shape.json`` nor ``image``, but a record in a slab that stands for
both (see ``slabs``); and no folder as long as it has no log. Once ``shape.json`` has to say something new there are
both, and what is in a slab counts no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from syncline.actors.shapes.census import Noted
from syncline.actors.shapes.disk import replace_file, sync_file
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.imagefile import Image
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.logfiles import LogFiles
from syncline.actors.shapes.packing import Packing
from syncline.actors.shapes.reaping import DEVICES_KEPT_S
from syncline.actors.shapes.segment import Damaged
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.slabs import Record as SlabRecord
from syncline.actors.shapes.slabs import Slabs, SlabsClosed
from syncline.actors.shapes.storemeta import Meta, aged

log = logging.getLogger(__name__)

# A new image is written when the log since the last one is larger than this, and than that share of it: so who comes
# new waits for no more of the log than that, and a table is written about as often as so much of it has changed.
FOLD_BYTES_MIN = 16 << 20
FOLD_SHARE = 1 / 4
FOLDS_KEPT = 2


class ShapeStore:
    """The files of one shape. Not thread-safe, except for what ``flushing`` and its like return.

    ``slabs``: where it begins if it is small; None: in its folder. ``noted``: what is known of the shape's clauses.
    ``buried_kept_s``: for as long a packed log has that a row went
    away, which is as long as devices are kept.
    """

    def __init__(self, directory: Path, shape: Shape, slabs: Slabs | None = None) -> None:
        self.directory = directory
        self.shape = shape
        self.buried_kept_s = DEVICES_KEPT_S
        self.noted = Noted()
        self._meta = Meta(shape)
        self._slabs = slabs
        self._record: SlabRecord | None = None
        self._snapshot = self._unwritten()  # being written, until it is the first of the images
        self._images: list[Image] = []
        self._log = LogFiles(directory, self._log_begins)
        # Of the log what the newest image covers, or was there when writing one has failed; and what the image being
        # written will cover.
        self._folded_bytes = self._folding_bytes = 0
        self._packing_meta = self._meta  # what ``shape.json`` will say once the log begins anew
        self._naming = threading.Lock()
        self._closed = False
        if slabs is None:
            self.make_folder()

    # --- life -----------------------------------------------------------------------------------------------------

    @staticmethod
    def load(directory: Path, slabs: Slabs | None = None) -> ShapeStore | None:
        """The store in ``directory``, or None when its snapshot never finished, its files are not ours to read, or
        its log is damaged: what is missing then comes from nowhere."""
        named = directory / "shape.json"
        meta, record = (None, None) if slabs is None else slabs.found.pop(directory.name, (None, None))
        if record is not None and named.exists():
            record.drop()
            record = None
        try:
            if record is None or meta is None:
                meta = Meta.from_json(named.read_text())
            elif record.logged and not any(directory.glob("log-*")):
                raise ValueError("there was a log")
            store = ShapeStore(directory, meta.shape, slabs)
            store._meta, store._record = meta, record
            images = [Image(directory, *fields) for fields in meta.images]
            images[0].record = record
            store._take_images([image for image in images if image is images[0] or image.path.exists()])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            if record is not None:
                record.drop()
            return None
        try:
            store._log.load(meta.packed)
        except Damaged as damaged:
            log.warning("%s: the table is read anew, and devices that lack something fetch it anew", damaged)
            store.close()
            store.give_up()
            return None
        store._folded_bytes = store._log.bytes_upto(store._images[-1].covers)
        store.flush()  # and what had to be read whole is indexed now
        return store

    def move_out(self) -> None:
        """Of the slab, if it is in one, into files of its own, which are on the disk when this returns."""
        if self._record is not None:
            self._writing(self._meta)()

    def make_folder(self) -> None:
        """There is one from now on."""
        self.directory.mkdir(parents=True, exist_ok=True)

    def give_up(self) -> None:
        """No start finds the shape any more, whatever happens; for any thread."""
        with self._naming:
            self._closed = True
            if self._record is not None:
                self._record.drop()
            named = self.directory / "shape.json"
            if named.exists():
                named.unlink()
                sync_file(self.directory)

    def remove(self) -> None:
        """Close and delete everything."""
        self.close()
        self.give_up()
        shutil.rmtree(self.directory, ignore_errors=True)

    def rest(self) -> None:
        """No file of it is open until something is appended; all that was is flushed."""
        self._log.rest()

    def close(self) -> None:
        """Nothing of this store writes to the folder any more when this returns."""
        with self._naming:
            self._closed = True
        self._log.close()

    # --- images ---------------------------------------------------------------------------------------------------

    @property
    def ready_lsn(self) -> int | None:
        """A device that stands here or later lacks nothing that the log does not have; None while the first snapshot is
        being written."""
        return self._meta.ready_lsn if self._images else None

    @property
    def final_lsn(self) -> int:
        """Up to there the log has only final operations. Rows can be given from here, and from ``ready_lsn``, on."""
        return self._log.packed.lsn

    @property
    def image_rows(self) -> int:
        """How many rows the newest image has."""
        return self._images[-1].rows if self._images else self._snapshot.rows

    @property
    def image_bytes(self) -> int:
        """Of all images that are kept."""
        return sum(image.size_bytes for image in self._images) or self._snapshot.size_bytes

    def restart_image(self) -> None:
        """Forget the rows of a snapshot that was never finished."""
        if self._snapshot.gathered is None:
            self._snapshot.path.unlink(missing_ok=True)
        self._snapshot = self._unwritten()

    def write_image_chunk(self, chunk: ImageChunk) -> None:
        """Add rows to the snapshot being written."""
        self._snapshot.write(chunk)

    async def finish(self, image: Image) -> None:
        """``image``, which is whole, and the shape with it are durable when this returns, and rows are given with it
        from then on. Raises OSError."""
        torn = self._meta.torn
        if image.gathered is None:
            await asyncio.to_thread(self.finishing(image))
        else:
            assert self._slabs is not None, "else it has a file"
            meta, rows = self._meta_with(image), bytes(image.gathered)
            with self._naming:
                if self._closed:
                    raise SlabsClosed(f"{self.directory} is given up")
                record = self._record = self._slabs.add(meta, rows, self.flushing, logged=self._log.begun)
            await self._slabs.whole(record)
            image.gathered, image.record = None, record
        while torn != self._meta.torn:  # meanwhile
            torn = self._meta.torn
            await asyncio.to_thread(self._writing(self._meta_with(image)))
        self.finished(image)

    def finish_image(self, ready_lsn: int) -> None:
        """``finishing`` and ``finished`` of the snapshot, where nobody minds waiting for the disk."""
        self.finishing(self.snapshot_at(ready_lsn))()
        self.finished(self._snapshot)

    def snapshot_at(self, ready_lsn: int) -> Image:
        """The snapshot is whole, and this is its place. It counts once it is ``finished``."""
        self._snapshot.lsn = ready_lsn
        if self._snapshot.gathered is None:
            self._snapshot.path.touch(0o600)
        return self._snapshot

    @property
    def fold_due(self) -> bool:
        """Whether so much was appended since the newest image that it is better to write a new one."""
        if not self._images or self.shape.kind != "table" or self.appended_lsn <= self._images[-1].lsn:
            return False
        if not self._log.between_transactions:
            return False
        unfolded = self._log.whole_bytes - self._folded_bytes
        return unfolded > max(FOLD_BYTES_MIN, self._images[-1].size_bytes * FOLD_SHARE)

    def begin_fold(self) -> Image:
        """A new image to be written, as of the newest whole transaction. It counts once it is ``finished``."""
        self._log.seal()
        self._folding_bytes = self._log.whole_bytes
        image = Image(self.directory, self._images[-1].number + 1, self.appended_lsn)
        image.path.unlink(missing_ok=True)
        image.path.touch(0o600)
        return image

    def abandon_fold(self, image: Image) -> None:
        """It could not be written. Another is due when as much again was appended."""
        image.path.unlink(missing_ok=True)
        self._folded_bytes = self._log.whole_bytes

    def finishing(self, image: Image) -> Callable[[], None]:
        """Makes ``image``, which is whole, and with it the shape durable: work for any thread, to be done once.

        Whatever happens on the way, ``shape.json`` names images only that are on the disk, and never none.
        """
        flush = self.flushing()
        name = self._writing(self._meta_with(image))

        def finish() -> None:
            sync_file(image.path)
            flush()
            name()

        return finish

    def finished(self, image: Image) -> None:
        """``finishing`` is done: rows are given with ``image`` from now on."""
        self._meta = self._meta_with(image)
        self._keep([*self._images, image])
        self._folded_bytes = self._folding_bytes

    def image_at(self, lsn: int) -> Image:
        """The newest image from which rows can be given as of ``lsn``, which can be given."""
        return next((image for image in reversed(self._images) if image.lsn <= lsn), self._images[0])

    def image(self, number: int) -> Image | None:
        """The image of that number, if it is there still."""
        return next((image for image in self._images if image.number == number), None)

    def _meta_with(self, image: Image) -> Meta:
        ready_lsn = self._meta.ready_lsn if self._images else image.lsn
        images = self._needed([*self._images, image], max(ready_lsn, self.final_lsn))
        return replace(self._meta, ready_lsn=ready_lsn, images=_fields(images))

    def _needed(self, images: list[Image], rows_lsn: int) -> list[Image]:
        """Of ``images`` the one with which rows can be given from ``rows_lsn`` on; and the newest, of which somebody
        may be in the middle."""
        base = max(place for place, image in enumerate(images) if image.lsn <= rows_lsn)
        return [images[base], *images[base + 1 :][-FOLDS_KEPT:]] if base < len(images) - 1 else images[-FOLDS_KEPT:]

    def _keep(self, images: list[Image]) -> None:
        kept = self._needed(images, max(self._meta.ready_lsn, self.final_lsn))
        for former in self._images:
            if former not in kept:
                former.path.unlink(missing_ok=True)
        self._images = kept

    def _writing(self, meta: Meta) -> Callable[[], None]:
        """``shape.json`` says ``meta``: work for any thread."""

        def write() -> None:
            with self._naming:
                if self._closed:
                    return
                first = next((one for one in (*self._images, self._snapshot) if one.record is not None), None)
                if first is not None:
                    self.make_folder()
                    first.move_out()
                text = replace(meta, torn=self._meta.torn).to_json()  # that may have come meanwhile
                replace_file(self.directory / "shape.json", text)
                if first is not None and self._record is not None:
                    first.record = None
                    self._record.drop()
                    self._record = None

        return write

    # --- log ------------------------------------------------------------------------------------------------------

    @property
    def appended_lsn(self) -> int:
        """The newest transaction that is whole in the log (0: none)."""
        return self._log.appended_lsn

    @property
    def log_bytes(self) -> int:
        return self._log.bytes

    @property
    def size_bytes(self) -> int:
        """Of all that is on the disk, but for what a log had before it was packed and somebody still reads."""
        return self.image_bytes + self._log.bytes + self.other_bytes

    @property
    def other_bytes(self) -> int:
        """Of what is neither an image nor the log."""
        other = 0
        if self.shape.is_tree:
            for path in self.directory.glob("holdings*"):
                with contextlib.suppress(OSError):
                    other += path.stat().st_size
        return other

    def append(self, records: Sequence[Record]) -> None:
        """Append records in order. A record with index 0 after an unfinished transaction discards the unfinished one;
        transactions at or below ``appended_lsn`` are skipped: they are repeats after a restart of the stream."""
        self._log.append(records)

    def discard_unfinished(self) -> None:
        """Forget the transaction that has begun and not ended, if there is one: it comes again from its beginning."""
        self._log.discard_unfinished()

    @property
    def between_transactions(self) -> bool:
        """Whether what was appended ends with a whole transaction."""
        return self._log.between_transactions

    def read(self, after: tuple[int, int], upto: int, bytes_max: int, generation: int | None = None) -> Page:
        """Records after position ``after`` = (lsn, index) and at or below LSN ``upto``, about ``bytes_max`` of them, of
        the files of that ``generation`` (None: those there are now). Raises GenerationGone.

        To read after whole transactions pass an index larger than any (``END_OF_TRANSACTION``)."""
        packed = self._log.beginning(generation)
        records: list[Record] = []
        size, more = 0, False
        for record in self._log.after(after, generation):
            if record.lsn > upto:
                break
            if size >= bytes_max:
                more = True
                break
            records.append(record)
            size += len(record.ops) + 64
        torn_from, torn_upto = self._meta.torn
        whole_upto = torn_upto if after[0] < torn_upto and upto >= torn_from else 0
        return Page(tuple(records), more, packed.number, packed.lsn, packed.ms, self._meta.ready_lsn, whole_upto)

    @property
    def torn(self) -> tuple[int, int]:
        """See ``tear``; (0, 0) if there is nothing."""
        return self._meta.torn

    def tear(self, since: int, upto: int) -> Callable[[], None]:
        """From ``since`` on and before ``upto`` the log does not say what the shape was. So nobody is to be given what
        happened there but as one transaction that ends at ``upto``. Durably so by what is returned, for any thread."""
        torn_from, torn_upto = self._meta.torn
        self._meta = replace(self._meta, torn=(torn_from or since, max(torn_upto, upto)))
        self._packing_meta = replace(self._packing_meta, torn=self._meta.torn)
        return self._writing(self._meta) if self._images else lambda: None  # else ``finish`` says so

    def records(self, after: int, upto: int, generation: int | None = None) -> Iterator[Record]:
        """Every record after LSN ``after`` and at or below ``upto``; of an unfinished transaction what is there. Raises
        GenerationGone."""
        found = self._log.after((after, END_OF_TRANSACTION), generation)
        return takewhile(lambda record: record.lsn <= upto, found)

    def final_upto(self, generation: int) -> int:
        """Up to there the log of that ``generation`` has only final operations. Raises GenerationGone."""
        return self._log.beginning(generation).lsn

    @property
    def segment_full(self) -> bool:
        """The next append moves on to another file, for which everything in this one has to be on the disk."""
        return self._log.segment_full

    def flush(self) -> None:
        """Everything appended so far is on the disk when this returns."""
        self.flushing()()

    def flushing(self) -> Callable[[], None]:
        """The work of ``flush`` for what is appended by now, to be called once, from any thread.

        It has a descriptor of its own: the log may grow, move on to its next segment or be closed meanwhile.
        """
        return self._log.flushing()

    # --- packing --------------------------------------------------------------------------------------------------

    def begin_packing(self) -> Packing | None:
        """A new beginning of the log, up to the newest image, to be written; None if there is nothing to be gained."""
        newest = self._images[-1].lsn if self._images else 0
        return self._log.packing(newest) if newest > self.final_lsn else None

    def buried_upto(self, before_s: float) -> int:
        """What stood at or below this LSN was there ``before_s``, in seconds since the epoch."""
        return max((lsn for lsn, at_s in self._meta.ages if at_s <= before_s), default=0)

    def packed(self, packing: Packing, buried_upto: int, now_s: float) -> Callable[[], None]:
        """Makes ``packing``, which is whole, durable, and then what ``shape.json`` names: work for any thread, to be
        done once. What went away at or below ``buried_upto`` is not in it. Call ``take`` when it is done."""
        ready_lsn = max(self._meta.ready_lsn, buried_upto)
        images = self._needed(self._images, max(ready_lsn, packing.packed.lsn))
        ages = aged(self._meta.ages, packing.packed.lsn, now_s, buried_upto)
        meta = replace(self._meta, ready_lsn=ready_lsn, images=_fields(images), packed=packing.packed, ages=ages)
        name = self._writing(meta)

        def pack() -> None:
            packing.sync()
            name()

        self._packing_meta = meta
        return pack

    def take(self, packing: Packing) -> None:
        """The log begins with ``packing`` from now on. Who reads what there was before goes on with it."""
        self._meta = self._packing_meta
        self._log.take(packing)
        self._keep(self._images)
        self._folded_bytes = self._log.bytes_upto(self._images[-1].covers)

    def drop_unread(self) -> bool:
        """Removes what the log had before and nobody has read lately; whether there is more of it."""
        return self._log.drop_unread()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _unwritten(self) -> Image:
        return Image(self.directory, 0, gathered=None if self._slabs is None else bytearray())

    def _log_begins(self) -> None:
        if self._record is not None:
            self._record.has_log()

    def _take_images(self, images: list[Image]) -> None:
        for image in images:
            record = image.record
            image.size_bytes = image.path.stat().st_size if record is None else record.image_bytes
        named = {image.path for image in images}
        for path in self.directory.glob("image*"):
            if path not in named:  # one that was never finished, or no longer needed
                path.unlink()
        self._images = images


def _fields(images: Sequence[Image]) -> tuple[tuple[int, int, int], ...]:
    return tuple((image.number, image.lsn, image.rows) for image in images)
