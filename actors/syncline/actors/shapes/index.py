"""What a segment of a log holds, in a file beside it: who starts reads that, and not the segment.

It is a checksum and the index itself. Nobody waits for the disk to have it: an index that is torn, of another format,
or not of the segment it stands beside, counts for nothing, and the segment is read as if there were none.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgpack

from syncline.actors.shapes.disk import private

FORMAT = 1
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Index:
    """The first ``size`` bytes of a segment, all of which are on the disk.

    ``last``: where the last record of them begins, and ``head`` how, with its checksum: so one segment is told from
    another. ``whole_lsn``: the newest transaction that ends there (0: none). ``unfinished``: where the one begins that
    has not ended (None: there is none, or it begins in an earlier segment). ``places``: (LSN, index, offset) of some
    records, ascending, the first among them.
    """

    size: int
    last: int
    head: bytes
    whole_lsn: int
    unfinished: int | None
    places: tuple[tuple[int, int, int], ...]


def encode_index(index: Index) -> bytes:
    body: bytes = msgpack.packb(
        (FORMAT, index.size, index.last, index.head, index.whole_lsn, index.unfinished, index.places)
    )
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def decode_index(data: bytes) -> Index | None:
    """The inverse of ``encode_index``; None for anything else."""
    body = data[_CHECKSUM.size :]
    if len(data) <= _CHECKSUM.size or _CHECKSUM.unpack_from(data) != (zlib.crc32(body),):
        return None
    written, *fields = msgpack.unpackb(body, use_list=False)
    return Index(*fields) if written == FORMAT else None


def write_index(path: Path, index: Index) -> None:
    """``path`` holds ``index`` from now on, whoever reads it. Raises OSError."""
    building = path.with_name(f"{path.name}.new")
    with open(building, "wb", opener=private) as file:
        file.write(encode_index(index))
    building.rename(path)


def read_index(path: Path) -> Index | None:
    """The index in ``path``; None if there is none that can be read."""
    try:
        return decode_index(path.read_bytes())
    except OSError:
        return None
