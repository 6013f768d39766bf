from __future__ import annotations

import pytest

from syncline.proto.flow import AckPolicy, Window


def filled(size: int) -> Window:
    window = Window(size)
    for n in range(1, size + 1):
        window.sent(n * 10, n * 100)
    return window


def test_a_window_closes_when_full_and_opens_with_an_ack() -> None:
    window = filled(3)
    before = window.open
    assert window.acked(10)
    assert (before, window.open) == (False, True)
    assert window.unacked == 2
    assert window.acked_lsn == 100


def test_an_ack_covers_everything_sent_before_it() -> None:
    window = filled(30)
    assert window.acked(300)
    assert window.unacked == 0
    assert window.acked_lsn == 3000


@pytest.mark.parametrize("transaction_id", [0, 11, 10])
def test_an_ack_of_zero_or_unknown_or_a_second_time_moves_nothing(transaction_id: int) -> None:
    window = filled(3)
    window.acked(10)
    assert not window.acked(transaction_id)
    assert window.unacked == 2


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="never open"):
        Window(0)


def test_a_device_acks_when_seventy_percent_of_the_window_is_used() -> None:
    policy = AckPolicy(30)
    due = [policy.applied(n) for n in range(1, 22)]
    assert due == [False] * 20 + [True]
    assert policy.take() == 21


def test_a_device_never_acks_a_transaction_twice_nor_before_it_has_seen_one() -> None:
    policy = AckPolicy(30)
    assert policy.take() is None
    policy.applied(5)
    assert policy.take() == 5
    assert policy.take() is None


def test_a_tiny_window_is_acked_every_time() -> None:
    assert AckPolicy(1).applied(1)


def test_something_is_due_from_the_first_transaction_to_its_ack() -> None:
    policy = AckPolicy(30)
    before = policy.due
    policy.applied(7)
    between = policy.due
    policy.take()
    assert (before, between, policy.due) == (False, True, False)


def test_all_up_to_a_position_is_acked_when_nothing_that_was_sent_for_it_waits() -> None:
    window = Window(5)
    assert window.acked_upto(100)
    for number, lsn in ((1, 10), (2, 20), (3, 20), (4, 30)):
        window.sent(number, lsn)
    assert [window.acked_upto(lsn) for lsn in (9, 10, 20, 30)] == [True, False, False, False]
    window.acked(2)
    assert [window.acked_upto(lsn) for lsn in (10, 20, 30)] == [True, False, False]
    window.acked(3)
    assert [window.acked_upto(lsn) for lsn in (20, 29, 30)] == [True, True, False]
