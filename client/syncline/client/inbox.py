"""What the server has sent and nobody has looked at yet.

While one batch is being written to SQLite, in its own thread, the frames behind it are read and decoded here. That is
what lets transactions that arrive close together share a commit (``grouping``), and it keeps network and disk busy at
the same time. How far it reads ahead is bounded in bytes; beyond that the peer waits, by the rules of TCP.

The end of the connection stands in the queue like everything else: what came before it is handled first. A server that
refuses something says why and hangs up, and the reason must not get lost behind the hanging up.
"""

from __future__ import annotations

import asyncio

from syncline.client.transport import Transport
from syncline.proto.events import ClientEvent
from syncline.proto.session import ClientSession

# Some ten of the service's messages. Decoded, a byte of a frame takes several.
READ_AHEAD_BYTES = 512 << 10


class Inbox:
    """``fill`` runs in a task of its own; another task takes."""

    def __init__(self, transport: Transport, session: ClientSession) -> None:
        self._transport = transport
        self._session = session
        self._events: list[ClientEvent] = []
        self._bytes = 0
        self._end: Exception | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self) -> None:
        """Read frames until the connection ends or one of them makes no sense; ``take`` tells how it ended."""
        try:
            while True:
                await self._room.wait()
                frame = await self._transport.receive()
                events, answers = self._session.receive(frame)
                for answer in answers:
                    await self._transport.send(answer)
                self._add(events, len(frame))
        except Exception as end:
            self._end = end
            self._arrived.set()

    def _add(self, events: list[ClientEvent], size: int) -> None:
        if not events:
            return
        self._events += events
        self._bytes += size
        if self._bytes >= READ_AHEAD_BYTES:
            self._room.clear()
        self._arrived.set()

    async def take(self) -> list[ClientEvent]:
        """All that has arrived, at least one event; waits for it. Then raises what ended the connection."""
        await self._arrived.wait()
        events, self._events, self._bytes = self._events, [], 0
        if not events and self._end is not None:
            raise self._end
        self._room.set()
        if self._end is None:
            self._arrived.clear()
        return events
