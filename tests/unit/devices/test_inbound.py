"""Device transactions in Postgres' terms, and what is refused before Postgres sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.devices.edge_scene import CATALOG

from syncline.actors.devices.inbound import HeldColumns, WriteRefused, accept, touched_keys
from syncline.actors.postgres.write import RowOperation
from syncline.proto.values import Column, Compensation, Delete, Gone, Insert, Relation, RowChange, Update

ITEMS = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("body", "TEXT"), Column("n", "INTEGER")))
TURNED = Relation(0, "public", "items", (Column("n", "INTEGER"), Column("id", "INTEGER"), Column("body", "TEXT")))
NARROW = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("n", "INTEGER")))
TAGS = ("ann@1",)


def accepted(change: RowChange, relation: Relation = ITEMS) -> RowOperation:
    (operation,) = accept(((relation, change),), CATALOG.named)
    return operation


def refusal(change: RowChange, relation: Relation = ITEMS) -> Any:
    with pytest.raises(WriteRefused) as refused:
        accept(((ITEMS, Insert(0, (b"1", None, b"1"))), (relation, change)), CATALOG.named)
    return refused.value.rejection


def test_an_insert_writes_every_column() -> None:
    assert accepted(Insert(0, (b"1", None, b"2"), TAGS)) == RowOperation(
        7, "I", ("1", None, "2"), (True, True, True), TAGS
    )


def test_an_insert_has_left_out_what_is_null_and_only_postgres_can_fill_in() -> None:
    table = CATALOG.named("items")
    assert table is not None
    id, body, n = table.description["columns"]
    server = {"default": {"kind": "server"}}
    described = {**table.description, "columns": [{**id, **server}, {**body, **server}, {**n, "default": None}]}
    now = replace(table, description=described, required=frozenset({"id", "body", "n"}))

    def given(*row: bytes | None, relation: Relation = ITEMS) -> tuple[bool, ...]:
        (operation,) = accept(((relation, Insert(0, row)),), lambda _: now)
        return operation.modified

    assert given(b"1", None, b"2") == (True, False, True)
    assert given(b"1", b"x", b"2") == (True, True, True)
    assert given(b"1", b"2", relation=NARROW) == (True, False, True)
    for row in ((b"1", None, None), (None, b"x", b"2")):
        with pytest.raises(WriteRefused, match="may not be NULL"):
            given(*row)


def test_columns_are_taken_by_name_in_the_devices_order() -> None:
    assert accepted(Insert(0, (b"2", b"1", b"x")), TURNED).row == ("1", "x", "2")


def test_an_update_writes_what_differs_from_the_row_it_saw() -> None:
    operation = accepted(Update(0, (b"1", b"new", b"2"), (b"1", b"old", b"2"), TAGS))
    assert (operation.op, operation.row, operation.modified) == ("U", ("1", "new", "2"), (False, True, False))


def test_what_an_update_has_not_changed_is_not_judged() -> None:
    """The column is another one by now than the device was told."""
    for n in (b"no number", None):
        operation = accepted(Update(0, (b"1", b"new", n), (b"1", b"old", n), TAGS))
        assert operation.row == ("1", "new", None if n is None else n.decode())
        assert operation.modified == (False, True, False)


def test_columns_are_judged_as_they_are_now() -> None:
    table = CATALOG.named("items")
    assert table is not None
    now = replace(table, types_now={"n": "numeric"}, required=frozenset({"id", "body"}))
    for row in ((b"1", b"x", b"1.5"), (b"1", b"x", None)):
        accept(((ITEMS, Insert(0, row)),), lambda _: now)
    with pytest.raises(WriteRefused, match="body"):
        accept(((ITEMS, Insert(0, (b"1", None, b"1"))),), lambda _: now)


def test_an_update_without_an_old_row_writes_everything_but_the_key() -> None:
    assert accepted(Update(0, (b"1", b"new", b"2"), None)).modified == (False, True, True)


def test_a_column_the_device_does_not_have_is_never_overwritten() -> None:
    assert accepted(Update(0, (b"1", b"2"), None), NARROW).modified == (False, False, True)
    assert accepted(Update(0, (b"1", b"3"), (b"1", b"2")), NARROW).modified == (False, False, True)
    assert accepted(Insert(0, (b"1", b"2")), NARROW).row == ("1", None, "2")


def test_an_update_says_which_columns_the_device_does_not_have() -> None:
    assert accepted(Update(0, (b"1", b"3"), (b"1", b"2")), NARROW).absent == (1,)
    assert accepted(Update(0, (b"1", b"2"), None), NARROW).absent == (1,)
    assert accepted(Update(0, (b"1", None, b"3"), (b"1", None, b"2"))).absent == ()


def test_a_column_that_rows_may_lack_is_one_that_the_device_does_not_have_where_it_is_null_and_stays_so() -> None:
    held = HeldColumns(some=None, every=("id", "n"))
    for old, new, absent in ((None, None, (1,)), (None, b"x", ()), (b"x", None, ()), (b"x", b"x", ())):
        change = Update(0, (b"1", new, b"3"), (b"1", old, b"2"))
        (operation,) = accept(((ITEMS, change),), CATALOG.named, lambda _: held)
        assert operation.absent == absent


def test_only_the_key_of_a_delete_or_a_compensation_counts() -> None:
    assert accepted(Delete(0, (b"1", b"whatever", b"no number"), TAGS)).row == ("1", None, None)
    compensation = accepted(Compensation(0, (b"1", None, None), TAGS))
    assert (compensation.op, compensation.row, compensation.tags) == ("C", ("1", None, None), TAGS)


@pytest.mark.parametrize(
    ("change", "relation", "sqlstate"),
    [
        (Insert(0, (b"1", None, b"no number")), ITEMS, "22P02"),
        (Insert(0, (b"1", b"\xff", b"1")), ITEMS, "22P02"),
        (Insert(0, (b"1", None, None)), ITEMS, "23502"),
        (Insert(0, (None, None, b"1")), ITEMS, "23502"),
        (Update(0, (b"2", None, b"1"), (b"1", None, b"1")), ITEMS, "0A000"),
        (Delete(0, (None, None, b"1")), ITEMS, "23502"),
        (Compensation(0, (None, None, None)), ITEMS, "23502"),
        (Gone(0, (b"1", None, None)), ITEMS, "0A000"),
        (Insert(0, (b"1",)), Relation(0, "public", "nowhere", (Column("id", "TEXT"),)), "42P01"),
        (Insert(0, (b"1",)), Relation(0, "public", "items", (Column("surprise", "TEXT"),)), "42703"),
    ],
)
def test_what_can_never_be_written_is_refused_with_the_sqlstate_postgres_would_give(
    change: RowChange, relation: Relation, sqlstate: str
) -> None:
    rejection = refusal(change, relation)
    assert rejection.sqlstate == sqlstate
    assert rejection.table == relation.table


def test_the_rows_a_transaction_names_are_found_once_each_whatever_else_is_wrong_with_them() -> None:
    unknown = Relation(1, "public", "nowhere", (Column("id", "TEXT"),))
    keyless = Relation(2, "public", "items", (Column("body", "TEXT"),))
    changes: tuple[tuple[Relation, RowChange], ...] = (
        (ITEMS, Insert(0, (b"1", b"x", b"no number"))),
        (TURNED, Update(0, (b"5", b"2", None), (b"5", b"1", None))),
        (ITEMS, Delete(0, (b"1", None, None))),
        (unknown, Insert(1, (b"9",))),
        (keyless, Insert(2, (b"x",))),
        (ITEMS, Insert(0, (None, None, b"1"))),
    )
    assert touched_keys(changes, CATALOG.named) == ((7, (b"1",)), (7, (b"2",)))
