"""What those who write and read have in common, whichever of the three they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from tests.consistency.histories import Cells, Snapshot
from tests.consistency.schema import TABLES
from tests.consistency.workload import Statement

RETRY_S = 0.05
JOURNALED = "SELECT 1 FROM journal WHERE author = ? AND number = ?"


class Refused(Exception):
    """The transaction has not been committed, and will not be."""


class Anew(Exception):
    """All that it held had been given up, and is here again: a new session begins."""


class Lost(Exception):
    """Nobody knows whether it has: the one who was to commit it is gone. ``reopen``, then look."""


class Party(Protocol):
    """``ahead_max``: while it is connected it writes nothing more where so much has not come back, in what ``pending``
    counts. So nobody writes faster than all together can take it, on whatever machine."""

    ahead_max: int

    async def open(self, *, first: bool) -> None:
        """``first``: waits until everything is here to be read."""

    async def reopen(self) -> None:
        """After Lost."""

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        """The counters as they were found. ``pause_s``: before the last statement.

        Raises Refused, Lost, and Anew with nothing written.
        """

    async def snapshot(self) -> Snapshot:
        """Raises Lost and Anew."""

    async def has_written(self, number: int) -> bool:
        """Whether its transaction of that number is there. Raises Lost."""

    async def dump(self) -> Snapshot:
        """All rows, those of the journal too. Raises Lost."""

    @property
    def connected(self) -> bool:
        """As far as it knows."""

    async def pending(self) -> int:
        """Local transactions, or operations, that have not come back yet. Raises Lost."""

    async def counters(self) -> dict[str, int]:
        """Whose transactions it has. Raises Lost."""

    async def state(self) -> str:
        """How it sees its connection, in words."""

    async def nudge(self) -> None:
        """What an application does for a client that needs to be told to connect again."""

    def skew(self, ms: int) -> None:
        """Puts its clock ahead by ``ms``; negative: behind."""

    @property
    def pid(self) -> int | None:
        """Of the process that holds its database, if that is another one than this."""

    async def close(self) -> None: ...


def snapshot_of(rows: Iterable[tuple[str, str, str]]) -> Snapshot:
    found: dict[str, dict[str, Cells]] = {table.name: {} for table in TABLES}
    for table, key, row in rows:
        found[table][key] = tuple(json.loads(row))
    return found


def snapshot_rows(plain: dict[str, dict[str, list[Any]]]) -> Snapshot:
    """A snapshot that has travelled as JSON."""
    return {table: {key: tuple(row) for key, row in rows.items()} for table, rows in plain.items()}
