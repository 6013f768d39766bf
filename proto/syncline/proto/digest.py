"""Whether two copies of many rows are the same, and where they are not, without sending the rows. Pure.

Each end puts the rows of a table into the same number of buckets, by their keys, and sums up a digest of each row in
its bucket. Sums do not depend on the order, so nobody has to sort; where two sums differ, the rows of that bucket do.
Digests have 128 bits and a salt that the device chooses anew each time: whatever a row may be like, a difference that
is overlooked once is found the next time.

A row is digested as the bytes of its insert (``ops.insert_body``), which a server has at hand and a device can make.
``satellite.proto`` has the definition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from zlib import crc32

from syncline.proto.errors import invalid
from syncline.proto.ops import encode_tags, end_of_row
from syncline.proto.tags import UNRECORDED, format_tag
from syncline.proto.values import POSTGRES_ORIGIN, Key

SUM_BYTES: Final = 16
SALT_BYTES: Final = 16
_MODULUS: Final = 1 << (8 * SUM_BYTES)
# The fewer rows a bucket has, the fewer come for one that differs.
ROWS_PER_BUCKET: Final = 64
# Of all tables of a device together: its start stays within the size of a message, and a server holds little of it.
BUCKETS_MAX: Final = 8192

_UNRECORDED_TAGS: Final = (format_tag(UNRECORDED),)
_UNRECORDED_TAG: Final = encode_tags(_UNRECORDED_TAGS)
# The only tag of an insert, encoded: behind its row, and up to the end.
_ONE_OF_POSTGRES: Final = re.compile(b"\x1a[\x00-\x7f]" + POSTGRES_ORIGIN.encode() + b"@[0-9]+\\Z")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a device says of its rows. ``tables``: table -> the sums of its buckets, one after the other."""

    salt: bytes
    tables: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class TableDifference:
    """The buckets of a table that differ, out of so many: as a bitmap, the first bit on top."""

    relation_id: int
    buckets: int
    differing: bytes

    @property
    def any(self) -> bool:
        return any(self.differing)

    def includes(self, key: Key) -> bool:
        """Whether the row with this key is in one of them."""
        place = bucket_of(key, self.buckets)
        return bool(self.differing[place >> 3] & (0x80 >> (place & 7)))


def held_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags with which a device digests a row that it has with ``tags``. What Postgres wrote last has the tag of
    that write on devices that saw it happen, and ``postgres_1@0`` where the rows have been read since."""
    return _UNRECORDED_TAGS if len(tags) == 1 and tags[0].rpartition("@")[0] == POSTGRES_ORIGIN else tags


def held_body(body: bytes) -> bytes:
    """What a row is digested as whose insert has this ``body``: with its ``held_tags``."""
    found = _ONE_OF_POSTGRES.match(body, end_of_row(body))
    return body if found is None else body[: found.start()] + _UNRECORDED_TAG


def bucket_of(key: Key, buckets: int) -> int:
    """``buckets``: a power of two."""
    return crc32(key[0] or b"" if len(key) == 1 else b"\0".join([cell or b"" for cell in key])) & (buckets - 1)


def buckets_for(rows: Sequence[int]) -> list[int]:
    """How many buckets each of several tables gets, with so many ``rows``."""
    per_bucket = ROWS_PER_BUCKET
    while True:
        buckets = [_power_of_two(-(-count // per_bucket)) for count in rows]
        if sum(buckets) <= max(BUCKETS_MAX, len(buckets)):
            return buckets
        per_bucket *= 2


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


class Digests:
    """The sums of one table's rows."""

    def __init__(self, buckets: int, salt: bytes) -> None:
        self._rows = [0] * buckets
        self._sums = [0] * buckets
        self._buckets = buckets
        self._digest: Callable[[bytes], bytes] = lambda body: blake2b(body, digest_size=SUM_BYTES, salt=salt).digest()

    def add(self, key: Key, body: bytes) -> None:
        """One row, whose key is ``key`` and whose insert has this ``body``."""
        place = bucket_of(key, self._buckets)
        self._sums[place] += int.from_bytes(self._digest(body), "big")
        self._rows[place] += 1

    def sums(self) -> bytes:
        return b"".join([(value % _MODULUS).to_bytes(SUM_BYTES, "big") for value in self._sums])

    def difference(self, relation_id: int, held: bytes) -> TableDifference:
        """Where the rows are others than those with the sums ``held``, of as many buckets."""
        bitmap = bytearray(-(-self._buckets // 8))
        for place, value in enumerate(self._sums):
            start = place * SUM_BYTES
            if held[start : start + SUM_BYTES] != (value % _MODULUS).to_bytes(SUM_BYTES, "big"):
                bitmap[place >> 3] |= 0x80 >> (place & 7)
        return TableDifference(relation_id, self._buckets, bytes(bitmap))

    def rows_in(self, difference: TableDifference) -> int:
        """How many rows there are in the buckets that differ."""
        return sum(
            rows for place, rows in enumerate(self._rows) if difference.differing[place >> 3] & (0x80 >> (place & 7))
        )


NOTHING_HELD: Final = bytes(SUM_BYTES)
"""The sums of a table without rows, in one bucket."""


def check_holdings(holdings: Holdings) -> None:
    """Raises ProtocolError for what no device of ours sends."""
    if len(holdings.salt) != SALT_BYTES:
        raise invalid(f"a salt has {SALT_BYTES} bytes")
    total = 0
    for sums in holdings.tables.values():
        check_buckets(len(sums) // SUM_BYTES)
        if len(sums) % SUM_BYTES:
            raise invalid(f"a sum has {SUM_BYTES} bytes")
        total += len(sums) // SUM_BYTES
    if total > max(BUCKETS_MAX, len(holdings.tables)):
        raise invalid(f"more than {BUCKETS_MAX} buckets")


def check_buckets(buckets: int) -> None:
    """Raises ProtocolError unless it is a power of two within the bounds."""
    if not 0 < buckets <= BUCKETS_MAX or buckets & (buckets - 1):
        raise invalid(f"{buckets} is no number of buckets")
