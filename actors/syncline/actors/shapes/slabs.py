"""New shapes of a shard that are small, many in one file: what each is, and the rows of its snapshot.

    <shard>/slab-<n>    records: what ``shape.json`` would say and what ``image`` would hold, framed by their lengths, a
                        checksum, and one byte that changes: whether the record counts, and whether there is a log

A folder with two files of its own costs a shape more than all the rest of its making. Here those that are made at the
same time wait for the disk once, together. A shape gets a folder with the first change, for its log; and files of its
own once ``shape.json`` has to say more, from when on the record counts no more. That byte is changed in place, so a
slab never holds two words about a shape.

A record that counts says that a shape misses nothing. So whoever gives up a shape has to ``drop`` the record first, and
a record that speaks of a log counts only if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from syncline.actors.shapes.disk import private, sync_file
from syncline.actors.shapes.storemeta import Meta

log = logging.getLogger(__name__)

IMAGE_BYTES_MAX: Final = 32 << 10
"""Larger images have files of their own."""
SLAB_BYTES_MAX: Final = 4 << 20
# Slabs of which less counts are written anew, in one: those that lost shapes, and what earlier lives had only begun.
COUNTING_BYTES_MIN: Final = SLAB_BYTES_MAX // 2

_LENGTHS = struct.Struct("<II")  # of what ``shape.json`` would say, and of the image
_CHECKSUM = struct.Struct("<I")  # CRC-32 of the lengths and of both
_STATE_AT: Final = _LENGTHS.size + _CHECKSUM.size
_HEAD_BYTES: Final = _STATE_AT + 1
DROPPED, _WITHOUT_LOG, _WITH_LOG = b"\0", b"\1", b"\2"


class SlabsClosed(OSError):
    """Another life of the shard has taken over."""


class _Slab:
    """One file. ``size``: bytes of its records. ``counting``: those of them that count, by their offset, and
    ``counting_bytes`` of these."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self.file = open(path, "xb+" if new else "rb+", buffering=0, opener=private)  # noqa: SIM115 - read for long
        self.size = 0
        self.counting: dict[int, Record] = {}
        self.counting_bytes = 0

    @property
    def number(self) -> int:
        return int(self.path.name.removeprefix("slab-"))

    @property
    def wasteful(self) -> bool:
        return self.counting_bytes < COUNTING_BYTES_MIN

    def count(self, record: Record, at: int) -> None:
        """``record`` stands at that offset."""
        self.counting[at] = record
        self.counting_bytes += record.bytes

    def forget(self, at: int) -> None:
        """The record at that offset counts no more."""
        self.counting_bytes -= self.counting.pop(at).bytes

    def put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self.file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        os.fsync(self.file.fileno())


class Record:
    """A shape in a slab. ``meta``, ``image``: as in the module; they are let go once they are in the file.

    ``logged``: the shape has a log.
    """

    __slots__ = ("_slabs", "bytes", "dropped", "flushing", "image", "image_bytes", "logged", "meta", "place", "written")

    def __init__(self, slabs: Slabs, meta: bytes, image: bytes, *, logged: bool) -> None:
        self._slabs = slabs
        self.meta = meta
        self.image = image
        self.image_bytes = len(image)
        self.bytes = _HEAD_BYTES + len(meta) + len(image)
        self.logged = logged
        self.dropped = False
        self.place: tuple[_Slab, int] | None = None  # the file and the offset in it
        self.flushing: Callable[[], Callable[[], None]] | None = None
        self.written: asyncio.Future[None] | None = None

    @property
    def path(self) -> Path:
        """The file it is in."""
        assert self.place is not None, "written"
        return self.place[0].path

    def read(self, offset: int) -> bytes:
        """The image from byte ``offset`` on, which is not much. Raises OSError."""
        assert self.place is not None, "written"
        slab, at = self.place
        return os.pread(slab.file.fileno(), self.image_bytes - offset, at + self.bytes - self.image_bytes + offset)

    def has_log(self) -> None:
        """From now on; durably so with ``Slabs.sync``."""
        self.logged = True
        self._slabs.note_log(self)

    def drop(self) -> None:
        """It counts no more, durably; for any thread. Repeats are harmless."""
        self._slabs.drop(self)

    def encoded(self) -> tuple[bytes, bool]:
        """What is written, and whether that says that there is a log."""
        lengths = _LENGTHS.pack(len(self.meta), len(self.image))
        checksum = zlib.crc32(self.image, zlib.crc32(self.meta, zlib.crc32(lengths)))
        logged = self.logged
        state = _WITH_LOG if logged else _WITHOUT_LOG
        return b"".join((lengths, _CHECKSUM.pack(checksum), state, self.meta, self.image)), logged


