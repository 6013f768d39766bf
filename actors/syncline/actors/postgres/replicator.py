"""The owner of the slot: the stream in, transactions out to the router.

It holds nothing that matters. When it crashes it starts again from the position last confirmed to the slot, and
everybody downstream recognises by its LSN what he has had already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from syncline.actors.names import ROUTER
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.flush import Unseen
from syncline.actors.postgres.pgoutput import Message, RelationMessage
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.streamed import ELECTRIC_SCHEMA, TransactionChunk
from syncline.actors.postgres.transaction import KeyPlaces, TransactionAssembler
from syncline.actors.shapes.router import Streamed
from syncline.actors.shapes.shards import Least
from syncline.cluster import Actor, Exit

log = logging.getLogger(__name__)

LEARN_RETRY_S = 0.5
# Between two looks at commits that are not visible yet.
UNSEEN_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Confirm:
    """Everything up to ``lsn`` is durable in ``shard``: when it is in all of them, and new snapshots see it, the slot
    may forget it."""

    shard: str
    lsn: int


@dataclass(frozen=True, slots=True)
class ReadStreamState:
    """Call. Answer: StreamState."""


@dataclass(frozen=True, slots=True)
class StreamState:
    connected: bool
    error: str
    idle_lsn: int


class Replicator(Actor):
    """``key_places``: see TransactionAssembler. ``open_stream`` makes the stream, not yet connected. ``shards``: the
    names of those who confirm. ``read_catalog`` brings ``key_places`` up to date; ``read_visibility``: what a new
    snapshot sees. ``note_incomplete``: is told of tables that changed otherwise than the stream says, before anybody
    gets that."""

    def __init__(
        self,
        open_stream: Callable[[], ReplicationStream],
        key_places: KeyPlaces,
        shards: Iterable[str],
        read_catalog: Callable[[], Awaitable[None]],
        read_visibility: Callable[[], Awaitable[Visibility]],
        note_incomplete: Callable[[Collection[int]], Awaitable[None]],
    ) -> None:
        self._durable = Least(shards)
        self._open_stream = open_stream
        self._key_places = key_places
        self._read_catalog = read_catalog
        self._read_visibility = read_visibility
        self._note_incomplete = note_incomplete
        self._unseen = Unseen()
        self._to_confirm = 0
        self._confirmable = asyncio.Event()

    async def init(self) -> None:
        self._stream = self._open_stream()
        self.background(self._run())
        self.background(self._confirm())

    async def terminate(self, reason: Exit) -> None:
        await self._stream.aclose()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Confirm(shard, lsn):
                least = self._durable.reached(shard, lsn)
                if least is not None:
                    self._to_confirm = least
                    self._confirmable.set()
            case _:
                raise TypeError(f"the replicator does not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadStreamState():
                error = self._stream.last_error
                return StreamState(self._stream.connected, str(error or ""), self._stream.idle_lsn)
            case _:
                raise TypeError(f"the replicator does not understand {message!r}")

    async def _confirm(self) -> None:
        while True:
            await self._confirmable.wait()
            self._confirmable.clear()
            lsn = self._to_confirm
            try:
                visibility = await self._read_visibility()
            except AWAY as error:
                log.warning("the slot stays where it is, what is visible could not be read: %s", error)
                seen = 0
            else:
                seen = self._unseen.before(lsn, visibility.visible)
                self._stream.confirm(seen)
            if seen < lsn:
                await asyncio.sleep(UNSEEN_RETRY_S)
                self._confirmable.set()

    async def _run(self) -> None:
        assembler = TransactionAssembler(self._key_places)
        router = self.context.registry.ref(ROUTER)
        while True:
            messages = await self._stream.receive()
            if self._stream.closed:
                return
            chunks: list[TransactionChunk] = []
            for message in messages:
                if self._is_news(message):
                    await self._insist(self._read_catalog)
                chunks += assembler.feed(message)
            if incomplete := {table for chunk in chunks for table in chunk.incomplete}:
                await self._insist(partial(self._note_incomplete, incomplete))
            for chunk in chunks:
                if chunk.last:
                    self._unseen.streamed(int(chunk.head.lsn), chunk.head.xid)
            await router.send(Streamed(tuple(chunks), int(self._stream.idle_lsn)))
            await asyncio.sleep(0)  # others get their turn also while the socket never runs dry

    def _is_news(self, message: Message) -> bool:
        """Whether it is of a table of which our catalogue does not know the key: one that was opened, or its key
        renamed, since it was read."""
        return (
            isinstance(message, RelationMessage)
            and message.schema != ELECTRIC_SCHEMA
            and self._key_places(message.oid, message.names) is None
        )

    async def _insist(self, ask: Callable[[], Awaitable[None]]) -> None:
        """``ask`` of Postgres until it has answered."""
        while True:
            try:
                await ask()
                return
            except AWAY as error:
                log.warning("Postgres could not be asked, which the stream waits for: %s", error)
                await asyncio.sleep(LEARN_RETRY_S)
