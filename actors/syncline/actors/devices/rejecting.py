"""What a device is told of why its transaction was rejected. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from syncline.actors.devices.inbound import Lookup
from syncline.actors.postgres.typemap import to_wire
from syncline.actors.postgres.write import Rejection
from syncline.proto.values import RejectionReason

# A trigger of the application may say anything, of any length; and a key may be a text of a megabyte.
TEXT_CHARS_MAX: Final = 4_000
KEY_BYTES_MAX: Final = 64 << 10
CUT: Final = "..."


def reason_of(rejection: Rejection, lookup: Lookup) -> RejectionReason:
    """``rejection`` in a device's terms: as cells, and no longer than is good. ``lookup``: see ``inbound``."""
    return RejectionReason(
        rejection.sqlstate,
        _cut(rejection.message) or "",
        _cut(rejection.detail),
        _cut(rejection.hint),
        rejection.table,
        rejection.constraint,
        rejection.columns,
        _key_cells(rejection.table, rejection.key, lookup),
        _key_cells(rejection.table, rejection.winner, lookup),
        rejection.follows,
    )


def size_of(reason: RejectionReason) -> int:
    """About the bytes it takes to remember it."""
    texts = (reason.message, reason.detail or "", reason.hint or "")
    return sum(map(len, texts)) + sum(len(cell) for _, cell in (*reason.key, *reason.winner))


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + CUT


def _key_cells(name: str | None, key: Sequence[str], lookup: Lookup) -> tuple[tuple[str, bytes], ...]:
    """None where the table has another key by now."""
    table = None if name is None else lookup(name)
    if table is None or len(key) != len(table.key_names):
        return ()
    cells: list[tuple[str, bytes]] = []
    for column, text in zip(table.key_names, key, strict=True):
        convert = to_wire(table.type_now(column))
        cells.append((column, text.encode() if convert is None else convert(text.encode())))
    return tuple(cells) if sum(len(cell) for _, cell in cells) <= KEY_BYTES_MAX else ()
