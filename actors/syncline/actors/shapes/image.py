"""The rows of a shape at a position: the stored image, overlaid with what the log says since.

For every key the log mentions up to the asked LSN, the newest version there is the row; for all others the image is.
The overlay is computed once per (shape, LSN) and shared by the devices that are given the shape at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from syncline.actors.shapes.log import Record
from syncline.actors.shapes.store import ImageChunk
from syncline.proto import codec
from syncline.proto.values import Delete, Insert, Key, Relation, Update

OVERLAY_CHUNK_ROWS = 1_000


def key_bytes(key: Key) -> bytes:
    """A key as bytes, equal for equal keys and only for them."""
    packed: bytes = msgpack.packb(key)
    return packed


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
        alive = [(key, op) for key, op in self.rows.items() if op is not None]
        for start in range(0, len(alive), OVERLAY_CHUNK_ROWS):
            part = alive[start : start + OVERLAY_CHUNK_ROWS]
            yield ImageChunk(tuple(key for key, _ in part), tuple(op for _, op in part))


EMPTY = Overlay({}, truncated=False)


def overlay_of(records: Iterable[Record], relation: Relation, base: Overlay = EMPTY) -> Overlay:
    """The newest version of every key in ``base`` and then ``records``, which are in log order."""
    rows = dict(base.rows)
    truncated = base.truncated
    for record in records:
        if record.truncates:
            rows.clear()
            truncated = True
        for change in codec.decode_ops(record.ops):
            match change:
                case Insert(_, row, tags) | Update(_, row, _, tags):
                    op = codec.encode_ops((Insert(relation.id, row, tags),))
                    rows[key_bytes(relation.key_of(row))] = op
                case Delete(_, old_row, _):
                    rows[key_bytes(relation.key_of(old_row))] = None
                case _:
                    raise ValueError(f"a shape's log holds rows only, not {change}")
    return Overlay(rows, truncated)
