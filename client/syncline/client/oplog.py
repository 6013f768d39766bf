"""The oplog: local changes from the moment they are committed until the server has echoed them. Pure.

One local SQL transaction is one device transaction. The triggers write entries without a timestamp; just before COMMIT,
inside the same SQLite transaction, ``STAMP_SQL`` gives all of them one ``commit_ms``, notes the tags each has observed
(``clear_tags``) and moves the rows' tags on. So whatever a crash leaves behind, an entry and the row it describes are
both there or both not, and no entry is ever half stamped.

``commit_ms`` names a transaction: the echo that releases its entries carries the device's id and exactly this number.
It is therefore strictly increasing per device, a clock that never runs backwards (``next_commit_ms``). It is also
moved beyond the timestamps seen in the stream, so that a write made after seeing another outranks it although this
device's clock is behind; but not by a peer whose clock is absurd, which would drag every device along with it.

On the wire a transaction's lsn is the id of its last entry, four bytes, big endian.

A transaction larger than a server takes would be refused each time it is sent, for ever, with all that follows it; and
one that is split is none. So it is refused before it is committed here (``too_large``).
"""

# ruff: noqa: S608 - SQL is made of constants; values are parameters.
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from syncline.client.cells import Value, encode_row
from syncline.client.schema import UNTRACKED_TAG, Table
from syncline.client.triggers import parse_image
from syncline.proto.outgoing import LOG_BYTES
from syncline.proto.server_session import FRAME_BYTES_MAX, TRANSACTION_LIMITS
from syncline.proto.values import Compensation, Delete, Insert, Row, RowChange, Transaction, Update

CLOCK_SKEW_MAX_MS = 60_000

TRANSACTION_OPS_MAX = TRANSACTION_LIMITS.ops_max
# Its first message may hold smaller transactions too, and counts as a whole.
TRANSACTION_BYTES_MAX = TRANSACTION_LIMITS.bytes_max - 2 * LOG_BYTES
OPERATION_BYTES_MAX = FRAME_BYTES_MAX - LOG_BYTES

ENTRY_ID_MAX = 2**31 - 1

# The first statement reads entries by key; without the hint SQLite may look through all unstamped ones for each.
# A row without shadow entry that this transaction did not create is an untracked row of the server's. One that it did
# create has been seen by what follows in it: else the insert's own tag would survive a delete in the same transaction.
STAMP_SQL: tuple[str, ...] = (
    f"""UPDATE _syncline_oplog AS entry SET clear_tags = coalesce(
        (SELECT json_insert(shadow.tags, '$[#]', :tag) FROM _syncline_shadow AS shadow
          WHERE shadow.table_name = entry.table_name AND shadow.key = entry.key),
        (SELECT CASE WHEN first.op <> 'I' THEN json_array('{UNTRACKED_TAG}', :tag)
                     WHEN first.id = entry.id THEN '[]'
                     ELSE json_array(:tag) END
           FROM _syncline_oplog AS first INDEXED BY _syncline_oplog_key
          WHERE first.table_name = entry.table_name AND first.key = entry.key AND first.commit_ms IS NULL
          ORDER BY first.id LIMIT 1))
        WHERE commit_ms IS NULL""",
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

# Entries, and bytes never less than their operations take on the wire: an image spells out the names of the columns.
SIZE_SQL = """SELECT count(*), sum(octets), max(octets) FROM (
        SELECT length(CAST(coalesce(new_row, '') AS BLOB)) + length(CAST(coalesce(old_row, '') AS BLOB))
             + length(clear_tags) + 64 AS octets
          FROM _syncline_oplog WHERE commit_ms = ?)"""

UNSTAMPED_TABLES_SQL = "SELECT DISTINCT table_name FROM _syncline_oplog WHERE commit_ms IS NULL"

ENTRY_COLUMNS = "id, table_name, op, new_row, old_row, commit_ms, clear_tags"
EntryRow: TypeAlias = tuple[int, str, str, str | None, str | None, int, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One stamped oplog row. ``new`` and ``old`` are row images by column name, None where the operation has none."""

    id: int
    table_name: str
    op: str
    new: dict[str, Value] | None
    old: dict[str, Value] | None
    commit_ms: int
    clear_tags: tuple[str, ...]


def entry_from_row(row: EntryRow) -> Entry:
    entry_id, table_name, op, new, old, commit_ms, clear_tags = row
    return Entry(
        entry_id,
        table_name,
        op,
        None if new is None else parse_image(new),
        None if old is None else parse_image(old),
        commit_ms,
        tuple(json.loads(clear_tags)),
    )


def next_commit_ms(now_ms: int, clock_ms: int) -> int:
    """The timestamp of the next device transaction: this moment, or just after the newest one already used."""
    return max(now_ms, clock_ms + 1)


def observed_clock_ms(clock_ms: int, seen_ms: int, now_ms: int) -> int:
    """The device's clock after it has seen a transaction of ``seen_ms``: never less, never far in the future."""
    return max(clock_ms, seen_ms) if seen_ms <= now_ms + CLOCK_SKEW_MAX_MS else clock_ms


def too_large(operations: int, octets: int, octets_of_largest: int) -> str | None:
    """Why no server takes a transaction of this size, None if it does. Sizes are those on the wire."""
    mib = 1 << 20
    if operations > TRANSACTION_OPS_MAX:
        return f"{operations:,} changed rows, and at most {TRANSACTION_OPS_MAX:,} can be sent as one transaction"
    if octets > TRANSACTION_BYTES_MAX:
        return f"{octets / mib:.1f} MiB, and at most {TRANSACTION_BYTES_MAX / mib:.1f} can be sent as one transaction"
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
    """A row image in the column order of the table. Columns added after the image was taken are NULL."""
    return encode_row([image.get(name) for name in table.columns], table.encoders)


def transactions(entries: Iterable[Entry], tables: Mapping[str, Table]) -> Iterator[Transaction]:
    """Entries in the order of their ids -> device transactions, ready for the session.

    The caller passes whole transactions: all entries of each ``commit_ms`` it starts.
    """
    for commit_ms, group in groupby(entries, key=lambda entry: entry.commit_ms):
        members = list(group)
        yield Transaction(
            commit_ms=commit_ms,
            lsn=lsn_bytes(members[-1].id),
            changes=tuple(change_of(entry, tables[entry.table_name]) for entry in members),
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


def relations_of(tables: Mapping[str, Table], changes: Sequence[RowChange]) -> dict[int, Table]:
    """The tables of ``changes`` by relation id."""
    used = {change.relation_id for change in changes}
    return {table.id: table for table in tables.values() if table.id in used}
