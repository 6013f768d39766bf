"""What the writer decides: which device transactions go into the next batch, and what each answer means.

Order is kept per device and nowhere else. Each device has a queue; a batch takes turns among the devices that are
ready, so a device with a long backlog does not starve the others, and a device whose first transaction has to be tried
again waits alone, holding up nobody.

An attempt can end in four ways:

* Postgres answered *applied*, *duplicate* or *rejected*: decided, the device hears of it.
* Postgres answered *retry* (a lock, a serialization failure, no space, a right our role lacks): the device waits,
  longer each time. A defect of Postgres (class XX) is tried a few times alone, then rejected: it may be the data.
* The whole call failed with an error of Postgres, so it is not known whose fault it was: everything in it is tried
  again alone. What then fails alone with statement_timeout or class XX is rejected after a few tries, with a passing
  error never, with any other at once.
* The connection was lost: nobody knows how far it came, so everything is sent again. Postgres recognises what it had
  decided by (client, lsn, ms). What was in flight at several losses in a row goes alone from then on, but is never
  rejected for it.

Pure: the time comes in, decisions come out.
"""

from __future__ import annotations

import heapq
import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

BATCH_TRANSACTIONS_MAX = 500  # a tenth of a second of work: the latency a batch may add to whoever comes after it
BATCH_BYTES_MAX = 1 << 20
TURN_TRANSACTIONS_MAX = 50  # taken from one device before it is another's turn
DEVICE_PENDING_MAX = 1_000  # unanswered transactions of one device: twenty turns
PENDING_MAX = 20_000  # of all devices together: some seconds of work
PENDING_BYTES_MAX = 64 << 20
RETRY_FIRST_S = 0.01
RETRY_MAX_S = 2.0
TRIES_ALONE_MAX = 5  # for errors that may be the world's fault or the data's
LOSSES_TOGETHER_MAX = 3

Operation = Literal["I", "U", "D", "C"]
Status = Literal["applied", "duplicate", "rejected", "overloaded"]

STATEMENT_TIMEOUT = "57014"
# A right or an object that our own role lacks; 55000 is a table whose replica identity was taken away.
OPERATORS_STATES = ("42501", "42P01", "42703", "42883", "55000")
_PASSING_CLASSES = ("08", "40", "53", "57", "58")
_PASSING_STATES = ("55P03", "55006", "25006", *OPERATORS_STATES)


