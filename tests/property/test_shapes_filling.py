"""A shape is filled a part at a time: in the end it holds what it is by definition, and every row was told once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.shape_trees import Rows, by_definition
from tests.property.test_shapes_membership import Play

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes import bulk, filling
from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.filling import Filling, Found
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.image import key_bytes
from syncline.actors.shapes.tree import Places, RowId, Value, value_of
from syncline.proto.values import Relation, Row

LIMITS = {
    filling: ("PART_ROWS", "VALUES_AT_ONCE"),
    bulk: ("LOOKED_UP_AT_ONCE", "PAGE_ROWS", "REFERRED_REMEMBERED_MAX"),
}


class Snapshot:
    """Gives ``rows``, a few at a time, and those of some nodes at once."""

    def __init__(self, play: Play, rows: Rows) -> None:
        self._play = play
        self._rows = rows
        self._at = by_definition(play.tree, play.clauses, rows)
        self._known = {n for n in range(len(play.tree.nodes)) if not n or play.random.random() < 0.5}
        self._sure = {n for n in self._known if play.random.random() < 0.5}

    def at(self, n: int) -> Found | None:
        return self._in_parts(list(self._of_node(n))) if n in self._known else None

    def _of_node(self, n: int) -> Iterator[Row]:
        node = self._play.tree.nodes[n]
        above = [self._rows[id] for id, nodes in self._at.items() if n and nodes >> node.above & 1]
        values = {value_of(row, node.theirs) for row in above} - {None}
        for id, row in self._rows.items():
            hangs = id[0] == node.relation_id and (not n or value_of(row, node.own) in values)
            if hangs and (n not in self._sure or self._play.judge(n, row)):
                yield row

    def sure(self, n: int) -> bool:
        return n in self._sure

    async def having(self, relation_id: int, places: Places, values: Sequence[Value]) -> Found:
        assert len(values) == len(set(values))
        rows = [row for id, row in self._rows.items() if id[0] == relation_id and value_of(row, places) in values]
        async for part in self._in_parts(rows):
            yield part

    async def _in_parts(self, rows: list[Row]) -> Found:
        while rows:
            part = self._play.random.randint(1, 3)
            yield [(row, ("tag",)) for row in rows[:part]]
            del rows[:part]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 8))
def test_a_shape_is_filled_with_what_it_is_by_definition(seed: int, transactions: int) -> None:
    play = Play(seed)
    for _ in range(transactions):
        play.commit()
    asyncio.run(filled(play, play.history[-1][1]))


async def filled(play: Play, rows: Rows) -> None:
    tree, random = play.tree, play.random
    told: dict[RowId, Row] = {}

    def write(relation: Relation, part: Sequence[TaggedRow], keys: Sequence[bytes]) -> None:
        for (row, tags), key in zip(part, keys, strict=True):
            id = (relation.id, relation.key_of(row))
            assert key == key_bytes(*id)
            assert id not in told
            assert tags == ("tag",)
            told[id] = row

    async def satisfying(node: int, part: Sequence[Row]) -> list[bool]:
        return [bool(play.judge(node, row)) for row in part]

    with tempfile.TemporaryDirectory() as folder:
        holdings, being_filled = Holdings(Path(folder) / "holdings", tree), Bulk(Path(folder) / "new", tree)
        with ExitStack() as patched:
            for module, names in LIMITS.items():
                patched.enter_context(mock.patch.multiple(module, **{name: random.randint(1, 5) for name in names}))
            await Filling(tree, being_filled, Snapshot(play, rows), satisfying, write).fill()
        being_filled.finish()
        holdings.filled(being_filled)
        expected = by_definition(tree, play.clauses, rows)
        assert told == {id: rows[id] for id in expected}
        for relation_id, all in tree.looked_up.items():
            for id, row in holdings.rows_of(relation_id):
                held = holdings.get(id)
                assert held is not None
                assert (held.row, held.nodes) == (row, expected.pop(id))
                for places in all:
                    value = value_of(row, places)
                    assert value is None or id[1] in holdings.find(relation_id, places, value)
        assert not expected
        holdings.close()
