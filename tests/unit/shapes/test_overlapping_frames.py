"""Operations of shapes that have rows in common: each told once, and nothing that one of them told is lost."""

from __future__ import annotations

from syncline.actors.shapes.projection import forgotten, lost, projection
from syncline.actors.shapes.together import once
from syncline.proto import codec
from syncline.proto.values import Change, Column, Delete, Insert, Relation, Row, Update

ITEMS = 7
RELATION = Relation(ITEMS, "public", "items", (Column("id", "int4", primary_key=True), Column("name", "text")))
OLD: Row = (b"1", b"old")
NEW: Row = (b"1", b"new")


def together(*parts: list[Change]) -> list[Change]:
    ops, besides = once([codec.encode_ops(part) for part in parts], {ITEMS: RELATION})
    assert not besides
    return list(codec.decode_changes(b"".join(ops)))


def test_what_two_shapes_tell_is_told_once() -> None:
    assert together([Insert(ITEMS, NEW)], [Insert(ITEMS, NEW)]) == [Insert(ITEMS, NEW)]
    assert together([Delete(ITEMS, OLD)], [Delete(ITEMS, OLD)]) == [Delete(ITEMS, OLD)]


def test_who_held_a_row_before_says_more() -> None:
    update = Update(ITEMS, NEW, OLD)
    assert together([Insert(ITEMS, NEW)], [update]) == [update]
    assert together([update], [Insert(ITEMS, NEW)]) == [update]


def test_a_row_that_comes_and_goes_in_a_transaction_is_gone() -> None:
    brief: list[Change] = [Insert(ITEMS, OLD), Update(ITEMS, NEW, OLD), Delete(ITEMS, NEW)]
    assert together(brief, [Insert(ITEMS, (b"2", b"other"))])[:3] == brief


def test_a_row_that_goes_and_comes_again_as_it_was_is_there() -> None:
    again: list[Change] = [Delete(ITEMS, OLD), Insert(ITEMS, OLD)]
    assert together(again, [Update(ITEMS, OLD, OLD)]) == [Update(ITEMS, OLD, OLD)]


def test_a_row_that_changes_twice_is_as_it_was_left() -> None:
    first, second = Update(ITEMS, (b"1", b"between"), OLD), Update(ITEMS, NEW, (b"1", b"between"))
    assert together([first, second], [Update(ITEMS, NEW, OLD)])[-1].row == NEW  # type: ignore[union-attr]
    assert together([Update(ITEMS, NEW, OLD)], [first, second])[-1].row == NEW  # type: ignore[union-attr]


def test_a_row_that_one_shape_has_anew_stays_though_others_that_had_it_know_no_more_than_that_it_went() -> None:
    update = Update(ITEMS, NEW, OLD)
    for parts in ([Delete(ITEMS, OLD)], [update]), ([update], [Delete(ITEMS, OLD)]):
        assert together(*parts) == [update]
    other = Delete(ITEMS, (b"2", b"other"))
    assert together([update], [Delete(ITEMS, OLD), other]) == [update, other]


def test_and_loses_the_columns_that_only_they_had() -> None:
    wide = Relation(
        7, "public", "wide", (Column("id", "int4", primary_key=True), Column("x", "text"), Column("y", "text"))
    )
    ours, theirs = projection(wide, frozenset("x")), projection(wide, frozenset("y"))
    went, comes = Delete(ours.id, (b"1", b"old")), Insert(theirs.id, (b"1", b"new"))
    relations = {relation.id: relation for relation in (ours, theirs)}
    less = lost(ours, theirs.names)
    assert less is not None
    for parts in ([went], [comes]), ([comes], [went]):
        ops, besides = once([codec.encode_ops(part) for part in parts], relations)
        assert list(codec.decode_changes(b"".join(ops))) == [comes, forgotten(less, (b"1",))]
        assert besides == [codec.relation_message(less)]
