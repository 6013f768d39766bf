"""The ledger of a simulated device sees whatever goes wrong: a benchmark that misses it would praise a broken run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from benchmarks.ledger import Held, Ledger, held

from syncline.proto.values import Change, Column, Delete, Insert, Relation, Row, Transaction, Update

RELATION = Relation(7, "public", "issues", (Column("id", "uuid", primary_key=True), Column("priority", "int4")))


def row(key: str, number: int | None) -> Row:
    return key.encode(), None if number is None else b"%d" % number


def transaction(position: int, *changes: Change, origin: str = "postgres_1") -> Transaction:
    return Transaction(1_700_000_000_000, b"%d" % position, changes, origin, position)


def insert(key: str, number: int | None) -> Insert:
    return Insert(7, row(key, number))


def synced(rows: Sequence[Row] = ()) -> Ledger:
    ledger = Ledger()
    ledger.relation(RELATION)
    ledger.delivery_begins()
    ledger.delivered(Insert(7, cells) for cells in rows)
    ledger.delivery_ends(["issues"], 100)
    return ledger


def told(ledger: Ledger, received: Transaction) -> bool:
    return ledger.applied(ledger.effect(received))


def expected(*rows: Row) -> dict[str, Held]:
    return {"issues": held(rows, 1)}


def test_a_device_that_got_everything_holds_what_postgres_has() -> None:
    ledger = synced([row("a", 1)])
    assert told(ledger, transaction(101, insert("b", 2)))
    assert told(ledger, transaction(102, Update(7, row("b", 3), row("b", 2))))
    assert told(ledger, transaction(103, Delete(7, row("b", 3)), insert("c", 4)))
    assert told(ledger, transaction(103, insert("d", None), origin="another device"))
    assert ledger.missing(expected(row("d", None), row("a", 1), row("c", 4))) == []
    assert ledger.violations == []


def test_a_delivery_that_breaks_off_counts_for_nothing() -> None:
    ledger = Ledger()
    ledger.relation(RELATION)
    ledger.delivery_begins()
    ledger.delivered([insert("a", 1)])
    ledger.delivery_begins()
    ledger.delivered([insert("a", 1), insert("b", 2)])
    ledger.delivery_ends(["issues"], 100)
    assert ledger.missing(expected(row("a", 1), row("b", 2))) == []


def test_a_transaction_that_is_missing_is_a_violation() -> None:
    ledger = synced([row("a", 1)])
    told(ledger, transaction(102, insert("c", 3)))
    assert ledger.violations == ["transaction 3 of issues follows 1"]


def test_a_transaction_that_comes_twice_is_a_violation_and_not_news() -> None:
    ledger = synced([row("a", 1)])
    told(ledger, transaction(101, insert("b", 2)))
    assert not told(ledger, transaction(101, insert("b", 2)))
    assert ledger.violations == ["transaction 2 of issues once more, after 2"]
    assert len(ledger.missing(expected(row("a", 1), row("b", 2)))) == 1


def test_a_transaction_older_than_the_position_is_a_violation() -> None:
    ledger = synced()
    told(ledger, transaction(99, insert("a", None), origin="another device"))
    assert ledger.violations == ["a transaction at 99 after one at 100"]


def test_a_row_that_comes_as_it_is_replaces_what_the_device_had_of_its_own_write() -> None:
    as_it_is = transaction(102, Update(7, row("b", None), None), origin="me")
    for before in ([], [transaction(101, insert("b", None), origin="me")]):
        ledger = synced()
        ledger.client_id = "me"
        for received in (*before, as_it_is, as_it_is):
            told(ledger, received)
        assert ledger.missing(expected(row("b", None))) == []
        assert ledger.violations == []


def test_a_row_of_others_that_comes_as_it_is_is_a_violation() -> None:
    ledger = synced([row("a", None)])
    told(ledger, transaction(101, Update(7, row("a", None), None)))
    assert ledger.violations == ["an update of issues without the old row"]


@pytest.mark.parametrize(
    "postgres",
    [
        pytest.param([row("a", 1)], id="a row too many"),
        pytest.param([row("a", 1), row("b", 2), row("c", None)], id="a row too few"),
        pytest.param([row("a", 1), row("c", 2)], id="another key"),
        pytest.param([row("a", 1), row("b", 3)], id="another cell"),
    ],
)
def test_rows_that_differ_are_told(postgres: list[Row]) -> None:
    ledger = synced([row("a", 1), row("b", 2)])
    assert len(ledger.missing(expected(*postgres))) == 1
