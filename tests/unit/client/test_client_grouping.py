"""What has arrived together is put together, within bounds and in order."""

from __future__ import annotations

import pytest

from syncline.client import grouping
from syncline.client.grouping import TransactionBatch, grouped
from syncline.proto.events import ClientEvent, RelationReceived, ShapeRows, Subscribed, TransactionReceived
from syncline.proto.values import Column, Insert, Relation, Transaction

ITEMS = Relation(1, "public", "items", (Column("id", "text", primary_key=True),))
WIDER = Relation(1, "public", "items", (*ITEMS.columns, Column("note", "text")))


def transaction(number: int, rows: int = 1) -> TransactionReceived:
    return TransactionReceived(Transaction(number, str(number).encode(), (Insert(1, (b"x",)),) * rows, "o", number))


def sizes(*events: ClientEvent) -> list[int]:
    """The number of transactions in each batch; 0 for anything else."""
    return [len(a.transactions) if isinstance(a, TransactionBatch) else 0 for a in grouped(events, {1: ITEMS})]


def test_neighbouring_transactions_are_one_batch_in_their_order() -> None:
    (batch,) = grouped([transaction(1), transaction(2), transaction(3)], {})
    assert isinstance(batch, TransactionBatch)
    assert [t.commit_ms for t in batch.transactions] == [1, 2, 3]


def test_anything_else_ends_a_batch_and_keeps_its_place() -> None:
    assert sizes(transaction(1), transaction(2), Subscribed("s"), transaction(3)) == [2, 0, 1]


def test_a_relation_that_repeats_what_is_known_does_not_end_a_batch_but_a_new_one_does() -> None:
    assert sizes(transaction(1), RelationReceived(ITEMS), transaction(2)) == [2]
    assert sizes(transaction(1), RelationReceived(WIDER), transaction(2)) == [1, 0, 1]


def test_a_batch_is_bounded_in_transactions_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "BATCH_TRANSACTIONS_MAX", 3)
    monkeypatch.setattr(grouping, "BATCH_ROWS_MAX", 10)
    assert sizes(*(transaction(number) for number in range(7))) == [3, 3, 1]
    assert sizes(transaction(1, rows=6), transaction(2, rows=4), transaction(3)) == [2, 1]


def test_a_transaction_larger_than_the_bound_is_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "BATCH_ROWS_MAX", 10)
    assert sizes(transaction(1), transaction(2, rows=50), transaction(3)) == [1, 1, 1]


def test_rows_of_a_delivery_are_joined_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "STAGE_ROWS_MAX", 4)
    rows = [ShapeRows("s", "r", (Insert(1, (str(number).encode(),)),) * 2) for number in range(3)]
    joined = list(grouped([*rows, Subscribed("s")], {}))
    assert [len(event.inserts) for event in joined if isinstance(event, ShapeRows)] == [4, 2]
    assert isinstance(joined[-1], Subscribed)
