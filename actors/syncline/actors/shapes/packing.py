"""The beginning of a log, written anew with only what is final in it: see ``finals``.

It is written to files of its own, beside the segments that it is to replace, and counts once ``shape.json`` names it. A
crash before leaves files that nobody names, and they are removed at the next start; after it those replaced are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from syncline.actors.shapes.disk import private, sync_file
from syncline.actors.shapes.log import Record, encode_record
from syncline.actors.shapes.segment import Segment
from syncline.actors.shapes.storemeta import Packed

WRITE_BYTES = 1 << 20


class Packing:
    """One being written, in segments of ``segment_bytes``. ``replaced``: the segments whose records go into it."""

    def __init__(self, directory: Path, packed: Packed, replaced: Sequence[Segment], segment_bytes: int) -> None:
        self.packed = packed
        self.replaced = tuple(replaced)
        self.segments: list[Segment] = []
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._run = bytearray()
        self._held: Record | None = None  # whether it is the last of its transaction, the next one tells
        self._index = 0

    def records(self) -> Iterator[Record]:
        """All there is to be packed, in log order. Raises Damaged."""
        for segment in self.replaced:
            yield from segment.after((0, 0))

    def add(self, record: Record) -> None:
        """``record`` comes next: what of it is final. Raises OSError."""
        held, self._held = self._held, record
        if held is not None:
            self._write(held, last=held.lsn != record.lsn)

    def finish(self, ms: int) -> None:
        """That was all; ``ms``: the latest commit time of what there was. Raises OSError."""
        if self._held is not None:
            self._write(self._held, last=True)
        self._flush()
        self.packed = replace(self.packed, ms=ms, segments=len(self.segments))

    def sync(self) -> None:
        """It is on the disk, and with it an index of all of it, when this returns; for any thread. Raises OSError."""
        for segment in self.segments:
            sync_file(segment.path)
            index = segment.indexing(full=True)
            if index is not None:
                index()
        sync_file(self._directory)

    def abandon(self) -> None:
        """It is not needed after all."""
        for segment in self.segments:
            segment.remove()

    def _write(self, record: Record, *, last: bool) -> None:
        # Numbered anew, for what was before it or behind it in the transaction may be gone.
        record = replace(record, index=self._index, last=last)
        self._index = 0 if last else self._index + 1
        if not self.segments or self.segments[-1].size + len(self._run) >= self._segment_bytes:
            self._flush()
            path = self._directory / packed_name(self.packed.number, len(self.segments))
            os.close(private(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            self.segments.append(Segment(path))
        segment = self.segments[-1]
        segment.note(record, segment.size + len(self._run))
        self._run += encode_record(record)
        if len(self._run) >= WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._run:
            segment = self.segments[-1]
            with open(segment.path, "ab", opener=private) as file:
                file.write(self._run)
            segment.size += len(self._run)
            self._run.clear()


def packed_name(number: int, place: int) -> str:
    return f"packed-{number}-{place:06d}"
