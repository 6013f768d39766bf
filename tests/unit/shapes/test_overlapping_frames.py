"""Operations of shapes that have rows in common: each told once, and nothing that one of them told is lost."""

from __future__ import annotations

from syncline.actors.shapes.frames import once
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Insert, Row, Update

ITEMS = 7
OLD: Row = (b"1", b"old")
NEW: Row = (b"1", b"new")


def together(*parts: list[Change]) -> list[Change]:
    return list(codec.decode_changes(b"".join(once([codec.encode_ops(part) for part in parts]))))


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
    assert together(again, [Update(ITEMS, OLD, OLD)]) == [Delete(ITEMS, OLD), Update(ITEMS, OLD, OLD)]


def test_a_row_that_changes_twice_is_as_it_was_left() -> None:
    first, second = Update(ITEMS, (b"1", b"between"), OLD), Update(ITEMS, NEW, (b"1", b"between"))
    assert together([first, second], [Update(ITEMS, NEW, OLD)])[-1].row == NEW  # type: ignore[union-attr]
    assert together([Update(ITEMS, NEW, OLD)], [first, second])[-1].row == NEW  # type: ignore[union-attr]
