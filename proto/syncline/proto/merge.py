"""The rules by which concurrent writes to one row become one row, on the server and on every device.

A row is an observed-remove element: it exists as long as it has tags (module ``tags``). Each of its columns is a
register that the write with the largest tag wins; columns that a constraint ties together are one register, so that two
writes each valid alone never make a row that is not. Who does not hold all of a register has no values for the rest:
that stays as it is, and counts as written with what he wrote. A compensation is a write that modifies no column: it
only leaves its tag, so that a parent which a new child refers to stays, or comes back with the values it had. An insert
where there is no row begins anew: the row is as its author wrote it. He may have seen that it was deleted, which an
insert cannot say, and his clock may be behind.

**Time.** A write counts as of its device's clock, but never as much later than the server's clock when it arrives
(the caller sees to that), and always as later than what its author had seen (``tags.stamp``).

**The server** (``apply_write``) keeps tags per row and per column, and the values of deleted rows (the tombstone), from
which an update that had not seen the delete revives them. Writes that did not see each other may be applied in any
order, but for an insert and what was written and deleted without it, with the same result, each once;
writes of one origin arrive in order. A write by direct SQL (``apply_direct``) has seen everything that is there, and
what it wrote is what the row holds.

**A device** (``merge_incoming``) keeps no tag per column. It has writes of its own that the server has not echoed, and
a row comes in as the server resolved it without them. It predicts what the server will make of the two together; the
echo then brings the server's own answer. The prediction is exact for one such row and for devices whose clock is not
ahead of the server's; otherwise it may be off until the echo.

Both are plain functions of one row, and the oracle for the SQL that applies device writes in bulk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from syncline.proto.errors import misuse
from syncline.proto.tags import UNRECORDED, Seen, Tag, observe, parse_tags, stamp
from syncline.proto.values import (
    FINAL_MS,
    POSTGRES_ORIGIN,
    Cell,
    Compensation,
    Delete,
    Gone,
    Insert,
    Row,
    RowChange,
    Update,
)

WriteKind: TypeAlias = Literal["insert", "update", "delete", "compensation"]
DirectKind: TypeAlias = Literal["insert", "update", "delete"]
IncomingKind: TypeAlias = Literal["insert", "update", "delete", "gone"]
FINAL = Tag(POSTGRES_ORIGIN, FINAL_MS)
"""Of what stands for several transactions."""


@dataclass(frozen=True, slots=True)
class RowState:
    """What the server knows of one key. ``row`` None: no such row now.

    ``column_tags``: one per column, or fewer where nothing is recorded for the rest. ``tombstone``: the values the row
    had when it was last deleted; None while it lives. ``direct_ms``: of Postgres' own write, where that was the last.
    """

    row: Row | None = None
    tags: frozenset[Tag] = frozenset()
    column_tags: tuple[Tag, ...] = ()
    tombstone: Row | None = None
    direct_ms: int | None = None

    def column_tag(self, column: int) -> Tag:
        return self.column_tags[column] if column < len(self.column_tags) else UNRECORDED


@dataclass(frozen=True, slots=True)
class RowWrite:
    """One write to one key. ``row``: the whole new row; the old one of a delete; key cells only in a compensation.

    ``modified``: per column, whether the write changed it. ``observed``: the tags it had seen, maybe its own too.
    ``absent``: the places of columns that its author does not hold, of which ``row`` says nothing.
    """

    kind: WriteKind
    row: Row
    modified: tuple[bool, ...]
    tag: Tag
    observed: frozenset[Tag]
    absent: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A change to one key as the server streams it: resolved, without the device's own pending writes.

    ``row``: the whole row; the old one of a delete. ``tag``: the transaction's origin and time. ``tags``: the row's,
    after the change.
    """

    kind: IncomingKind
    row: Row
    modified: tuple[bool, ...]
    tag: Tag
    tags: frozenset[Tag]


@dataclass(frozen=True, slots=True)
class Merged:
    """What the device holds for the key now. ``row`` None: nothing."""

    row: Row | None
    tags: frozenset[Tag]


def unrecorded(row: Row) -> RowState:
    """A row that was there before anything was recorded about it."""
    return RowState(row, frozenset((UNRECORDED,)))


# --- the server -------------------------------------------------------------------------------------------------------


Tied: TypeAlias = Sequence[Sequence[int]]
"""Sets of columns, by their places, that are one register each; no column is in two of them."""


def apply_write(state: RowState, write: RowWrite, tied: Tied = (), *, anew: bool = False) -> RowState:
    """The row after ``write``. ``anew``: its transaction has not written the row before."""
    seen = Seen(write.observed, write.tag.origin)
    if state.direct_ms is not None:
        state = replace(state, column_tags=_known_to_direct(state.column_tags, state.direct_ms))
    tag = stamp(write.tag, seen, (*state.tags, *state.column_tags), anew=anew)
    tags = observe(state.tags, seen, None if write.kind == "delete" else tag)
    if not tags:
        return RowState(None, tags, state.column_tags, state.row if state.row is not None else state.tombstone)
    if state.row is None and write.kind == "insert":
        return RowState(write.row, tags, (tag,) * len(write.row))
    base = state.row if state.row is not None else state.tombstone
    if base is None:
        base = write.row
    cells: list[Cell] = list(base)
    column_tags = [state.column_tag(column) for column in range(len(cells))]
    for register in _registers(write.modified, tied):
        if tag >= max(column_tags[column] for column in register):
            for column in register:
                if column not in write.absent:
                    cells[column] = write.row[column]
                column_tags[column] = tag
    return RowState(tuple(cells), tags, tuple(column_tags))