_open: weakref.WeakValueDictionary[Path, Slabs] = weakref.WeakValueDictionary()


class Slabs:
    """Those in ``directory``, a shard's. Whoever was there before in this process writes nothing any more.

    ``found``: the shapes of the records that count, by hash.
    """

    def __init__(self, directory: Path) -> None:
        former = _open.get(directory)
        if former is not None:
            former.close()
        _open[directory] = self
        self.directory = directory
        self.found: dict[str, tuple[Meta, Record]] = {}
        self.unsynced: set[_Slab] = set()
        self._slabs: list[_Slab] = []
        self._filling: _Slab | None = None  # the last of them, if it is ours
        self._next = 1
        self._waiting: list[Record] = []
        self._asked = asyncio.Event()
        # The second for what the event loop changes, too, which does not wait for the disk; within the first.
        self._lock, self._bytes = threading.Lock(), threading.Lock()
        self._closed = False
        for path in sorted(directory.glob("slab-*")):
            self._load(path)

    def close(self) -> None:
        """Nothing is written any more when this returns. What is there can still be read."""
        with self._lock, self._bytes:
            self._closed = True

    # --- shapes come ----------------------------------------------------------------------------------------------

    def add(self, meta: Meta, image: bytes, flushing: Callable[[], Callable[[], None]], *, logged: bool) -> Record:
        """A record of a shape. It counts once ``whole`` has returned. ``flushing``: what has to be on the disk first,
        see ``ShapeStore.flushing``."""
        record = Record(self, meta.to_json().encode(), image, logged=logged)
        record.flushing = flushing
        record.written = asyncio.get_running_loop().create_future()
        self._waiting.append(record)
        self._asked.set()
        return record

    @staticmethod
    async def whole(record: Record) -> None:
        """Returns once ``record`` is on the disk. Raises OSError."""
        assert record.written is not None, "added"
        await record.written

    async def write(self) -> None:
        """Writes what is added, for as long as the shard lives: all that has come while the disk was waited for is
        waited for together."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            records, self._waiting = self._waiting, []
            if not records:
                continue
            error: OSError | None = None
            try:
                flushes = [record.flushing() for record in records if record.flushing is not None]
                await asyncio.to_thread(self._write, records, flushes)
            except OSError as failed:
                error = failed
            for record in records:
                self._tell(record, error)

    def _tell(self, record: Record, error: OSError | None) -> None:
        written, record.written, record.flushing = record.written, None, None
        if written is None or written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

    def _write(self, records: Sequence[Record], flushes: Sequence[Callable[[], None]]) -> None:
        for flush in flushes:
            flush()
        with self._lock:
            self._append([record for record in records if not record.dropped])

    def _append(self, records: Sequence[Record]) -> None:
        """Under the lock."""
        if self._closed:
            raise SlabsClosed(f"{self.directory} is somebody else's")
        if not records:
            return
        slab = self._room()
        start, data, placed = slab.size, bytearray(), []
        for record in records:
            encoded, logged = record.encoded()
            placed.append((record, start + len(data), logged))
            data += encoded
        try:
            slab.put(bytes(data), start)
            slab.sync()
        except OSError:
            self._filling = None
            with contextlib.suppress(OSError):
                os.ftruncate(slab.file.fileno(), start)
            raise
        slab.size += len(data)
        for record, at, logged in placed:
            slab.count(record, at)
            record.place = slab, at
            record.meta = record.image = b""
            if record.logged and not logged:  # meanwhile
                record.has_log()

    def _room(self) -> _Slab:
        if self._filling is None or self._filling.size >= SLAB_BYTES_MAX:
            self._filling = _Slab(self.directory / f"slab-{self._next:06d}", new=True)
            self._next += 1
            self._slabs.append(self._filling)
            sync_file(self.directory)
        return self._filling

    def note_log(self, record: Record) -> None:
        """See ``Record.has_log``. What counts no more, or is somebody else's by now, stays as it is."""
        with self._bytes:
            if record.place is not None and not record.dropped and not self._closed:
                slab, at = record.place
                slab.put(_WITH_LOG, at + _STATE_AT)
                self.unsynced.add(slab)

    # --- and go ---------------------------------------------------------------------------------------------------

    def drop(self, record: Record) -> None:
        """See ``Record.drop``."""
        with self._lock:
            if record.dropped:
                return
            with self._bytes:
                record.dropped = True
                if record.place is None or self._closed:
                    return
                slab, at = record.place
                slab.put(DROPPED, at + _STATE_AT)
            slab.sync()
            slab.forget(at)
            if not slab.counting and slab is not self._filling:
                self._remove(slab)

    def sync(self) -> None:
        """What was said of logs is on the disk when this returns, and so are the names of folders; for any thread."""
        with self._bytes:
            unsynced, self.unsynced = self.unsynced, set()
        if unsynced:
            for slab in unsynced:
                slab.sync()
            sync_file(self.directory)

    @property
    def wasteful(self) -> bool:
        """Whether ``tidy`` would gain room."""
        return any(slab.wasteful for slab in self._slabs if slab is not self._filling)

    def tidy(self) -> None:
        """Writes those slabs anew, in one, of which little counts; for any thread. Raises OSError."""
        with self._lock:
            for slab in [slab for slab in self._slabs if slab is not self._filling and slab.wasteful]:
                records = list(slab.counting.values())
                for record, (meta, image) in zip(records, map(_read, records), strict=True):
                    record.meta, record.image = meta, image
                self._append(records)
                self._remove(slab)

    def _remove(self, slab: _Slab) -> None:
        self._slabs.remove(slab)
        with self._bytes:
            self.unsynced.discard(slab)
        slab.path.unlink(missing_ok=True)
        sync_file(self.directory)  # or it might be back, with records that have been dropped elsewhere since

    def remove(self) -> None:
        """Delete all files."""
        with self._lock:
            with self._bytes:
                self._closed = True
            for slab in list(self._slabs):
                self._remove(slab)

    # --- at a start -----------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> None:
        slab = _Slab(path)
        self._slabs.append(slab)
        self._next = slab.number + 1
        data = path.read_bytes()
        dropped: list[Record] = []  # once all are counted: a slab goes with the last one that counts
        for meta, image_bytes, at, state in scan(data):
            slab.size = at + _HEAD_BYTES + len(meta) + image_bytes
            if state == DROPPED:
                continue
            record = Record(self, meta, b"", logged=state == _WITH_LOG)
            record.image_bytes = image_bytes
            record.bytes += image_bytes
            record.place = slab, at
            record.meta = b""
            slab.count(record, at)
            try:
                known = Meta.from_json(meta.decode())
            except (ValueError, KeyError, TypeError):
                log.warning("%s has a shape at byte %d that is not ours to read", path, at)
                dropped.append(record)
                continue
            former = self.found.get(known.shape.hash)
            if former is not None:  # it was being moved
                dropped.append(former[1])
            self.found[known.shape.hash] = known, record
        if not slab.counting:
            self._remove(slab)
        for record in dropped:
            self.drop(record)


def _read(record: Record) -> tuple[bytes, bytes]:
    assert record.place is not None, "written"
    slab, at = record.place
    data = os.pread(slab.file.fileno(), record.bytes - _HEAD_BYTES, at + _HEAD_BYTES)
    meta_bytes = record.bytes - _HEAD_BYTES - record.image_bytes
    return data[:meta_bytes], data[meta_bytes:]


def scan(data: bytes) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Of every whole record: what ``shape.json`` would say, bytes of its image, where it begins, its state. What comes
    behind a broken one was never on the disk."""
    at = 0
    while at + _HEAD_BYTES <= len(data):
        meta_bytes, image_bytes = _LENGTHS.unpack_from(data, at)
        begins = at + _HEAD_BYTES
        ends = begins + meta_bytes + image_bytes
        checksum = zlib.crc32(data[begins:ends], zlib.crc32(data[at : at + _LENGTHS.size]))
        if ends > len(data) or _CHECKSUM.unpack_from(data, at + _LENGTHS.size) != (checksum,):
            return
        yield data[begins : begins + meta_bytes], image_bytes, at, data[at + _STATE_AT : begins]
        at = ends
