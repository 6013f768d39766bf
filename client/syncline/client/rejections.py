# ruff: noqa: S608 - SQL is made of constants; values are parameters.
"""Local transactions that the server has rejected: kept, with what they had written, until they are dismissed.

A rejection comes with the echo that puts the rows right, and is noted down in the same SQLite transaction, from the
oplog entries that go then. So an application finds each exactly once, whenever it looks: until the echo has been
applied the entries are sent again on every connection, and answered again. A row that a later local transaction names,
too, is not gone then: it stays until that one's echo, which may bring it.

Of those that are dismissed it stays known that they were, so that nobody is told later that they are saved.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from syncline.client.cells import Value, decode_cell
from syncline.client.schema import REJECTIONS, Table
from syncline.client.triggers import image_of, parse_image
from syncline.proto.values import RejectionReason

# Older ones are forgotten altogether.
DISMISSED_MAX: Final = 1_000

Operation: TypeAlias = Literal["insert", "update", "delete"]
_OPERATIONS: Final[Mapping[str, Operation]] = {"I": "insert", "U": "update", "D": "delete"}

_COLUMNS = "transaction_id, sqlstate, message, detail, hint, table_name, constraint_name, columns, key, winner, follows"
_DISMISS = (
    "UPDATE _syncline_rejections SET dismissed = 1 WHERE transaction_id = ?",
    "DELETE FROM _syncline_rejected WHERE transaction_id = ?",
)
_FORGET = (
    "DELETE FROM _syncline_rejections WHERE dismissed AND position NOT IN "
    "(SELECT position FROM _syncline_rejections WHERE dismissed ORDER BY position DESC LIMIT ?)"
)


@dataclass(frozen=True, slots=True)
class RejectedChange:
    """One row that a rejected transaction had written: ``new`` as it left it, ``old`` as it found it, by column.

    ``new`` is None for a delete, ``old`` for an insert. ``key``: the columns of the primary key.
    """

    table: str
    operation: Operation
    key: Mapping[str, Value]
    new: Mapping[str, Value] | None
    old: Mapping[str, Value] | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """A local transaction that Postgres, or the service, has refused. None of it has been kept there, nor here, but for
    rows that a later one on its way names.

    ``transaction_id``: see ``Transaction.id``. ``sqlstate``: Postgres' five-character code. ``message``, ``detail`` and
    ``hint``: its words, or those of a trigger. What is at fault is in ``table``: ``columns`` of it, those of
    ``constraint``, and the row with this ``key``. ``winner``: the key of the row there that has what was to be unique,
    since it was first. ``follows``: the ``transaction_id`` of an earlier one that was rejected, too, and had made the
    row that this one is about. None or empty for what the server does not know. ``changes``: what the transaction had
    written, in order, to be offered to the user again; empty once it is dismissed.
    """

    transaction_id: int
    sqlstate: str
    message: str
    detail: str | None
    hint: str | None
    table: str | None
    constraint: str | None
    columns: tuple[str, ...]
    key: Mapping[str, Value]
    changes: tuple[RejectedChange, ...]
    winner: Mapping[str, Value] = field(default_factory=dict)
    follows: int | None = None

    @property
    def committed_at(self) -> datetime:
        """When it was committed here, in UTC, by the clock of this device."""
        return datetime.fromtimestamp(self.transaction_id / 1000, UTC)


def record(
    connection: sqlite3.Connection, transaction_id: int, reason: RejectionReason, tables: Mapping[str, Table]
) -> None:
    """Note down that the local transaction was rejected, before its oplog entries go. Of one without any nothing is."""
    table = None if reason.table is None else tables.get(reason.table)
    key, winner = ({name: _decoded(table, name, cell) for name, cell in cells} for cells in (reason.key, reason.winner))
    (pending,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM _syncline_oplog WHERE commit_ms = ?)", (transaction_id,)
    ).fetchone()
    if not pending:
        return
    connection.execute(
        f"INSERT INTO _syncline_rejections ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(transaction_id, reason.sqlstate, reason.message, reason.detail, reason.hint, reason.table),
            *(reason.constraint, json.dumps(reason.columns), image_of(key), image_of(winner), reason.follows),
        ),
    )
    connection.execute(
        "INSERT INTO _syncline_rejected (transaction_id, entry_id, table_name, op, new_row, old_row) "
        "SELECT commit_ms, id, table_name, op, new_row, old_row FROM _syncline_oplog WHERE commit_ms = ? AND op <> 'C'",
        (transaction_id,),
    )


def _decoded(table: Table | None, column: str, cell: bytes) -> Value:
    if table is None or column not in table.columns:
        return cell.decode(errors="replace")
    return decode_cell(table.decoders[table.columns.index(column)], cell)


def undismissed(
    connection: sqlite3.Connection, tables: Mapping[str, Table], after: int = 0, limit: int = -1
) -> list[tuple[int, Rejection]]:
    """Those behind the position ``after``, as they came, each with its position; at most ``limit``; -1: all."""
    rows = connection.execute(
        f"SELECT position, {_COLUMNS} FROM _syncline_rejections WHERE position > ? AND NOT dismissed "
        "ORDER BY position LIMIT ?",
        (after, limit),
    ).fetchall()
    return [(row[0], _rejection(connection, tuple(row)[1:], tables)) for row in rows]


def find(connection: sqlite3.Connection, transaction_id: int, tables: Mapping[str, Table]) -> Rejection | None:
    """That of the transaction, also if it is dismissed."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM _syncline_rejections WHERE transaction_id = ?", (transaction_id,)
    ).fetchone()
    return None if row is None else _rejection(connection, tuple(row), tables)


def count(connection: sqlite3.Connection) -> int:
    """How many are not dismissed."""
    (number,) = connection.execute(f"SELECT count(*) FROM {REJECTIONS} WHERE NOT dismissed").fetchone()
    return int(number)


def dismiss(connection: sqlite3.Connection, transaction_id: int) -> None:
    """The application has dealt with it. Nothing happens if it has before."""
    for sql in _DISMISS:
        connection.execute(sql, (transaction_id,))
    connection.execute(_FORGET, (DISMISSED_MAX,))


def _rejection(connection: sqlite3.Connection, row: Sequence[Any], tables: Mapping[str, Table]) -> Rejection:
    transaction_id, sqlstate, message, detail, hint, table, constraint, columns, key, winner, follows = row
    changes = connection.execute(
        "SELECT table_name, op, new_row, old_row FROM _syncline_rejected WHERE transaction_id = ? ORDER BY entry_id",
        (transaction_id,),
    )
    return Rejection(
        transaction_id,
        sqlstate,
        message,
        detail,
        hint,
        table,
        constraint,
        tuple(json.loads(columns)),
        parse_image(key),
        tuple(_change(tables, *change) for change in changes),
        parse_image(winner),
        follows,
    )


def _change(tables: Mapping[str, Table], table: str, op: str, new: str | None, old: str | None) -> RejectedChange:
    now, before = (None if image is None else parse_image(image) for image in (new, old))
    known = tables.get(table)
    image = now or before or {}
    key = {} if known is None else {column: image[column] for column in known.primary_key}
    return RejectedChange(table, _OPERATIONS[op], key, now, before)
