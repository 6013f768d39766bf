"""What of a stretch of a log is final: of every key the newest operation. Pure.

A device that was away for long needs no more than that. So a log is rewritten from time to time, and in what is left of
it an operation that a later one of the same row made useless is missing. A transaction there may be a fragment of what
it was: only the whole stretch, given at once, is what the shape held at its end.

Whoever stands somewhere within the stretch is given what lies behind it, in which the newest operation of every row
that changed there is contained.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable
from dataclasses import dataclass, field, replace

from syncline.actors.shapes.image import STEP_ROWS, Relations, key_bytes
from syncline.actors.shapes.log import Record
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Gone, Insert, Update


@dataclass(slots=True)
class Finals:
    """``newest``: key -> the position of the record with its newest operation. ``again``: the keys that more than one
    operation is about. ``latest_ms``: the latest commit time there is."""

    newest: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    again: set[bytes] = field(default_factory=set)
    latest_ms: int = 0


def key_of(change: Change, relations: Relations) -> bytes:
    """The row that ``change`` is about. Raises ValueError for what is about none."""
    match change:
        case Insert(id, row) | Update(id, row) | Delete(id, row) | Gone(id, row):
            return key_bytes(id, relations[id].key_of(row))
        case _:
            raise ValueError(f"a shape's log holds rows only, not {change}")


def finding(records: Iterable[Record], relations: Relations) -> Generator[None, None, Finals]:
    """What is final in ``records``, which are in log order. Yields after every ``STEP_ROWS`` rows."""
    finals = Finals()
    newest, again = finals.newest, finals.again
    walked = 0
    for record in records:
        finals.latest_ms = max(finals.latest_ms, record.commit_ms)
        position = record.position
        for ops in codec.cut_ops(record.ops, STEP_ROWS):
            for change in codec.decode_changes(ops):
                key = key_of(change, relations)
                if key in newest:
                    again.add(key)
                newest[key] = position
                walked += 1
            if walked >= STEP_ROWS:
                yield
                walked = 0
    return finals


def trimming(
    record: Record, finals: Finals, relations: Relations, buried_upto: int = 0
) -> Generator[None, None, Record | None]:
    """What of ``record`` is final; None if that is nothing. What ``finals`` do not know is. At or below the LSN
    ``buried_upto`` that a row went away is forgotten. Yields between ``STEP_ROWS`` rows and the next."""
    forgets = record.lsn <= buried_upto
    kept: dict[bytes, Change] = {}
    for step, ops in enumerate(codec.cut_ops(record.ops, STEP_ROWS)):
        if step:
            yield
        for change in codec.decode_changes(ops):
            key = key_of(change, relations)
            kept.pop(key, None)
            if finals.newest.get(key, record.position) != record.position:
                continue
            if forgets and isinstance(change, Delete | Gone):
                continue
            # What it was before this operation is not what it was where the device stands.
            kept[key] = replace(change, old_row=None) if isinstance(change, Update) and key in finals.again else change
    if not kept:
        return None
    gone = _gone(record, {key for key, change in kept.items() if isinstance(change, Gone)}, relations)
    # A truncate is the deletes that it came to.
    return replace(record, rows=len(kept), ops=codec.encode_ops(kept.values()), gone=gone, truncates=False)


def _gone(record: Record, leaving: Container[bytes], relations: Relations) -> bytes:
    if not record.gone:
        return b""
    # Of a row that left twice the last.
    rows = {key_of(row, relations): row for row in codec.decode_changes(record.gone)}
    return codec.encode_ops([row for key, row in rows.items() if key in leaving])
