"""Which device transactions make a batch, and what answers mean."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from syncline.actors.postgres.apply import (
    ALONE_TRANSACTIONS_MAX,
    BATCH_BYTES_MAX,
    BATCH_TRANSACTIONS_MAX,
    DEVICE_PENDING_MAX,
    LOSSES_TOGETHER_MAX,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    TRIES_ALONE_MAX,
    TURN_TRANSACTIONS_MAX,
    Held,
    WriteQueue,
)
from syncline.actors.postgres.batching import LARGE_OPERATIONS, PATIENCE_TRIES, Batch, Lane
from syncline.actors.postgres.write import Encoded, Rejection, RowOperation, Write, encode_operations
from syncline.cluster.ref import Ref

NOBODY = cast(Ref, object())
TIMEOUT = Rejection("57014", "canceling statement due to statement timeout")
LOCKED = {"status": "retry", "sqlstate": "55P03", "message": "could not obtain lock"}
BEHIND = {"status": "retry", "message": "waits for an earlier transaction of its device"}
APPLIED = {"status": "applied"}


def write(client: str, lsn: int, text: str = "v", reply_to: Ref = NOBODY) -> Write:
    return Write(client, lsn, lsn, (RowOperation(1, "I", ("k", text)),), reply_to)


def queue(*writes: Write) -> WriteQueue:
    filled = WriteQueue()
    for each in writes:
        assert filled.add(each) is None
    return filled


def large(client: str, lsn: int, reply_to: Ref = NOBODY) -> Write:
    operations = encode_operations([RowOperation(1, "I", ("k", "v"))] * (LARGE_OPERATIONS + 1))
    return Write(client, lsn, lsn, (), reply_to, encoded=Encoded((operations,), LARGE_OPERATIONS + 1))


def take(writes: WriteQueue, now_s: float = 0.0, lane: Lane = Lane.BATCHES) -> list[tuple[str, int]]:
    return names(writes.take(now_s, lane))


def names(batch: Batch | None) -> list[tuple[str, int]]:
    return [(each.client_id, each.lsn) for each in batch.writes] if batch else []


def sent(batch: Batch | None) -> list[dict[str, Any]]:
    assert batch is not None
    elements: list[dict[str, Any]] = json.loads(batch.text)
    return elements


def test_a_batch_keeps_each_devices_order() -> None:
    q = queue(write("a", 1), write("b", 7), write("a", 2), write("a", 3))
    assert take(q) == [("a", 1), ("a", 2), ("a", 3), ("b", 7)]


def test_a_batch_says_everything_the_database_needs() -> None:
    change = RowOperation(16400, "U", ("1", None, "é"), (False, False, True), ("a@1", "postgres_1@0"))
    (element,) = sent(queue(Write("a", 5, 99, (change,), NOBODY)).take(0))
    assert element == {
        "client": "a",
        "lsn": 5,
        "ms": 99,
        "ops": [
            {
                "rel": 16400,
                "op": "U",
                "row": ["1", None, "é"],
                "modified": [False, False, True],
                "tags": ["a@1", "postgres_1@0"],
            }
        ],
    }


def test_what_the_author_of_an_update_does_not_hold_is_neither_changed_nor_unchanged() -> None:
    change = RowOperation(16400, "U", ("1", None, "é"), (False, False, True), absent=(1,))
    (operation,) = json.loads(b"[" + encode_operations([change]) + b"]")
    assert operation["modified"] == [False, None, True]


def test_decided_writes_are_answered_once_and_forgotten() -> None:
    q = queue(write("a", 1), write("a", 2), write("b", 1))
    q.take(0)
    refused = {"status": "rejected", "sqlstate": "23505", "message": "taken", "table": "t", "constraint": "t_key"}
    decisions = q.settle([APPLIED, refused, {"status": "duplicate"}], 0)
    assert [(d.write.client_id, d.write.lsn, d.status) for d in decisions] == [
        ("a", 1, "applied"),
        ("a", 2, "rejected"),
        ("b", 1, "duplicate"),
    ]
    assert decisions[1].rejection == Rejection("23505", "taken", table="t", constraint="t_key")
    assert (q.pending, q.pending_bytes, q.take(0), q.wait_s(0)) == (0, 0, None, None)


def test_a_batch_is_bounded_in_transactions_and_devices_take_turns() -> None:
    q = queue(*(write("busy", n) for n in range(800)), write("quiet", 1))
    batch = take(q)
    assert ("quiet", 1) in batch
    assert batch.index(("quiet", 1)) < BATCH_TRANSACTIONS_MAX


def test_the_fewer_devices_have_writes_the_more_of_each_goes_into_a_batch() -> None:
    def of_busy(others: int) -> int:
        q = queue(*(write("busy", n) for n in range(800)), *(write(f"other {n}", 1) for n in range(others)))
        return sum(device == "busy" for device, _ in take(q))

    assert of_busy(0) == ALONE_TRANSACTIONS_MAX
    assert of_busy(1) == ALONE_TRANSACTIONS_MAX // 2
    assert of_busy(100) == TURN_TRANSACTIONS_MAX


def test_a_batch_is_bounded_in_bytes_but_a_large_transaction_still_goes() -> None:
    large = "x" * (BATCH_BYTES_MAX // 2)
    q = queue(write("a", 1, large), write("b", 1, large), write("c", 1, large * 3))
    assert take(q) == [("a", 1)]
    q.settle([APPLIED], 0)
    assert take(q) == [("b", 1)]
    q.settle([APPLIED], 0)
    assert take(q) == [("c", 1)]


def test_a_large_transaction_goes_beside_the_batches_and_its_device_keeps_its_order() -> None:
    q = queue(write("a", 1), large("a", 2), write("a", 3), write("b", 1))
    assert take(q) == [("a", 1), ("b", 1)]
    assert take(q, lane=Lane.LARGE) == []
    q.settle([APPLIED, APPLIED], 0)
    q.add(write("b", 2))
    assert take(q, lane=Lane.LARGE) == [("a", 2)]
    assert take(q) == [("b", 2)]
    q.settle([APPLIED], 0)
    assert take(q) == []
    q.settle([APPLIED], 0, Lane.LARGE)
    assert take(q) == [("a", 3)]


def test_a_large_transaction_goes_alone() -> None:
    q = queue(large("a", 1), large("b", 1))
    for client in "ab":
        assert take(q, lane=Lane.LARGE) == [(client, 1)]
        q.settle([APPLIED], 0, Lane.LARGE)
    assert q.pending_bytes == 0


def test_a_large_transaction_is_taken_whatever_its_size_and_leaves_room_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("PENDING_BYTES_MAX", "LARGE_PENDING_BYTES_MAX"):
        monkeypatch.setattr(f"syncline.actors.postgres.apply.{limit}", 1_000)
    q = queue(large("a", 1), write("b", 1))
    refused = q.add(large("c", 1))
    assert refused is not None
    assert refused.status == "overloaded"
    take(q, lane=Lane.LARGE)
    q.settle([APPLIED], 0, Lane.LARGE)
    assert q.add(large("d", 1)) is None


def test_a_large_transaction_that_must_try_again_stays_in_its_lane() -> None:
    q = queue(large("a", 1), write("b", 1))
    assert take(q, lane=Lane.LARGE) == [("a", 1)]
    q.settle([LOCKED], 0, Lane.LARGE)
    assert take(q) == [("b", 1)]
    assert take(q, lane=Lane.LARGE) == []
    assert take(q, q.wait_s(0, Lane.LARGE) or 0.0, Lane.LARGE) == [("a", 1)]


def test_what_cannot_be_written_down_is_rejected_and_disturbs_nobody() -> None:
    q = queue(write("a", 1, "half a surrogate \ud800"), write("b", 1))
    first, second = sent(q.take(0))
    assert first["refuse"]["sqlstate"] == "XX000"
    assert "refuse" not in second


def test_a_device_that_must_try_again_waits_alone_and_longer_each_time() -> None:
    q = queue(write("a", 1), write("a", 2), write("b", 1))
    now_s = 0.0
    q.take(now_s)
    q.settle([LOCKED, BEHIND, APPLIED], now_s)
    q.add(write("b", 2))
    assert take(q) == [("b", 2)]
    q.settle([APPLIED], now_s)
    waits = []
    for _ in range(12):
        wait_s = q.wait_s(now_s)
        assert wait_s is not None
        assert q.take(now_s + wait_s * 0.99) is None
        waits.append(wait_s)
        now_s += wait_s
        assert take(q, now_s) == [("a", 1), ("a", 2)]
        q.settle([LOCKED, BEHIND], now_s)
    assert waits[0] == pytest.approx(RETRY_FIRST_S)
    assert waits == pytest.approx(sorted(waits))
    assert waits[-1] == pytest.approx(RETRY_MAX_S)


def test_what_waits_for_an_operator_is_counted_with_what_waits_behind_it_until_it_is_mended() -> None:
    forbidden = {"status": "retry", "sqlstate": "42501", "message": "permission denied for table t"}
    q = queue(write("a", 1), write("a", 2), write("b", 1), write("c", 1))
    q.take(0.0)
    q.settle([forbidden, BEHIND, LOCKED, APPLIED], 0.0)
    assert q.held() == Held(writes=2, devices=1, message="permission denied for table t")
    assert take(q, 1.0) == [("a", 1), ("a", 2), ("b", 1)]
    q.lost(1.0)
    assert q.held() == Held(writes=2, devices=1, message="permission denied for table t")
    q.take(1.0)
    q.settle([LOCKED, BEHIND, APPLIED], 1.0)
    assert q.held() is None
    q.take(9.0)
    q.failed(Rejection("42P01", "no such table"), 9.0)
    assert q.held() is None  # two were in the batch: nobody knows whose fault it was
    assert take(q, 9.0) == [("a", 1)]
    q.failed(Rejection("42P01", "no such table"), 9.0)
    assert q.held() == Held(writes=2, devices=1, message="no such table")
    q.take(19.0)
    q.settle([APPLIED], 19.0)
    assert q.held() is None


def test_after_a_failed_call_everything_is_tried_alone() -> None:
    q = queue(write("a", 1), write("a", 2), write("b", 1))
    q.take(0)
    q.failed(TIMEOUT, 0)
    tried = []
    while batch := q.take(0):
        tried.append(names(batch))
        q.settle([APPLIED], 0)
    assert sorted(tried) == [[("a", 1)], [("a", 2)], [("b", 1)]]


@pytest.mark.parametrize("sqlstate", ["57014", "XX000"])
def test_what_times_out_alone_again_and_again_is_sent_as_refused(sqlstate: str) -> None:
    q = queue(write("a", 1))
    now_s = 0.0
    for _ in range(TRIES_ALONE_MAX):
        (element,) = sent(q.take(now_s))
        assert "refuse" not in element
        q.failed(Rejection(sqlstate, "gave up"), now_s)
        now_s += q.wait_s(now_s) or 0.0
    (element,) = sent(q.take(now_s))
    assert element["refuse"] == {"sqlstate": sqlstate, "message": "gave up"}


def test_a_defect_reported_within_a_batch_is_counted_only_when_alone() -> None:
    q = queue(write("a", 1), write("b", 1))
    now_s = 0.0
    defect = {"status": "retry", "sqlstate": "XX001", "message": "bad page"}
    q.take(now_s)
    q.settle([defect, APPLIED], now_s)
    for _ in range(TRIES_ALONE_MAX):
        now_s += q.wait_s(now_s) or 0.0
        (element,) = sent(q.take(now_s))
        assert "refuse" not in element
        q.settle([defect], now_s)
    now_s += q.wait_s(now_s) or 0.0
    assert sent(q.take(now_s))[0]["refuse"]["sqlstate"] == "XX001"


def test_a_passing_error_of_a_call_never_becomes_a_rejection() -> None:
    q = queue(write("a", 1))
    now_s = 0.0
    for _ in range(3 * TRIES_ALONE_MAX):
        (element,) = sent(q.take(now_s))
        assert "refuse" not in element
        q.failed(Rejection("53100", "disk full"), now_s)
        now_s += q.wait_s(now_s) or 0.0


@pytest.mark.parametrize("sqlstate", ["53100", "55P03", "40001", "08006"])
def test_what_is_put_off_again_and_again_is_shown_but_never_rejected(sqlstate: str) -> None:
    """A full disk, a lock, or a database elsewhere: it may take an hour."""
    q = queue(write("a", 1), write("a", 2))
    now_s = 0.0
    shown = []
    for _ in range(3 * PATIENCE_TRIES):
        first, behind = sent(q.take(now_s))
        assert first.keys() == behind.keys() == {"client", "lsn", "ms", "ops"}
        q.settle([{"status": "retry", "sqlstate": sqlstate, "message": "not now"}, BEHIND], now_s)
        shown.append(q.held())
        now_s += q.wait_s(now_s) or 0.0
    assert shown[: PATIENCE_TRIES - 1] == [None] * (PATIENCE_TRIES - 1)
    assert set(shown[PATIENCE_TRIES - 1 :]) == {Held(writes=2, devices=1, message="not now")}
    assert q.complaint == "not now"
    q.take(now_s)
    q.settle([APPLIED, LOCKED], now_s)
    assert q.held() is None


def test_what_the_application_raises_again_and_again_is_sent_as_final_with_its_operations() -> None:
    full = {"status": "retry", "sqlstate": "53400", "message": "your quota is full", "raised": True}
    q = queue(write("a", 1), write("a", 2), write("b", 1))
    now_s = 0.0
    q.take(now_s)
    q.settle([full, BEHIND, APPLIED], now_s)
    for _ in range(PATIENCE_TRIES - 1):
        now_s += q.wait_s(now_s) or 0.0
        first, behind = sent(q.take(now_s))
        assert "final" not in first
        q.settle([full, BEHIND], now_s)
    now_s += q.wait_s(now_s) or 0.0
    first, behind = sent(q.take(now_s))
    assert first["final"]
    assert first["ops"]
    assert "final" not in behind
    (rejected, applied) = q.settle([{**full, "status": "rejected"}, APPLIED], now_s)
    assert (rejected.status, applied.status) == ("rejected", "applied")
    assert rejected.rejection == Rejection("53400", "your quota is full")


def test_any_other_error_of_a_call_with_one_transaction_is_that_transactions_fault() -> None:
    q = queue(write("a", 1))
    q.take(0)
    q.failed(Rejection("22P05", "unsupported Unicode escape"), 0)
    assert sent(q.take(1))[0]["refuse"]["sqlstate"] == "22P05"


def test_what_failed_alone_is_refused_without_its_operations_for_they_may_be_why() -> None:
    for lane, given in ((Lane.BATCHES, write("a", 1)), (Lane.LARGE, large("a", 1))):
        q = queue(given)
        assert sent(q.take(0, lane))[0]["ops"]
        q.failed(Rejection("54000", "total size of jsonb array elements exceeds the maximum"), 0, lane)
        assert sent(q.take(1, lane))[0]["ops"] == []
        q.settle([{"status": "rejected", "sqlstate": "54000", "message": "too large"}], 1, lane)
        assert q.pending_bytes == 0


def test_what_was_refused_before_and_cannot_be_recorded_whole_is_refused_for_the_same_reason() -> None:
    q = queue(replace(write("a", 1), refusal=Rejection("22P02", "not an integer")))
    assert sent(q.take(0))[0]["ops"]
    q.failed(Rejection("54000", "total size of jsonb array elements exceeds the maximum"), 0)
    (element,) = sent(q.take(1))
    assert (element["refuse"]["sqlstate"], element["ops"]) == ("22P02", [])


def test_a_lost_batch_is_sent_again_as_it_was() -> None:
    q = queue(write("a", 1), write("b", 1))
    first = take(q)
    q.lost(0)
    assert take(q) == first


def test_losing_the_connection_again_and_again_separates_but_never_rejects() -> None:
    q = queue(write("a", 1), write("b", 1))
    now_s = 0.0
    for _ in range(LOSSES_TOGETHER_MAX):
        assert len(take(q, now_s)) == 2
        q.lost(now_s)
    for _ in range(20):
        now_s += q.wait_s(now_s) or 0.0
        (element,) = sent(q.take(now_s))
        assert "refuse" not in element
        q.lost(now_s)


def test_a_write_refused_before_it_came_here_is_recorded_in_its_turn() -> None:
    why = Rejection("42703", "no such column", hint="look again", table="t")
    first, second = sent(queue(write("a", 1), Write("a", 2, 2, (), NOBODY, why)).take(0))
    assert "refuse" not in first
    assert second["refuse"] == {"sqlstate": "42703", "message": "no such column", "hint": "look again", "table": "t"}


def test_a_text_postgres_cannot_hold_is_refused_without_harm_to_its_neighbours() -> None:
    q = queue(write("a", 1, "nul \x00"), write("b", 1, "\\u0000 spelt out"))
    first, second = sent(q.take(0))
    assert first["refuse"]["sqlstate"] == "22021"
    assert first["ops"][0]["row"] == ["k", "nul \N{REPLACEMENT CHARACTER}"]
    assert "refuse" not in second


def test_a_device_with_too_many_unanswered_writes_is_shed_until_it_comes_back() -> None:
    q = queue(*(write("a", n) for n in range(DEVICE_PENDING_MAX)))
    late = q.add(write("a", DEVICE_PENDING_MAX))
    assert late is not None
    assert late.status == "overloaded"
    while batch := q.take(0):
        q.settle([APPLIED] * len(batch.writes), 0)
    again = q.add(write("a", DEVICE_PENDING_MAX + 1))
    assert again is not None
    assert again.status == "overloaded"
    assert q.add(write("a", DEVICE_PENDING_MAX, reply_to=cast(Ref, object()))) is None


def test_a_busy_device_is_shed_without_others() -> None:
    q = queue(*(write("a", n) for n in range(DEVICE_PENDING_MAX)))
    q.add(write("a", DEVICE_PENDING_MAX))
    assert q.add(write("b", 1)) is None
