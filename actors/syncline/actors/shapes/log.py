"""The record format of a shape's log.

A record is one shape's part of one transaction, or a piece of that part when it is large. Its operations are already
encoded for the wire, so a record read from disk goes to any number of devices without being touched. On disk a record
is framed by its length and CRC-32 (both little-endian uint32); the first frame that is short or does not check ends
the log: whatever follows was never acknowledged to anybody.

Positions are (lsn, index): the commit LSN of the transaction and the number of the record within it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

_FRAME = struct.Struct("<II")
FRAME_BYTES = _FRAME.size
# An index larger than any record's: "after the whole transaction with this LSN".
END_OF_TRANSACTION = 1 << 62


@dataclass(slots=True)
class Record:
    """One shape's part of a transaction. A value, once it is appended; freezing it would double the cost of making one.

    ``lsn``: commit LSN. ``commit_ms``: as the wire carries it. ``origin``: the device that wrote it, or Postgres.
    ``index``: 0, 1, ... within the transaction. ``last``: no record of this shape follows in it. ``rows``: number of
    operations in ``ops``, the encoded body. ``prelude``: whole messages that must precede the transaction (relations).
    ``truncates``: the shape's table was emptied here; ``ops`` then delete every row a device may hold. ``gone``: of the
    rows that leave the shape and stay in Postgres, which ``ops`` name by key, what they are now: encoded inserts.
    ``since``, ``until``: ``ops`` tell what became of rows between these two places of the transaction, counted in its
    changes. A shape that is told of it in pieces tells it in pieces, one that nets all of it does so at its end.
    """

    lsn: int
    commit_ms: int
    origin: str
    index: int
    last: bool
    rows: int
    ops: bytes
    prelude: tuple[bytes, ...] = ()
    truncates: bool = False
    gone: bytes = b""
    since: int = 0
    until: int = 0

    @property
    def position(self) -> tuple[int, int]:
        return (self.lsn, self.index)


def record_fields(record: Record) -> tuple[object, ...]:
    """What ``Record`` is made of, in the order of its constructor, on disk and on links."""
    return (
        record.lsn,
        record.commit_ms,
        record.origin,
        record.index,
        record.last,
        record.rows,
        record.ops,
        record.prelude,
        record.truncates,
        record.gone,
        record.since,
        record.until,
    )


def encode_record(record: Record) -> bytes:
    body: bytes = msgpack.packb(record_fields(record))
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def frame_size(data: bytes) -> int:
    """The bytes that the record at the beginning of ``data`` takes, by what its head says."""
    length, _ = _FRAME.unpack_from(data)
    return FRAME_BYTES + int(length)


def scan(data: bytes, start: int = 0) -> Iterator[tuple[Record, int, int]]:
    """Every whole record in ``data`` from ``start``: (record, its offset, the offset after it). Stops at the first
    frame that is short or broken."""
    view = memoryview(data)
    offset = start
    while offset + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, offset)
        end = offset + _FRAME.size + length
        if end > len(data):
            return
        body = view[offset + _FRAME.size : end]
        if zlib.crc32(body) != checksum:
            return
        yield Record(*msgpack.unpackb(body, use_list=False)), offset, end
        offset = end


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one shape after a position; ``more``: others follow below the asked limit.

    ``generation``: of the files it is from. Up to ``final_lsn`` they have only final operations, the latest of them of
    ``final_ms``; for a device that stands before ``since`` they lack some (see ``finals``). They are to be given as one
    transaction up to ``whole_upto``.
    """

    records: tuple[Record, ...]
    more: bool
    generation: int = 0
    final_lsn: int = 0
    final_ms: int = 0
    since: int = 0
    whole_upto: int = 0
