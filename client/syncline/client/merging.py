"""An incoming row meets local changes of the same row that the server has not echoed yet. Pure.

The rules are ``proto.merge``'s; here oplog entries are put into its terms, and its answer into ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.client.oplog import Entry
from syncline.client.schema import Table
from syncline.proto.values import Delete, Insert, Row, Update


@dataclass(frozen=True, slots=True)
class Pending:
    """Everything pending on one row."""

    entries: tuple[Entry, ...]
    table: Table


def fold(entries: Sequence[Entry], table: Table) -> Pending:
    return Pending(tuple(entries), table)


def merged(
    pending: Pending, history: Sequence[Insert | Update | Delete], origin: str, commit_ms: int
) -> tuple[Row | None, tuple[str, ...]]:
    raise NotImplementedError
