"""A shape is filled a part at a time: in the end it holds what it is by definition, and every row was told once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from random import Random
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.shape_trees import Rows, by_definition
from tests.property.test_shapes_membership import Play

from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.shapes import filling
from syncline.actors.shapes.filling import Filling
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.tree import Places, RowId, Tree, Value, value_of
from syncline.proto.values import Relation, Row

LIMITS = ("PART_ROWS", "VALUES_AT_ONCE", "VALUES_REMEMBERED_MAX")


class Snapshot:
    """Gives ``rows``, a few at a time."""

    def __init__(self, tree: Tree, rows: Rows, random: Random) -> None:
        self._tree = tree
        self._rows = rows
        self._random = random

    async def having(
        self, relation_id: int, places: Places, values: Sequence[Value]
    ) -> AsyncGenerator[Sequence[TaggedRow], None]:
        assert len(values) == len(set(values))
        found = [(row, ("tag",)) for id, row in self._rows.items() if id[0] == relation_id]
        found = [tagged for tagged in found if value_of(tagged[0], places) in values]
        while found:
            part = self._random.randint(1, 3)
            yield found[:part]
            del found[:part]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 8), st.integers(1, 4))
def test_a_shape_is_filled_with_what_it_is_by_definition(seed: int, transactions: int, at_once: int) -> None:
    play = Play(seed)
    for _ in range(transactions):
        play.commit()
    rows = play.history[-1][1]
    asyncio.run(filled(play, rows, at_once))


async def filled(play: Play, rows: Rows, at_once: int) -> None:
    tree, random = play.tree, play.random
    told: dict[RowId, Row] = {}

    def write(relation: Relation, part: Sequence[TaggedRow]) -> None:
        for row, tags in part:
            id = (relation.id, relation.key_of(row))
            assert id not in told
            assert tags == ("tag",)
            told[id] = row

    async def satisfying(node: int, part: Sequence[Row]) -> list[bool]:
        return [bool(play.judge(node, row)) for row in part]

    with tempfile.TemporaryDirectory() as folder:
        holdings = Holdings(Path(folder) / "holdings", tree)
        patched = {name: random.randint(1, 5) for name in LIMITS}
        with mock.patch.multiple(filling, **patched):
            made = Filling(tree, holdings, Snapshot(tree, rows, random), satisfying, write)
            roots = [(row, ("tag",)) for id, row in rows.items() if id[0] == tree.nodes[0].relation_id]
            for start in range(0, len(roots), at_once):
                await made.add(roots[start : start + at_once], satisfying=play.clauses[0] is None)
        expected = by_definition(tree, play.clauses, rows)
        assert told == {id: rows[id] for id in expected}
        for relation_id in tree.relations:
            for id, row in holdings.rows_of(relation_id):
                held = holdings.get(id)
                assert held is not None
                assert (held.row, held.nodes) == (row, expected.pop(id))
        assert not expected
        holdings.close()
