"""The rows of a shape at a position: the stored image, overlaid with what the log says since.

For every key the log mentions up to the asked LSN, the newest version there is the row; for all others the image is.
The overlay is computed once per (shape, LSN) and shared by the devices that are given the shape at that moment.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import msgpack

from syncline.actors.shapes.log import Record
from syncline.proto import codec
from syncline.proto.values import Delete, Gone, Insert, Key, Relation, Row, Update

OVERLAY_CHUNK_ROWS = 1_000
THE_END = -1
"""As a cursor: there are no more rows."""
# What is done between two pauses: a few milliseconds' worth.
STEP_ROWS = 50
STEP_COPIED_ROWS = 20_000


TaggedRow: TypeAlias = tuple[Row, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Some rows of an image: ``keys`` as canonical bytes, ``ops`` one encoded insert each, in the same order."""

    keys: tuple[bytes, ...]
    ops: tuple[bytes, ...]

    @staticmethod
    def joined(parts: Iterable[ImageChunk]) -> ImageChunk:
        """One chunk of the rows of all ``parts``."""
        parts = tuple(parts)
        return ImageChunk(tuple(k for part in parts for k in part.keys), tuple(op for part in parts for op in part.ops))


_pack = msgpack.Packer().pack  # one for all: making one takes longer than packing a key


def key_bytes(relation_id: int, key: Key) -> bytes:
    """A row's table and key as bytes, equal for the same row and only for it."""
    packed: bytes = _pack((relation_id, *key))
    return packed


def keys_of(rows: Sequence[TaggedRow], relation: Relation) -> list[bytes]:
    """The ``key_bytes`` of rows with their tags."""
    id, places = relation.id, relation.key_indexes
    if len(places) == 1:
        (place,) = places
        return [_pack((id, row[place])) for row, _ in rows]
    return [_pack((id, *[row[place] for place in places])) for row, _ in rows]


def chunk_of(rows: Sequence[TaggedRow], relation: Relation) -> ImageChunk:
    """Rows with their tags as a chunk of an image."""
    return ImageChunk(tuple(keys_of(rows, relation)), tuple(codec.encode_inserts(relation.id, rows)))


@dataclass(frozen=True, slots=True)
class Overlay:
    """``rows``: key -> the row as an encoded insert, or None when it no longer exists. ``truncated``: the table was
    emptied within the log, so the image counts for nothing."""

    rows: dict[bytes, bytes | None]
    truncated: bool

    def apply(self, chunk: ImageChunk) -> ImageChunk:
        """What of an image chunk still holds."""
        if self.truncated:
            return ImageChunk((), ())
        if self.rows.keys().isdisjoint(chunk.keys):
            return chunk
        kept = [(key, op) for key, op in zip(chunk.keys, chunk.ops, strict=True) if key not in self.rows]
        return ImageChunk(tuple(key for key, _ in kept), tuple(op for _, op in kept))

    def chunks(self) -> Iterator[ImageChunk]:
        """The rows the log knows, as image chunks."""
        alive = ((key, op) for key, op in self.rows.items() if op is not None)
        while part := tuple(islice(alive, OVERLAY_CHUNK_ROWS)):
            yield ImageChunk(tuple(key for key, _ in part), tuple(op for _, op in part))


EMPTY = Overlay({}, truncated=False)


Relations: TypeAlias = Mapping[int, Relation]
"""By relation id: the tables of a shape."""


def overlaying(
    records: Iterable[Record], relations: Relations, base: Overlay = EMPTY
) -> Generator[None, None, Overlay]:
    """The newest version of every key in ``base`` and then ``records``, which are in log order.

    A long log is a long way: it yields after every ``STEP_ROWS`` rows, for whoever wants to pause, and returns the
    overlay.
    """
    rows: dict[bytes, bytes | None] = {}
    known = iter(base.rows.items())
    while part := dict(islice(known, STEP_COPIED_ROWS)):
        rows.update(part)
        yield
    truncated = base.truncated
    walked = 0
    for record in records:
        if record.truncates:
            rows.clear()
            truncated = True
        for ops in (record.ops,) if record.rows <= STEP_ROWS else codec.cut_ops(record.ops, STEP_ROWS):
            for change in codec.decode_ops(ops):
                match change:
                    case Insert(id, row, tags) | Update(id, row, _, tags):
                        op = codec.encode_ops((Insert(id, row, tags),))
                        rows[key_bytes(id, relations[id].key_of(row))] = op
                    case Delete(id, row, _) | Gone(id, row):
                        rows[key_bytes(id, relations[id].key_of(row))] = None
                    case _:
                        raise ValueError(f"a shape's log holds rows only, not {change}")
                walked += 1
            if walked >= STEP_ROWS:
                yield
                walked = 0
    return Overlay(rows, truncated)
