"""Membership of rows in trees: whatever happens, a shape holds what it is by definition, and devices are told so."""

from __future__ import annotations

from functools import partial
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.shape_trees import (
    KEYS,
    Memory,
    Rows,
    answer,
    by_definition,
    clause,
    random_schema,
    random_tree,
    transact,
)

from syncline.actors.postgres.streamed import StreamChange
from syncline.actors.shapes.interest import Interest
from syncline.actors.shapes.membership import advancing
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.rewind import Answers, Later
from syncline.actors.shapes.stretch import at_a_stretch
from syncline.actors.shapes.tree import RowId, Tree
from syncline.actors.shapes.treevalues import Query, Step
from syncline.proto.values import Delete, Gone, Insert, Update

EXAMPLES = 150


class Play:
    """A shape, the device it tells, and the stream that runs ahead of both."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.schema = random_schema(self.random)
        self.tree: Tree = random_tree(self.schema, self.random)
        self.clauses = [
            self.random.choice([None, 0, 1]) if n == 0 or node.many else None for n, node in enumerate(self.tree.nodes)
        ]
        self.held = Memory()
        self.device: Rows = {}
        self.history: list[tuple[list[StreamChange], Rows]] = [([], {})]
        self.asked = self.told = 0

    def judge(self, node: int, row: tuple[bytes | None, ...]) -> bool:
        return clause(self.clauses, node, row)

    def commit(self) -> None:
        self.history.append(transact(self.schema, self.history[-1][1], self.random))

    def netted(self, changes: list[StreamChange]) -> Netting:
        netting = Netting(
            self.tree.relations,
            lambda relation_id: [(id, held.row) for id, held in self.held.rows.items() if id[0] == relation_id],
        )
        netting.add(changes)
        return netting

    def some_queries(self) -> list[Query]:
        return [
            Query(relation_id, places, (b"%d" % self.random.randrange(KEYS),))
            for relation_id, all in self.tree.looked_up.items()
            for places in all
            if self.random.random() < 0.5
        ]

    def take(self, step: Step) -> None:
        for id in step.left:
            del self.held.rows[id]
        self.held.rows.update(step.held)
        relations = self.tree.relations
        leaving = [(change.relation_id, change.row) for change in step.changes if isinstance(change, Gone)]
        assert leaving == [
            (one.relation_id, relations[one.relation_id].key_row(relations[one.relation_id].key_of(one.row)))
            for one in step.gone
        ]
        for change in step.changes:
            self.told += 1
            match change:
                case Insert(relation_id, row):
                    id = (relation_id, self.tree.relations[relation_id].key_of(row))
                    assert id not in self.device
                    self.device[id] = row
                case Update(relation_id, row):
                    id = (relation_id, self.tree.relations[relation_id].key_of(row))
                    assert id in self.device
                    self.device[id] = row
                case Delete(relation_id, row) | Gone(relation_id, row):
                    del self.device[relation_id, self.tree.relations[relation_id].key_of(row)]
                case _:
                    raise AssertionError(change)

    def check(self, rows: Rows) -> None:
        expected = by_definition(self.tree, self.clauses, rows)
        assert {id: held.nodes for id, held in self.held.rows.items()} == expected
        assert self.device == {id: rows[id] for id in expected}
        assert {id: held.row for id, held in self.held.rows.items()} == self.device


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 12))
def test_a_shape_holds_what_it_is_by_definition_after_every_transaction(seed: int, transactions: int) -> None:
    play = Play(seed)
    for _ in range(transactions):
        play.commit()
        changes, rows = play.history[-1]
        known = partial(answer, rows)
        step = at_a_stretch(advancing(play.tree, play.held, play.netted(changes).net, known, play.judge))
        assert isinstance(step, Step)
        play.take(step)
        play.check(rows)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 20))
def test_a_transaction_of_which_no_change_concerns_a_shape_does_nothing_to_it(seed: int, transactions: int) -> None:
    play = Play(seed)
    interest = Interest(play.tree, KEYS, lambda row: play.judge(0, row))
    for _ in range(transactions):
        play.commit()
        changes, rows = play.history[-1]
        concerned = any(map(interest.concerns, changes))
        known = partial(answer, rows) if concerned else _unknown
        step = at_a_stretch(advancing(play.tree, play.held, play.netted(changes).net, known, play.judge))
        assert isinstance(step, Step)
        assert concerned or step == Step()
        play.take(step)
        for id, held in step.held.items():
            interest.add(id, held.row)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 14))
def test_answers_of_later_snapshots_are_rewound_to_where_the_shape_is(seed: int, transactions: int) -> None:
    """The stream runs ahead; snapshots are taken of what is even later, and used for as long as they are remembered.
    What a TRUNCATE has removed by then they lack, and say so; from there on the shape is exact again."""
    play = Play(seed)
    while len(play.history) <= transactions:
        play.commit()
    later = Later(play.tree)
    answers = Answers(play.tree, later)
    remembered: dict[Query, None] = {}
    came = torn_upto = 0

    def come(upto: int) -> None:
        nonlocal came
        while came < upto:
            came += 1
            later.came(came, play.history[came][0])

    for at in range(1, transactions + 1):
        come(max(came, at))
        changes, rows = play.history[at]
        netting = play.netted(changes)
        net = netting.net
        later.passed(at, _ids(play, changes))
        answers.passed(net, netting.emptied)
        answers.lacking_upto = 0
        while True:
            step = at_a_stretch(advancing(play.tree, play.held, net, answers.known, play.judge))
            if isinstance(step, Step):
                break
            # A snapshot shows all that has been streamed to the shape's place, and then some; its mark comes behind.
            snapshot = play.random.randint(at, transactions)
            come(max(came, snapshot))
            play.asked += len(step.queries)
            queries = {*step.queries, *play.some_queries()}  # what nobody needs now, somebody may later
            remembered.update(dict.fromkeys(queries))
            answers.learn({query: answer(play.history[snapshot][1], query) for query in queries})
        torn_upto = max(torn_upto, answers.lacking_upto)
        play.take(step)
        if at >= torn_upto:
            play.check(rows)
        for query in remembered:
            answers.lacking_upto = 0
            known = answers.known(query)
            if known is not None and answers.lacking_upto <= at:
                assert {row for row, _ in known} == {row for row, _ in answer(rows, query)}
        if play.random.random() < 0.1:
            answers.forget()


def _unknown(query: Query) -> None:
    """For a shape that is not to ask."""


def _ids(play: Play, changes: list[StreamChange]) -> set[RowId]:
    ids: set[RowId] = set()
    for change in changes:
        for row in (getattr(change, "row", None), getattr(change, "old_row", None)):
            relation = play.schema.relations.get(getattr(change, "relation_id", 0))
            if row is not None and relation is not None:
                ids.add((relation.id, relation.key_of(row)))
    return ids
