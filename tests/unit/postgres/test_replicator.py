"""What the slot is told when several shards keep what came from it."""

from __future__ import annotations

import asyncio
from typing import cast

from syncline.actors.names import ROUTER
from syncline.actors.postgres.replicator import Confirm, ReadStreamState, Replicator
from syncline.actors.postgres.stream import ReplicationStream
from syncline.cluster import Context
from syncline.cluster.testing import probe, spawn


class Stream:
    """A stream that brings nothing, and notes what it is told."""

    closed = connected = True
    last_error = None
    idle_lsn = 0

    def __init__(self) -> None:
        self.confirmed: list[int] = []
        self._ended = asyncio.Event()

    def confirm(self, lsn: int) -> None:
        self.confirmed.append(lsn)

    async def receive(self) -> list[object]:
        await self._ended.wait()
        return []

    async def aclose(self) -> None:
        self._ended.set()


async def test_the_slot_is_told_what_every_shard_has_on_disk() -> None:
    context, stream = Context(), Stream()
    await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    replicator = await spawn(Replicator(lambda: opened, lambda relation: None, ("a", "b")), context)
    for shard, lsn in (("a", 10), ("a", 20), ("b", 5), ("b", 30), ("a", 25)):
        await replicator.send(Confirm(shard, lsn))
    await replicator.call(ReadStreamState())
    assert stream.confirmed == [5, 20, 25]
