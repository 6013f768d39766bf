"""Rows that go in one piece of a transaction and come in another, from the records of several shapes."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from tests.unit.shapes.shape_scene import ITEMS, insert, row

from syncline.actors.shapes import departures
from syncline.actors.shapes.departures import Departures
from syncline.actors.shapes.log import Page, Record
from syncline.actors.shapes.logmerge import LogMerge
from syncline.actors.shapes.projection import forgotten, lost, projection
from syncline.proto import codec
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import Change, Delete, Gone, Insert, Relation, Update

KEYS_ONLY = projection(ITEMS, frozenset({"id"}))
LESS = lost(ITEMS, KEYS_ONLY.names)
ORDERS = [("a", "b"), ("b", "a")]


def went(id: int, body: str = "") -> Delete:
    return Delete(ITEMS.id, row(id, body))


def gone(id: int) -> Gone:
    return Gone(ITEMS.id, (b"%d" % id, None))


def update(id: int, body: str, before: str | None) -> Update:
    return Update(ITEMS.id, row(id, body), None if before is None else row(id, before))


def records(*pieces: tuple[int, int, list[Change]]) -> list[Record]:
    """What a shape tells of a transaction of two pieces: (since, until, what) of each."""
    return [
        Record(60, 60, "postgres_1", n, n == len(pieces) - 1, len(c), codec.encode_ops(c), since=since, until=until)
        for n, (since, until, c) in enumerate(pieces)
    ]


def told(
    names: tuple[str, str], *logs: list[Record], relations: tuple[Relation, ...] = (ITEMS,), final_upto: int = 0
) -> tuple[list[Change], tuple[bytes, ...]]:
    """What a device of the shapes is told, read a record at a time, and what precedes it."""
    merge = LogMerge(names, 50, 130, relations=relations)
    if final_upto:
        merge.make_final(final_upto)
    left = {name: list(log) for name, log in zip(names, logs, strict=True)}
    ops: list[Any] = []
    prelude: tuple[bytes, ...] = ()
    while not merge.done:
        for name, _ in merge.wanted():
            merge.feed(name, Page(tuple(left[name][:1]), more=len(left[name]) > 1))
            del left[name][:1]
        for frame in merge.frames():
            ops += codec.decode_ops(frame.body or b"")
            prelude += frame.prelude
    begin, *changes, commit = ops
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    return changes, prelude


@pytest.mark.parametrize("names", ORDERS)
def test_a_row_that_is_deleted_and_comes_to_another_shape_is_there(names: tuple[str, str]) -> None:
    one = records((0, 5, [went(1)]), (5, 9, []))
    other = records((5, 9, [insert(1, "anew")]))
    assert told(names, one, other) == ([insert(1, "anew")], ())


@pytest.mark.parametrize("names", ORDERS)
def test_a_row_is_what_the_last_piece_says_though_a_shape_had_it_before(names: tuple[str, str]) -> None:
    one = records((0, 5, [update(1, "between", "before")]), (5, 9, [gone(1)]))
    other = records((5, 9, [insert(1, "last")]))
    changes, _ = told(names, one, other)
    assert [change for change in changes if isinstance(change, Insert | Update)][-1] == insert(1, "last")


@pytest.mark.parametrize("names", ORDERS)
def test_what_really_leaves_is_told_at_the_end(names: tuple[str, str]) -> None:
    one = records((0, 5, [went(1), gone(2), insert(3)]), (5, 9, []))
    other = records((5, 9, [insert(4)]))
    assert told(names, one, other) == ([insert(3), insert(4), went(1), gone(2)], ())


@pytest.mark.parametrize("names", ORDERS)
def test_a_row_that_stays_loses_the_columns_of_the_shapes_that_let_it_go(names: tuple[str, str]) -> None:
    assert LESS is not None
    one = records((0, 5, [went(1, "body")]), (5, 9, []))
    again = Insert(KEYS_ONLY.id, (b"1",))
    other = records((5, 9, [again]))
    changes, prelude = told(names, one, other, relations=(ITEMS, KEYS_ONLY))
    assert changes == [forgotten(LESS, (b"1",)), again]
    assert prelude == (codec.relation_message(LESS),)


@pytest.mark.parametrize("names", ORDERS)
def test_what_a_row_was_before_the_transaction_is_not_said_when_more_has_been_told_of_it(
    names: tuple[str, str],
) -> None:
    tree = records((0, 9, [update(1, "last", "first")]))
    table = records((0, 5, [update(1, "between", "first")]), (5, 9, []))
    assert told(names, tree, table)[0] == [update(1, "between", "first"), update(1, "last", None)]


@pytest.mark.parametrize("names", ORDERS)
@pytest.mark.parametrize("final", [False, True])
def test_what_trees_tell_of_the_whole_transaction_is_put_together_though_it_is_read_a_part_at_a_time(
    names: tuple[str, str], final: bool
) -> None:
    has = records((0, 9, [update(1, "anew", None)]), (0, 9, [insert(2)]), (0, 9, [insert(3)]))
    had = records((0, 9, [went(5)]), (0, 9, [went(1)]))
    changes, _ = told(names, has, had, final_upto=60 if final else 0)
    assert changes[-1] == went(5)
    assert sorted(changes[:-1], key=str) == sorted([update(1, "anew", None), insert(2), insert(3)], key=str)


@pytest.mark.parametrize("names", ORDERS)
def test_and_the_row_loses_the_columns_that_only_the_other_had(names: tuple[str, str]) -> None:
    assert LESS is not None
    again = Insert(KEYS_ONLY.id, (b"1",))
    has, had = records((0, 9, [again]), (0, 9, [])), records((0, 9, [insert(7)]), (0, 9, [went(1, "body")]))
    changes, prelude = told(names, has, had, relations=(ITEMS, KEYS_ONLY))
    assert sorted(changes, key=str) == sorted([again, insert(7), forgotten(LESS, (b"1",))], key=str)
    assert prelude == (codec.relation_message(LESS),)


def test_what_one_shape_tells_alone_is_told_as_it_is() -> None:
    merge = LogMerge(("a", "b"), 50, 130, relations=(ITEMS,))
    merge.feed("a", Page(tuple(records((0, 5, [went(1)]), (5, 9, [insert(1)]))), more=False))
    merge.feed("b", Page((), more=False))
    (frame,) = merge.frames()
    assert list(codec.decode_changes(frame.body or b"")) == [went(1), insert(1)]


def test_of_too_many_rows_the_earliest_are_told_in_their_place() -> None:
    waiting = Departures((ITEMS,))
    with mock.patch.object(departures, "HELD_BACK_BYTES_MAX", 2 * departures.ROW_BYTES + 10):
        assert waiting.passed([went(1), went(2), went(3), insert(2)]) == [insert(2)]
        assert waiting.passed([went(4)]) == [went(1)]
    assert list(codec.decode_changes(waiting.rest())) == [went(3), went(4)]
    assert waiting.rest() == b""
