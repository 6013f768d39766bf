"""A device's writes on their way to the writer, in the order in which it made them.

Some are with the writer, in the device's order, and the rest wait here; the device's socket is not read while too many
do. Whatever is not yet decided when the connection ends is sent again by the device itself.

The writer may have no room, mostly because earlier writes of the same device are held there for long. It takes nothing
more then, so that none overtakes another, until this begins a new turn with what was not taken: when all that was is
decided.

The writer keeps the order of each client id alone. A copied file has writes under the id that it had before and under
its own, which may be about the same rows: so what goes under another id than what is with the writer waits until all of
that has been decided.

They are made ready beside the device's messages, a large one in slices: nobody else in this process waits for it. And
it goes to the writer only when nothing else of this device is there.

A table that is unknown here may have been opened a moment ago, and one that is known may take by now what it did not:
the catalogue is read anew before a write is refused. A reading that began after the write had come does for it: all
that wait by then are judged by one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from syncline.actors.devices.inbound import (
    AS_TABLES_ARE,
    Held,
    Lookup,
    WriteRefused,
    accept,
    everything,
    spelled_keys,
    touched_keys,
)
from syncline.actors.devices.refused import encode_refused
from syncline.actors.devices.rejecting import reason_of
from syncline.actors.devices.steps import ECHO_BYTES_MAX, Heal, RowKey
from syncline.actors.postgres.write import Encoded, Rejection, RowOperation, Write, encode_operations
from syncline.actors.postgres.writer import Written
from syncline.cluster import Ref
from syncline.proto.events import WriteReceived
from syncline.proto.values import Compensation, Delete, RejectionReason, Relation, RowChange

# Writes sent to the writer and not yet decided; half of what it takes from one device.
WRITES_OUT_MAX = 500
OUT_BYTES_MAX = 8 << 20
# Writes taken from the socket and not yet sent to the writer.
UP_WAITING_MAX = 1_000
UP_WAITING_BYTES_MAX = 16 << 20
# Operations made ready at a stretch: some ten milliseconds.
SLICE_OPERATIONS = 500
# What an operation costs beside its cells.
OPERATION_BYTES = 50
# SQLSTATE program_limit_exceeded.
TOO_LARGE = "54000"

Changes = tuple[tuple[Relation, RowChange], ...]


@dataclass(slots=True)
class _Waiting:
    """``readings``: of the catalogue, how many had begun for this device when it came. ``number``: its place."""

    event: WriteReceived
    size: int
    readings: int
    number: int


class Uplink:
    """The writes of ``client_id``; the writer answers to ``device``. ``lookup`` finds a table by its name there, and
    ``look_again`` brings what it knows up to date. ``moved`` is called when one has left, and ``full`` may have
    changed. ``held``: the columns that the device has. ``spelled_otherwise`` is called with the time of one that names
    a row by a key that Postgres prints otherwise, before it leaves."""

    def __init__(
        self,
        client_id: str,
        writer: Ref,
        device: Ref,
        lookup: Lookup,
        look_again: Callable[[], Awaitable[None]],
        moved: Callable[[], object],
        held: Held = everything,
        spelled_otherwise: Callable[[int], object] = lambda commit_ms: None,
    ) -> None:
        self._client_id = client_id
        self._writer = writer
        self._device = device
        self._lookup = lookup
        self._look_again = look_again
        self._moved = moved
        self._held = held
        self._spelled_otherwise = spelled_otherwise
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        # By position and time, which a device may repeat: answers come in the order of the writes.
        self._out: dict[tuple[int, int], deque[_Waiting]] = {}
        self._out_id = ""  # the client id of all of these
        self._out_count = 0
        self._out_bytes = 0
        self._not_taken: list[_Waiting] = []
        self._turn = 0
        self._gets_on = False  # something of this turn is decided
        self._readings = 0  # of the catalogue that have begun here
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= UP_WAITING_MAX or self._waiting_bytes >= UP_WAITING_BYTES_MAX

    def take(self, event: WriteReceived) -> None:
        """A transaction has come from the device."""
        write = _Waiting(event, _size(event), self._readings, next(self._numbers))
        self._waiting.append(write)
        self._waiting_bytes += max(write.size, event.memory)
        self._news.set()

    def decided(self, written: Written) -> WriteReceived | None:
        """The writer has answered; the transaction it is about."""
        write = self._answered(written, 0)
        if write is None:
            return None
        self._gets_on = True
        if self._not_taken and not self._out:
            self._begin_anew()
        self._news.set()
        return write.event

    def overloaded(self, written: Written) -> bool:
        """The writer has no room for it. Whether it can wait here: others of this turn are decided, or are going to be.
        Otherwise it would be sent again and again."""
        write = self._answered(written, -1)  # of two alike the later one
        if write is not None:
            self._not_taken.append(write)
        if self._out:
            return True
        if not self._gets_on:
            return False
        self._begin_anew()
        self._news.set()
        return True

    def _answered(self, written: Written, which: int) -> _Waiting | None:
        key = written.lsn, written.ms
        alike = self._out.get(key)
        if alike is None:
            return None
        write = alike[which]
        del alike[which]
        if not alike:
            del self._out[key]
        self._out_count -= 1
        self._out_bytes -= write.size
        return write

    def _begin_anew(self) -> None:
        self._not_taken.sort(key=lambda write: write.number, reverse=True)
        self._waiting.extendleft(self._not_taken)
        self._waiting_bytes += sum(max(write.size, write.event.memory) for write in self._not_taken)
        self._not_taken.clear()
        self._turn += 1
        self._gets_on = False
        self._moved()

    async def heal_of(self, event: WriteReceived, written: Written) -> Heal:
        """What sets the device right after ``event``, of which ``written`` tells that no frame brings it back."""
        reason = None if written.rejection is None else reason_of(written.rejection, self._lookup)
        rejected = written.status == "rejected"
        return await heal_of(event, written.position, self._lookup, rejected=rejected, reason=reason)

    async def run(self) -> None:
        """Sends, until cancelled. Raises ActorDown when there is no writer, and what ``look_again`` raises."""
        while True:
            if not self._may_send():
                self._news.clear()
                await self._news.wait()
                continue
            write = self._waiting[0]
            ready = await self._made_ready(write)
            if not self._may_send() or self._waiting[0] is not write:
                continue  # meanwhile the writer had no room for one before it
            self._waiting.popleft()
            self._waiting_bytes -= max(write.size, write.event.memory)
            self._out_id = ready.client_id
            self._out.setdefault((ready.lsn, ready.ms), deque()).append(write)
            self._out_count += 1
            self._out_bytes += write.size
            self._moved()
            await self._writer.send(replace(ready, turn=self._turn))

    def _may_send(self) -> bool:
        if self._not_taken:
            return False
        if not self._waiting or not self._out:
            return bool(self._waiting)
        following = self._waiting[0]
        if self._id_of(following.event) != self._out_id:
            return False
        return self._out_count < WRITES_OUT_MAX and self._out_bytes + following.size <= OUT_BYTES_MAX

    def _id_of(self, event: WriteReceived) -> str:
        return event.origin or self._client_id

    async def _made_ready(self, write: _Waiting) -> Write:
        event = write.event
        lsn = int.from_bytes(event.lsn, "big")
        client_id = self._id_of(event)
        try:
            if event.excess:
                raise WriteRefused(Rejection(TOO_LARGE, event.excess, hint="write it in several transactions"))
            if any(self._lookup(table) is None for table in {relation.table for relation, _ in event.changes}):
                await self._read_since(write)
            try:
                return await self._write_of(event, client_id, lsn)
            except WriteRefused as refused:
                if refused.rejection.sqlstate not in AS_TABLES_ARE:
                    raise
            await self._read_since(write)
            return await self._write_of(event, client_id, lsn)
        except WriteRefused as refused:
            # Of one that is too large there are the keys of its rows at most.
            written = None if event.excess else await self._encoded(event, self._refused)
            return Write(client_id, lsn, event.commit_ms, (), self._device, refused.rejection, written)

    async def _read_since(self, write: _Waiting) -> None:
        """What ``lookup`` finds is from after ``write`` had come. Raises what ``look_again`` raises."""
        if self._readings == write.readings:
            self._readings += 1
            await self._look_again()

    async def _write_of(self, event: WriteReceived, client_id: str, lsn: int) -> Write:
        """Raises WriteRefused."""
        if len(event.changes) <= SLICE_OPERATIONS:
            changes = self._accepted(event, event.changes)
            return Write(client_id, lsn, event.commit_ms, changes, self._device)
        encoded = await self._encoded(event, lambda part: encode_operations(self._accepted(event, part)))
        return Write(client_id, lsn, event.commit_ms, (), self._device, encoded=encoded)

    async def _encoded(self, event: WriteReceived, encode: Callable[[Changes], bytes]) -> Encoded:
        pieces: list[bytes] = []
        for start in range(0, len(event.changes), SLICE_OPERATIONS):
            pieces.append(encode(event.changes[start : start + SLICE_OPERATIONS]))
            await asyncio.sleep(0)
        return Encoded(tuple(pieces), len(event.changes))

    def _accepted(self, event: WriteReceived, part: Changes) -> tuple[RowOperation, ...]:
        if any(True for _ in spelled_keys(part, self._lookup)):
            self._spelled_otherwise(event.commit_ms)
        return accept(part, self._lookup, self._held)

    def _refused(self, part: Changes) -> bytes:
        return encode_refused(part, self._lookup)


async def heal_of(
    event: WriteReceived,
    position: int,
    lookup: Lookup,
    *,
    rejected: bool = False,
    reason: RejectionReason | None = None,
) -> Heal:
    """What sets the device right after ``event``, which is decided below ``position``, where no frame does."""
    keys, wrote = await rows_of(event, lookup)
    tables = map(lookup, {relation.table for relation, _ in event.changes})
    relations = {table.relation.id: table.relation for table in tables if table is not None}
    named_only = frozenset(keys.keys() - wrote)
    heal = Heal(
        position,
        event.commit_ms,
        tuple(keys),
        rejected,
        named_only=named_only,
        relations=relations,
        reason=reason,
    )
    nobody_knows = event.excess and not event.changes
    if nobody_knows or heal.size_bytes > ECHO_BYTES_MAX:
        return Heal(position, event.commit_ms, (), rejected, starts_over=True, reason=reason)
    return heal


async def rows_of(event: WriteReceived, lookup: Lookup) -> tuple[dict[RowKey, None], set[RowKey]]:
    """The rows that ``event`` names, in order, and those of them that it does not merely compensate.

    A row that is compensated by a key that is spelled otherwise than Postgres prints it counts as written: under that
    key it is on the device alone, and does not go before what refers to it has come back."""
    named: dict[RowKey, None] = {}
    written: set[RowKey] = set()
    for start in range(0, len(event.changes), SLICE_OPERATIONS):
        if start:
            await asyncio.sleep(0)
        part = event.changes[start : start + SLICE_OPERATIONS]
        keys = touched_keys(part, lookup)
        named.update(dict.fromkeys(keys))
        writes = tuple(change for change in part if not isinstance(change[1], Compensation))
        written.update(
            keys if len(writes) == len(part) else (*touched_keys(writes, lookup), *spelled_keys(part, lookup))
        )
    return named, written


def _size(event: WriteReceived) -> int:
    """About what the writer gets."""
    if len(event.changes) > SLICE_OPERATIONS:
        return event.octets + OPERATION_BYTES * len(event.changes)
    rows = (change.old_row if isinstance(change, Delete) else change.row for _, change in event.changes)
    return sum(OPERATION_BYTES + sum(len(cell or b"") for cell in row) for row in rows)
