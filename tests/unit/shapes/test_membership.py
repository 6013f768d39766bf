"""Cases of membership that take a history of their own."""

from __future__ import annotations

from tests.property.shape_trees import Memory

from syncline.actors.postgres.streamed import Truncated
from syncline.actors.shapes.membership import advancing
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.stretch import at_a_stretch
from syncline.actors.shapes.tree import Node, Reach, Tree
from syncline.actors.shapes.treevalues import HeldRow, Step
from syncline.proto.values import Column, Insert, Relation, Update

PARENTS = Relation(1, "public", "parents", (Column("id", "int4", primary_key=True),))
CHILDREN = Relation(2, "public", "children", (Column("id", "int4", primary_key=True), Column("parent", "int4")))
TREE = Tree({1: PARENTS, 2: CHILDREN}, (Node(2),), (Reach(2, (1,), 1, (0,)),))
CHILD, PARENT = (b"7", b"3"), (b"3",)


def test_a_row_that_a_truncate_had_taken_comes_when_what_refers_to_it_is_inserted_anew() -> None:
    held = Memory()
    held.rows[2, (b"7",)] = HeldRow(CHILD, 1)  # it came when its parent was gone already, in Postgres
    netting = Netting(TREE.relations, lambda id: [((id, (b"7",)), CHILD)] if id == 2 else [])
    netting.add([Truncated((1, 2)), Insert(1, PARENT), Insert(2, CHILD)])
    step = at_a_stretch(
        advancing(TREE, held, netting.net, lambda _: (), lambda *_: True, truncates=bool(netting.emptied))
    )
    assert isinstance(step, Step)
    assert set(step.changes) == {Update(2, CHILD, CHILD), Insert(1, PARENT)}
