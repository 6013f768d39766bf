"""An incoming row meets local changes of the same row that the server has not echoed yet. Pure.

The rules are ``proto.merge``'s. Here oplog entries are put into its terms, and several incoming changes to one row
within one transaction are folded into the one they amount to: the last row, and every column that any of them changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from syncline.client.oplog import Entry, change_of
from syncline.client.schema import Table
from syncline.proto.merge import RowWrite, incoming_of, merge_incoming, write_of
from syncline.proto.tags import format_tags
from syncline.proto.values import Delete, Insert, Row, Update

Pending: TypeAlias = tuple[RowWrite, ...]
"""All local writes to one row that have not been echoed, oldest first."""


def fold(entries: Sequence[Entry], table: Table, client_id: str) -> Pending:
    return tuple(write_of(change_of(entry, table), client_id, entry.commit_ms) for entry in entries)


def merged(
    pending: Pending, history: Sequence[Insert | Update | Delete], origin: str, commit_ms: int
) -> tuple[Row | None, tuple[str, ...]]:
    """The row as it is to stand here, None if it goes, and its tags.

    ``history``: the incoming changes to the row by the transaction of ``origin`` at ``commit_ms``, in order, at least
    one. Rows are in the column order of ``pending``. Raises ProtocolError for text that is no tag.
    """
    changes = [incoming_of(change, origin, commit_ms) for change in history]
    modified = tuple(any(columns) for columns in zip(*(change.modified for change in changes), strict=True))
    result = merge_incoming(pending, replace(changes[-1], modified=modified))
    return result.row, format_tags(result.tags)
