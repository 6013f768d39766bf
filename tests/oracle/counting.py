"""What the service does where nobody sees it from outside, counted while it runs in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

from syncline.actors.shapes.membership import Query, Tags
from syncline.actors.shapes.rewind import Answers
from syncline.actors.shapes.treeconsumer import TreeConsumer
from syncline.proto.values import Row


@contextmanager
def counting(counters: Counter[str]) -> Iterator[None]:
    """``fetches``: snapshots taken for rows that a shape came to need. ``rewinds``: answers of such a snapshot that
    were given as something else than what it showed, since the shape was at an earlier place."""
    known, ask = Answers.known, TreeConsumer._ask_once

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

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Answers, "known", counted))
        stack.enter_context(mock.patch.object(TreeConsumer, "_ask_once", asked))
        yield
