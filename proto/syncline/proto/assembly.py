"""From the operations of SatOpLogs to whole transactions.

A transaction may arrive in pieces: a SatOpLog may end in the middle of one, and may hold several. Peers act on whole
transactions only, so the pieces wait here, up to a limit. Rows that come outside a transaction belong to whatever a
device has open at that moment: a delivery, a batch of rows that leave, additional data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from syncline.proto.errors import ErrorCode, ProtocolError, invalid
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import Change, Delete, Gone, Insert, Relation, Row, RowChange, Transaction, Update

# What this interpreter takes for an operation and its place among others, and beside their own bytes for a cell, for
# one that is not NULL, and for a tag.
OPERATION_MEMORY: Final = 180
CELL_MEMORY: Final = 8
VALUE_MEMORY: Final = 40
TAG_MEMORY: Final = 72


class Bound(Enum):
    """What of a transaction may be too much."""

    OPERATIONS = "operations"
    BYTES = "bytes"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class TransactionLimits:
    """How much of a transaction is held. ``bytes_max`` is its size on the wire, ``memory_max`` about what it takes
    here, which may be ten times as much: see ``memory_of``.

    Who sends a transaction asks ``passed_by`` too, before it is committed there.
    """

    ops_max: int
    bytes_max: int
    memory_max: int | None = None

    def passed_by(self, operations: int = 0, octets: int = 0, memory: int = 0) -> Bound | None:
        """The bound that a transaction of this size is beyond, if any. ``octets``: on the wire."""
        if operations > self.ops_max:
            return Bound.OPERATIONS
        if octets > self.bytes_max:
            return Bound.BYTES
        if self.memory_max is not None and memory > self.memory_max:
            return Bound.MEMORY
        return None


class Assembler:
    """Collects one transaction at a time.

    One that is beyond the limits breaks the protocol; or, with ``lets_go``, loses its operations and is followed to its
    end all the same, so that it can be refused by its name.
    """

    def __init__(self, limits: TransactionLimits, *, lets_go: bool = False) -> None:
        self._limits = limits
        self._lets_go = lets_go
        self.clear()

    @property
    def open(self) -> bool:
        """Whether a transaction has begun and has not committed."""
        return self._begin is not None

    @property
    def lsn(self) -> bytes | None:
        """Of the transaction under way."""
        return None if self._begin is None else self._begin.lsn

    @property
    def excess(self) -> str:
        """Which limit the transaction under way is beyond, for a human; empty while it is beyond none."""
        return self._excess

    @property
    def octets(self) -> int:
        """Of the transaction under way, as far as ``arrived`` told."""
        return self._bytes

    @property
    def held(self) -> int:
        """About the bytes of memory that the transaction under way takes, where that has a limit."""
        return self._memory

    def clear(self) -> None:
        """Forget the pieces of an unfinished transaction."""
        self._begin: Begin | None = None
        self._changes: list[Change] = []
        self._count = 0
        self._bytes = 0
        self._memory = 0
        self._excess = ""

    def begin(self, begin: Begin) -> None:
        """Raises ProtocolError inside a transaction."""
        if self._begin is not None:
            raise invalid("a transaction begins inside another", lsn=self._begin.lsn)
        self._begin = begin

    def add(self, change: Change) -> None:
        """Raises ProtocolError outside a transaction and beyond its limit."""
        if self._begin is None:
            raise invalid(f"{_name(change)} outside a transaction")
        self._count += 1
        if self._limits.passed_by(operations=self._count):
            self._exceeds(f"a transaction of more than {self._limits.ops_max} operations", self._begin)
        if not self._excess:
            self._changes.append(change)
            self._weigh(change, self._begin)

    def _weigh(self, change: Change, begin: Begin) -> None:
        if self._limits.memory_max is None or not isinstance(change, RowChange):
            return
        self._memory += memory_of(change)
        if self._limits.passed_by(memory=self._memory):
            self._exceeds(f"a transaction that takes more than {self._limits.memory_max} bytes of memory", begin)

    def _exceeds(self, excess: str, begin: Begin) -> None:
        if not self._lets_go:
            raise invalid(excess, lsn=begin.lsn)
        self._excess = self._excess or excess
        self._changes.clear()
        self._memory = 0

    def commit(self, commit: Commit) -> Transaction:
        """The whole transaction, without changes if it is beyond the limits. Raises ProtocolError outside one.

        Time and position are the begin's: some devices leave the commit empty. The ref is the commit's where it is
        set, for that is where devices read it.
        """
        begin = self._begin
        if begin is None:
            raise invalid("a commit without a begin")
        transaction = Transaction(
            begin.commit_ms,
            begin.lsn,
            tuple(self._changes),
            begin.origin,
            begin.transaction_id,
            commit.additional_data_ref or begin.additional_data_ref,
            max(begin.commit_ms, commit.commit_ms),
            begin.rejection,
            begin.carried_out,
        )
        self.clear()
        return transaction

    def arrived(self, octets: int) -> None:
        """A SatOpLog, or a part of one, of this size has been read. Raises ProtocolError when too much waits for its
        commit."""
        if self._begin is None:
            return
        self._bytes += octets
        if self._limits.passed_by(octets=self._bytes):
            self._exceeds(f"a transaction of more than {self._limits.bytes_max} bytes", self._begin)


def memory_of(change: RowChange) -> int:
    """About how many bytes of memory ``change`` takes. A value of two bytes takes four on the wire, and fifty here."""
    if isinstance(change, Update):
        rows: tuple[Row, ...] = (change.row,) if change.old_row is None else (change.row, change.old_row)
    else:
        rows = (change.old_row if isinstance(change, Delete) else change.row,)
    memory = OPERATION_MEMORY
    for row in rows:
        values = len(row) - row.count(None)
        memory += CELL_MEMORY * len(row) + VALUE_MEMORY * values + sum(map(len, filter(None, row)))
    if not isinstance(change, Gone):
        memory += sum(TAG_MEMORY + len(tag) for tag in change.tags)
    return memory


@dataclass(slots=True)
class OpenDelivery:
    """Subscription data on its way in, between begin and end. ``subscription_id``: empty for those of a repair."""

    subscription_id: str
    lsn: bytes
    request_id: str = ""


@dataclass(slots=True)
class OpenGoneBatch:
    """Rows that leave, between begin and end."""

    subscription_ids: tuple[str, ...]
    lsn: bytes


@dataclass(slots=True)
class OpenAdditionalData:
    """Rows announced earlier, between their begin and commit."""

    ref: int
    inserts: list[Insert] = field(default_factory=list)


def check_width(
    relation: Relation | None,
    change: RowChange,
    lsn: bytes | None = None,
    code: ErrorCode = ErrorCode.INVALID_REQUEST,
) -> Relation:
    """The relation of ``change``. Raises ProtocolError when it is unknown or a row does not have its columns.

    ``code``: INTERNAL where the change is one that our own side is about to send.
    """
    if relation is None:
        raise ProtocolError(code, f"{_name(change)} names the unknown relation {change.relation_id}", lsn=lsn)
    columns = len(relation.columns)
    if isinstance(change, Update):
        fits = len(change.row) == columns and (change.old_row is None or len(change.old_row) == columns)
    else:
        fits = len(change.old_row if isinstance(change, Delete) else change.row) == columns
    if not fits:
        raise ProtocolError(code, f"{_name(change)} on {relation.table} does not have its {columns} columns", lsn=lsn)
    return relation


def _name(change: object) -> str:
    name = type(change).__name__.lower()
    return f"an {name}" if name[0] in "aiu" else f"a {name}"
