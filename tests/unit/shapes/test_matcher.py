"""Which shapes a change may touch."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.shapes.shape_scene import ITEMS, SHAPE, TRUNCATED, insert, row

from syncline.actors.postgres.streamed import Truncated
from syncline.actors.shapes.matcher import Matcher
from syncline.actors.shapes.shape import Reference, Shape, schema_shape
from syncline.proto.values import Delete, Insert, Update

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


def by_body(*bodies: str) -> Shape:
    return replace(SHAPE, where=f"body in {bodies}", one_of=("body", bodies))


def test_a_shape_that_names_values_is_told_of_rows_that_have_one_of_them() -> None:
    ours, theirs = by_body("a", "b"), by_body("c")
    changes = [insert(1, "a"), insert(2, "b"), insert(3, "c"), insert(4, "d"), Delete(ITEMS.id, row(5, "c"))]
    touched = Matcher([ours, theirs, SHAPE]).split(changes)
    assert touched == {ours.hash: changes[:2], theirs.hash: [changes[2], changes[4]], SHAPE.hash: changes}


def test_a_row_deleted_and_inserted_anew_is_told_to_whoever_had_it() -> None:
    """Else a shape would know only that it is gone, and a device that has it by another one would lose it."""
    ours, theirs = by_body("a"), by_body("c")
    matcher = Matcher([ours, theirs], {ITEMS.id: ITEMS}.get)
    gone, other, anew = Delete(ITEMS.id, row(1, "a")), insert(2, "c"), insert(1, "c")
    again, last = Update(ITEMS.id, row(1, "e"), row(1, "c")), Delete(ITEMS.id, row(1, "e"))
    assert matcher.split([gone, other, anew, again, last]) == {
        ours.hash: [gone, anew, again, last],
        theirs.hash: [other, anew, again],
    }
    assert matcher.split([anew, insert(1, "d")]) == {theirs.hash: [anew]}


def test_who_had_a_row_hears_of_every_change_of_it_in_a_transaction() -> None:
    """Else the row would leave one shape as it was in between, when the one that has it in the end did not hold it."""
    ours, between, theirs = by_body("a"), by_body("b"), by_body("c")
    matcher = Matcher([ours, between, theirs], {ITEMS.id: ITEMS}.get)
    first, second = Update(ITEMS.id, row(1, "b"), row(1, "a")), Update(ITEMS.id, row(1, "c"), row(1, "b"))
    assert matcher.split([first, second]) == {
        ours.hash: [first, second],
        between.hash: [first, second],
        theirs.hash: [second],
    }


def test_a_row_that_had_one_of_the_values_or_has_it_now_is_told_once() -> None:
    ours, theirs = by_body("a", "b"), by_body("c")
    within = Update(ITEMS.id, row(1, "a"), row(1, "b"))
    across = Update(ITEMS.id, row(2, "a"), row(2, "c"))
    nowhere = Update(ITEMS.id, row(3, "d"), row(3, "e"))
    assert Matcher([ours, theirs]).split([within, across, nowhere]) == {
        ours.hash: [within, across],
        theirs.hash: [across],
    }


def test_what_a_row_was_before_may_be_unknown_and_then_everybody_is_told() -> None:
    ours, theirs = by_body("a"), by_body("c")
    change = Update(ITEMS.id, row(1, "d"), None)
    assert Matcher([ours, theirs]).split([change, TRUNCATED]) == {
        ours.hash: [change, TRUNCATED],
        theirs.hash: [change, TRUNCATED],
    }


def test_the_values_by_which_a_shape_is_found_do_not_make_it_another_shape() -> None:
    shape = replace(SHAPE, where="x")
    assert replace(shape, one_of=("body", ("a",))).hash == shape.hash
    assert Shape.from_json(by_body("a").to_json()).one_of == ("body", ("a",))


def test_a_tree_is_told_of_all_that_others_bring_along_and_of_its_own_table_by_value() -> None:
    refers = Reference(ITEMS.id, ("id",), 8, ("id",))
    tree = replace(by_body("a"), references=(refers,), others=((8, ("id",)),))
    parent = Insert(8, (b"1",))
    changes = [insert(1, "a"), insert(2, "b"), parent]
    assert Matcher([tree]).split(changes) == {tree.hash: [changes[0], parent]}


def test_a_table_that_refers_to_itself_brings_its_own_rows_along() -> None:
    tree = replace(by_body("a"), references=(Reference(ITEMS.id, ("body",), ITEMS.id, ("id",)),))
    changes = [insert(1, "a"), insert(2, "b")]
    assert Matcher([tree]).split(changes) == {tree.hash: changes}


def test_a_shape_that_is_removed_is_told_of_nothing_and_leaves_nothing_behind() -> None:
    ours, theirs = by_body("a", "b"), by_body("b", "c")
    tree = replace(SHAPE, references=(Reference(ITEMS.id, ("body",), 8, ("id",)),), others=((8, ("id",)),))
    matcher = Matcher([ours, theirs, tree, OTHER])
    matcher.remove(ours)
    matcher.remove(tree)
    matcher.remove(tree)
    assert matcher.split([insert(1, "a"), insert(2, "b")]) == {theirs.hash: [insert(2, "b")]}
    assert matcher.split([Insert(8, (b"9",))]) == {OTHER.hash: [Insert(8, (b"9",))]}
    matcher.remove(theirs)
    matcher.remove(OTHER)
    assert matcher._tables == {}
