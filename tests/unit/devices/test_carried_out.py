"""A device is told which of its own transactions are carried out, no later than what followed them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.devices.outbound_world import FIRST_LSN, ME
from tests.unit.devices.test_healing import OTHER, SUBSCRIPTIONS, Stream, frame

from syncline.actors.devices.carriedout import CarriedOut
from syncline.actors.devices.steps import Delivery, Heal, Repair
from syncline.actors.shapes.frames import lsn_bytes
from syncline.proto.digest import Holdings
from syncline.proto.values import FINAL_MS

LATER = Delivery(("t",), (("r", ("b",)),), {"b": (OTHER,)})


def test_its_frame_that_is_not_the_echo_says_so() -> None:
    """It was sent on an earlier stream, or is of rows that its shapes may not hold."""
    stream = Stream(selects={"a"}, extensions=True)
    stream.wrote(2, 2)
    upto = FIRST_LSN + 7
    stream.release(upto, frame(FIRST_LSN + 5, 1, ME), frame(FIRST_LSN + 6, 2, ME), frame(upto))
    stream.run()
    assert stream.origins == ["postgres_1"] * 3
    assert stream.carried_out == [(1,), (2,), ()]


def test_its_echo_says_it_all() -> None:
    stream = Stream(extensions=True)
    stream.wrote(1, 1)
    stream.release(FIRST_LSN + 6, frame(FIRST_LSN + 5, 1, ME), frame(FIRST_LSN + 6))
    stream.run()
    assert (stream.origins, stream.carried_out) == ([ME, "postgres_1"], [(), ()])


def test_of_one_without_a_frame_the_next_says_so() -> None:
    stream = Stream(selects={"a"}, extensions=True)
    stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.outbound.own_passed(FIRST_LSN + 9, 2)
    stream.release(FIRST_LSN + 8, frame(FIRST_LSN + 4), frame(FIRST_LSN + 6), frame(FIRST_LSN + 8))
    stream.run()
    assert stream.carried_out == [(), (1,), ()]
    stream.release(FIRST_LSN + 10, frame(FIRST_LSN + 10))
    stream.run()
    assert stream.carried_out[3:] == [(2,)]


def test_an_echo_says_so_of_others_and_stands_where_they_are_in_it() -> None:
    """Else a device that comes back from there would get once more what was before them."""
    stream = Stream(selects={"a"}, extensions=True)
    for ms in (1, 2):
        stream.wrote(ms, ms)
    stream.heal(1, 1)
    stream.run()
    assert stream.flushed == FIRST_LSN + 10
    stream.outbound.own_passed(FIRST_LSN + 5, 2)
    stream.release(stream.flushed)
    stream.run()
    assert (stream.origins, stream.carried_out) == ([ME], [(2,)])
    assert stream.positions == [FIRST_LSN + 9]


def test_what_has_come_back_is_not_told_any_more() -> None:
    stream = Stream(selects={"a"}, extensions=True)
    stream.wrote(1, 1)
    stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.release(FIRST_LSN + 6)
    stream.run()
    stream.heal(1, 1)
    stream.until_sent(1)
    stream.release(stream.flushed + 5, frame(stream.flushed + 5))
    stream.run()
    assert stream.carried_out == [(), ()]


def test_a_rejected_one_is_not_carried_out() -> None:
    """It has no place in the stream, but one for its echo."""
    stream = Stream(selects={"a"}, extensions=True)
    stream.wrote(1, 1)
    stream.outbound.heal(Heal(FIRST_LSN, 1, (), rejected=True))
    stream.run()
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5))
    stream.run()
    assert stream.carried_out == [()]


def test_what_stands_for_several_says_so_of_those_among_them() -> None:
    stream = Stream(extensions=True)
    stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.outbound.own_passed(FIRST_LSN + 9, 2)
    final = replace(frame(FIRST_LSN + 8, FINAL_MS), since=FIRST_LSN)
    stream.release(FIRST_LSN + 9, final)
    stream.run()
    assert stream.carried_out[0] == (1,)


def test_a_delivery_has_it_in_it_so_it_is_told_before() -> None:
    stream = Stream(selects={"a"}, extensions=True)
    stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.release(FIRST_LSN + 6)
    stream.run()
    assert stream.sent == []
    stream.outbound.deliver(LATER)
    stream.run()
    stream.release(FIRST_LSN + 6)
    stream.run()
    assert (stream.sent, stream.carried_out) == ([(0, ())], [(1,)])
    assert stream.outbound.shapes.keys() >= {"b"}


def test_so_has_a_repair() -> None:
    repair = Repair(SUBSCRIPTIONS, Holdings(b"", {}))
    stream = Stream(extensions=True, repair=repair, followed=FIRST_LSN - 1)
    stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.outbound.own_passed(FIRST_LSN + 9, 2)
    stream.release(FIRST_LSN + 6)
    stream.run()
    assert (stream.sent, stream.carried_out) == ([(0, ())], [(1,)])
    assert stream.outbound.has_repaired(lsn_bytes(FIRST_LSN + 6))


@pytest.mark.parametrize("subject", ["frame", "place", "delivery"])
def test_a_device_of_the_old_line_is_not_told(subject: str) -> None:
    stream = Stream(selects={"a"})
    if subject == "frame":
        stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 1, ME))
    else:
        stream.outbound.own_passed(FIRST_LSN + 5, 1)
    stream.release(FIRST_LSN + 6, frame(FIRST_LSN + 6))
    if subject == "delivery":
        stream.run()
        stream.outbound.deliver(LATER)
    stream.run()
    assert set(stream.carried_out) == {()}


def test_no_more_is_told_than_a_begin_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.carriedout.CARRIED_OUT_MAX", 2)
    carried_out = CarriedOut(telling=True)
    for ms in (1, 2, 3):
        carried_out.passed(ms)
    assert (carried_out.take(), bool(carried_out)) == ((1, 2), False)
