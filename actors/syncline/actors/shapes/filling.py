"""Fills what a tree holds: the rows of its own table, with each part of them what hangs on it and what it refers to.

A table at a time, from the top down, some hundreds of rows at once: those that were found go to the next node by the
values they have, all of them in one question. Nothing is looked at twice: rows that are there already are noted, and
only what is new, or new at a node, leads on. Since nothing ever leaves meanwhile, it comes to the same as
``membership.advance`` of all the rows, in whatever order they come.

What rows refer to is gathered until it is much, or until nothing else is left to be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeAlias

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.tree import Places, Tree, Value, value_of
from syncline.proto.values import Key, Relation, Row

# Rows of a table that are decided on between two pauses: some milliseconds' worth.
PART_ROWS = 200
VALUES_AT_ONCE = 1_000
VALUES_REMEMBERED_MAX = 50_000  # by each of the ways in which rows are referred to


class Source(Protocol):
    """Where rows come from, always as of the same moment."""

    def having(
        self, relation_id: int, places: Places, values: Sequence[Value]
    ) -> AsyncGenerator[Sequence[TaggedRow], None]:
        """The rows of a table that have one of ``values`` at ``places``, some at a time."""
        ...


class Stored:
    """All of ``holdings``, as where rows come from."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    async def having(
        self, relation_id: int, places: Places, values: Sequence[Value]
    ) -> AsyncGenerator[Sequence[TaggedRow], None]:
        keys = [key for value in values for key in self._holdings.find(relation_id, places, value)]
        for at in range(0, len(keys), PART_ROWS):
            held = (self._holdings.get((relation_id, key)) for key in keys[at : at + PART_ROWS])
            yield [(one.row, ()) for one in held if one is not None]


Satisfying: TypeAlias = Callable[[int, Sequence[Row]], Awaitable[Sequence[bool]]]
"""Which rows satisfy the clause of a node."""
Write: TypeAlias = Callable[[Relation, Sequence[TaggedRow]], None]


class Filling:
    """Fills ``holdings``, which may have rows of ``tree`` already, from ``source``. ``write`` is called with the rows
    that are held from then on, some of a table at a time. Methods raise what ``source`` and ``satisfying`` raise."""

    def __init__(
        self, tree: Tree, holdings: Holdings, source: Source, satisfying: Satisfying, write: Write | None = None
    ) -> None:
        self._tree = tree
        self._holdings = holdings
        self._source = source
        self._satisfying = satisfying
        self._write = write
        self._below = [[m for m, under in enumerate(tree.nodes) if under.above == n] for n in range(len(tree.nodes))]
        # By table and places: values that held rows refer to, and those that have been seen to.
        self._referred: dict[tuple[int, Places], dict[Value, None]] = {}
        self._seen: dict[object, set[Value]] = {}

    async def add(self, roots: Iterable[TaggedRow], *, satisfying: bool) -> None:
        """These rows of the shape's own table are looked at, and held with all that belongs to them when this returns.
        ``satisfying``: they are known to satisfy its clause."""
        await self._bring(0, list(roots), satisfying=satisfying)
        await self._refer()

    async def _bring(self, n: int, rows: Sequence[TaggedRow], *, satisfying: bool = False) -> None:
        """``rows`` hang on rows at the node above."""
        for at in range(0, len(rows), PART_ROWS):
            part = rows[at : at + PART_ROWS]
            if not satisfying:
                inside = await self._satisfying(n, [row for row, _ in part])
                part = [tagged for tagged, is_inside in zip(part, inside, strict=True) if is_inside]
            came = self._hold(self._tree.nodes[n].relation_id, part, 1 << n)
            for m in self._below[n]:
                under = self._tree.nodes[m]
                values = dict.fromkeys(value_of(row, under.theirs) for row in came)
                values.pop(None, None)
                wanted = self._unseen(m, [value for value in values if value is not None])
                if wanted:
                    async for found in self._source.having(under.relation_id, under.own, wanted):
                        await self._bring(m, found)
            if sum(map(len, self._referred.values())) >= VALUES_AT_ONCE:
                await self._refer()
            await asyncio.sleep(0)

    async def _refer(self) -> None:
        """What held rows refer to comes, and what that refers to."""
        while self._referred:
            (relation_id, places), values = self._referred.popitem()
            wanted = self._unseen((relation_id, places), values)
            there = self._holdings.values_held(relation_id, places, wanted)
            wanted = [value for value in wanted if value not in there]
            for at in range(0, len(wanted), VALUES_AT_ONCE):
                async for found in self._source.having(relation_id, places, wanted[at : at + VALUES_AT_ONCE]):
                    self._hold(relation_id, found, 0)
                    await asyncio.sleep(0)

    def _hold(self, relation_id: int, rows: Sequence[TaggedRow], nodes: int) -> list[Row]:
        """These rows are at ``nodes`` too. Answer: those which were not."""
        relation = self._tree.relations[relation_id]
        by_key = {relation.key_of(tagged[0]): tagged for tagged in rows}
        before = self._holdings.nodes_of(relation_id, by_key)
        fresh: list[tuple[Key, Row, int]] = []
        moved: list[tuple[Key, int]] = []
        for key, (row, _) in by_key.items():
            were = before.get(key)
            if were is None:
                fresh.append((key, row, nodes))
            elif were | nodes != were:
                moved.append((key, were | nodes))
        self._holdings.fill(relation_id, fresh, moved)
        if fresh:
            if self._write is not None:
                self._write(relation, [by_key[key] for key, _, _ in fresh])
            for reach in self._tree.from_[relation_id]:
                referred = self._referred.setdefault((reach.parent_id, reach.theirs), {})
                referred.update((value, None) for _, row, _ in fresh if (value := value_of(row, reach.own)) is not None)
        return [row for _, row, _ in fresh] + [by_key[key][0] for key, _ in moved]

    def _unseen(self, way: object, values: Collection[Value]) -> list[Value]:
        """Those that have not come by in this way, as far as that is remembered."""
        seen = self._seen.setdefault(way, set())
        if len(seen) > VALUES_REMEMBERED_MAX:
            seen.clear()
        unseen = [value for value in values if value not in seen]
        seen.update(unseen)
        return unseen
