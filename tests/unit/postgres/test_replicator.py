"""What the slot is told when several shards keep what came from it."""

from __future__ import annotations

import asyncio
from typing import cast

from syncline.actors.names import ROUTER
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import (
    Begin,
    Commit,
    Message,
    RelationColumn,
    RelationMessage,
    UpdateMessage,
)
from syncline.actors.postgres.replicator import Confirm, ReadStreamState, Replicator
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.shapes.router import Streamed
from syncline.cluster import Context
from syncline.cluster.testing import probe, spawn
from syncline.proto.values import Delete, Insert


class Stream:
    """A stream that brings these messages and no more, and notes what it is told."""

    connected = True
    last_error = None
    idle_lsn = 0

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self.confirmed: list[int] = []
        self._ended = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._ended.is_set()

    def confirm(self, lsn: int) -> None:
        self.confirmed.append(lsn)

    async def receive(self) -> list[Message]:
        if self._messages:
            messages, self._messages = self._messages, []
            return messages
        await self._ended.wait()
        return []

    async def aclose(self) -> None:
        self._ended.set()


async def nothing() -> None:
    pass


async def test_the_slot_is_told_what_every_shard_has_on_disk() -> None:
    context, stream = Context(), Stream()
    await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    replicator = await spawn(Replicator(lambda: opened, lambda relation: None, ("a", "b"), nothing), context)
    for shard, lsn in (("a", 10), ("a", 20), ("b", 5), ("b", 30), ("a", 25)):
        await replicator.send(Confirm(shard, lsn))
    await replicator.call(ReadStreamState())
    assert stream.confirmed == [5, 20, 25]


async def test_the_key_of_a_table_that_was_opened_a_moment_ago_is_learnt_before_its_rows_are_read() -> None:
    context, keys = Context(), dict[int, tuple[int, ...]]()
    tries = 0

    async def read_catalog() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("Postgres is away for a moment")
        keys[7] = (0,)

    columns = tuple(RelationColumn(name, 23, -1, True) for name in ("id", "n"))
    relation = RelationMessage(7, "public", "items", "f", columns)
    renamed = UpdateMessage(7, (b"2", b"5"), (b"1", b"5"), "O", 20)
    stream = Stream(Begin(Lsn(100), 0, 5), relation, renamed, Commit(Lsn(100), Lsn(110), 0))
    router = await probe(context, name=ROUTER)
    await spawn(Replicator(lambda: cast(ReplicationStream, stream), keys.get, ("a",), read_catalog), context)
    streamed = await router.next()
    assert isinstance(streamed, Streamed)
    assert [type(change) for change in streamed.chunks[0].changes] == [Delete, Insert]
    assert tries == 2
