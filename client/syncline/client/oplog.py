"""The oplog: local changes from the moment they are committed until the server has echoed them. Pure.

One local SQL transaction is one device transaction. The triggers write entries without a timestamp; just before COMMIT,
inside the same SQLite transaction, ``STAMP_SQL`` gives all of them one ``commit_ms``, notes the tags each has observed
(``clear_tags``) and moves the rows' tags on. So whatever a crash leaves behind, an entry and the row it describes are
both there or both not, and no entry is ever half stamped.

``commit_ms`` names a transaction: the echo that releases its entries carries the device's id and exactly this number.
It is therefore strictly increasing per device, a clock that never runs backwards (``next_commit_ms``). It is also
moved beyond the times seen in the stream, so that a write made after seeing another outranks it although this device's
clock is behind. Two kinds of time come with it. Those of tags, and of what Postgres itself has committed, the server
has bounded by its own clock: they are followed, whatever this device's clock says. That of another device's transaction
is its author's word (it is how he knows his echo), and is followed only where it is not far ahead of what is known of
the time: else one device with an absurd clock would drag all others along.

On the wire a transaction's lsn is the id of its last entry, four bytes, big endian.

A transaction larger than a server takes would be refused each time it is sent, for ever, with all that follows it; and
one that is split is none. So it is refused before it is committed here (``too_large``).
"""

# ruff: noqa: S608 - SQL is made of constants; values are parameters.
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

from syncline.client.cells import Value, encode_row
from syncline.client.schema import OF_POSTGRES, Table
from syncline.client.triggers import parse_image
from syncline.proto.assembly import CELL_MEMORY, OPERATION_MEMORY, TAG_MEMORY, VALUE_MEMORY, Bound, memory_of
from syncline.proto.codec import encode_ops
from syncline.proto.outgoing import LOG_BYTES
from syncline.proto.server_session import FRAME_BYTES_MAX, TRANSACTION_LIMITS
from syncline.proto.tags import parse_tag
from syncline.proto.values import (
    POSTGRES_ORIGIN,
    Change,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    Relation,
    Row,
    RowChange,
    Transaction,
    Update,
)

CLOCK_SKEW_MAX_MS = 60_000

# Its first message may hold smaller transactions too, and counts as a whole.
LIMITS = replace(TRANSACTION_LIMITS, bytes_max=TRANSACTION_LIMITS.bytes_max - 2 * LOG_BYTES)
OPERATION_BYTES_MAX = FRAME_BYTES_MAX - LOG_BYTES

ENTRY_ID_MAX = 2**31 - 1

# Tags that a write says it has observed because pending ones before it had.
BEFORE_MAX = 1_000

# The ids of relations with some columns of a table. Tables have those below.
_SOME_COLUMNS = 1 << 20

# Who writes a row keeps it, and says what is in it: that it is referred to as well need not be said. A compensation on
# its own would bring back of a row that nobody remembers no more than the key, and the write only what it changes.
#
# Entries are read by key; without the hint SQLite may look through all unstamped ones for each. And of a key only those
# of this transaction, or the newest before it: thousands may be pending.
#
# A row without shadow entry that this transaction did not create is an untracked row of the server's. One that it did
# create has been seen by what follows in it: else the insert's own tag would survive a delete in the same transaction.
#
# A row that an earlier transaction has written bears that one's tag alone. If it is rejected, the row has again what it
# had observed. So what follows has observed that too: of each author the newest, which stands for those before it, and
# of ourselves none, for nobody needs to say that. And no more than some: a server takes no operation with too many.
_BY_KEY = "INDEXED BY _syncline_oplog_key"
_FIRST = "(SELECT min(id) FROM _syncline_oplog WHERE commit_ms IS NULL)"
_EARLIER = f"""FROM _syncline_oplog AS earlier {_BY_KEY}
          WHERE earlier.table_name = entry.table_name AND earlier.key = entry.key AND earlier.id < {_FIRST}"""
