"""A device transaction on its way to Postgres, and the batches in which it goes there. Pure."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from syncline.actors.postgres.write import Rejection, Write, encode_write, unstorable

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

log = logging.getLogger(__name__)

# Beyond either a transaction is large. Postgres merges some thousand operations a second.
LARGE_OPERATIONS = 5_000
LARGE_BYTES = 8 << 20
PATIENT_TRIES = 3  # that found rows of direct SQL of which the stream had not told yet; the next waits for it
PATIENCE_TRIES = 10  # in a row, some five seconds: longer than others hold a lock, mostly


class Lane(Enum):
    """A way to Postgres, with a connection of its own and one batch out at a time."""

    BATCHES = "batches"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a transaction waits for: the stream to be at ``lsn``. Then all is absorbed of the rows that transactions
    ``xmins`` left, and of the ``keys`` that are gone. ``xmins``: xid -> ms of its commit, 0 while that is not known."""

    lsn: int
    xmins: dict[str, int]
    keys: frozenset[str]

    def more(self, result: dict[str, Any]) -> Needs:
        """With what Postgres has said besides."""
        xmins = self.xmins | {xid: self.xmins.get(xid, 0) for xid in result["xmins"]}
        return Needs(int(result["lsn"]), xmins, self.keys | set(result["gone"]))


NOTHING_NEEDED: Final = Needs(0, {}, frozenset())


@dataclass(slots=True, eq=False)
class Pending:
    """A write that is not decided, and what has come of it so far. ``text``: what Postgres is sent of it, in pieces;
    ``size``: of that, in bytes. ``alone``: no other goes with it. ``repeats``: connections it has come by again."""

    write: Write
    text: tuple[bytes, ...]
    size: int
    operations: int
    lane: Lane
    alone: bool = False
    tries_alone: int = 0
    raised: int = 0  # tries that ended in an error which a function of the application's had raised
    losses: int = 0
    absorbed: Needs | None = None  # what it has waited for
    waits: int = 0  # how often
    repeats: tuple[Ref, ...] = ()

    @property
    def patient(self) -> bool:
        """Whether it is to wait for the stream with its rows locked: else SQL may write one of them each time."""
        return self.waits >= PATIENT_TRIES


@dataclass(slots=True)
class Load:
    """How much is pending of some devices: writes, and by lane the bytes of their texts."""

    writes: int = 0
    octets: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))

    def add(self, pending: Pending) -> None:
        self.writes += 1
        self.octets[pending.lane] += pending.size

    def remove(self, pending: Pending) -> None:
        self.writes -= 1
        self.octets[pending.lane] -= pending.size


@dataclass(frozen=True, slots=True)
class Batch:
    """Transactions sent in one call. ``text`` is the JSON that ``electric.apply`` takes."""

    pending: tuple[Pending, ...]

    @property
    def text(self) -> bytes:
        pieces = [b"["]
        for pending in self.pending:
            pieces += (*_with_tries(pending), b",")
        pieces[-1] = b"]"
        return b"".join(pieces)

    @property
    def operations(self) -> int:
        return sum(pending.operations for pending in self.pending)

    @property
    def patient(self) -> bool:
        """Whether it may wait for the stream in its transaction."""
        return any(pending.patient for pending in self.pending)

    @property
    def writes(self) -> tuple[Write, ...]:
        return tuple(pending.write for pending in self.pending)


def pending_write(write: Write) -> Pending:
    """By the lane for its size. One that has no text, or one that Postgres could not store, is sent as rejected."""
    try:
        text = encode_write(write, write.refusal or unstorable(write.changes))
    except Exception as defect:
        log.exception("a transaction of device %s is rejected because it cannot be written down", write.client_id)
        write = replace(write, changes=(), encoded=None)
        text = encode_write(write, Rejection("XX000", f"the transaction cannot be written down: {defect}"))
    size = sum(map(len, text))
    if write.operations <= LARGE_OPERATIONS and size <= LARGE_BYTES:
        return Pending(write, text, size, write.operations, Lane.BATCHES)
    # Its text is all that is needed of it: it is held once.
    return Pending(replace(write, changes=(), encoded=None), text, size, write.operations, Lane.LARGE)


def _with_tries(pending: Pending) -> tuple[bytes, ...]:
    """Its text, with what it has waited for, and whether there has been patience enough with it."""
    learnt: dict[str, Any] = {}
    if pending.absorbed is not None:
        learnt["absorbed"] = {"xmins": pending.absorbed.xmins, "gone": sorted(pending.absorbed.keys)}
    if pending.patient:
        learnt["patient"] = True
    if pending.raised >= PATIENCE_TRIES:
        learnt["final"] = True
    if not learnt:
        return pending.text
    return json.dumps(learnt, ensure_ascii=False).encode()[:-1] + b"," + pending.text[0][1:], *pending.text[1:]