def apply_direct(
    state: RowState, kind: DirectKind, row: Row, modified: tuple[bool, ...], ms: int, tied: Tied = ()
) -> RowState:
    """The row after a write that Postgres itself made to it as it stood. ``row``: as it is then, or was when it was
    deleted. ``ms``: the time of its commit, by the clock by which devices' times are bounded.

    It has overwritten what stood there. So in a column it counts as of no earlier time than that, for the bound is not
    without some allowance: else a third write could be earlier than the one and later than the other. Who has seen it
    is another question, and told by ``ms``.
    """
    tag = Tag(POSTGRES_ORIGIN, ms)
    if kind == "delete":
        return RowState(None, frozenset(), _known_to_direct(state.column_tags, ms), row)
    column_tags = [state.column_tag(column) for column in range(len(row))]
    for register in _registers((True,) * len(row) if kind == "insert" else modified, tied):
        for column in register:
            before = column_tags[column]
            column_tags[column] = tag if before.ms <= ms else Tag(POSTGRES_ORIGIN, before.ms, ms)
    return RowState(row, frozenset((tag,)), tuple(column_tags), direct_ms=ms)


def _known_to_direct(column_tags: Iterable[Tag], ms: int) -> tuple[Tag, ...]:
    """What Postgres' write at ``ms`` had seen, so has whoever has seen that, also what counts as of a later time."""
    return tuple(tag if tag.seen_ms <= ms else Tag(POSTGRES_ORIGIN, tag.ms, ms) for tag in column_tags)


def _registers(modified: tuple[bool, ...], tied: Tied) -> Iterable[Sequence[int]]:
    """What is written with the columns that are ``modified``."""
    together = {column: register for register in tied for column in register}
    written: dict[Sequence[int], None] = {}
    for column, changed in enumerate(modified):
        if changed:
            written[tuple(together.get(column, (column,)))] = None
    return written


def write_of(change: RowChange, origin: str, ms: int) -> RowWrite:
    """A device's operation as a write. Raises ProtocolError for a malformed tag and for a GONE: nobody writes one."""
    tag = Tag(origin, ms)
    match change:
        case Insert(_, row, tags):
            return RowWrite("insert", row, (True,) * len(row), tag, parse_tags(tags))
        case Update(_, row, _, tags):
            return RowWrite("update", row, _changed(change), tag, parse_tags(tags))
        case Delete(_, row, tags):
            return RowWrite("delete", row, (False,) * len(row), tag, parse_tags(tags))
        case Compensation(_, row, tags):
            return RowWrite("compensation", row, (False,) * len(row), tag, parse_tags(tags))
        case Gone():
            raise misuse("a GONE is no write")


# --- the device -------------------------------------------------------------------------------------------------------


def merge_incoming(pending: Sequence[RowWrite], incoming: Incoming, tied: Tied = ()) -> Merged:
    """``incoming`` with our own ``pending`` writes to the key, oldest first, on top, as the server will apply them."""
    if incoming.kind == "gone":
        return Merged(None, frozenset())
    tag = incoming.tag
    if tag != FINAL:
        # The transaction's time is its author's clock; what the write counts as is among the row's tags.
        tag = max((tag for tag in incoming.tags if tag.origin == incoming.tag.origin), default=incoming.tag)
    column_tags = [UNRECORDED] * len(incoming.row)
    for register in _registers(incoming.modified, tied):
        for column in register:
            column_tags[column] = tag
    row, tombstone = (incoming.row, None) if incoming.tags else (None, incoming.row)
    state = RowState(row, incoming.tags, tuple(column_tags), tombstone)
    before: Tag | None = None
    for write in pending:
        # One of ours that is older than this one of ours was applied before it, although its echo has not come.
        if write.tag.origin != incoming.tag.origin or write.tag.ms > incoming.tag.ms:
            state = apply_write(state, write, tied, anew=write.tag != before)
            before = write.tag
    return Merged(state.row, state.tags)


def incoming_of(change: RowChange, origin: str, ms: int) -> Incoming:
    """A change of a transaction by ``origin`` at ``ms``. Raises ProtocolError for a compensation: devices get none."""
    tag = Tag(origin, ms)
    match change:
        case Insert(_, row, tags):
            return Incoming("insert", row, (True,) * len(row), tag, parse_tags(tags))
        case Update(_, row, _, tags):
            return Incoming("update", row, _changed(change), tag, parse_tags(tags))
        case Delete(_, row, tags):
            return Incoming("delete", row, (False,) * len(row), tag, parse_tags(tags))
        case Gone(_, row):
            return Incoming("gone", row, (False,) * len(row), tag, frozenset())
        case Compensation():
            raise misuse("a server streams no compensation")


def _changed(update: Update) -> tuple[bool, ...]:
    if update.old_row is None:
        return (True,) * len(update.row)
    return tuple(new != old for new, old in zip(update.row, update.old_row, strict=True))
