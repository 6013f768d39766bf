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
from syncline.proto.events import WriteReceived

# Writes sent to the writer and not yet decided; half of what it takes from one device.
WRITES_OUT_MAX = 500
# Writes taken from the socket and not yet sent to the writer.
UP_WAITING_MAX = 1_000


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
        """A transaction has come from the device. Raises ActorDown when there is no writer."""
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
