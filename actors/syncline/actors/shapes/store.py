"""One shape on disk: an image at a known position and the log of everything after it.

    <dir>/shape.json        the shape, its ready position and row count; written last, so its presence means "ready"
    <dir>/image             the rows of the snapshot, in chunks, encoded as inserts, with their keys
    <dir>/log-<n>           segments of the log

The image and the log overlap on purpose: the log starts where the router began to send us changes, before the snapshot
was taken. For every key the newest version in the log is the truth, and the image is the truth for keys the log does
not mention, from the ready position on. Appends go to the page cache at once and to the disk at ``flush``; after a kill
of the process nothing is lost, after a loss of the machine the slot sends again what was not flushed.
"""

from __future__ import annotations

import bisect
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack

from syncline.actors.shapes.log import Page, Record, encode_record, scan
from syncline.actors.shapes.shape import Shape

SEGMENT_BYTES_MAX = 64 << 20
INDEX_EVERY_BYTES = 64 << 10
READ_WINDOW_BYTES = 256 << 10
_CHUNK = struct.Struct("<II")
FORMAT = 1


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Some rows of an image: ``keys`` as canonical bytes, ``ops`` one encoded insert each, in the same order."""

    keys: tuple[bytes, ...]
    ops: tuple[bytes, ...]


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    # Offsets of transaction starts, thinned out: (lsn, offset), ascending.
    index: list[tuple[int, int]]


class ShapeStore:
    """The files of one shape. Not thread-safe, except for what ``flushing`` returns.

    ``ready_lsn``: from here on an image can be given; None while the first snapshot is being written.
    ``appended_lsn``: the newest transaction that is whole in the log (0: none).
    """

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        self.shape = shape
        self.ready_lsn: int | None = None
        self.image_rows = 0
        self.appended_lsn = 0
        self._segments: list[_Segment] = []
        self._appending: int | None = None
        # Where the transaction being appended began: (segment number, offset); None between transactions.
        self._partial: tuple[int, int] | None = None
        self._since_index = INDEX_EVERY_BYTES
        directory.mkdir(parents=True, exist_ok=True)

    # --- life -----------------------------------------------------------------------------------------------------

    @staticmethod
    def load(directory: Path) -> ShapeStore | None:
        """The store in ``directory``, or None when its snapshot never finished or its files are not ours to read."""
        try:
            meta = json.loads((directory / "shape.json").read_text())
            if meta["format"] != FORMAT:
                return None
            store = ShapeStore(directory, Shape.from_json(meta["shape"]))
            store.ready_lsn, store.image_rows = meta["ready_lsn"], meta["image_rows"]
        except (OSError, ValueError, KeyError):
            return None
        store._load_segments()
        return store

    def remove(self) -> None:
        """Close and delete everything."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        if self._appending is not None:
            os.close(self._appending)
            self._appending = None

    # --- image ----------------------------------------------------------------------------------------------------

    def restart_image(self) -> None:
        """Forget the rows of an image that was never finished."""
        self._image_path.unlink(missing_ok=True)
        self.image_rows = 0

    def write_image_chunk(self, chunk: ImageChunk) -> None:
        """Add rows to the image being written. The image counts only once ``finish_image`` has returned."""
        body: bytes = msgpack.packb((chunk.keys, chunk.ops))
        with self._image_path.open("ab") as file:
            file.write(_CHUNK.pack(len(body), zlib.crc32(body)) + body)
        self.image_rows += len(chunk.keys)

    def finish_image(self, ready_lsn: int) -> None:
        """The snapshot is whole and placed: make the shape durable and ready."""
        self._image_path.touch()
        sync_file(self._image_path)
        self.flush()
        meta = {
            "format": FORMAT,
            "shape": self.shape.to_json(),
            "ready_lsn": ready_lsn,
            "image_rows": self.image_rows,
        }
        building = self.directory / "shape.json.new"
        building.write_text(json.dumps(meta))
        sync_file(building)
        building.rename(self.directory / "shape.json")
        sync_file(self.directory)
        self.ready_lsn = ready_lsn

    def read_image(self, cursor: int) -> tuple[ImageChunk | None, int]:
        """The chunk at byte ``cursor`` (0 is the first) and the next cursor; None after the last."""
        with self._image_path.open("rb") as file:
            file.seek(cursor)
            frame = file.read(_CHUNK.size)
            if len(frame) < _CHUNK.size:
                return None, cursor
            length, checksum = _CHUNK.unpack(frame)
            body = file.read(length)
        if len(body) != length or zlib.crc32(body) != checksum:
            raise OSError(f"{self._image_path} is damaged at byte {cursor}: remove {self.directory} and restart")
        keys, ops = msgpack.unpackb(body, use_list=False)
        return ImageChunk(keys, ops), cursor + _CHUNK.size + length

    @property
    def _image_path(self) -> Path:
        return self.directory / "image"

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
                self._begin_transaction(record.lsn, run)
            elif self._partial is None:
                raise ValueError(f"record {record.position} continues a transaction that never began")
            run += encode_record(record)
            if record.last:
                self._partial = None
                self.appended_lsn = record.lsn
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
        for number, segment in enumerate(self._segments):
            following = self._segments[number + 1].index if number + 1 < len(self._segments) else []
            if following and following[0][0] <= after[0]:
                continue
            for record in _records_from(segment, after[0]):
                if record.position <= after:
                    continue
                if record.lsn > upto:
                    return Page(tuple(records), more=False)
                if size >= bytes_max:
                    return Page(tuple(records), more=True)
                records.append(record)
                size += len(record.ops) + 64
        return Page(tuple(records), more=False)

    def records(self, after: int, upto: int) -> Iterator[Record]:
        """Every record after LSN ``after`` and at or below ``upto``; of an unfinished transaction what is there."""
        for number, segment in enumerate(self._segments):
            following = self._segments[number + 1].index if number + 1 < len(self._segments) else []
            if following and following[0][0] <= after:
                continue
            for record in _records_from(segment, after):
                if record.lsn > upto:
                    return
                if record.lsn > after:
                    yield record

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

        def flush() -> None:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        return flush

    # --- inside ---------------------------------------------------------------------------------------------------

    def _begin_transaction(self, lsn: int, run: bytearray) -> None:
        if not self._segments or self._segments[-1].size + len(run) >= SEGMENT_BYTES_MAX:
            self._write(run)
            self._open_segment(len(self._segments))
        segment = self._segments[-1]
        offset = segment.size + len(run)
        if self._since_index >= INDEX_EVERY_BYTES or not segment.index:
            segment.index.append((lsn, offset))
            self._since_index = 0
        self._partial = (len(self._segments) - 1, offset)

    def _open_segment(self, number: int) -> None:
        if self._appending is not None:
            os.fsync(self._appending)
            os.close(self._appending)
        path = self.directory / f"log-{number:06d}"
        self._appending = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        sync_file(self.directory)  # or a loss of the machine could take the new name with it
        self._segments.append(_Segment(path, os.fstat(self._appending).st_size, []))

    def _write(self, run: bytearray) -> None:
        if not run:
            return
        if self._appending is None:
            raise ValueError("the log is closed")
        view = memoryview(bytes(run))
        while view:
            view = view[os.write(self._appending, view) :]
        self._segments[-1].size += len(run)
        self._since_index += len(run)
        run.clear()

    def _truncate(self, position: tuple[int, int]) -> None:
        number, offset = position
        for segment in self._segments[number + 1 :]:
            segment.path.unlink(missing_ok=True)
        del self._segments[number + 1 :]
        segment = self._segments[number]
        if self._appending is not None:
            os.close(self._appending)
        self._appending = os.open(segment.path, os.O_RDWR | os.O_APPEND)
        os.ftruncate(self._appending, offset)
        segment.size = offset
        segment.index = [entry for entry in segment.index if entry[1] < offset]
        self._partial = None

    def _load_segments(self) -> None:
        paths = sorted(self.directory.glob("log-*"))
        for number, path in enumerate(paths):
            data = path.read_bytes()
            segment = _Segment(path, 0, [])
            last_index = -INDEX_EVERY_BYTES
            self._segments.append(segment)
            for record, offset, end in scan(data):
                if record.index == 0:
                    self._partial = (number, offset)
                    if offset - last_index >= INDEX_EVERY_BYTES:
                        segment.index.append((record.lsn, offset))
                        last_index = offset
                if record.last:
                    self._partial = None
                    self.appended_lsn = record.lsn
                segment.size = end
            if segment.size < len(data):
                for later in paths[number + 1 :]:
                    later.unlink()
                break
        if self._segments:
            last = self._segments[-1]
            self._appending = os.open(last.path, os.O_RDWR | os.O_APPEND)
            os.ftruncate(self._appending, last.size)
            if self._partial is not None:
                self._truncate(self._partial)


# An index larger than any record's: "after the whole transaction with this LSN".
END_OF_TRANSACTION = 1 << 62


def _records_from(segment: _Segment, lsn: int) -> Iterator[Record]:
    """The segment's records from the last indexed transaction at or below ``lsn``, read a window at a time."""
    place = bisect.bisect_right(segment.index, (lsn, 1 << 62)) - 1
    position = segment.index[place][1] if place >= 0 else 0
    window = READ_WINDOW_BYTES
    with segment.path.open("rb") as file:
        while position < segment.size:
            file.seek(position)
            data = file.read(min(window, segment.size - position))
            used = 0
            for record, _, end in scan(data):
                used = end
                yield record
            if used == 0:
                if window >= segment.size - position:
                    return
                window *= 4  # one record larger than the window
            position += used


def sync_file(path: Path) -> None:
    """What was written to ``path``, a file or a folder's list of names, is on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
