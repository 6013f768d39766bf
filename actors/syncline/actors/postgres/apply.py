"""What the writer decides: which device transactions go into the next batch, and what each answer means.

Order is kept per device and nowhere else. Each device has a queue; a batch takes turns among the devices that are
ready, so a device with a long backlog does not starve the others, and a device whose first transaction has to be tried
again waits alone, holding up nobody. A large transaction may take minutes: it goes by a lane of its own, beside the
batches of all others.

An attempt can end in five ways:

* Postgres answered *applied*, *unheeded*, *duplicate* or *rejected*: decided, the device hears of it.
* Postgres answered *retry* (a lock, a serialization failure, no space, a right our role lacks): the device waits,
  longer each time. A defect of Postgres (class XX) is tried a few times alone, then rejected: it may be the data. What
  is put off for some seconds is shown as held. It is not rejected, since a disk may be full for an hour, unless a
  function of the application's has raised it, with such a code: that one is rejected when it is raised once more.
* Postgres answered *unabsorbed*: direct SQL wrote or deleted what the transaction is about, and it is not known that
  the stream has told of that yet (see ``absorber``). It is sent again when the stream has come so far, which takes some
  milliseconds, and then says what it has waited for. After a few times it goes alone, and waits for the stream in its
  transaction (see ``progress``).
* The whole call failed with an error of Postgres, so it is not known whose fault it was: everything in it is tried
  again alone. What then fails alone with statement_timeout or class XX is rejected after a few tries, with a passing
  error never, with any other at once. It is sent as rejected without its operations: they may be why it failed.
* The connection was lost: nobody knows how far it came, so everything is sent again. Postgres recognises what it had
  decided by (client, lsn, ms). What was in flight at several losses in a row goes alone from then on, but is never
  rejected for it.

There is room for so much, and as much again for what devices have of which something was put off: a table that is
locked or renamed may hold writes for hours, and those of all others are to be taken meanwhile. What is put off beyond
its room is let go: it is not acknowledged, so its device has it and sends it again.

A device that comes back sends again what was not answered. What is here already keeps its place, and is answered to
the new connection as well: held writes would pile up otherwise, with each connection.

Pure: the time comes in, decisions come out.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from syncline.actors.postgres.absorption import Commits
from syncline.actors.postgres.batching import (
    NOTHING_NEEDED,
    PATIENCE_TRIES,
    Batch,
    Lane,
    Load,
    Pending,
    pending_write,
)
from syncline.actors.postgres.waitingline import Decision, WaitingLine, answers
from syncline.actors.postgres.write import Rejection, Write, encode_write

if TYPE_CHECKING:
    from syncline.cluster.ref import Ref

log = logging.getLogger(__name__)

BATCH_TRANSACTIONS_MAX = 500  # a tenth of a second of work: the latency a batch may add to whoever comes after it
BATCH_BYTES_MAX = 1 << 20
TURN_TRANSACTIONS_MAX = 50  # taken from one device before it is another's turn, while there are many
ALONE_TRANSACTIONS_MAX = BATCH_TRANSACTIONS_MAX // 2  # of all that are few: the next batch is made ready meanwhile
DEVICE_PENDING_MAX = 1_000  # unanswered transactions of one device: twenty turns
# Of all devices together: some seconds of work. As much, by each of these limits, of those that are put off.
PENDING_MAX = 20_000
PENDING_BYTES_MAX = 64 << 20
# Of large ones together; the first is taken whatever its size.
LARGE_PENDING_BYTES_MAX = 256 << 20
SHED_MAX = 4  # connections of one client id, the newest
RETRY_FIRST_S = 0.01
RETRY_MAX_S = 2.0
TRIES_ALONE_MAX = 5  # for errors that may be the world's fault or the data's
LOSSES_TOGETHER_MAX = 3

STATEMENT_TIMEOUT = "57014"
# A right or an object that our own role lacks; 55000 is a table whose replica identity was taken away.
OPERATORS_STATES = ("42501", "42P01", "42703", "42883", "55000")
_PASSING_CLASSES = ("08", "40", "53", "57", "58")
_PASSING_STATES = ("55P03", "55006", "25006", *OPERATORS_STATES)


@dataclass(frozen=True, slots=True)
class Held:
    """Writes that wait until an operator mends something in Postgres, or have been put off for long, those behind them
    included.

    ``message``: what Postgres says of one of them.
    """

    writes: int
    devices: int
    message: str


class WriteQueue:
    """The writes not yet decided. A lane has at most one batch out at a time: take, then settle, failed or lost.

    A device is in at most one batch: its writes follow one another also from lane to lane.
    """

    def __init__(self) -> None:
        self._devices: dict[str, WaitingLine] = {}
        # Sets with an order: whose turn is next, by the lane of its next write.
        self._ready: dict[Lane, OrderedDict[str, None]] = {lane: OrderedDict() for lane in Lane}
        self._waiting: list[tuple[float, str]] = []
        self._out: dict[Lane, Batch] = {}
        # Of whom nothing is taken: by client id connections, each with its turn. A copied file may send under it, too.
        self._shed: dict[str, dict[Ref, int]] = {}
        self._behind: dict[str, int] = {}  # devices that wait for the stream, and where it has to be
        self._commits = Commits()
        self._upto = 0
        self.complaint = ""  # what Postgres has said of the latest device that came to be held
        self._going, self._put_off = Load(), Load()

    def add(self, write: Write) -> Decision | None:
        """Takes ``write``, or answers that there is no room for it.

        Then nothing more is taken from that sender: a later write that got in would make the one left out a duplicate.
        The sender's next turn begins anew, and so does the device's next connection, another ``reply_to``.
        """
        client_id = write.client_id
        shed = self._shed.get(client_id, {})
        if shed.get(write.reply_to) == write.turn:
            return Decision(write, "overloaded")
        shed.pop(write.reply_to, None)
        device = self._devices.get(client_id)
        if device is not None:
            device.sender = write.reply_to, write.turn
            if device.comes_again(write):
                return None
        pending = pending_write(write)
        load = self._going if device is None else device.load
        if not _has_room(load, pending) or (device is not None and len(device.pending) >= DEVICE_PENDING_MAX):
            self._shed_from(client_id, write.reply_to, write.turn)
            return Decision(write, "overloaded")
        if device is None:
            device = self._devices[client_id] = WaitingLine(load, (write.reply_to, write.turn))
            self._ready[pending.lane][client_id] = None
        device.append(pending)
        return None

    def _shed_from(self, client_id: str, connection: Ref, turn: int) -> None:
        shed = self._shed.setdefault(client_id, {})
        shed.pop(connection, None)
        shed[connection] = turn
        if len(shed) > SHED_MAX:
            del shed[next(iter(shed))]

    @property
    def pending(self) -> int:
        return self._going.writes + self._put_off.writes

    @property
    def pending_bytes(self) -> int:
        """Of the text of all that is pending."""
        return sum(sum(load.octets.values()) for load in (self._going, self._put_off))

    def take(self, now_s: float, lane: Lane = Lane.BATCHES) -> Batch | None:
        """The lane's next batch, or None when no device is ready. A suspect transaction makes a batch by itself."""
        assert lane not in self._out, "a batch is out already"
        self._wake(now_s)
        taken: list[Pending] = []
        size = 0
        ready = self._ready[lane]
        turn = max(TURN_TRANSACTIONS_MAX, ALONE_TRANSACTIONS_MAX // max(1, len(ready)))
        for client_id in tuple(ready):
            queue = self._devices[client_id].pending
            used = 0
            full = False
            while used < min(len(queue), turn) and queue[used].lane is lane:
                pending = queue[used]
                full = bool(taken) and (
                    lane is Lane.LARGE
                    or pending.alone
                    or size + pending.size > BATCH_BYTES_MAX
                    or len(taken) == BATCH_TRANSACTIONS_MAX
                )
                if full:
                    break
                taken.append(pending)
                used += 1
                size += pending.size
                full = pending.alone
                if full:
                    break
            if used:
                del ready[client_id]
            if full:
                break
        if not taken:
            return None
        self._out[lane] = Batch(tuple(taken))
        return self._out[lane]

    def settle(self, results: Sequence[dict[str, Any]], now_s: float, lane: Lane = Lane.BATCHES) -> list[Decision]:
        """Takes Postgres' answers to the lane's batch that is out, one a transaction in its order. What is let go is
        told of as well."""
        batch = self._out.pop(lane)
        assert len(results) == len(batch.pending), "electric.apply answers every transaction"
        decisions: list[Decision] = []
        for pending, result in zip(batch.pending, results, strict=True):
            pending.losses = 0
            status = result["status"]
            if status == "unabsorbed":
                self._await_stream(pending, result)
                continue
            if status == "retry":
                if "sqlstate" in result:  # without one it only waits behind an earlier transaction of its device
                    pending.raised += "raised" in result
                    self._again(pending, _rejection(result), now_s, alone=len(batch.pending) == 1)
                continue
            self._decided(pending)
            rejection = _rejection(result) if status == "rejected" else None
            decisions += answers(pending, status, rejection)
        return decisions + self._in_line_again(batch)

    def failed(self, error: Rejection, now_s: float, lane: Lane = Lane.BATCHES) -> list[Decision]:
        """The call ended with an error of Postgres: some of the batch may have been applied, none is known to be. What
        is let go is told of."""
        batch = self._out.pop(lane)
        for pending in batch.pending:
            pending.alone = True
        if len(batch.pending) == 1:
            (pending,) = batch.pending
            if not passes(error.sqlstate) and not _suspicious(error.sqlstate):
                self._refuse(pending, error)
            self._again(pending, error, now_s, alone=True)
        return self._in_line_again(batch)

    def lost(self, now_s: float, lane: Lane = Lane.BATCHES) -> None:
        """The connection went away with the batch: it is in doubt, and is sent again."""
        batch = self._out.pop(lane)
        for pending in batch.pending:
            pending.losses += 1
            if pending.losses >= LOSSES_TOGETHER_MAX:
                pending.alone = True
        if len(batch.pending) == 1 and batch.pending[0].alone:
            self._wait(batch.pending[0].write.client_id, now_s)
        self._in_line_again(batch)

    def absorbed(self, upto: int, commits: Iterable[tuple[int, int]]) -> None:
        """The stream has been absorbed to ``upto``. ``commits``: (xid, ms) of its transactions, new since the last."""
        for xid, ms in commits:
            self._commits.note(xid, ms)
        self._upto = max(self._upto, upto)
        for client_id in [client_id for client_id, lsn in self._behind.items() if lsn <= self._upto]:
            del self._behind[client_id]
            self._resume(client_id)

    def wait_s(self, now_s: float, lane: Lane = Lane.BATCHES) -> float | None:
        """Seconds until ``take`` may find something; 0 when it will now, None when there is nothing to wait for."""
        if self._ready[lane]:
            return 0.0
        return max(0.0, self._waiting[0][0] - now_s) if self._waiting else None

    def held(self) -> Held | None:
        """What waits for an operator, or has been put off for long; None when nothing has."""
        devices = [device for device in self._devices.values() if device.held]
        if not devices:
            return None
        return Held(sum(len(device.pending) for device in devices), len(devices), devices[0].held)

    def _in_line_again(self, batch: Batch) -> list[Decision]:
        """The devices of a batch that is back are ready again, those that have to wait in their time. Tells what is let
        go."""
        let_go: list[Decision] = []
        for client_id in dict.fromkeys(pending.write.client_id for pending in batch.pending):
            device = self._devices.get(client_id)
            if device is None:
                continue
            if device.put_off and device.load is self._going:
                let_go += self._set_apart(client_id, device)
            elif not device.waits:
                self._ready[device.pending[0].lane][client_id] = None
        return let_go

    def _set_apart(self, client_id: str, device: WaitingLine) -> list[Decision]:
        """Something of ``device`` has been put off: all of it counts apart from now on. What there is no room for is
        let go, from the end, and so is what its sender has on its way here."""
        let_go = device.move(self._put_off, _has_room)
        if let_go:
            self._shed_from(client_id, *device.sender)
        if not device.pending:
            del self._devices[client_id]
            self._waiting = [(at_s, waiting) for at_s, waiting in self._waiting if waiting != client_id]
            heapq.heapify(self._waiting)
        return [answer for pending in let_go for answer in answers(pending, "overloaded")]

    def _await_stream(self, pending: Pending, result: dict[str, Any]) -> None:
        pending.absorbed = (pending.absorbed or NOTHING_NEEDED).more(result)
        pending.waits += 1
        pending.alone |= pending.patient
        if pending.absorbed.lsn > self._upto:
            client_id = pending.write.client_id
            self._behind[client_id] = pending.absorbed.lsn
            self._devices[client_id].waits = True
        else:
            self._date(pending)

    def _resume(self, client_id: str) -> None:
        device = self._devices[client_id]
        device.waits = False
        self._date(device.pending[0])
        self._ready[device.pending[0].lane][client_id] = None

    def _date(self, pending: Pending) -> None:
        """The stream has brought what it waited for, and with it when that was."""
        needs = pending.absorbed
        assert needs is not None, "it has waited"
        xmins = {xid: ms or self._commits.ms_of(int(xid)) for xid, ms in needs.xmins.items()}
        pending.absorbed = replace(needs, xmins=xmins)

    def _decided(self, pending: Pending) -> None:
        client_id = pending.write.client_id
        device = self._devices[client_id]
        first = device.popleft()
        assert first is pending, "decided in the device's order"
        device.retries = 0
        device.held = ""
        if not device.pending:
            del self._devices[client_id]

    def _again(self, pending: Pending, error: Rejection, now_s: float, *, alone: bool) -> None:
        if _suspicious(error.sqlstate):
            pending.alone = True
            pending.tries_alone += alone
            if pending.tries_alone >= TRIES_ALONE_MAX:
                self._refuse(pending, error)
        client_id = pending.write.client_id
        device = self._devices[client_id]
        device.put_off = True
        self._wait(client_id, now_s)
        shown = error.sqlstate in OPERATORS_STATES or device.retries >= PATIENCE_TRIES
        if shown and not device.held:
            self.complaint = error.message
        device.held = error.message if shown else ""

    @staticmethod
    def _refuse(pending: Pending, error: Rejection) -> None:
        pending.write = replace(pending.write, changes=(), encoded=None)
        pending.text = encode_write(pending.write, pending.write.refusal or error)

    def _wait(self, client_id: str, now_s: float) -> None:
        device = self._devices[client_id]
        delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(device.retries, 16))
        device.retries += 1
        device.waits = True
        heapq.heappush(self._waiting, (now_s + delay_s, client_id))

    def _wake(self, now_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= now_s:
            client_id = heapq.heappop(self._waiting)[1]
            device = self._devices[client_id]
            device.waits = False
            self._ready[device.pending[0].lane][client_id] = None


def _has_room(load: Load, pending: Pending) -> bool:
    octets = load.octets[pending.lane]
    if pending.lane is Lane.LARGE:
        return octets == 0 or octets + pending.size <= LARGE_PENDING_BYTES_MAX
    return load.writes < PENDING_MAX and octets < PENDING_BYTES_MAX


def passes(sqlstate: str) -> bool:
    """Whether an error of this code goes away by itself or by an operator's hand, whatever the transaction holds."""
    return sqlstate != STATEMENT_TIMEOUT and (sqlstate[:2] in _PASSING_CLASSES or sqlstate in _PASSING_STATES)


def _suspicious(sqlstate: str) -> bool:
    return sqlstate == STATEMENT_TIMEOUT or sqlstate.startswith("XX")


def _rejection(result: dict[str, Any]) -> Rejection:
    return Rejection(
        result["sqlstate"],
        result["message"],
        result.get("detail"),
        result.get("hint"),
        result.get("table"),
        result.get("constraint"),
        tuple(result.get("columns", ())),
        tuple(result.get("key", ())),
        tuple(result.get("winner", ())),
        result.get("follows"),
    )
