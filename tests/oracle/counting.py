"""What the service does where nobody sees it from outside, counted while it runs in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

from syncline.actors.postgres.pgoutput import Message
from syncline.actors.postgres.streamed import TransactionChunk
from syncline.actors.postgres.transaction import TransactionAssembler
from syncline.actors.shapes import asleep
from syncline.actors.shapes.asleep import Asleep
from syncline.actors.shapes.rewind import Answers
from syncline.actors.shapes.treeconsumer import TreeConsumer
from syncline.actors.shapes.treevalues import Query, Tags
from syncline.client.replica import Replica
from syncline.cluster import Actor
from syncline.proto.values import Insert, Relation, Row


@contextmanager
def counting(counters: Counter[str]) -> Iterator[None]:
    """``fetches``: snapshots taken for rows that a shape came to need. ``rewinds``: answers of such a snapshot that
    were given as something else than what it showed, since the shape was at an earlier place. ``repairs`` of devices,
    and the rows that came in them. ``transactions in pieces``: as the stream was cut. ``wakes``: shapes that were
    asleep and are no more."""
    known, ask, feed = Answers.known, TreeConsumer._ask_once, TransactionAssembler.feed

    @wraps(known)
    def counted(self: Answers, query: Query) -> Sequence[tuple[Row, Tags]] | None:
        rows = known(self, query)
        shown = self._shown.get(query)
        if rows is not None and shown is not None:
            counters["rewinds"] += {row for row, _ in rows} != {row for row, _ in shown.values()}
        return rows

    @wraps(ask)
    async def asked(self: TreeConsumer, *args: Any) -> None:
        counters["fetches"] += 1
        await ask(self, *args)

    apply, stage = Replica.apply_repair, Replica.stage

    @wraps(apply)
    async def repaired(self: Replica, *args: Any) -> None:
        counters["repairs"] += 1
        await apply(self, *args)

    @wraps(stage)
    async def staged(self: Replica, inserts: Sequence[Insert], relations: Mapping[int, Relation]) -> None:
        counters["rows of repairs"] += len(inserts) if self._staged.replacing else 0
        await stage(self, inserts, relations)

    @wraps(feed)
    def fed(self: TransactionAssembler, message: Message) -> list[TransactionChunk]:
        chunks = feed(self, message)
        counters["transactions in pieces"] += sum(chunk.first and not chunk.last for chunk in chunks)
        return chunks

    awake = Asleep._awake

    @wraps(awake)
    async def awoken(self: Asleep) -> Actor:
        counters["wakes"] += 1
        return await awake(self)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Asleep, "_awake", awoken))
        stack.enter_context(mock.patch.object(TransactionAssembler, "feed", fed))
        stack.enter_context(mock.patch.object(Replica, "apply_repair", repaired))
        stack.enter_context(mock.patch.object(Replica, "stage", staged))
        stack.enter_context(mock.patch.object(Answers, "known", counted))
        stack.enter_context(mock.patch.object(TreeConsumer, "_ask_once", asked))
        yield


def tiring(after_s: float) -> AbstractContextManager[object]:
    """In this process shapes of which nobody wants anything fall asleep so soon."""
    return mock.patch.object(asleep, "ASLEEP_AFTER_S", after_s)


def in_pieces(rows: int) -> AbstractContextManager[object]:
    """A service in this process is given transactions in pieces of so many rows."""
    return mock.patch.dict(TransactionAssembler.__init__.__kwdefaults__, chunk_rows_max=rows)
