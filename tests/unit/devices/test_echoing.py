"""Which of a device's own transactions come back by their frame."""

from __future__ import annotations

from tests.unit.devices.outbound_world import TABLES

from syncline.actors.devices.echoing import Echoing
from syncline.actors.shapes.projection import projection
from syncline.proto.values import Column, Relation

TABLE = TABLES["a"]
WIDE = Relation(71, "public", "wide", (Column("id", "int4", primary_key=True), Column("x", "text")))


def test_a_transaction_of_tables_that_are_here_whole_comes_back_by_its_frame() -> None:
    echoing = Echoing(lambda shape: shape == "selective")
    echoing.holds({"whole": (TABLE,), "selective": (WIDE,)})
    echoing.wrote(5, frozenset({TABLE.id}))
    echoing.wrote(6, frozenset({TABLE.id, WIDE.id}))
    assert (echoing.passes(5), echoing.passes(6)) == (True, False)


def test_what_was_sent_before_the_end_of_a_repair_comes_back_by_its_rows() -> None:
    echoing = Echoing(lambda shape: False)
    echoing.holds({"whole": (TABLE,)})
    echoing.repairing = True
    echoing.wrote(5, frozenset({TABLE.id}))
    echoing.wrote(6, frozenset({TABLE.id}))
    assert not echoing.applied(5, 100, ())
    echoing.repairing = False
    echoing.wrote(7, frozenset({TABLE.id}))
    assert [echoing.passes(ms) for ms in (5, 6, 7)] == [False, False, True]
    assert not echoing.applied(6, 101, ())
    assert echoing.applied(7, 102, ())


def test_where_columns_are_lacking_a_frame_does_not_say_what_becomes_of_them() -> None:
    echoing = Echoing(lambda shape: False)
    echoing.holds({"whole": (projection(WIDE, frozenset()),)})
    echoing.wrote(5, frozenset({WIDE.id}))
    assert not echoing.passes(5)


def test_one_that_spells_a_key_otherwise_comes_back_by_its_rows() -> None:
    echoing = Echoing(lambda shape: False)
    echoing.holds({"whole": (TABLE,)})
    for commit_ms in (5, 6):
        echoing.wrote(commit_ms, frozenset({TABLE.id}))
    echoing.spelled_otherwise(5)
    echoing.spelled_otherwise(7)  # sent before this stream began
    assert [echoing.passes(ms) for ms in (5, 6)] == [False, True]
    assert not echoing.applied(5, 100, ())
    assert echoing.applied(6, 101, ())
    echoing.came_back(5)
    echoing.wrote(5, frozenset({TABLE.id}))
    echoing.wrote(7, frozenset({TABLE.id}))
    assert (echoing.passes(5), echoing.passes(7)) == (True, True)


def test_a_frame_that_passed_before_the_device_sent_it_again_does_not_bring_it_back() -> None:
    """An earlier connection had sent it, and it was held: it is answered as applied here too, after its frame."""
    echoing = Echoing(lambda shape: False)
    echoing.holds({"whole": (TABLE,)})
    assert not echoing.passes(10)
    echoing.wrote(10, frozenset({TABLE.id}))
    assert not echoing.applied(10, 500, ())
    echoing.came_back(10)
    assert 10 not in echoing
