from __future__ import annotations

import pytest

from syncline.actors.postgres.flush import Progress, Unseen


def test_nothing_is_confirmed_before_everyone_is_done() -> None:
    progress = Progress()
    progress.dispatched(10, ["a", "b"])
    progress.done(10, "a")
    assert progress.watermark == 0
    progress.done(10, "b")
    assert progress.watermark == 10


def test_a_transaction_nobody_needs_is_done_at_once() -> None:
    progress = Progress()
    progress.dispatched(10, [])
    assert progress.watermark == 10


def test_a_transaction_nobody_needs_waits_for_those_before_it() -> None:
    progress = Progress()
    progress.dispatched(10, ["a"])
    progress.dispatched(20, [])
    assert progress.watermark == 0
    progress.done(10, "a")
    assert progress.watermark == 20


def test_a_slow_target_holds_back_only_what_it_owes() -> None:
    progress = Progress()
    progress.dispatched(10, ["fast"])
    progress.dispatched(20, ["slow"])
    progress.dispatched(30, ["fast"])
    progress.done(30, "fast")
    assert progress.watermark == 10
    progress.done(20, "slow")
    assert progress.watermark == 30


def test_done_means_everything_up_to_there() -> None:
    progress = Progress()
    for lsn in (10, 20, 30):
        progress.dispatched(lsn, ["a"])
    progress.done(25, "a")
    assert progress.watermark == 20
    assert progress.outstanding == 1


def test_a_forgotten_target_holds_nothing_back() -> None:
    progress = Progress()
    progress.dispatched(10, ["gone"])
    progress.dispatched(20, ["gone", "a"])
    progress.forget("gone")
    assert progress.watermark == 10
    progress.done(20, "a")
    assert progress.watermark == 20


def test_repeated_and_unknown_reports_are_harmless() -> None:
    progress = Progress()
    progress.dispatched(10, ["a"])
    progress.done(10, "a")
    progress.done(10, "a")
    progress.done(99, "stranger")
    progress.forget("stranger")
    assert progress.watermark == 10


def test_an_idle_position_counts_once_all_before_it_is_done() -> None:
    progress = Progress(5)
    progress.dispatched(7, [])
    assert progress.watermark == 7
    progress.dispatched(10, ["a"])
    progress.dispatched(12, [])
    assert progress.watermark == 7
    progress.done(10, "a")
    assert progress.watermark == 12


def test_a_position_dispatched_twice_is_done_when_both_are() -> None:
    progress = Progress()
    progress.dispatched(10, ["a"])
    progress.dispatched(10, ["b"])
    progress.done(10, "a")
    assert progress.watermark == 0
    progress.done(10, "b")
    assert progress.watermark == 10


def test_dispatching_backwards_is_a_fault_of_ours() -> None:
    progress = Progress()
    progress.dispatched(10, [])
    with pytest.raises(ValueError, match="after"):
        progress.dispatched(9, [])


def test_nothing_is_confirmed_behind_a_transaction_that_no_snapshot_sees() -> None:
    unseen = Unseen()
    for lsn, xid in ((100, 6), (200, 7), (300, 8)):
        unseen.streamed(lsn, xid)
    assert unseen.before(250, {6, 8}.__contains__) == 199
    assert unseen.before(150, {8}.__contains__) == 150, "what was seen once is not asked about again"
    assert unseen.before(310, {7, 8}.__contains__) == 310
    assert unseen.before(320, set[int]().__contains__) == 320
