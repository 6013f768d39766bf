"""Fills what a tree holds: node by node, from the top down, and then what the rows there refer to.

Where the rows come from may give all rows of a node at once (``Source.at``). Else they are asked for by the values of
the rows above, which are read from the file that is being filled: so nothing here grows with the number of rows.

Since nothing ever leaves meanwhile, it comes to the same as ``membership.advancing`` by all the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeAlias

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.image import key_bytes, keys_of
from syncline.actors.shapes.tree import Places, Tree, Value, value_of
from syncline.proto.values import Relation, Row

# Rows of a table that are decided on between two pauses: some milliseconds' worth.
PART_ROWS = 500
VALUES_AT_ONCE = 1_000

Found: TypeAlias = AsyncGenerator[Sequence[TaggedRow], None]


class Source(Protocol):
    """Where rows come from, always as of the same moment; one thing at a time."""

    def at(self, n: int) -> Found | None:
        """All rows at node ``n``, some at a time: at least those that are at the node above and satisfy its clause.
        None: they have to be asked for."""
        ...

    def sure(self, n: int) -> bool:
        """Whether rows that ``at`` gives are known to satisfy the clause of the node."""
        ...

    def having(self, relation_id: int, places: Places, values: Sequence[Value]) -> Found:
        """The rows of a table that have one of ``values`` at ``places``, some at a time."""
        ...


Satisfying: TypeAlias = Callable[[int, Sequence[Row]], Awaitable[Sequence[bool]]]
"""Which rows satisfy the clause of a node."""
Write: TypeAlias = Callable[[Relation, Sequence[TaggedRow], Sequence[bytes]], None]
"""Rows of a table, and the same of them as key bytes."""


class Filling:
    """Fills ``bulk``, which is empty, with the rows of ``tree`` that ``source`` has. ``write`` is called with the rows
    that are held from then on, some of a table at a time."""

    def __init__(
        self, tree: Tree, bulk: Bulk, source: Source, satisfying: Satisfying, write: Write | None = None
    ) -> None:
        self._tree = tree
        self._bulk = bulk
        self._source = source
        self._satisfying = satisfying
        self._write = write
        self._ways = sorted({(reach.parent_id, reach.theirs) for all in tree.bringing.values() for reach in all})
        numbers = {way: number for number, way in enumerate(self._ways)}
        self._refers = {
            id: [(numbers[reach.parent_id, reach.theirs], reach.own) for reach in all]
            for id, all in tree.bringing.items()
        }

    async def fill(self) -> None:
        """Everything that belongs to the shape is held when this returns. Raises what ``source`` and ``satisfying``
        raise."""
        for n in range(len(self._tree.nodes)):
            found = self._source.at(n)
            if found is not None:
                await self._bring(n, found, sure=self._source.sure(n))
            else:
                await self._ask(n)
        while referred := self._bulk.referred():
            await self._refer(referred)

    async def _ask(self, n: int) -> None:
        """What hangs on the rows at the node above, by their values."""
        node = self._tree.nodes[n]
        for rows in self._bulk.rows_at(node.above):
            values = dict.fromkeys(value_of(row, node.theirs) for row in rows)
            wanted = [value for value in values if value is not None]
            if wanted:
                await self._bring(n, self._source.having(node.relation_id, node.own, wanted), sure=False)

    async def _bring(self, n: int, found: Found, *, sure: bool) -> None:
        """``found`` hang on rows at the node above. ``sure``: they satisfy the clause of node ``n``."""
        async with aclosing(found):
            async for rows in found:
                for at in range(0, len(rows), PART_ROWS):
                    part = rows[at : at + PART_ROWS]
                    if not sure:
                        inside = await self._satisfying(n, [row for row, _ in part])
                        part = [tagged for tagged, is_inside in zip(part, inside, strict=True) if is_inside]
                    self._hold(self._tree.nodes[n].relation_id, part, 1 << n)
                    await asyncio.sleep(0)

    async def _refer(self, referred: Iterable[tuple[int, Value]]) -> None:
        """What was referred to comes."""
        by_way: dict[int, list[Value]] = {}
        for way, value in referred:
            by_way.setdefault(way, []).append(value)
        for way, values in by_way.items():
            relation_id, places = self._ways[way]
            wanted = self._missing(relation_id, places, values)
            for at in range(0, len(wanted), VALUES_AT_ONCE):
                async with aclosing(
                    self._source.having(relation_id, places, wanted[at : at + VALUES_AT_ONCE])
                ) as found:
                    async for part in found:
                        self._hold(relation_id, part, 0)
                        await asyncio.sleep(0)

    def _missing(self, relation_id: int, places: Places, values: Sequence[Value]) -> Sequence[Value]:
        """Those of ``values`` of which it is not certain that the row is held."""
        if not self._tree.is_key(relation_id, places):
            return values
        keys = [key_bytes(relation_id, self._tree.key_at(relation_id, places, value)) for value in values]
        there: Collection[bytes] = self._bulk.nodes_of(keys)
        return [value for key, value in zip(keys, values, strict=True) if key not in there]

    def _hold(self, relation_id: int, rows: Sequence[TaggedRow], nodes: int) -> None:
        """These rows are at ``nodes`` too. One may be among them more than once: Postgres may take values for equal
        that are spelled differently, by which it is found."""
        relation = self._tree.relations[relation_id]
        keys: Sequence[bytes] = keys_of(rows, relation)
        by_key = dict(zip(keys, rows, strict=True))
        if len(by_key) < len(keys):
            keys, rows = list(by_key), list(by_key.values())
        once = relation_id in self._tree.met_once
        before = {} if once else self._bulk.nodes_of(keys)
        if before:
            moved = [(key, were | nodes) for key, were in before.items() if were | nodes != were]
            self._bulk.move(moved)
            rows = [tagged for key, tagged in zip(keys, rows, strict=True) if key not in before]
            keys = [key for key in keys if key not in before]
        if not keys:
            return
        self._bulk.add(relation_id, keys, nodes, [row for row, _ in rows], once=once)
        if self._write is not None:
            self._write(relation, rows, keys)
        for way, own in self._refers[relation_id]:
            values = {value_of(row, own) for row, _ in rows}
            self._bulk.refer(way, [value for value in values if value is not None])
