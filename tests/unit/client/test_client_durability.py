"""What a file can say of a transaction by its id, and what it cannot."""

from __future__ import annotations

import sqlite3

import pytest
from tests.unit.client.client_scene import TABLES, captured_database, stamp_at

from syncline.client.durability import outcome
from syncline.client.errors import UsageError
from syncline.client.execution import release
from syncline.client.rejections import Rejection, dismiss, record
from syncline.proto.values import RejectionReason


@pytest.fixture
def file() -> sqlite3.Connection:
    """One transaction is through (100), one is rejected (110), one is on its way (120)."""
    connection = captured_database()
    for ms in (100, 110, 120):
        connection.execute("INSERT INTO projects VALUES (?, 'x')", (str(ms),))
        stamp_at(connection, ms)
    record(connection, 110, RejectionReason("23514", "no"), TABLES)
    for ms in (100, 110):
        release(connection, ms)
    return connection


def test_what_the_file_knows_of_its_own_transactions_it_tells(file: sqlite3.Connection) -> None:
    assert outcome(file, 100, TABLES) == "accepted"
    rejection = outcome(file, 110, TABLES)
    assert isinstance(rejection, Rejection)
    assert rejection.transaction_id == 110
    assert outcome(file, 120, TABLES) == "pending"


def test_a_rejection_stays_known_as_one_when_it_is_dismissed(file: sqlite3.Connection) -> None:
    dismiss(file, 110)
    assert isinstance(outcome(file, 110, TABLES), Rejection)


def test_an_id_later_than_all_that_the_file_has_used_or_seen_is_none_of_its_own(file: sqlite3.Connection) -> None:
    with pytest.raises(UsageError, match="no transaction 121 has been committed here"):
        outcome(file, 121, TABLES)
    file.execute("UPDATE _syncline_state SET clock_ms = 200")  # as it does when others' transactions come
    with pytest.raises(UsageError, match="no transaction 201 has been committed here"):
        outcome(file, 201, TABLES)


@pytest.mark.parametrize("ms", [1, 99, 105, 119])
def test_any_other_id_passes_for_one_of_those_that_are_through(file: sqlite3.Connection, ms: int) -> None:
    """Nothing is kept of these, so nothing tells it from them."""
    assert outcome(file, ms, TABLES) == "accepted"
