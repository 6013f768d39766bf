"""A local write the server is going to refuse must not stand in the way of what the server sends, nor a type that a
column has in Postgres by now."""

from __future__ import annotations

import pytest

from syncline.client.apply import plan_transaction
from syncline.client.cells import decode_row, decoder
from syncline.client.merging import PendingWrite
from syncline.client.schema import Table
from syncline.proto.tags import Tag
from syncline.proto.values import Transaction, Update

SCORES = Table(0, "scores", ("id", "points", "note"), ("text", "int4", "text"), ("id",))


def test_a_row_with_a_pending_value_its_type_forbids_still_takes_changes_from_the_server() -> None:
    pending = PendingWrite(
        "update", (b"a", b"many", None), (False, True, False), Tag("me", 200), frozenset({Tag("postgres_1", 0)})
    )
    incoming = Update(0, (b"a", b"1", b"new"), (b"a", b"1", None), ("postgres_1@100",))
    plan = plan_transaction(
        Transaction(100, b"7", (incoming,), "postgres_1", 7),
        {0: SCORES.relation},
        {"scores": SCORES},
        pending={("scores", ("a",)): (pending,)},
        tracked=frozenset(),
        known_versions=frozenset(),
    )
    assert plan.steps[0][1] == [("a", "many", "new")]


@pytest.mark.parametrize(
    ("pg_type", "cell", "value"),
    [
        ("int4", b"12", 12),
        ("int4", b"many", "many"),
        ("bool", b"maybe", "maybe"),
        ("float8", b"x", "x"),
        ("text", b"\xff", b"\xff"),
        ("int4", b"\xff", b"\xff"),
        ("int4", None, None),
        ("int4", b"1.5", "1.5"),
        ("int8", b"-9223372036854775809", "-9223372036854775809"),
    ],
)
def test_what_the_type_that_the_device_knows_forbids_is_shown_as_it_was_written(
    pg_type: str, cell: bytes | None, value: object
) -> None:
    assert decode_row((cell,), (decoder(pg_type),)) == (value,)
