"""What a tree is concerned in: learnt from the rows it holds, and kept as they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

from syncline.actors.shapes.asleep import interesting
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.interest import Interest
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import Piece
from syncline.actors.shapes.tree import Places, RowId, Tree, Value
from syncline.actors.shapes.treevalues import HeldRow, Step
from syncline.proto.values import Key, Row

# Of so many rows it is learnt as soon as they are there; of more when it is first needed, beside everything else.
SOON_ROWS = 2_000
NOTED_ROWS = 500  # between two pauses: some milliseconds' worth


class Concern:
    """Of a tree that holds ``holdings``. ``satisfies``: see ``Interest``."""

    def __init__(self, tree: Tree, holdings: Holdings, satisfies: Callable[[Row], bool | None]) -> None:
        self._tree = tree
        self._holdings = holdings
        self._satisfies = satisfies
        self._interest: Interest | None = None  # None: it is not known
        self._learning: Interest | None = None

    @property
    def interest(self) -> Interest | None:
        """What is known by now."""
        return self._interest

    def known(self, interest: Interest) -> None:
        """What is held is what ``interest`` was learnt from."""
        self._interest = interest

    async def learn_soon(self, rows: int) -> None:
        """About ``rows`` are held, and whatever was known does not count. From now on none is added but by a step that
        is told of."""
        self._interest = self._learning = None
        if rows <= SOON_ROWS:
            self._learning = Interest(self._tree, rows, self._satisfies)
            await self._learn(self._learning)

    def concerning(
        self,
        pieces: Sequence[Piece | Record],
        rows: int,
        background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> Sequence[Piece | Record]:
        """What of ``pieces`` may do something. ``rows``: about so many are held; if it is not known yet what they are
        concerned in, that is learnt in the ``background``."""
        interest = self._interest
        if interest is None or interest.full:
            if self._learning is None:
                expected = rows if interest is None else 2 * max(rows, interest.rows)
                self._learning = Interest(self._tree, expected, self._satisfies)
                background(self._learn(self._learning))
            return pieces
        return interesting(pieces, interest)

    def may_have_held(self, id: RowId) -> bool:
        """Whether a row may be held, or have been as far back as that is remembered."""
        return self._interest is None or id in self._interest

    def noting(self, step: Step) -> Generator[None, None, None]:
        """``step`` is about to happen to what is held. Yields between some rows and the next."""
        for number, (id, held) in enumerate(step.held.items(), 1):
            for interest in (self._interest, self._learning):
                if interest is not None:
                    interest.add(id, held.row)
            if number % NOTED_ROWS == 0:
                yield

    async def _learn(self, interest: Interest) -> None:
        for part in self._holdings.parts():
            for id, row in part:
                interest.add(id, row)
            await asyncio.sleep(0)
        for ids in self._holdings.moved():
            for id in ids:
                interest.add_key(id)
            await asyncio.sleep(0)
        self._interest, self._learning = interest, None


class MaybeHeld:
    """``holdings``, which are asked only about rows that may be held: most of those that come with a subtree are not.
    As ``membership.Held``."""

    def __init__(self, tree: Tree, holdings: Holdings, concern: Concern) -> None:
        self._tree = tree
        self._holdings = holdings
        self._concern = concern

    def get(self, id: RowId) -> HeldRow | None:
        return self._holdings.get(id) if self._concern.may_have_held(id) else None

    def find(self, relation_id: int, places: Places, value: Value) -> Sequence[Key]:
        if self._tree.is_key(relation_id, places):
            key = self._tree.key_at(relation_id, places, value)
            if not self._concern.may_have_held((relation_id, key)):
                return ()
        return self._holdings.find(relation_id, places, value)
