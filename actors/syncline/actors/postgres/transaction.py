"""pgoutput messages -> transactions, in pieces small enough to hold.

Protocol version 1 sends a transaction only once it has committed, and its Begin already carries position, time and
xid. So nothing needs to be held to know where rows belong: the assembler passes rows on in chunks of bounded size, the
first and the last marked, and a transaction of any size goes through in constant memory.

Transactions that carry out a device's write are the exception. The writer opens each with the message ``syncline.tx``
(client, its milliseconds, its LSN), and for every row it changes it also writes the row of ``electric.shadow`` that
holds the row's tags. Two things are unknown until the end: whether to believe the claim (anyone may emit a message; it
counts only if the same transaction also changes that client's row in ``electric.clients``), and the tags of each row.
So such a transaction is held whole, up to a bound of memory. Beyond it the claim stands or falls with what was seen so
far, and rows go out in chunks as others do, each with the tags of the shadow row before it: the writer advances the
device first and writes a row's shadow before the row, so nothing is missing but what is yet to come.

Tags: a row written by a device has those of its shadow row after the transaction (or so far, see above). Any
other row, be it direct SQL or an application's trigger inside a device's transaction, has the one tag of Postgres at
the commit time. Deletes have none.

A table of which somebody has taken the replica identity away, and a partition that is new, have no old rows in the
stream, or nothing but their keys. What is missing is NULL then, and the table is told to be ``incomplete``.

Everything else in schema ``electric`` stays hidden, except that rows inserted into ``electric.migrations`` are reported
and so are ``syncline.mark`` messages, by which a snapshot finds its place in the stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from syncline.actors.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    DeleteMessage,
    InsertMessage,
    LogicalMessage,
    Message,
    RelationMessage,
    TruncateMessage,
    TupleData,
    UpdateMessage,
)
from syncline.actors.postgres.rowkey import key_text_of_cells
from syncline.actors.postgres.streamed import (
    ELECTRIC_SCHEMA,
    MARK_PREFIX,
    TX_PREFIX,
    MigrationNotice,
    StreamChange,
    TransactionChunk,
    TransactionHead,
    Truncated,
)
from syncline.actors.postgres.typemap import Converter, parse_text_array, to_wire_by_oid
from syncline.proto.values import POSTGRES_ORIGIN, Cell, Delete, Insert, Row, RowChange, Update

CHUNK_ROWS_MAX = 5_000
CHUNK_BYTES_MAX = 8 << 20  # 5,000 ordinary rows are 1 to 2 MB; wide rows make shorter chunks
DEVICE_ROWS_MAX = 100_000  # held at once: some 100 MB of objects
DEVICE_BYTES_MAX = 128 << 20


_JSON: Final = json.JSONDecoder()


class TransactionError(Exception):
    """The stream cannot be turned into rows. The message says which table and what to do."""


@dataclass(frozen=True, slots=True)
class _Claim:
    client: str
    ms: int
    lsn: int
    unheeded: bool


class _Table:
    """What the assembler needs of a relation message. ``electric`` is the table's name if it is one of ours. ``keys``:
    where its rows have their key, once that is known."""

    __slots__ = ("client", "converters", "electric", "keys", "message", "name", "oid", "positions", "shadow")

    def __init__(self, message: RelationMessage) -> None:
        self.message = message
        self.oid = message.oid
        self.name = f"{message.schema}.{message.table}"
        self.electric = message.table if message.schema == ELECTRIC_SCHEMA else None
        self.keys: tuple[int, ...] | None = None
        self.positions = {column.name: i for i, column in enumerate(message.columns)}
        converters: list[tuple[int, Converter]] = []
        for i, column in enumerate(message.columns):
            converter = to_wire_by_oid(column.type_oid)
            if converter is not None:
                converters.append((i, converter))
        self.converters = tuple(converters)
        # Where the cells are that the transactions of devices bring, for there are many of these.
        position = self.positions.get
        self.client = position("client_id", 0)
        self.shadow = position("relid", 0), position("key", 0), position("tags", 0)

    def wire(self, row: TupleData) -> Row:
        """The row in wire cells, all of which were sent."""
        if not self.converters:
            return row  # type: ignore[return-value]
        cells: list[Cell] = list(row)  # type: ignore[arg-type]
        for i, convert in self.converters:
            cell = cells[i]
            if cell is not None:
                cells[i] = convert(cell)
        return tuple(cells)

    def text(self, row: TupleData, column: str) -> str | None:
        """A value of one of our own tables; None when NULL, not sent or no such column."""
        position = self.positions.get(column)
        cell = None if position is None or position >= len(row) else row[position]
        return cell.decode() if isinstance(cell, bytes) else None


class _Open:
    """The transaction being read."""

    __slots__ = (
        "begin",
        "bytes",
        "changes",
        "claim",
        "clients",
        "direct",
        "direct_tags",
        "first",
        "head",
        "holding",
        "incomplete",
        "keys",
        "marks",
        "migrations",
        "tagging",
        "tags",
        "touched",
    )

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.head: TransactionHead | None = None  # of a device, once that is believed
        self.direct_tags = (f"{POSTGRES_ORIGIN}@{begin.commit_ms}",)
        self.claim: _Claim | None = None
        self.clients: set[str] = set()  # whose row in electric.clients this transaction changed
        self.holding = False
        self.incomplete: set[int] = set()
        self.tagging = False  # the claim was believed, and rows take their tags as they come
        self.touched = False
        self.changes: list[StreamChange] = []
        self.keys: list[str | None] = []  # while holding: the key text of each change, None when it has none
        self.tags: dict[tuple[int, str], tuple[str, ...]] = {}  # of the shadow rows so far
        self.direct: list[int] = []  # places of changes without one
        self.bytes = 0
        self.first = True
        self.migrations: list[MigrationNotice] = []
        self.marks: list[str] = []

    def headed(self) -> TransactionHead:
        if self.head is None:
            self.head = TransactionHead(self.begin.final_lsn, self.begin.commit_ms, self.begin.xid)
        return self.head


KeyPlaces: TypeAlias = Callable[[int, Sequence[str]], tuple[int, ...] | None]


class TransactionAssembler:
    """Feeds on messages in stream order. ``key_places`` tells where among the columns of these names those of the
    primary key of a relation id stand, or None.

    After a reconnect it can be fed on: a definition replaces the older one, a Begin the transaction under way.
    """

    def __init__(
        self,
        key_places: KeyPlaces,
        *,
        chunk_rows_max: int = CHUNK_ROWS_MAX,
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
        device_rows_max: int = DEVICE_ROWS_MAX,
        device_bytes_max: int = DEVICE_BYTES_MAX,
    ) -> None:
        self._key_places = key_places
        self._chunk_rows_max = chunk_rows_max
        self._chunk_bytes_max = chunk_bytes_max
        self._device_rows_max = device_rows_max
        self._device_bytes_max = device_bytes_max
        self._tables: dict[int, _Table] = {}
        self._relations: list[RelationMessage] = []
        self._open: _Open | None = None

    def feed(self, message: Message) -> list[TransactionChunk]:
        """The chunks this message completes, usually none. Raises TransactionError."""
        match message:
            case InsertMessage() | UpdateMessage() | DeleteMessage():
                return self._row(message)
            case Begin():
                self._open = _Open(message)
            case Commit():
                return self._commit()
            case RelationMessage():
                return self._relation(message)
            case TruncateMessage():
                return self._truncate(message)
            case LogicalMessage():
                self._logical(message)
            case _:
                pass
        return []

    # --- messages of a transaction ------------------------------------------------------------------------------------

    def _current(self) -> _Open:
        if self._open is None:
            raise TransactionError("a change outside a transaction: the stream is broken")
        return self._open

    def _relation(self, message: RelationMessage) -> list[TransactionChunk]:
        known = self._tables.get(message.oid)
        if known is not None and known.message == message:
            return []
        chunks = []
        # Not where it is only new to this connection: what is sent again is to be cut in the same places.
        tx = self._open
        if tx is not None and not tx.holding and any(_is_of(message.oid, change) for change in tx.changes):
            chunks.append(self._cut(tx, last=False))
        table = self._tables[message.oid] = _Table(message)
        if table.electric is None:
            self._relations.append(message)
        return chunks

    def _row(self, message: InsertMessage | UpdateMessage | DeleteMessage) -> list[TransactionChunk]:
        tx = self._current()
        table = self._tables.get(message.relation)
        if table is None:
            raise TransactionError(f"a row of relation {message.relation} before its definition: the stream is broken")
        if table.electric is not None:
            self._own_row(tx, table, message)
            return []
        keyed = tx.holding or tx.tagging or isinstance(message, UpdateMessage)
        keys = self._keys_of(table) if keyed else None
        if isinstance(message, InsertMessage):
            self._add(tx, keys, message.row, Insert(table.oid, table.wire(message.row), tx.direct_tags))
        elif isinstance(message, DeleteMessage):
            if message.old_kind != "O":
                tx.incomplete.add(table.oid)
            self._add(tx, keys, message.old, Delete(table.oid, table.wire(message.old)))
        else:
            self._update(tx, table, keys, message)
        tx.bytes += message.size
        return self._overflow(tx)

    def _keys_of(self, table: _Table) -> tuple[int, ...] | None:
        if table.keys is None:
            table.keys = self._key_places(table.oid, table.message.names)
        return table.keys

    def _update(self, tx: _Open, table: _Table, keys: tuple[int, ...] | None, message: UpdateMessage) -> None:
        new, old = message.row, message.old
        if message.old_kind != "O":
            tx.incomplete.add(table.oid)
        if UNCHANGED in new:
            known = old if old is not None and message.old_kind == "O" else (None,) * len(new)
            new = tuple(was if cell is UNCHANGED else cell for cell, was in zip(new, known, strict=True))
        row = table.wire(new)
        if old is not None and keys is not None and any(old[i] != new[i] for i in keys):
            self._add(tx, keys, old, Delete(table.oid, table.wire(old)))
            self._add(tx, keys, new, Insert(table.oid, row, tx.direct_tags))
            return
        old_row = table.wire(old) if old is not None and message.old_kind == "O" else None
        self._add(tx, keys, new, Update(table.oid, row, old_row, tx.direct_tags))

    def _add(self, tx: _Open, keys: tuple[int, ...] | None, cells: TupleData, change: RowChange) -> None:
        tx.touched = True
        if tx.holding or tx.tagging:
            key = None
            if keys is not None and None not in (own := [cells[i] for i in keys]):
                key = key_text_of_cells(own)  # type: ignore[arg-type]
            if tx.holding:
                tx.keys.append(key)
            else:
                self._tag(tx, change, key)
                return
        tx.changes.append(change)

    def _own_row(self, tx: _Open, table: _Table, message: InsertMessage | UpdateMessage | DeleteMessage) -> None:
        """A row of a table in schema ``electric``."""
        row = message.old if isinstance(message, DeleteMessage) else message.row
        if table.electric == "clients":
            client = row[table.client]
            if isinstance(client, bytes):
                tx.clients.add(client.decode())
        elif table.electric == "shadow":
            if tx.holding or tx.tagging:
                relid, key, tags = (row[place] for place in table.shadow)
                if isinstance(relid, bytes) and isinstance(key, bytes):
                    tx.tags[int(relid), key.decode()] = (
                        parse_text_array(tags)
                        if isinstance(tags, bytes) and not isinstance(message, DeleteMessage)
                        else ()
                    )
        elif table.electric == "migrations" and isinstance(message, InsertMessage):
            notice = MigrationNotice(int(table.text(row, "id") or 0), table.text(row, "version") or "")
            tx.migrations.append(notice)

    def _truncate(self, message: TruncateMessage) -> list[TransactionChunk]:
        tx = self._current()
        hidden = {oid for oid, table in self._tables.items() if table.electric is not None}
        relations = tuple(oid for oid in message.relations if oid not in hidden)
        if not relations:
            return []
        tx.touched = True
        tx.changes.append(Truncated(relations))
        if tx.holding:
            tx.keys.append(None)
        return self._overflow(tx)

    def _logical(self, message: LogicalMessage) -> None:
        tx = self._open
        if tx is None or not message.transactional:
            return
        if message.prefix == MARK_PREFIX:
            tx.marks.append(message.content.decode(errors="replace"))
        elif message.prefix == TX_PREFIX and tx.claim is None and not tx.touched:
            tx.claim = _claim(message.content)
            tx.holding = tx.claim is not None

    # --- chunks out ---------------------------------------------------------------------------------------------------

    def _overflow(self, tx: _Open) -> list[TransactionChunk]:
        if tx.holding:
            if len(tx.changes) < self._device_rows_max and tx.bytes < self._device_bytes_max:
                return []
            return self._release(tx, last=False)
        if len(tx.changes) < self._chunk_rows_max and tx.bytes < self._chunk_bytes_max:
            return []
        return [self._cut(tx, last=False)]

    def _commit(self) -> list[TransactionChunk]:
        tx = self._current()
        self._open = None
        return self._release(tx, last=True) if tx.holding else [self._cut(tx, last=True)]

    def _release(self, tx: _Open, *, last: bool) -> list[TransactionChunk]:
        """Decides on the claim and passes on what was held, in chunks of the ordinary size."""
        tx.holding = False
        if tx.claim is not None and tx.claim.client in tx.clients:
            claim = tx.claim
            tx.head = replace(
                tx.headed(), origin=claim.client, client_ms=claim.ms, client_lsn=claim.lsn, unheeded=claim.unheeded
            )
            tx.tagging = True
        held, keys, size = tx.changes, tx.keys, self._chunk_rows_max
        tx.keys = []
        chunks = []
        for start in range(0, max(1, len(held)), size):
            tx.changes = []
            for change, key in zip(held[start : start + size], keys[start : start + size], strict=True):
                if tx.tagging:
                    self._tag(tx, change, key)
                else:
                    tx.changes.append(change)
            chunks.append(self._cut(tx, last=last and start + size >= len(held)))
        return chunks

    @staticmethod
    def _tag(tx: _Open, change: StreamChange, key: str | None) -> None:
        """Adds ``change`` with the tags its shadow row has after the transaction, if the transaction wrote one."""
        if not isinstance(change, Truncated):
            found = None if key is None else tx.tags.get((change.relation_id, key))
            if found is None:
                tx.direct.append(len(tx.changes))
            else:
                change = _tagged(change, found)
        tx.changes.append(change)

    def _cut(self, tx: _Open, *, last: bool) -> TransactionChunk:
        chunk = TransactionChunk(
            tx.headed(),
            tx.changes,
            tx.first,
            last,
            tuple(tx.migrations),
            tuple(tx.marks),
            tuple(self._relations),
            tuple(tx.direct),
            tuple(sorted(tx.incomplete)),
        )
        tx.changes = []
        tx.incomplete.clear()
        tx.direct.clear()
        tx.bytes = 0
        tx.first = False
        tx.migrations.clear()
        tx.marks.clear()
        self._relations.clear()
        return chunk


def _tagged(change: RowChange, tags: tuple[str, ...]) -> RowChange:
    match change:
        case Insert(relation_id, row):
            return Insert(relation_id, row, tags)
        case Update(relation_id, row, old_row):
            return Update(relation_id, row, old_row, tags)
        case Delete(relation_id, old_row):
            return Delete(relation_id, old_row, tags)
    return change


def _is_of(relation_id: int, change: StreamChange) -> bool:
    if isinstance(change, Truncated):
        return relation_id in change.relation_ids
    return change.relation_id == relation_id


def _claim(content: bytes) -> _Claim | None:
    """What a ``syncline.tx`` message claims, or None when it is not ours after all.

    A rejected transaction changed nothing and must not look like an applied one to its author: no claim either.
    """
    try:
        text = content.decode()
        claim, end = _JSON.raw_decode(text)
        client, ms, lsn = claim["client"], claim["ms"], claim["lsn"]
    except (ValueError, KeyError, TypeError):
        return None
    if end != len(text):
        return None
    if claim.get("rejected") or not isinstance(client, str) or not isinstance(ms, int) or not isinstance(lsn, int):
        return None
    return _Claim(client, ms, lsn, bool(claim.get("unheeded")))
