"""Which shapes a change may touch."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.shapes.shape_scene import ITEMS, SHAPE, TRUNCATED, insert

from syncline.actors.postgres.transaction import Truncated
from syncline.actors.shapes.matcher import Matcher
from syncline.actors.shapes.shape import schema_shape
from syncline.proto.values import Insert

OTHER = replace(SHAPE, table="others", relation_id=8)


def test_every_shape_of_a_table_gets_its_changes_in_order() -> None:
    twin = replace(SHAPE, where="some day")
    touched = Matcher([SHAPE, twin, OTHER]).split([insert(1), Insert(8, (b"9",)), insert(2)])
    assert touched[SHAPE.hash] == touched[twin.hash] == [insert(1), insert(2)]
    assert touched[OTHER.hash] == [Insert(8, (b"9",))]


def test_a_change_of_a_table_nobody_holds_touches_nothing() -> None:
    assert Matcher([OTHER, schema_shape("sqlite")]).split([insert(1), TRUNCATED]) == {}


def test_a_truncate_of_several_tables_reaches_the_shapes_of_each() -> None:
    both = Truncated((ITEMS.id, 8, 9))
    assert Matcher([SHAPE, OTHER]).split([both]) == {SHAPE.hash: [both], OTHER.hash: [both]}


def test_a_shape_added_later_is_matched_from_then_on() -> None:
    matcher = Matcher()
    matcher.add(SHAPE)
    matcher.add(SHAPE)
    assert matcher.split([insert(1)]) == {SHAPE.hash: [insert(1)]}
