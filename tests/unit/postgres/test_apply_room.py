"""Whose writes are taken while there is little room: what is put off costs nobody else his place."""

from __future__ import annotations

from typing import cast

import pytest
from tests.unit.postgres.test_apply import APPLIED, BEHIND, LOCKED, large, queue, take, write

from syncline.actors.postgres import apply
from syncline.actors.postgres.apply import DEVICE_PENDING_MAX, PENDING_MAX, WriteQueue
from syncline.actors.postgres.batching import Lane
from syncline.actors.postgres.waitingline import REPEATS_MAX, Decision
from syncline.actors.postgres.write import Rejection
from syncline.cluster.ref import Ref


def connection() -> Ref:
    return cast(Ref, object())


def put_off(q: WriteQueue) -> list[Decision]:
    """Postgres can take nothing of what is ready now."""
    decisions = []
    while names := take(q):
        first = dict(reversed(names))
        decisions += q.settle([LOCKED if first[client] == lsn else BEHIND for client, lsn in names], 0)
    return decisions


def told(decisions: list[Decision]) -> list[tuple[str, int, str]]:
    return [(each.write.client_id, each.write.lsn, each.status) for each in decisions]


def test_writes_that_are_put_off_leave_room_for_those_of_other_devices() -> None:
    """Forty devices have written to a table that somebody has locked; another one writes elsewhere."""
    q = queue(*(write(f"held {number}", lsn) for number in range(PENDING_MAX // 500) for lsn in range(500)))
    assert put_off(q) == []
    assert q.add(write("somebody else", 1)) is None
    assert q.pending == PENDING_MAX + 1


def test_a_large_write_that_is_put_off_leaves_room_for_one_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "LARGE_PENDING_BYTES_MAX", 1_000)
    q = queue(large("held", 1))
    q.take(0, Lane.LARGE)
    q.settle([LOCKED], 0, Lane.LARGE)
    assert q.add(large("somebody else", 1)) is None


def test_when_too_much_is_put_off_only_devices_of_which_something_is_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apply, "PENDING_MAX", 3)
    q = queue(write("held", 1), write("held", 2))
    put_off(q)
    q.add(write("held", 3))
    assert told([decision for decision in [q.add(write("held", 4))] if decision]) == [("held", 4, "overloaded")]
    assert q.add(write("somebody else", 1)) is None


def test_what_is_put_off_beyond_its_room_is_let_go_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many devices come to be held one after another."""
    monkeypatch.setattr(apply, "PENDING_MAX", 3)
    q = queue(write("a", 1), write("a", 2))
    assert put_off(q) == []
    for lsn in (1, 2, 3):
        q.add(write("b", lsn))
    assert told(put_off(q)) == [("b", 2, "overloaded"), ("b", 3, "overloaded")]
    assert told([decision for decision in [q.add(write("b", 4))] if decision]) == [("b", 4, "overloaded")]
    q.add(write("c", 1))
    assert told(put_off(q)) == [("c", 1, "overloaded")]
    assert q.pending == 3
    assert q.add(write("c", 1, reply_to=connection())) is None
    assert take(q, 9) == [("c", 1), ("a", 1), ("a", 2), ("b", 1)]
    q.settle([APPLIED] * 4, 9)
    assert (q.pending, q.pending_bytes, q.wait_s(9)) == (0, 0, None)


def test_what_fails_as_a_call_and_has_no_room_is_let_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "PENDING_MAX", 1)
    q = queue(write("a", 1))
    put_off(q)
    q.add(write("b", 1))
    assert take(q) == [("b", 1)]
    assert told(q.failed(Rejection("53100", "disk full"), 0)) == [("b", 1, "overloaded")]


def test_a_device_that_comes_back_while_its_writes_are_held_has_them_held_once() -> None:
    """It may have 500 with the writer, and sends them again on each connection."""
    q = WriteQueue()
    for number in range(DEVICE_PENDING_MAX // 500 + 2):
        this = connection()
        for lsn in range(500):
            assert q.add(write("a", lsn, reply_to=this)) is None, f"connection {number + 1}"
        put_off(q)
    assert q.pending == 500


def test_what_comes_again_keeps_its_place_and_is_answered_where_it_came_from() -> None:
    first, second = connection(), connection()
    q = queue(*(write("a", lsn, reply_to=first) for lsn in (1, 2, 3)))
    assert take(q) == [("a", 1), ("a", 2), ("a", 3)]
    for lsn in (1, 2, 3, 4):
        assert q.add(write("a", lsn, reply_to=second)) is None
    decisions = q.settle([APPLIED, LOCKED, BEHIND], 0)
    assert [(each.write.lsn, each.write.reply_to) for each in decisions] == [(1, first), (1, second)]
    assert take(q, 1) == [("a", 2), ("a", 3), ("a", 4)]
    decisions = q.settle([APPLIED] * 3, 1)
    assert [each.write.lsn for each in decisions if each.write.reply_to is second] == [2, 3, 4]


def test_what_a_device_has_not_sent_again_goes_all_the_same() -> None:
    """It has been set back to an earlier state of its own."""
    q = queue(write("a", 1), write("a", 2))
    for lsn in (1, 3):
        q.add(write("a", lsn, reply_to=connection()))
    assert take(q) == [("a", 1), ("a", 2), ("a", 3)]


def test_two_writes_alike_of_one_connection_are_two() -> None:
    q = queue(write("a", 1), write("a", 1))
    q.take(0)
    assert [each.status for each in q.settle([APPLIED, {"status": "duplicate"}], 0)] == ["applied", "duplicate"]


def test_a_copy_that_sends_under_the_id_of_the_original_does_not_lift_what_that_is_shed_for() -> None:
    """Else the original's next write, which is on its way, would make the one left out a duplicate."""
    q = WriteQueue()
    original, copy = connection(), connection()
    for lsn in range(DEVICE_PENDING_MAX):
        assert q.add(write("a", lsn, reply_to=original)) is None
    left_out = q.add(write("a", DEVICE_PENDING_MAX, reply_to=original))
    assert left_out is not None
    q.settle([APPLIED for _ in take(q)], 0)
    assert q.add(write("a", 0, reply_to=copy)) is None
    assert q.add(write("a", DEVICE_PENDING_MAX + 1, reply_to=original)) is not None


class Connection:
    alive = True


def test_however_often_a_device_comes_back_each_connection_that_is_left_is_answered_and_few_others() -> None:
    """One that stays is the original's; a copy, which sends the same, comes back a hundred times."""
    first, stays = Connection(), Connection()
    q = queue(write("a", 1, reply_to=cast(Ref, first)), write("a", 1, reply_to=cast(Ref, stays)))
    first.alive = False
    for _ in range(100):
        newest = Connection()
        assert q.add(write("a", 1, reply_to=cast(Ref, newest))) is None
        newest.alive = False
    newest.alive = True
    take(q)
    answered = [decision.write.reply_to for decision in q.settle([APPLIED], 0)]
    assert stays in answered
    assert newest in answered
    assert len(answered) <= REPEATS_MAX + 1
