"""The rows of a shape at one position, in a file: chunks of rows encoded as inserts, with their keys.

A chunk is framed by its length and CRC-32 (both little-endian uint32). An image is written once, from its first chunk
to its last, and counts when ``shape.json`` names it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgpack

from syncline.actors.shapes.disk import private
from syncline.actors.shapes.image import ImageChunk

_CHUNK = struct.Struct("<II")


@dataclass(slots=True)
class Image:
    """``number``: 0 for the snapshot; those folded from an earlier image and the log count on from there.

    ``lsn``: rows can be given from here on. ``rows``, ``size_bytes``: what is in the file.
    """

    directory: Path
    number: int
    lsn: int = 0
    rows: int = 0
    size_bytes: int = 0

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
        with open(self.path, "ab", opener=private) as file:
            file.write(_CHUNK.pack(len(body), zlib.crc32(body)) + body)
        self.rows += len(chunk.keys)
        self.size_bytes += _CHUNK.size + len(body)

    def read(self, offset: int) -> tuple[ImageChunk | None, int]:
        """The chunk at byte ``offset`` (0 is the first) and the next one's offset; None after the last.

        Raises OSError when it is not what was written.
        """
        with self.path.open("rb") as file:
            file.seek(offset)
            frame = file.read(_CHUNK.size)
            if not frame:
                return None, offset
            length, checksum = _CHUNK.unpack(frame) if len(frame) == _CHUNK.size else (-1, 0)
            body = file.read(max(0, length))
        if len(body) != length or zlib.crc32(body) != checksum:
            raise OSError(f"{self.path} is damaged at byte {offset}: remove {self.directory} and restart")
        keys, ops = msgpack.unpackb(body, use_list=False)
        return ImageChunk(keys, ops), offset + _CHUNK.size + length
