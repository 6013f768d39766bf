"""What a device holds, in a few numbers a table, and whether what it is sent is what it lacked. Pure.

Devices of a load process keep no rows: a count and a sum of row hashes say as much as the rows when they are compared
with Postgres, and ten thousand devices fit. The sum moves with each change by the row that came and the row that left,
so a change given twice, or not at all, stays visible to the end.

The load numbers its transactions: the rows that transaction ``n`` of a table leaves have ``n`` in their column
``priority`` (transactions of devices have NULL). So each transaction shows by itself whether one is missing before it.

A device that sends a write again which no frame brings back is given the row as it is, without what it was: the rows
that a device has written itself it knows by their first column, and nobody else changes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from syncline.proto.values import POSTGRES_ORIGIN, Delete, Insert, Migrate, Relation, Row, Transaction, Update

SEQUENCE_COLUMN: Final = "priority"
_SUM_BITS: Final = (1 << 64) - 1
VIOLATIONS_MAX: Final = 5
"""So many of a device are told; the first is the one that explains."""


@dataclass(slots=True)
class Held:
    """``checksum``: the sum of ``row_hash``, 64 bits. ``newest``: the largest number of a transaction, 0 for none."""

    count: int = 0
    checksum: int = 0
    newest: int = 0

    def add(self, row: Row) -> None:
        self.count += 1
        self.checksum = (self.checksum + row_hash(row)) & _SUM_BITS

    def move(self, by: Held) -> None:
        self.count += by.count
        self.checksum = (self.checksum + by.checksum) & _SUM_BITS

    def remove(self, row: Row) -> None:
        self.count -= 1
        self.checksum = (self.checksum - row_hash(row)) & _SUM_BITS


@dataclass(frozen=True, slots=True)
class Effect:
    """Of one transaction, the same for every device. ``number``: table and number, of a transaction of the load.
    ``written``: the rows that a device's transaction inserts; ``as_is``: rows given without what they were."""

    position: int
    moved: tuple[tuple[str, Held], ...]
    number: tuple[str, int] | None
    problems: tuple[str, ...]
    origin: str = POSTGRES_ORIGIN
    written: tuple[tuple[str, Row], ...] = ()
    as_is: tuple[tuple[str, Row], ...] = ()


def row_hash(row: Row) -> int:
    """64 bits of the row's cells, the same in every process."""
    cells = b"".join(b"-" if cell is None else b"%d:%b" % (len(cell), cell) for cell in row)
    return int.from_bytes(blake2b(cells, digest_size=8).digest(), "big")


def held(rows: Iterable[Row], sequence_at: int) -> Held:
    """What a device with exactly these rows has; ``sequence_at``: where the number is in a row."""
    found = Held()
    for row in rows:
        found.add(row)
        found.newest = max(found.newest, int(row[sequence_at] or 0))
    return found


@dataclass(slots=True)
class Ledger:
    """Of one device, over all its connections. ``violations``: what must not have happened, in words.
    ``client_id``: the origin of its own transactions."""

    client_id: str = ""
    tables: dict[str, Held] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    position: int = 0
    _relations: dict[int, tuple[str, int]] = field(default_factory=dict)
    _staged: dict[str, list[Row]] = field(default_factory=dict)
    _own: dict[tuple[str, bytes | None], Row] = field(default_factory=dict)

    def relation(self, relation: Relation) -> None:
        names = relation.names
        at = names.index(SEQUENCE_COLUMN) if SEQUENCE_COLUMN in names else -1
        self._relations[relation.id] = (relation.table, at)

    def delivery_begins(self) -> None:
        self._staged = {}

    def delivered(self, inserts: Iterable[Insert]) -> None:
        for insert in inserts:
            self._staged.setdefault(self._relations[insert.relation_id][0], []).append(insert.row)

    def delivery_ends(self, tables: Iterable[str], position: int) -> None:
        """The rows that came are these tables, whole."""
        at = dict(self._relations.values())
        for table in tables:
            self.tables[table] = held(self._staged.get(table, ()), at.get(table, -1))
        self._staged = {}
        self.position = position

    def effect(self, transaction: Transaction) -> Effect:
        """What ``transaction`` does to any device that follows the tables. A migration does nothing to rows."""
        moved: dict[str, Held] = {}
        problems: list[str] = []
        written: list[tuple[str, Row]] = []
        as_is: list[tuple[str, Row]] = []
        of: tuple[str, int] | None = None
        for change in transaction.changes:
            if isinstance(change, Migrate):
                continue
            table, sequence_at = self._relations[change.relation_id]
            here = moved.setdefault(table, Held())
            match change:
                case Insert(_, row, _):
                    here.add(row)
                    if transaction.origin != POSTGRES_ORIGIN:
                        written.append((table, row))
                case Update(_, row, None, _):
                    as_is.append((table, row))
                case Update(_, row, old_row, _):
                    here.remove(old_row)
                    here.add(row)
                case Delete(_, old_row, _):
                    here.remove(old_row)
                    continue
                case _:
                    problems.append(f"{type(change).__name__} in {table}: nobody gives a table up")
                    continue
            if number := int(row[sequence_at] or 0):
                of = (table, number)
        return Effect(
            int(transaction.lsn),
            tuple(moved.items()),
            of if transaction.origin == POSTGRES_ORIGIN else None,
            tuple(problems),
            transaction.origin,
            tuple(written),
            tuple(as_is),
        )

    def applied(self, effect: Effect) -> bool:
        """Whether the transaction was news. Only those of the load can be none: a device's are not numbered."""
        if effect.position < self.position:
            self._violated(f"a transaction at {effect.position} after one at {self.position}")
        self.position = max(effect.position, self.position)
        for problem in effect.problems:
            self._violated(problem)
        for table, moved in effect.moved:
            self.tables.setdefault(table, Held()).move(moved)
        if effect.origin == self.client_id:
            for table, row in effect.written:
                self._knows(table, row)
        for table, row in effect.as_is:
            if effect.origin != self.client_id:
                self._violated(f"an update of {table} without the old row")
            self.tables[table].add(row)
            self._knows(table, row)
        return effect.number is None or self._next(*effect.number)

    def _knows(self, table: str, row: Row) -> None:
        """The device holds this row of its own now, instead of the one of that key that it held."""
        known = self._own.get((table, row[0]))
        if known is not None:
            self.tables[table].remove(known)
        self._own[table, row[0]] = row

    def _next(self, table: str, number: int) -> bool:
        here = self.tables[table]
        if number <= here.newest:
            self._violated(f"transaction {number} of {table} once more, after {here.newest}")
            return False
        if number > here.newest + 1:
            self._violated(f"transaction {number} of {table} follows {here.newest}")
        here.newest = number
        return True

    def missing(self, expected: Mapping[str, Held]) -> list[str]:
        """How the device differs from ``expected``, which may have more tables than the device follows."""
        return [
            f"{table}: {here.count} rows, checksum {here.checksum:x}, up to transaction {here.newest}; Postgres has "
            f"{expected[table].count}, {expected[table].checksum:x}, {expected[table].newest}"
            for table, here in self.tables.items()
            if here != expected[table]
        ]

    def _violated(self, text: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(text)
