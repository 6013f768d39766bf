"""The owner of the slot: the stream in, transactions out to the router.

It holds nothing that matters. When it crashes it starts again from the position last confirmed to the slot, and
everybody downstream recognises by its LSN what he has had already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import asyncpg

from syncline.actors.names import ROUTER
from syncline.actors.postgres.pgoutput import Message, RelationMessage
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.transaction import ELECTRIC_SCHEMA, KeyIndexes, TransactionAssembler, TransactionChunk
from syncline.actors.shapes.router import Streamed
from syncline.actors.shapes.shards import Least
from syncline.cluster import Actor, Exit

log = logging.getLogger(__name__)

LEARN_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Confirm:
    """Everything up to ``lsn`` is durable in ``shard``: when it is in all of them, the slot may forget it."""

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
    """``key_indexes``: see TransactionAssembler. ``open_stream`` makes the stream, not yet connected. ``shards``: the
    names of those who confirm. ``read_catalog`` brings ``key_indexes`` up to date."""

    def __init__(
        self,
        open_stream: Callable[[], ReplicationStream],
        key_indexes: KeyIndexes,
        shards: Iterable[str],
        read_catalog: Callable[[], Awaitable[None]],
    ) -> None:
        self._durable = Least(shards)
        self._open_stream = open_stream
        self._key_indexes = key_indexes
        self._read_catalog = read_catalog

    async def init(self) -> None:
        self._stream = self._open_stream()
        self.background(self._run())

    async def terminate(self, reason: Exit) -> None:
        await self._stream.aclose()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Confirm(shard, lsn):
                least = self._durable.reached(shard, lsn)
                if least is not None:
                    self._stream.confirm(least)
            case _:
                raise TypeError(f"the replicator does not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadStreamState():
                error = self._stream.last_error
                return StreamState(self._stream.connected, str(error or ""), self._stream.idle_lsn)
            case _:
                raise TypeError(f"the replicator does not understand {message!r}")

    async def _run(self) -> None:
        assembler = TransactionAssembler(self._key_indexes)
        router = self.context.registry.ref(ROUTER)
        while True:
            messages = await self._stream.receive()
            if self._stream.closed:
                return
            chunks: list[TransactionChunk] = []
            for message in messages:
                if self._is_news(message):
                    await self._learn()
                chunks += assembler.feed(message)
            await router.send(Streamed(tuple(chunks), int(self._stream.idle_lsn)))
            await asyncio.sleep(0)  # others get their turn also while the socket never runs dry

    def _is_news(self, message: Message) -> bool:
        """Whether it is of a table that our catalogue does not have: opened since it was read. Its key is needed."""
        return (
            isinstance(message, RelationMessage)
            and message.schema != ELECTRIC_SCHEMA
            and self._key_indexes(message.oid) is None
        )

    async def _learn(self) -> None:
        while True:
            try:
                await self._read_catalog()
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("the catalogue could not be read, which the stream waits for: %s", error)
                await asyncio.sleep(LEARN_RETRY_S)
