"""An incoming row meets local changes of the same row that the server has not echoed yet. Pure.

The rules are ``proto.merge``'s. Here oplog entries are put into its terms, and several incoming changes to one row
within one transaction are folded into the one they amount to: the last row, and every column that any of them changed.
Some may have other columns than others; then each column is as the last that has it says.

**What has given way stays so.** A change names its transaction's time, and counts in the columns that it changed. Of
the others its row says what they are, not since when. So where a pending write has once met a later one, in a column,
that is noted down with its entry (``lost``): else the next change, to another column of the row, would bring it back
until the echo. Not when the row has gone meanwhile: an insert makes all of it anew, as the server will. And rows that
come as they stand, outside any transaction, say of no column when it was written: there a pending write stands, but
where it is known to have given way. Nor do they say when Postgres wrote them: its tag is of the time when they were
read. There a pending delete stands that has seen whatever else there is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from syncline.client.oplog import Entry, change_of
from syncline.client.schema import Table
from syncline.proto.merge import Incoming, RowWrite, incoming_of, merge_incoming, write_of
from syncline.proto.tags import UNRECORDED, Tag, format_tags
from syncline.proto.values import POSTGRES_ORIGIN, Cell, Delete, Insert, Row, Update


@dataclass(frozen=True, slots=True)
class PendingWrite(RowWrite):
    """``written``: the columns that it has changed, also those in which it has given way."""

    written: tuple[bool, ...] = ()


Pending: TypeAlias = tuple[PendingWrite, ...]
"""All local writes to one row that have not been echoed, oldest first."""
Present: TypeAlias = tuple[bool, ...]
"""Of the columns of a table those that a change has."""
Tied: TypeAlias = Collection[frozenset[int]]
"""See ``Table.tied``."""
Arrived: TypeAlias = tuple[Insert | Update | Delete, Present]
"""An incoming change; its rows have all columns of our table, NULL where it has none."""


def write_from(entry: Entry, table: Table, client_id: str) -> PendingWrite:
    write = write_of(change_of(entry, table), entry.origin or client_id, entry.commit_ms)
    written = write.modified
    if write.kind == "insert" and entry.new is not None and len(entry.new) < len(table.columns):
        written = tuple(column in entry.new for column in table.columns)
    left = zip(table.columns, written, strict=True)
    modified = tuple(was and column not in entry.lost for column, was in left) if entry.lost else written
    if table.tied:
        written, modified = _together(written, table.tied), _together(modified, table.tied)
    return PendingWrite(write.kind, write.row, modified, write.tag, write.observed, write.absent, written)


def regained(pending: Pending, history: Sequence[Arrived]) -> bool:
    """Whether the row has gone, and what is pending makes it anew: then it does not give way to what was there."""
    change, _ = history[-1]
    return isinstance(change, Delete) and not change.tags and bool(pending) and pending[0].kind == "insert"


def unwritten(pending: Pending, column: int) -> bool:
    """Whether none of the writes has changed the column, or may have."""
    return not any(write.modified[column] for write in pending)


def merged(
    pending: Pending,
    history: Sequence[Arrived],
    origin: str,
    commit_ms: int,
    tied: Tied = (),
    *,
    in_transaction: bool = True,
) -> tuple[Row | None, Present, tuple[str, ...]]:
    """The row as it is to stand here, None if it goes; which of its columns have come; its tags.

    ``history``: the incoming changes to the row by the transaction of ``origin`` at ``commit_ms``, in order, at least
    one; not ``in_transaction``: as they stand. Rows are in the column order of ``pending``. A column that has not come
    is as the device has written it last; that counts where the row is not here. Raises ProtocolError for text that is
    no tag.
    """
    incoming, present = _folded(history, origin, commit_ms, tied)
    if regained(pending, history):
        pending = tuple(replace(write, modified=write.written) for write in pending)
    stands = not in_transaction or _heals(history, origin, pending)
    if not in_transaction:
        incoming = replace(incoming, modified=(False,) * len(incoming.modified))
    known = next((write.row for write in reversed(pending) if write.kind != "compensation"), incoming.row)
    row = tuple(cell if there else ours for cell, there, ours in zip(incoming.row, present, known, strict=True))
    incoming = replace(incoming, row=row)
    if stands and merge_incoming(pending, replace(incoming, tags=_undated(incoming.tags))).row is None:
        return None, present, ()
    result = merge_incoming(pending, incoming)
    return result.row, present, format_tags(result.tags)


def _heals(history: Sequence[Arrived], origin: str, pending: Pending) -> bool:
    """Whether it is a row as it stands that comes with a transaction of the device's own."""
    own = bool(pending) and pending[-1].tag.origin == origin
    return own and all(isinstance(change, Update) and change.old_row is None for change, _ in history)


def _undated(tags: frozenset[Tag]) -> frozenset[Tag]:
    """With what counts as seen by whoever has seen anything in place of Postgres'."""
    return frozenset(UNRECORDED if tag.origin == POSTGRES_ORIGIN else tag for tag in tags)


def losing(
    pending: Pending, history: Sequence[Arrived], origin: str, commit_ms: int, tied: Tied = ()
) -> tuple[int, ...]:
    """The columns in which all that is pending gives way to the incoming changes, see ``merged``."""
    incoming, _ = _folded(history, origin, commit_ms, tied)
    both = [
        column
        for column, modified in enumerate(incoming.modified)
        if modified and any(write.modified[column] for write in pending)
    ]
    if not both:
        return ()
    # Cells that say whose they are.
    ours = tuple(replace(write, row=(b"ours",) * len(write.row)) for write in pending)
    result = merge_incoming(ours, replace(incoming, row=(b"theirs",) * len(incoming.row)))
    return () if result.row is None else tuple(column for column in both if result.row[column] == b"theirs")


def _folded(history: Sequence[Arrived], origin: str, commit_ms: int, tied: Tied) -> tuple[Incoming, Present]:
    (first, present), *later = history
    total = incoming_of(first, origin, commit_ms)
    total = replace(total, modified=_both(total.modified, present))
    for change, there in later:
        one = incoming_of(change, origin, commit_ms)
        modified = tuple(a or b for a, b in zip(total.modified, _both(one.modified, there), strict=True))
        cells: Sequence[Cell] = total.row
        if (total.kind, one.kind) == ("delete", "insert"):
            # It has nothing from before.
            cells, present = (None,) * len(there), (True,) * len(there)
        row = tuple(new if is_new else old for new, old, is_new in zip(one.row, cells, there, strict=True))
        present = tuple(a or b for a, b in zip(present, there, strict=True))
        total = replace(one, row=row, modified=modified)
    return replace(total, modified=_together(total.modified, tied)) if tied else total, present


def _together(modified: tuple[bool, ...], tied: Tied) -> tuple[bool, ...]:
    """Columns of which one is written are all written."""
    written = {column for column, there in enumerate(modified) if there}
    written = written.union(*(columns for columns in tied if columns & written))
    return tuple(column in written for column in range(len(modified)))


def _both(left: Present, right: Present) -> Present:
    return tuple(a and b for a, b in zip(left, right, strict=True))