@dataclass(frozen=True, slots=True)
class RowOperation:
    """One operation of a device on one row of an electrified table.

    ``relation_id``: table oid. ``row``: Postgres input text per column of the table's description; cells of no meaning
    (a compensation's, apart from the key) are None. ``modified``: for an update, which columns it changed. ``tags``:
    the tags it had observed.
    """

    relation_id: int
    op: Operation
    row: tuple[str | None, ...]
    modified: tuple[bool, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why Postgres refused a transaction. ``sqlstate`` is Postgres' five-character code."""

    sqlstate: str
    message: str
    detail: str | None = None
    hint: str | None = None
    table: str | None = None
    constraint: str | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction of a device, to be applied once. ``lsn`` and ``ms`` (commit time, in ms) are the device's.

    ``refusal``: it was found unacceptable already; it takes its place in the device's order and is rejected untried.
    """

    client_id: str
    lsn: int
    ms: int
    changes: tuple[RowOperation, ...]
    reply_to: Ref
    refusal: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A write that needs no more work here."""

    write: Write
    status: Status
    rejection: Rejection | None = None


@dataclass(slots=True, eq=False)
class _Pending:
    write: Write
    text: str
    size: int
    alone: bool = False
    tries_alone: int = 0
    losses: int = 0


@dataclass(slots=True)
class _Device:
    pending: deque[_Pending] = field(default_factory=deque)
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Transactions sent in one call. ``text`` is the JSON that ``electric.apply`` takes."""

    pending: tuple[_Pending, ...]

    @property
    def text(self) -> str:
        return f"[{','.join(pending.text for pending in self.pending)}]"

    @property
    def writes(self) -> tuple[Write, ...]:
        return tuple(pending.write for pending in self.pending)


class WriteQueue:
    """The writes not yet decided. At most one batch is out at a time: take, then settle, failed or lost."""

    def __init__(self) -> None:
        self._devices: dict[str, _Device] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()  # a set with an order: whose turn is next
        self._waiting: list[tuple[float, str]] = []
        self._out: Batch | None = None
        self._shed: dict[str, Ref] = {}
        self.pending = 0
        self.pending_bytes = 0

    def add(self, write: Write) -> Decision | None:
        """Takes ``write``, or answers that there is no room for it.

        Then nothing more is taken from that sender: a later write that got in would make the one left out a duplicate.
        The device's next connection, another ``reply_to``, begins anew.
        """
        client_id = write.client_id
        if client_id in self._shed:
            if self._shed[client_id] == write.reply_to:
                return Decision(write, "overloaded")
            del self._shed[client_id]
        device = self._devices.get(client_id)
        full = self.pending >= PENDING_MAX or self.pending_bytes >= PENDING_BYTES_MAX
        if full or (device is not None and len(device.pending) >= DEVICE_PENDING_MAX):
            self._shed[client_id] = write.reply_to
            return Decision(write, "overloaded")
        if device is None:
            device = self._devices[client_id] = _Device()
            self._ready[client_id] = None
        text = encode_write(write, write.refusal or _unstorable(write))
        device.pending.append(_Pending(write, text, len(text)))
        self.pending += 1
        self.pending_bytes += len(text)
        return None

    def take(self, now_s: float) -> Batch | None:
        """The next batch, or None when no device is ready. A suspect transaction makes a batch by itself."""
        assert self._out is None, "a batch is out already"
        self._wake(now_s)
        taken: list[_Pending] = []
        size = 0
        turns = len(self._ready)
        while self._ready and turns:
            turns -= 1
            client_id = next(iter(self._ready))
            queue = self._devices[client_id].pending
            used = 0
            while used < min(len(queue), TURN_TRANSACTIONS_MAX) and len(taken) < BATCH_TRANSACTIONS_MAX:
                pending = queue[used]
                if taken and (pending.alone or size + pending.size > BATCH_BYTES_MAX):
                    turns = 0
                    break
                taken.append(pending)
                used += 1
                size += pending.size
                if pending.alone:
                    turns = 0
                    break
            if used:
                self._ready.move_to_end(client_id)
            if len(taken) == BATCH_TRANSACTIONS_MAX:
                break
        if not taken:
            return None
        self._out = Batch(tuple(taken))
        return self._out

    def settle(self, results: Sequence[dict[str, Any]], now_s: float) -> list[Decision]:
        """Takes Postgres' answers to the batch that is out, one a transaction in its order."""
        batch = self._back()
        assert len(results) == len(batch.pending), "electric.apply answers every transaction"
        decisions = []
        for pending, result in zip(batch.pending, results, strict=True):
            pending.losses = 0
            status = result["status"]
            if status == "retry":
                if "sqlstate" in result:  # without one it only waits behind an earlier transaction of its device
                    self._again(pending, _rejection(result), now_s, alone=len(batch.pending) == 1)
                continue
            self._decided(pending)
            rejection = _rejection(result) if status == "rejected" else None
            decisions.append(Decision(pending.write, status, rejection))
        return decisions

    def failed(self, error: Rejection, now_s: float) -> None:
        """The call ended with an error of Postgres: some of the batch may have been applied, none is known to be."""
        batch = self._back()
        if len(batch.pending) > 1:
            for pending in batch.pending:
                pending.alone = True
            return
        (pending,) = batch.pending
        pending.alone = True
        if not passes(error.sqlstate) and not _suspicious(error.sqlstate):
            pending.text = encode_write(pending.write, error)
        self._again(pending, error, now_s, alone=True)

    def lost(self, now_s: float) -> None:
        """The connection went away with the batch: it is in doubt, and is sent again."""
        batch = self._back()
        for pending in batch.pending:
            pending.losses += 1
            if pending.losses >= LOSSES_TOGETHER_MAX:
                pending.alone = True
        if len(batch.pending) == 1 and batch.pending[0].alone:
            self._wait(batch.pending[0].write.client_id, now_s)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until ``take`` may find something; 0 when it will now, None when there is nothing to wait for."""
        if self._ready:
            return 0.0
        return max(0.0, self._waiting[0][0] - now_s) if self._waiting else None

    def _back(self) -> Batch:
        assert self._out is not None, "no batch is out"
        batch, self._out = self._out, None
        return batch

    def _decided(self, pending: _Pending) -> None:
        client_id = pending.write.client_id
        device = self._devices[client_id]
        first = device.pending.popleft()
        assert first is pending, "decided in the device's order"
        device.retries = 0
        self.pending -= 1
        self.pending_bytes -= pending.size
        if not device.pending:
            del self._devices[client_id]
            del self._ready[client_id]

    def _again(self, pending: _Pending, error: Rejection, now_s: float, *, alone: bool) -> None:
        if _suspicious(error.sqlstate):
            pending.alone = True
            pending.tries_alone += alone
            if pending.tries_alone >= TRIES_ALONE_MAX:
                pending.text = encode_write(pending.write, error)
        self._wait(pending.write.client_id, now_s)

    def _wait(self, client_id: str, now_s: float) -> None:
        device = self._devices[client_id]
        delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(device.retries, 16))
        device.retries += 1
        del self._ready[client_id]
        heapq.heappush(self._waiting, (now_s + delay_s, client_id))

    def _wake(self, now_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= now_s:
            self._ready[heapq.heappop(self._waiting)[1]] = None


def encode_write(write: Write, refusal: Rejection | None = None) -> str:
    """One element of the batch that ``electric.apply`` takes, as JSON text; with ``refusal`` it is rejected untried."""
    changes = write.changes if refusal is None else tuple(map(_storable, write.changes))
    element: dict[str, Any] = {
        "client": write.client_id,
        "lsn": write.lsn,
        "ms": write.ms,
        "ops": [
            {"rel": c.relation_id, "op": c.op, "row": c.row, "modified": c.modified, "tags": c.tags} for c in changes
        ],
    }
    if refusal is not None:
        fields = ("sqlstate", "message", "detail", "hint", "table", "constraint")
        element["refuse"] = {name: getattr(refusal, name) for name in fields if getattr(refusal, name) is not None}
    return json.dumps(element, ensure_ascii=False, separators=(",", ":"))


def passes(sqlstate: str) -> bool:
    """Whether an error of this code goes away by itself or by an operator's hand, whatever the transaction holds."""
    return sqlstate != STATEMENT_TIMEOUT and (sqlstate[:2] in _PASSING_CLASSES or sqlstate in _PASSING_STATES)


def _suspicious(sqlstate: str) -> bool:
    return sqlstate == STATEMENT_TIMEOUT or sqlstate.startswith("XX")


def _unstorable(write: Write) -> Rejection | None:
    """Postgres has no U+0000 in text. Found here, because it would fail the whole batch before it began."""
    texts: Iterable[str] = (cell for change in write.changes for cell in change.row if cell is not None)
    if any("\x00" in text for text in texts):
        return Rejection("22021", "a text contains U+0000, which Postgres cannot store")
    return None


def _storable(change: RowOperation) -> RowOperation:
    row = tuple(cell if cell is None else cell.replace("\x00", "\N{REPLACEMENT CHARACTER}") for cell in change.row)
    return RowOperation(change.relation_id, change.op, row, change.modified, change.tags)


def _rejection(result: dict[str, Any]) -> Rejection:
    return Rejection(
        result["sqlstate"],
        result["message"],
        result.get("detail"),
        result.get("hint"),
        result.get("table"),
        result.get("constraint"),
    )
