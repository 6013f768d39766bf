"""The log of one shape on disk: a beginning that has only final operations, once there is one, and segments after it.

    <dir>/packed-<n>-<m>    the beginning: see ``packing``
    <dir>/log-<n>           segments; the next one begins once one is full, within a transaction if need be
    <dir>/index-...         what that segment holds, so that a start need not read it; every one of them may be missing

Who is in the middle of reading goes on with the files with which he began, by their ``generation``, although the log
has a new beginning by then: the files stay for as long as somebody reads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from syncline.actors.shapes.disk import private, sync_file
from syncline.actors.shapes.log import END_OF_TRANSACTION, Record, encode_record
from syncline.actors.shapes.packing import Packing, packed_name
from syncline.actors.shapes.segment import Damaged, Segment
from syncline.actors.shapes.storemeta import Packed
from syncline.cluster import Refusal

SEGMENT_BYTES_MAX = 64 << 20


class GenerationGone(Refusal):
    """The files that somebody was in the middle of are no more: he has to begin anew."""


class _Former:
    """The segments of a log that has a new beginning since. ``packed``: the beginning it had. ``read``: somebody has
    read of it lately."""

    def __init__(self, packed: Packed, segments: Sequence[Segment]) -> None:
        self.packed = packed
        self.segments = tuple(segments)
        self.read = True


class LogFiles:
    """Not thread-safe, except for what ``flushing`` returns.

    ``appended_lsn``: the newest transaction that is whole in the log (0: none). ``bytes``: of all of it;
    ``whole_bytes``: of what ends with that transaction. ``packed``: its beginning. ``begins``: called before there is
    a first file, in a folder that may not be there yet.
    """

    def __init__(self, directory: Path, begins: Callable[[], None]) -> None:
        self._directory = directory
        self._begins = begins
        self.appended_lsn = 0
        self.bytes = self.whole_bytes = 0
        self.packed = Packed()
        self._packed: list[Segment] = []
        self._tail: list[Segment] = []
        self._former: dict[int, _Former] = {}  # by the number of their beginning
        self._sealed: tuple[int, int] = (0, 0)  # LSN, how many segments of the tail end there
        self._unindexed: list[Segment] = []  # those which are full, and on the disk
        self._appending: int | None = None
        self._closed = False
        # Where the transaction being appended began; None between transactions.
        self._partial: tuple[Segment, int] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def load(self, packed: Packed) -> None:
        """Takes in what is there; ``packed`` says which files count. Others are removed. Raises Damaged and OSError."""
        self.packed = packed
        self.appended_lsn = packed.lsn
        named = sorted(self._directory.glob(packed_name(packed.number, 0)[:-6] + "*")) if packed.number else []
        tail = [path for path in sorted(self._directory.glob("log-*")) if _number(path) >= packed.following]
        if len(named) != packed.segments:
            raise Damaged(f"{self._directory} lacks a part of its log")
        self._remove_others({*named, *tail})
        for path in named:
            self._packed.append(self._loaded(path, full=True))
        for path in tail:
            segment = self._loaded(path, full=path != tail[-1])
            self._tail.append(segment)
            if segment.whole_lsn:
                self._partial = None
                self.appended_lsn = max(self.appended_lsn, segment.whole_lsn)
            if segment.unfinished is not None:
                self._partial = (segment, segment.unfinished)
        self.bytes = self.whole_bytes = sum(segment.size for segment in self._segments)
        if self._tail:
            last = self._tail[-1]
            self._appending = os.open(last.path, os.O_RDWR | os.O_APPEND)
            os.ftruncate(self._appending, last.size)
            if self._partial is not None:
                begun, offset = self._partial
                place = self._segments.index(begun)
                self.whole_bytes = sum(segment.size for segment in self._segments[:place]) + offset
                self._truncate(self._partial)

    def _loaded(self, path: Path, *, full: bool) -> Segment:
        segment = Segment(path)
        intact = segment.load()
        if full:  # all of it was on the disk before the next one began
            if not intact:
                raise Damaged(f"{path} is damaged at byte {segment.size}")
            self._unindexed.append(segment)
        return segment

    def _remove_others(self, counting: set[Path]) -> None:
        indexes = {Segment(path).index_path for path in counting}
        for pattern in ("log-*", "packed-*", "index-*"):
            for path in self._directory.glob(pattern):
                if path not in counting and path not in indexes:
                    path.unlink()

    def rest(self) -> None:
        """No file is open until something is appended."""
        if self._appending is not None:
            os.close(self._appending)
            self._appending = None

    def close(self) -> None:
        self._closed = True
        for segment in self._segments:
            segment.detach()
        self.rest()

    # --- appending --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> None:
        """Append records in order. A record with index 0 after an unfinished transaction discards the unfinished one;
        transactions at or below ``appended_lsn`` are skipped: they are repeats after a restart of the stream."""
        self._reopen()
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
            self.bytes += len(encoded)
            if record.last:
                self._partial = None
                self.appended_lsn = record.lsn
                self.whole_bytes = self.bytes
        self._write(run)

    @property
    def begun(self) -> bool:
        """Whether there is any file of it."""
        return bool(self._segments)

    @property
    def between_transactions(self) -> bool:
        """Whether what is there ends with a whole transaction."""
        return self._partial is None

    def discard_unfinished(self) -> None:
        """Forget the transaction that has begun and not ended, if there is one: it comes again from its beginning."""
        if self._partial is not None:
            self._truncate(self._partial)

    @property
    def segment_full(self) -> bool:
        """The next append moves on to another file, for which everything in this one has to be on the disk."""
        return bool(self._tail) and self._tail[-1].size >= SEGMENT_BYTES_MAX

    def flushing(self) -> Callable[[], None]:
        """See ``ShapeStore.flushing``."""
        if self._appending is None:
            return lambda: None
        descriptor = os.dup(self._appending)
        indexing = [segment.indexing(full=True) for segment in self._unindexed] + [self._tail[-1].indexing()]
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

    # --- reading ----------------------------------------------------------------------------------------------------

    def after(self, position: tuple[int, int], generation: int | None = None) -> Iterator[Record]:
        """Every record behind ``position``, of an unfinished transaction what is there. Raises GenerationGone."""
        segments = self._of(generation)
        for number, segment in enumerate(segments):
            rest = segments[number + 1 : number + 2]
            if not (rest and rest[0].begins_at_or_before(position)):
                yield from segment.after(position)

    def beginning(self, generation: int | None) -> Packed:
        """The beginning of the log as it was in that ``generation``; None: as it is. Raises GenerationGone."""
        if generation is None or generation == self.packed.number:
            return self.packed
        former = self._former.get(generation)
        if former is None:
            raise GenerationGone(f"the log in {self._directory.name} has to be read anew")
        former.read = True
        return former.packed

    def bytes_upto(self, lsn: int) -> int:
        """How much of the log its records at or below ``lsn`` take."""
        position, size = (lsn, END_OF_TRANSACTION), 0
        for segment, following in pairwise((*self._segments, None)):
            assert segment is not None
            if following is None or not following.begins_at_or_before(position):
                return size + segment.offset_after(position)
            size += segment.size
        return size

    # --- a new beginning ----------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """The transaction that was appended last ends a segment; nothing happens within one."""
        if self._partial is None and self._tail:
            self._reopen()
            if self._tail[-1].size:
                self._open_segment()
            self._sealed = self.appended_lsn, len(self._tail) - 1

    def packing(self, lsn: int) -> Packing | None:
        """A new beginning, up to and including ``lsn``, to be written; None if no segment ends there."""
        sealed, count = self._sealed
        if not count or sealed != lsn:
            return None
        packed = Packed(self.packed.number + 1, lsn, following=self._next_number - len(self._tail) + count)
        return Packing(self._directory, packed, (*self._packed, *self._tail[:count]), SEGMENT_BYTES_MAX)

    def take(self, packing: Packing) -> None:
        """``packing`` is the beginning from now on: ``shape.json`` names it."""
        former = _Former(self.packed, self._segments)
        self._former[self.packed.number] = former
        before = sum(segment.size for segment in packing.replaced)
        self._tail = self._tail[len(packing.replaced) - len(self._packed) :]
        self._packed = packing.segments
        self._unindexed = [segment for segment in self._unindexed if segment in self._tail]
        self._sealed = 0, 0
        self.packed = packing.packed
        saved = before - sum(segment.size for segment in self._packed)
        self.bytes -= saved
        self.whole_bytes -= saved

    def drop_unread(self) -> bool:
        """Removes files that nobody has read since this was last called; whether there are others to be removed."""
        for number, former in list(self._former.items()):
            if former.read:
                former.read = False
            else:
                del self._former[number]
                needed = {*self._segments, *(segment for other in self._former.values() for segment in other.segments)}
                for segment in former.segments:
                    if segment not in needed:
                        segment.remove()
        return bool(self._former)

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _segments(self) -> list[Segment]:
        return self._packed + self._tail

    @property
    def _next_number(self) -> int:
        return self.packed.following + len(self._tail)

    def _of(self, generation: int | None) -> Sequence[Segment]:
        self.beginning(generation)
        if generation is None or generation == self.packed.number:
            return self._segments
        return self._former[generation].segments

    def _reopen(self) -> None:
        """After ``rest``."""
        if self._appending is None and self._tail and not self._closed:
            self._appending = os.open(self._tail[-1].path, os.O_RDWR | os.O_APPEND)

    def _place(self, record: Record, run: bytearray) -> None:
        """``record`` is written next, behind ``run``."""
        if not self._tail or self._tail[-1].size + len(run) >= SEGMENT_BYTES_MAX:
            self._write(run)
            self._open_segment()
        segment = self._tail[-1]
        segment.note(record, segment.size + len(run))
        if record.index == 0:
            self._partial = (segment, segment.size + len(run))

    def _open_segment(self) -> None:
        if self._appending is not None:
            os.fsync(self._appending)
            os.close(self._appending)
            self._unindexed.append(self._tail[-1])
        if self._appending is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._begins()
        path = self._directory / f"log-{self._next_number:06d}"
        self._appending = private(str(path), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        sync_file(self._directory)  # or a loss of the machine could take the new name with it
        self._tail.append(Segment(path, os.fstat(self._appending).st_size))

    def _write(self, run: bytearray) -> None:
        if not run:
            return
        if self._appending is None:
            raise ValueError("the log is closed")
        view = memoryview(bytes(run))
        while view:
            view = view[os.write(self._appending, view) :]
        self._tail[-1].size += len(run)
        run.clear()

    def _truncate(self, begun: tuple[Segment, int]) -> None:
        segment, offset = begun
        number = self._tail.index(segment)
        later = self._tail[number + 1 :]
        for removed in reversed(later):
            removed.remove()
        del self._tail[number + 1 :]
        self._unindexed = [full for full in self._unindexed if full in (*self._packed, *self._tail[:number])]
        if segment.cut(offset) or later:
            sync_file(self._directory)  # or a loss of the machine could bring back what was of the longer log
        if self._appending is not None:
            os.close(self._appending)
        self._appending = os.open(segment.path, os.O_RDWR | os.O_APPEND)
        os.ftruncate(self._appending, offset)
        self._partial = None
        self.bytes = self.whole_bytes


def _number(path: Path) -> int:
    return int(path.name.removeprefix("log-"))