_AUTHOR, _OURS = (f"rtrim({tag}, '0123456789')" for tag in ("value", ":tag"))
_MS = f"CAST(substr(value, length({_AUTHOR}) + 1) AS INTEGER)"

STAMP_SQL: tuple[str, ...] = (
    f"""DELETE FROM _syncline_oplog AS kept WHERE commit_ms IS NULL AND op = 'C' AND EXISTS (
        SELECT 1 FROM _syncline_oplog AS written {_BY_KEY}
         WHERE written.table_name = kept.table_name AND written.key = kept.key
           AND written.id >= {_FIRST} AND written.op IN ('I', 'U'))""",
    f"""UPDATE _syncline_oplog AS entry SET clear_tags = coalesce(
        (SELECT json_insert(shadow.tags, '$[#]', :tag) FROM _syncline_shadow AS shadow
          WHERE shadow.table_name = entry.table_name AND shadow.key = entry.key),
        (SELECT CASE WHEN first.op <> 'I'
                     THEN json_array('{OF_POSTGRES}' || (SELECT seen_ms FROM _syncline_state), :tag)
                     WHEN first.id = entry.id THEN '[]'
                     ELSE json_array(:tag) END
           FROM _syncline_oplog AS first {_BY_KEY}
          WHERE first.table_name = entry.table_name AND first.key = entry.key AND first.id >= {_FIRST}
          ORDER BY first.id LIMIT 1))
        WHERE commit_ms IS NULL""",
    f"""UPDATE _syncline_oplog AS entry SET clear_tags = (
        SELECT json_group_array(value) FROM
          (SELECT value, max({_MS}) FROM
            (SELECT value FROM json_each(entry.clear_tags)
             UNION ALL
             SELECT value FROM
              (SELECT value FROM json_each((SELECT earlier.clear_tags {_EARLIER} ORDER BY earlier.id DESC LIMIT 1))
                WHERE {_AUTHOR} <> {_OURS} ORDER BY {_MS} DESC LIMIT {BEFORE_MAX}))
           GROUP BY CASE {_AUTHOR} WHEN {_OURS} THEN value ELSE {_AUTHOR} END))
        WHERE commit_ms IS NULL AND EXISTS (SELECT 1 {_EARLIER})""",
    """INSERT OR REPLACE INTO _syncline_shadow (table_name, key, tags)
        SELECT table_name, key, json_array(:tag) FROM
          (SELECT table_name, key, op, max(id) FROM _syncline_oplog WHERE commit_ms IS NULL GROUP BY table_name, key)
        WHERE op <> 'D'""",
    """DELETE FROM _syncline_shadow WHERE (table_name, key) IN
        (SELECT table_name, key FROM
          (SELECT table_name, key, op, max(id) FROM _syncline_oplog WHERE commit_ms IS NULL GROUP BY table_name, key)
        WHERE op = 'D')""",
    "UPDATE _syncline_oplog SET commit_ms = :commit_ms WHERE commit_ms IS NULL",
    "UPDATE _syncline_state SET clock_ms = :commit_ms",
)

# By table: entries, their images, the tags in them, and bytes never less than their operations take on the wire: an
# image spells out the names of the columns.
SIZE_SQL = """SELECT table_name, count(*), sum(images), sum(tags), sum(octets), max(octets) FROM (
        SELECT table_name, (new_row IS NOT NULL) + (old_row IS NOT NULL) AS images,
               json_array_length(clear_tags) AS tags,
               length(CAST(coalesce(new_row, '') AS BLOB)) + length(CAST(coalesce(old_row, '') AS BLOB))
             + length(clear_tags) + 64 AS octets
          FROM _syncline_oplog WHERE commit_ms = ?) GROUP BY table_name"""

UNSTAMPED_TABLES_SQL = "SELECT DISTINCT table_name FROM _syncline_oplog WHERE commit_ms IS NULL"

