"""A device's writes on their way to the writer, in the order in which it made them.

Some are with the writer, in the device's order, and the rest wait here; the device's socket is not read while too many
do. Whatever is not yet decided when the connection ends is sent again by the device itself.
"""

from __future__ import annotations

from collections import deque

from syncline.actors.devices.inbound import Lookup, WriteRefused, accept
from syncline.actors.postgres.apply import Write
from syncline.actors.postgres.writer import Written
from syncline.cluster import Ref
from syncline.proto.errors import invalid
from syncline.proto.events import WriteReceived
from syncline.proto.values import Gone

# Writes sent to the writer and not yet decided; half of what it takes from one device.
WRITES_OUT_MAX = 500
# Writes taken from the socket and not yet sent to the writer.
UP_WAITING_MAX = 1_000
LSN_BYTES_MAX = 8
BIGINT_MAX = 2**63 - 1
COMMIT_MS_MAX = 2**53 - 1  # devices count in doubles of JavaScript, exact up to here


def _check(event: WriteReceived) -> None:
    if len(event.lsn) > LSN_BYTES_MAX or int.from_bytes(event.lsn, "big") > BIGINT_MAX:
        raise invalid("a position of a device is a number below 2^63")
    if not 0 < event.commit_ms <= COMMIT_MS_MAX:
        raise invalid(f"no time in milliseconds: {event.commit_ms}", lsn=event.lsn)
    if any("\x00" in tag for _, change in event.changes if not isinstance(change, Gone) for tag in change.tags):
        raise invalid("a tag contains U+0000", lsn=event.lsn)


class Uplink:
    """The writes of ``client_id``; the writer answers to ``device``. ``lookup`` finds a table by its name there."""

    def __init__(self, client_id: str, writer: Ref, device: Ref, lookup: Lookup) -> None:
        self._client_id = client_id
        self._writer = writer
        self._device = device
        self._lookup = lookup
        self._waiting: deque[WriteReceived] = deque()
        self._out: dict[tuple[int, int], WriteReceived] = {}

    @property
    def full(self) -> bool:
        return len(self._waiting) >= UP_WAITING_MAX

    async def take(self, event: WriteReceived) -> None:
        """A transaction has come from the device. Raises ActorDown when there is no writer, and ProtocolError for
        numbers and tags that Postgres cannot hold: the writer serves everybody, and must not stumble over them."""
        _check(event)
        self._waiting.append(event)
        await self._send()

    async def decided(self, written: Written) -> WriteReceived | None:
        """The writer has answered; the transaction it is about. Raises ActorDown when there is no writer."""
        event = self._out.pop((written.lsn, written.ms), None)
        await self._send()
        return event

    async def _send(self) -> None:
        while self._waiting and len(self._out) < WRITES_OUT_MAX:
            event = self._waiting.popleft()
            lsn = int.from_bytes(event.lsn, "big")
            self._out[(lsn, event.commit_ms)] = event
            try:
                changes = accept(event.changes, self._lookup)
                write = Write(self._client_id, lsn, event.commit_ms, changes, self._device)
            except WriteRefused as refused:
                write = Write(self._client_id, lsn, event.commit_ms, (), self._device, refused.rejection)
            await self._writer.send(write)
