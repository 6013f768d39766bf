"""What of the stream is to be remembered of direct SQL writes, so that devices' writes can be merged with them.

A device's write finds the row as direct SQL left it. To merge the two, Postgres has to know when direct SQL wrote which
column, and what a row held that it deleted. Postgres does not remember that; the stream says it. So updates and deletes
of direct SQL become entries of ``electric.direct`` (``sql/direct.sql``): one a row, the newest time of each column. An
insert needs none: a row that no device has written is as old as any device can know it, and of one that had been
deleted here its xmin tells when it came again (``Commits``).

What the stream brings is Postgres' own, and may be what no description of a table knows: the application alters columns
and types as it likes. So it is spelled by the types that the stream names, and never judged.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.rowkey import key_text
from syncline.actors.postgres.streamed import StreamChange, TransactionChunk, TransactionHead, Truncated
from syncline.actors.postgres.typemap import OIDS_BY_NAME, output_text
from syncline.proto.values import Delete, Insert, Row, Update

TRUNCATED_KEY = ""
"""In place of a row's key: the entry says when the table was emptied."""

COMMITS_MAX = 100_000
# Transactions whose rows have the xid of a savepoint are found by the xids before it.
SAVEPOINTS_MAX = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest write of direct SQL to a row. ``lsn``: of its commit, ``ms``: when that was. ``piece`` is a
    ``Stretch``'s.

    ``column_ms``: for each column of the table when direct SQL changed it, None where it did not. ``column_lsn``: with
    each such time a position: for whoever knows the row as it was there, the time counts no more. The stream comes
    again after a restart, and then an entry is made of old writes and new ones. ``row``: what was deleted, as Postgres'
    input texts; None while the row lives.
    """

    lsn: int
    ms: int
    column_ms: tuple[int | None, ...]
    column_lsn: tuple[int | None, ...]
    row: tuple[str | None, ...] | None = None
    piece: int = 0


Place = tuple[int, str]
"""A row: its table's oid and its key as ``rowkey`` spells it."""
Types = Mapping[int, tuple[int, ...]]
"""Of tables, by their oids, the OIDs of the types that the stream has in their columns; 0: it has no such column."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What direct SQL did in the transaction of ``head``, or in a piece of it, in order; rows are in the columns of the
    catalogue, with the ``types`` that they have there. ``piece``: greater in a later one of the same transaction, and
    the same when that is streamed again."""

    head: TransactionHead
    piece: int
    changes: tuple[StreamChange, ...]
    types: Types


class Absorption:
    """Entries that are not in Postgres yet, one a row."""

    def __init__(self) -> None:
        self.entries: dict[Place, Entry] = {}

    def add(self, stretch: Stretch, tables: Mapping[int, TableInfo]) -> None:
        """What direct SQL did in it. Rows are in the columns of ``tables``; those of tables that are not there are
        passed over: they have been dropped. In the columns of a table without ``types`` they are as described."""
        for change in stretch.changes:
            if isinstance(change, Truncated):
                for relation_id in change.relation_ids:
                    self._empty(relation_id, _entry(stretch, ()))
            elif isinstance(change, Update | Delete):
                table = tables.get(change.relation_id)
                if table is not None:
                    self._note(change, table, stretch)

    def _note(self, change: Update | Delete, table: TableInfo, stretch: Stretch) -> None:
        types = stretch.types.get(table.oid) or described_types(table)
        lsn, commit_ms = int(stretch.head.lsn), stretch.head.commit_ms
        row = change.old_row if isinstance(change, Delete) else change.row
        place = (table.oid, key_of(table, row, types))
        before = self.entries.get(place)
        if isinstance(change, Delete):
            known = _known(before, len(row), commit_ms)
            self.entries[place] = _entry(stretch, known, _texts(row, types))
            return
        known = _known(before, len(row), commit_ms)
        old = change.old_row
        for i, cell in enumerate(row):
            if old is None or cell != old[i]:
                known[i] = (max(commit_ms, known[i][0] or 0), lsn)  # of no earlier time than what it overwrote
        self.entries[place] = _entry(stretch, known)

    def _empty(self, relation_id: int, entry: Entry) -> None:
        for place in [place for place in self.entries if place[0] == relation_id]:
            del self.entries[place]
        self.entries[relation_id, TRUNCATED_KEY] = entry

    def take(self) -> dict[Place, Entry]:
        """What is to be written now."""
        taken, self.entries = self.entries, {}
        return taken


def _known(before: Entry | None, width: int, ms: int) -> list[tuple[int | None, int | None]]:
    """Time and position of each column before a write of ``ms``."""
    if before is None:
        return [(None, None)] * width
    if before.row is not None:  # what was deleted has been inserted in between, and all of it came since
        return [(max(ms, earlier or 0), before.lsn) for earlier in before.column_ms]
    return list(zip(before.column_ms, before.column_lsn, strict=True))


def _entry(
    stretch: Stretch, columns: Sequence[tuple[int | None, int | None]], row: tuple[str | None, ...] | None = None
) -> Entry:
    head, column_ms, column_lsn = stretch.head, tuple(ms for ms, _ in columns), tuple(lsn for _, lsn in columns)
    return Entry(int(head.lsn), head.commit_ms, column_ms, column_lsn, row, stretch.piece)


class Commits:
    """When the latest transactions committed, by the xids of 32 bits that rows have as their xmin."""

    def __init__(self) -> None:
        self._ms: OrderedDict[int, int] = OrderedDict()

    def note(self, xid: int, ms: int) -> None:
        self._ms[xid] = ms
        if len(self._ms) > COMMITS_MAX:
            self._ms.popitem(last=False)

    def ms_of(self, xid: int) -> int:
        """When the transaction committed, in ms; 0 when that is not known any more. An xid of its own, as a savepoint
        has, follows that of its transaction. Of which of those before it is nobody says: the latest of them is taken,
        for what counts as of too early a time would be removed by who had not seen it."""
        if xid in self._ms:
            return self._ms[xid]
        return max((self._ms.get(before, 0) for before in range(xid - SAVEPOINTS_MAX + 1, xid)), default=0)


def direct_changes(chunk: TransactionChunk, changes: Sequence[StreamChange]) -> Iterable[StreamChange]:
    """Those of ``changes`` that no device made. ``changes``: those of ``chunk``, in the same places."""
    if chunk.head.origin is None:
        return (change for change in changes if not isinstance(change, Insert))
    return (changes[place] for place in chunk.direct)


def described_types(table: TableInfo) -> tuple[int, ...]:
    """The OIDs of types of the description, as far as spelling depends on them."""
    return tuple(OIDS_BY_NAME.get(column.type_name, 0) for column in table.relation.columns)


def key_of(table: TableInfo, row: Row, types: Sequence[int]) -> str:
    """The key of a row in wire form, as ``rowkey`` spells it; NULL as the SQL there does."""
    return key_text(
        "" if cell is None else output_text(types[index], cell)
        for index, cell in zip(table.relation.key_indexes, table.relation.key_of(row), strict=True)
    )


def _texts(row: Row, types: Sequence[int]) -> tuple[str | None, ...]:
    return tuple(None if cell is None else output_text(oid, cell) for oid, cell in zip(types, row, strict=True))