ENTRY_COLUMNS = "id, table_name, op, new_row, old_row, commit_ms, clear_tags, origin, lost"
EntryRow: TypeAlias = tuple[int, str, str, str | None, str | None, int, str, str | None, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One stamped oplog row. ``new`` and ``old`` are row images by column name, None where the operation has none.
    ``origin``: the client id that it is of, None for that of the device. ``lost``: see ``merging``."""

    id: int
    table_name: str
    op: str
    new: dict[str, Value] | None
    old: dict[str, Value] | None
    commit_ms: int
    clear_tags: tuple[str, ...]
    origin: str | None = None
    lost: frozenset[str] = frozenset()


def entry_from_row(row: EntryRow) -> Entry:
    entry_id, table_name, op, new, old, commit_ms, clear_tags, origin, lost = row
    return Entry(
        entry_id,
        table_name,
        op,
        None if new is None else parse_image(new),
        None if old is None else parse_image(old),
        commit_ms,
        tuple(json.loads(clear_tags)),
        origin,
        frozenset(json.loads(lost)),
    )


def tags_of(changes: Iterable[Change]) -> set[str]:
    """The tags of these rows."""
    return {tag for change in changes if not isinstance(change, Migrate | Gone) for tag in change.tags}


def latest_ms(tags: Iterable[str], of: str = "") -> int:
    """The latest time of those ``tags`` that begin with ``of``; 0 if there is none. Raises ProtocolError for text that
    is no tag."""
    return max((parse_tag(tag).ms for tag in tags if tag.startswith(of)), default=0)


@dataclass(frozen=True, slots=True)
class Times:
    """What has come says of the time, in milliseconds. ``bounded``: the latest that the server has bounded.
    ``of_postgres``: the latest of a tag of Postgres'. ``claimed``: those of other devices' transactions."""

    bounded: int = 0
    of_postgres: int = 0
    claimed: tuple[int, ...] = ()

    def with_tags(self, tags: set[str]) -> Times:
        bounded = max(self.bounded, latest_ms(tags))
        return Times(bounded, max(self.of_postgres, latest_ms(tags, OF_POSTGRES)), self.claimed)


def observed_clock_ms(clock_ms: int, times: Times, now_ms: int) -> int:
    """The device's clock after it has seen ``times``; ``now_ms``: by the machine's. It never goes back."""
    bound_ms = max(now_ms, times.of_postgres) + CLOCK_SKEW_MAX_MS
    return max((clock_ms, times.bounded, *(ms for ms in times.claimed if ms <= bound_ms)))


def times_of(transactions: Sequence[Transaction]) -> Times:
    """Raises ProtocolError for text that is no tag."""
    committed = (one.commit_ms for one in transactions if one.origin == POSTGRES_ORIGIN)
    claimed = tuple(max(one.commit_ms, one.latest_ms) for one in transactions)
    tags = tags_of(change for one in transactions for change in one.changes)
    return Times(max(committed, default=0), 0, claimed).with_tags(tags)


def next_commit_ms(now_ms: int, clock_ms: int) -> int:
    """The timestamp of the next device transaction: this moment, or just after the newest one already used."""
    return max(now_ms, clock_ms + 1)


@dataclass(frozen=True, slots=True)
class Size:
    """Of a transaction: ``octets`` on the wire, of the ``largest`` of its operations too; ``memory`` of the server, in
    bytes."""

    operations: int = 0
    octets: int = 0
    largest: int = 0
    memory: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(
            self.operations + other.operations,
            self.octets + other.octets,
            max(self.largest, other.largest),
            self.memory + other.memory,
        )


def size_at_most(columns: int, operations: int, images: int, tags: int, octets: int, largest: int) -> Size:
    """What entries of one table of so many ``columns`` do not exceed; the rest is a row of ``SIZE_SQL``."""
    memory = operations * OPERATION_MEMORY + images * columns * (CELL_MEMORY + VALUE_MEMORY) + tags * TAG_MEMORY
    return Size(operations, octets, largest, memory + octets)


def size_of(change: RowChange) -> Size:
    octets = len(encode_ops((change,)))
    return Size(1, octets, octets, memory_of(change))


def too_large(size: Size) -> str | None:
    """Why no server takes a transaction of this size, None if it does."""
    mib = 1 << 20
    bound, octets_of_largest = LIMITS.passed_by(size.operations, size.octets, size.memory), size.largest
    if bound is Bound.OPERATIONS:
        return f"{size.operations:,} changed rows, and at most {LIMITS.ops_max:,} can be sent as one transaction"
    if bound is Bound.BYTES:
        most = LIMITS.bytes_max / mib
        return f"{size.octets / mib:.1f} MiB, and at most {most:.1f} can be sent as one transaction"
    if bound is Bound.MEMORY:
        most = (LIMITS.memory_max or 0) / mib
        return f"{size.memory / mib:.1f} MiB of the server's memory, and it gives at most {most:.1f} to one transaction"
    if octets_of_largest > OPERATION_BYTES_MAX:
        largest, most = octets_of_largest / mib, OPERATION_BYTES_MAX / mib
        return (
            f"a change of one row of {largest:.1f} MiB, and at most {most:.1f} can be sent (old and new row together)"
        )
    return None


def lsn_bytes(entry_id: int) -> bytes:
    """The wire form of an oplog position. Raises OverflowError beyond 2**31 - 1 entries ever written on a device."""
    if entry_id > ENTRY_ID_MAX:
        raise OverflowError(f"oplog entry {entry_id} does not fit the protocol's 31 bits")
    return entry_id.to_bytes(4, "big")


def entry_id_of(lsn: bytes) -> int:
    """The oplog position a server names; empty means: from the first entry."""
    return int.from_bytes(lsn, "big")


def wire_row(image: Mapping[str, Value], table: Table) -> Row:
    """A row image in the column order of the table. Columns that the image lacks are NULL."""
    return encode_row([image.get(name) for name in table.columns], table.encoders)


class Outlines:
    """The tables as one connection sends their rows: under a relation for each set of columns that entries have.

    An entry has those that the device held when it was made. What it lacks is none of its writer's business.
    """

    def __init__(self) -> None:
        self._some: dict[tuple[str, tuple[str, ...]], int] = {}
        self.relations: dict[int, Relation] = {}
        """By id, of all rows so far."""

    def of(self, entry: Entry, table: Table) -> Table:
        image = entry.new if entry.new is not None else entry.old
        if entry.op != "C" and image is not None and len(image) < len(table.columns):
            names = tuple(name for name in table.columns if name in image)
            table = table.only(names, self._some.setdefault((table.name, names), _SOME_COLUMNS + len(self._some)))
        if self.relations.get(table.id) != table.relation:
            self.relations[table.id] = table.relation
        return table


def transactions(entries: Iterable[Entry], tables: Mapping[str, Table], outlines: Outlines) -> Iterator[Transaction]:
    """Entries in the order of their ids -> device transactions, ready for the session.

    The caller passes whole transactions: all entries of each ``commit_ms`` it starts.
    """
    for commit_ms, group in groupby(entries, key=lambda entry: entry.commit_ms):
        members = list(group)
        yield Transaction(
            commit_ms=commit_ms,
            lsn=lsn_bytes(members[-1].id),
            changes=tuple(change_of(entry, outlines.of(entry, tables[entry.table_name])) for entry in members),
            origin=members[0].origin,
        )


def change_of(entry: Entry, table: Table) -> RowChange:
    new = {} if entry.new is None else entry.new
    old = {} if entry.old is None else entry.old
    if entry.op == "I":
        return Insert(table.id, wire_row(new, table), entry.clear_tags)
    if entry.op == "U":
        return Update(table.id, wire_row(new, table), wire_row(old, table), entry.clear_tags)
    if entry.op == "D":
        return Delete(table.id, wire_row(old, table), entry.clear_tags)
    return Compensation(table.id, wire_row(new, table), entry.clear_tags)
