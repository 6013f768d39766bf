"""The rows of a shape at one position, in a file: chunks of rows encoded as inserts, with their keys.

A chunk is framed by its length and CRC-32 (both little-endian uint32). An image is written once, from its first chunk
to its last, and counts when ``shape.json`` names it. One that stays small may be in a slab instead (see ``slabs``).
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgpack

from syncline.actors.shapes.disk import private
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.slabs import IMAGE_BYTES_MAX, Record

_CHUNK = struct.Struct("<II")


@dataclass(slots=True)
class Image:
    """``number``: 0 for the snapshot; those folded from an earlier image and the log count on from there.

    ``lsn``: rows can be given from here on. ``rows``, ``size_bytes``: what is in the file. ``gathered``: what is to be
    written, as long as it may go to a slab. ``record``: where it is if it is in one.
    """

    directory: Path
    number: int
    lsn: int = 0
    rows: int = 0
    size_bytes: int = 0
    gathered: bytearray | None = None
    record: Record | None = None

    @property
    def path(self) -> Path:
        return self.directory / (f"image-{self.number:06d}" if self.number else "image")

    @property
    def covers(self) -> int:
        """Records of the log up to here need not be read: the image has what they say. A snapshot was taken somewhere
        among the records before its position, so all of them count."""
        return self.lsn if self.number else 0

    def write(self, chunk: ImageChunk) -> None:
        """Add rows."""
        body: bytes = msgpack.packb((chunk.keys, chunk.ops))
        frame = _CHUNK.pack(len(body), zlib.crc32(body)) + body
        self.rows += len(chunk.keys)
        self.size_bytes += len(frame)
        if self.gathered is not None and len(self.gathered) + len(frame) <= IMAGE_BYTES_MAX:
            self.gathered += frame
            return
        if self.gathered is not None:
            frame = bytes(self.gathered) + frame
            self.gathered = None
            self.directory.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
        with open(self.path, "ab", opener=private) as file:
            file.write(frame)

    def move_out(self) -> None:
        """Of the slab, into a file of its own, which is on the disk when this returns; for any thread."""
        assert self.record is not None, "in a slab"
        with open(self.path, "wb", opener=private) as file:
            file.write(self.record.read(0))
            file.flush()
            os.fsync(file.fileno())

    def read(self, offset: int) -> tuple[ImageChunk | None, int]:
        """The chunk at byte ``offset`` (0 is the first) and the next one's offset; None after the last.

        Raises OSError when it is not what was written.
        """
        record = self.record
        if record is not None:
            data = record.read(offset)
            frame, rest = data[: _CHUNK.size], data[_CHUNK.size :]
        else:
            with self.path.open("rb") as file:
                file.seek(offset)
                frame = file.read(_CHUNK.size)
                rest = file.read(_CHUNK.unpack(frame)[0]) if len(frame) == _CHUNK.size else b""
        if not frame:
            return None, offset
        length, checksum = _CHUNK.unpack(frame) if len(frame) == _CHUNK.size else (-1, 0)
        body = rest[: max(0, length)]
        if len(body) != length or zlib.crc32(body) != checksum:
            path, remove = (self.path, self.directory) if record is None else (record.path, record.path)
            raise OSError(f"{path} is damaged at byte {offset}: remove {remove} and restart")
        keys, ops = msgpack.unpackb(body, use_list=False)
        return ImageChunk(keys, ops), offset + _CHUNK.size + length
