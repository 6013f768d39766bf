"""What the stream brings of a transaction, once it has been put together (see ``transaction``). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import RelationMessage
from syncline.proto.values import POSTGRES_ORIGIN, RowChange

UNTRACKED_TAGS: Final[tuple[str, ...]] = (f"{POSTGRES_ORIGIN}@0",)
"""The tags of a row that no device wrote last."""
TX_PREFIX: Final = "syncline.tx"
MARK_PREFIX: Final = "syncline.mark"
ELECTRIC_SCHEMA: Final = "electric"


@dataclass(frozen=True, slots=True)
class TransactionHead:
    """``lsn``: position of the commit. ``xid``: 32 bits, as pgoutput has it. ``origin``: the device's client id, None
    when it is no device's write. ``commit_ms``: by Postgres' clock. ``client_ms`` and ``client_lsn``: what the device
    called its transaction. ``unheeded``: triggers of the application's kept Postgres from doing all of it; for devices,
    its author too, what it did is a transaction of Postgres."""

    lsn: Lsn
    commit_ms: int
    xid: int
    origin: str | None = None
    client_ms: int | None = None
    client_lsn: int | None = None
    unheeded: bool = False

    @property
    def author(self) -> str:
        """The origin as the wire names it."""
        return POSTGRES_ORIGIN if self.origin is None or self.unheeded else self.origin

    @property
    def authored_ms(self) -> int:
        """The time as the wire names it: by the clock of the author."""
        return self.commit_ms if self.client_ms is None or self.unheeded else self.client_ms


@dataclass(frozen=True, slots=True)
class Truncated:
    """These tables were emptied at this point of the transaction."""

    relation_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MigrationNotice:
    """A row inserted into ``electric.migrations``: the catalog has changed with this transaction."""

    id: int
    version: str


StreamChange: TypeAlias = RowChange | Truncated


@dataclass(frozen=True, slots=True)
class TransactionChunk:
    """Some of a transaction's changes, in order; every transaction has at least one chunk, maybe without changes. Where
    it is cut depends on nothing else than what is in it: so all shapes get it in the same pieces, also when it is sent
    again.

    ``first`` and ``last`` mark its ends. ``migrations`` and ``marks`` (ids of snapshot marks) are those met since the
    previous chunk. ``relations``: definitions that arrived since then, new or changed, valid for this chunk's rows.
    ``direct``: in a device's transaction, the places of the changes that are not the device's own: of triggers, and of
    foreign keys that cascade. ``incomplete``: tables of which more was changed than is told.
    """

    head: TransactionHead
    changes: list[StreamChange]
    first: bool
    last: bool
    migrations: tuple[MigrationNotice, ...] = ()
    marks: tuple[str, ...] = ()
    relations: tuple[RelationMessage, ...] = ()
    direct: tuple[int, ...] = ()
    incomplete: tuple[int, ...] = ()
