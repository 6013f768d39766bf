"""A device transaction as the writer takes it, and as ``electric.apply`` does: JSON.

The text of a large transaction takes long to make. Whoever has one makes it piece by piece, pausing in between, and
hands over the pieces.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

Operation = Literal["I", "U", "D", "C"]


@dataclass(frozen=True, slots=True)
class RowOperation:
    """One operation of a device on one row of an electrified table.

    ``relation_id``: table oid. ``row``: Postgres input text per column of the table's description; cells of no meaning
    (a compensation's, apart from the key) are None. ``modified``: for an update, which columns it changed. ``tags``:
    the tags it had observed. ``absent``: for an update, places of columns that its author did not hold.
    """

    relation_id: int
    op: Operation
    row: tuple[str | None, ...]
    modified: tuple[bool, ...] = ()
    tags: tuple[str, ...] = ()
    absent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why Postgres refused a transaction. ``sqlstate`` is Postgres' five-character code.

    What is at fault is in ``table``: ``columns`` of it, and the row with ``key``, as texts in column order. Empty for
    what is not known. ``winner``: the key of the row there that has what was to be unique. ``follows``: the ``ms`` of
    an earlier transaction of the device, which was rejected and had made the row that this one is about.
    """

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    table: str | None = None
    constraint: str | None = None
    columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    winner: tuple[str, ...] = ()
    follows: int | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Operations as text already: each of ``pieces`` is what ``encode_operations`` returns for some of them."""

    pieces: tuple[bytes, ...]
    operations: int


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction of a device, to be applied once. ``lsn`` and ``ms`` (commit time, in ms) are the device's.

    ``refusal``: it was found unacceptable already; it takes its place in the device's order and is rejected untried.
    ``encoded``: its operations where they are not in ``changes``. ``turn``: greater when its sender begins again with
    what was not taken.
    """

    client_id: str
    lsn: int
    ms: int
    changes: tuple[RowOperation, ...]
    reply_to: Ref
    refusal: Rejection | None = None
    encoded: Encoded | None = None
    turn: int = 0

    @property
    def operations(self) -> int:
        return len(self.changes) if self.encoded is None else self.encoded.operations


def encode_write(write: Write, refusal: Rejection | None = None) -> tuple[bytes, ...]:
    """One element of the batch that ``electric.apply`` takes, in pieces; with ``refusal`` it is rejected untried."""
    element: dict[str, Any] = {"client": write.client_id, "lsn": write.lsn, "ms": write.ms}
    if refusal is not None:
        fields = ("sqlstate", "message", "detail", "hint", "table", "constraint")
        texts = ((name, getattr(refusal, name)) for name in fields)
        # It may quote what the device sent.
        element["refuse"] = {name: without_nul(text) for name, text in texts if text is not None} | {
            name: list(map(without_nul, known)) for name in ("columns", "key") if (known := getattr(refusal, name))
        }
    if write.encoded is None:
        changes = write.changes if refusal is None else map(_storable, write.changes)
        element["ops"] = [_operation(change) for change in changes]
        return (_json(element),)
    text = [_json(element)[:-1], b',"ops":[']
    for piece in write.encoded.pieces:
        text += (piece, b",")
    return (*(text[:-1] if write.encoded.pieces else text), b"]}")


def encode_operations(changes: Iterable[RowOperation]) -> bytes:
    """At least one operation as the inside of a JSON array."""
    return encode_elements(map(_operation, changes))


def encode_elements(elements: Iterable[Mapping[str, object]]) -> bytes:
    """At least one object as the inside of a JSON array."""
    return _json(list(elements))[1:-1]


def _operation(change: RowOperation) -> dict[str, Any]:
    modified: Sequence[bool | None] = change.modified
    if change.absent:
        modified = [None if place in change.absent else is_new for place, is_new in enumerate(change.modified)]
    return {
        "rel": change.relation_id,
        "op": change.op,
        "row": change.row,
        "modified": modified,
        "tags": change.tags,
    }


def unstorable(changes: Iterable[RowOperation]) -> Rejection | None:
    """Postgres has no U+0000 in text. Found here, because it would fail the whole batch before it began."""
    texts: Iterable[str] = (cell for change in changes for cell in change.row if cell is not None)
    if any("\x00" in text for text in texts):
        return Rejection("22021", "a text contains U+0000, which Postgres cannot store")
    return None


def _storable(change: RowOperation) -> RowOperation:
    row = tuple(cell if cell is None else without_nul(cell) for cell in change.row)
    return replace(change, row=row)


def without_nul(text: str) -> str:
    """As Postgres can store it."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()
