"""What a tree of tables holds, in SQLite: the same as in memory, now and at any position that lies behind."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.shape_trees import KEYS, Memory, random_row, random_schema, random_tree

from syncline.actors.shapes.concern import Concern
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.tree import Node, RowId, Tree, value_of
from syncline.actors.shapes.treevalues import HeldRow, Step
from syncline.proto.values import Column, Relation

TREE = Tree({1: Relation(1, "public", "t", (Column("id", "int4", primary_key=True),))}, (Node(1),), ())


def random_step(tree: Tree, memory: Memory, random: Random) -> Step:
    held: dict[RowId, HeldRow] = {}
    left: list[RowId] = []
    for relation in tree.relations.values():
        for number in range(KEYS):
            id = (relation.id, (b"%d" % number,))
            kind = random.random()
            if kind < 0.3:
                held[id] = HeldRow(random_row(relation, id[1], random), random.randrange(4))
            elif kind < 0.4 and id in memory.rows:
                left.append(id)
    return Step(held=held, left=tuple(left))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 8))
def test_a_file_holds_what_memory_holds_whenever_it_is_opened_again(seed: int, steps: int) -> None:
    random = Random(seed)
    schema = random_schema(random)
    tree, memory = random_tree(schema, random), Memory()
    held_then: dict[int, set[RowId]] = {0: set()}
    with tempfile.TemporaryDirectory() as folder:
        holdings = Holdings(Path(folder) / "holdings", tree)
        for lsn in range(1, steps + 1):
            step = random_step(tree, memory, random)
            holdings.apply(step, lsn)
            for id in step.left:
                del memory.rows[id]
            memory.rows.update(step.held)
            held_then[lsn] = set(memory.rows)
            if random.random() < 0.3:
                holdings.close()
                holdings = Holdings(Path(folder) / "holdings", tree)
        assert holdings.lsn == steps
        concern = Concern(tree, holdings, lambda row: None)
        asyncio.run(concern.learn_soon(1))
        for id in set().union(*held_then.values()):
            assert concern.may_have_held(id)
        for relation_id, all in tree.looked_up.items():
            assert dict(holdings.rows_of(relation_id)) == {
                id: held.row for id, held in memory.rows.items() if id[0] == relation_id
            }
            for number in range(KEYS):
                id = (relation_id, (b"%d" % number,))
                assert holdings.get(id) == memory.get(id)
                assert [holdings.held_at(id, lsn) for lsn in held_then] == [id in then for then in held_then.values()]
                for places in all:
                    row = random_row(tree.relations[relation_id], id[1], random)
                    value = value_of(row, places)
                    if value is not None:
                        found = holdings.find(relation_id, places, value)
                        assert sorted(found) == sorted(memory.find(relation_id, places, value))
        holdings.close()


def test_of_many_files_few_are_open_and_each_has_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.shapes.holdings.OPEN_MAX", 3)
    random = Random(1)
    schema = random_schema(random)
    tree = random_tree(schema, random)
    relation = next(iter(tree.relations.values()))
    files = [Holdings(tmp_path / str(number), tree) for number in range(10)]
    for round in range(1, 4):
        for number, holdings in enumerate(files):
            key = (b"%d" % number,)
            row = random_row(relation, key, random)
            holdings.apply(Step(held={(relation.id, key): HeldRow(row, round)}), round)
            others = random.sample(range(10), 4)
            for other in others:
                found = files[other].get((relation.id, (b"%d" % other,)))
                assert (0 if found is None else found.nodes) == (round if other <= number else round - 1)
            assert sum(holdings._kept is not None for holdings in files) <= 3
    assert [holdings.lsn for holdings in files] == [3] * 10
    for holdings in files:
        holdings.close()


def test_a_file_that_cannot_be_read_any_more_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    holdings = Holdings(tmp_path / "holdings", TREE)
    holdings.apply(Step(held={(1, (b"1",)): HeldRow((b"1",), 1)}), 77)
    holdings.close()
    for file in tmp_path.glob("holdings-*"):
        file.unlink()
    (tmp_path / "holdings").write_bytes(b"no database " * 1_000)
    with pytest.raises(sqlite3.DatabaseError):
        holdings.get((1, (b"1",)))
    holdings.close()
    assert Holdings(tmp_path / "holdings", TREE).lsn == 0  # whoever starts again fills it anew


def test_a_large_step_that_was_cut_short_is_told_from_one_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses are for others, who may open so many files that this one is closed."""
    monkeypatch.setattr("syncline.actors.shapes.holdings.WRITTEN_ROWS", 2)
    holdings = Holdings(tmp_path / "holdings", TREE)
    rows: dict[RowId, HeldRow] = {(1, (b"%d" % n,)): HeldRow((b"%d" % n,), 1) for n in range(5)}
    pauses = 0
    for _ in holdings.applying(Step(held=rows), 10):
        pauses += 1
        holdings.close()
        assert Holdings(tmp_path / "holdings", TREE).lsn < 0
        assert not any(holdings.held_at(id, 9) for id in rows)
    assert pauses == 2
    holdings.apply(Step(left=tuple(rows)[:4]), 11)
    holdings.close()
    again = Holdings(tmp_path / "holdings", TREE)
    assert again.lsn == 11
    assert [again.held_at(id, 10) for id in rows] == [True] * 5
    assert [again.held_at(id, 11) for id in rows] == [False] * 4 + [True]
    again.close()
