"""What the slot is told when several shards keep what came from it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import cast

import pytest

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
from syncline.actors.postgres.replicator import Confirm, Replicator
from syncline.actors.postgres.snapshot import Visibility
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
        self._told = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._ended.is_set()

    def confirm(self, lsn: int) -> None:
        self.confirmed.append(lsn)
        self._told.set()

    async def told(self, lsn: int) -> None:
        """Returns when the slot has been told this last."""
        async with asyncio.timeout(5):
            while self.confirmed[-1:] != [lsn]:
                self._told.clear()
                await self._told.wait()

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


async def unheard(relation_ids: Collection[int]) -> None:
    pass


async def everything() -> Visibility:
    """Is visible."""
    return Visibility(1_000, 1_000, frozenset())


async def test_the_slot_is_told_what_every_shard_has_on_disk() -> None:
    context, stream = Context(), Stream()
    await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    replicator = await spawn(
        Replicator(lambda: opened, lambda relation, names: None, ("a", "b"), nothing, everything, unheard), context
    )
    for shard, lsn, told in (("a", 10, 0), ("a", 20, 0), ("b", 5, 5), ("b", 30, 20), ("a", 25, 25)):
        await replicator.send(Confirm(shard, lsn))
        if told:
            await stream.told(told)
    assert stream.confirmed == [5, 20, 25]


async def test_the_slot_is_not_told_of_a_commit_that_no_new_snapshot_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that starts is sent it again then: else a table that it reads anew would lack it."""
    monkeypatch.setattr("syncline.actors.postgres.replicator.UNSEEN_RETRY_S", 0)
    held, away, asked = [7], [OSError("Postgres is away for a moment")], asyncio.Event()

    async def read_visibility() -> Visibility:
        asked.set()
        if away:
            raise away.pop()
        return Visibility(min(held, default=10), 10, frozenset(held))

    context = Context()
    stream = Stream(
        *(
            message
            for lsn, xid in ((100, 6), (200, 7), (300, 8))
            for message in (Begin(Lsn(lsn), 0, xid), Commit(Lsn(lsn), Lsn(lsn + 5), 0))
        )
    )
    router = await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    replicator = await spawn(
        Replicator(lambda: opened, lambda relation, names: None, ("a",), nothing, read_visibility, unheard), context
    )
    await router.next()
    await replicator.send(Confirm("a", 310))
    await stream.told(199)
    for _ in range(2):
        asked.clear()
        await asked.wait()
    assert stream.confirmed[-1] == 199
    held.clear()
    await stream.told(310)


async def test_the_key_of_a_table_that_was_opened_a_moment_ago_is_learnt_before_its_rows_are_read() -> None:
    context, known = Context(), set[int]()
    tries = 0

    async def read_catalog() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("Postgres is away for a moment")
        known.add(7)

    def key_places(relation_id: int, names: Sequence[str]) -> tuple[int, ...] | None:
        return (names.index("id"),) if relation_id in known else None

    columns = tuple(RelationColumn(name, 23, -1, True) for name in ("id", "n"))
    relation = RelationMessage(7, "public", "items", "f", columns)
    renamed = UpdateMessage(7, (b"2", b"5"), (b"1", b"5"), "O", 20)
    stream = Stream(Begin(Lsn(100), 0, 5), relation, renamed, Commit(Lsn(100), Lsn(110), 0))
    router = await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    await spawn(Replicator(lambda: opened, key_places, ("a",), read_catalog, everything, unheard), context)
    streamed = await router.next()
    assert isinstance(streamed, Streamed)
    assert [type(change) for change in streamed.chunks[0].changes] == [Delete, Insert]
    assert tries == 2


async def test_of_a_table_that_the_stream_tells_too_little_of_it_is_noted_before_anybody_gets_that() -> None:
    context, noted = Context(), list[set[int]]()

    async def note_incomplete(relation_ids: Collection[int]) -> None:
        noted.append(set(relation_ids))
        if len(noted) == 1:
            raise OSError("Postgres is away for a moment")

    columns = tuple(RelationColumn(name, 23, -1, True) for name in ("id", "n"))
    relation = RelationMessage(7, "public", "items", "f", columns)
    update = UpdateMessage(7, (b"1", b"5"), None, None, 20)
    stream = Stream(Begin(Lsn(100), 0, 5), relation, update, Commit(Lsn(100), Lsn(110), 0))
    router = await probe(context, name=ROUTER)
    opened = cast(ReplicationStream, stream)
    replicator = Replicator(lambda: opened, lambda _, names: (0,), ("a",), nothing, everything, note_incomplete)
    await spawn(replicator, context)
    await router.next()
    assert noted == [{7}, {7}]
