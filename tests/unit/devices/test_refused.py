"""What is refused at the edge is written down all the same, for whoever looks into electric.rejections."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.unit.devices.edge_scene import CATALOG

from syncline.actors.devices.inbound import accept
from syncline.actors.devices.refused import encode_refused
from syncline.actors.postgres.write import encode_operations
from syncline.proto.values import Column, Compensation, Delete, Gone, Insert, Relation, RowChange, Update

ITEMS = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("body", "TEXT"), Column("n", "INTEGER")))
TURNED = Relation(0, "public", "items", (Column("n", "INTEGER"), Column("id", "INTEGER"), Column("body", "TEXT")))
NARROW = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("n", "INTEGER")))
WIDE = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("surprise", "TEXT")))
NOWHERE = Relation(0, "public", "nowhere", (Column("id", "TEXT"), Column("x\0y", "BLOB")))
TAGS = ("ann@1",)


def recorded(relation: Relation, *changes: RowChange) -> list[dict[str, Any]]:
    elements: list[dict[str, Any]] = json.loads(
        b"[" + encode_refused(tuple((relation, change) for change in changes), CATALOG.named) + b"]"
    )
    return elements


def test_what_is_nothing_wrong_with_is_written_down_as_when_it_is_accepted() -> None:
    row = (b"1", b"x", b"2")
    for relation in (ITEMS, TURNED, NARROW):
        cells = tuple(dict(zip(ITEMS.names, row, strict=True))[name] for name in relation.names)
        old = tuple(b"1" if name == "id" else b"9" for name in relation.names)
        changes: tuple[RowChange, ...] = (
            Insert(0, cells, TAGS),
            Update(0, cells, old, TAGS),
            Update(0, cells, None, TAGS),
            Delete(0, cells, TAGS),
            Compensation(0, cells, TAGS),
        )
        accepted = accept(tuple((relation, change) for change in changes), CATALOG.named)
        assert recorded(relation, *changes) == json.loads(b"[" + encode_operations(accepted) + b"]")


def test_values_of_no_type_stand_as_the_device_wrote_them() -> None:
    (op,) = recorded(ITEMS, Insert(0, (b"1", None, b"no number"), TAGS))
    assert (op["rel"], op["op"], op["row"], op["tags"]) == (7, "I", ["1", None, "no number"], ["ann@1"])


def test_what_is_no_text_is_written_as_bytes_and_what_no_text_may_have_is_replaced() -> None:
    (op,) = recorded(ITEMS, Insert(0, (b"1", b"caf\xe9", b"a\0b"), ("ann\0@1",)))
    assert op["row"] == ["1", "\\x636166e9", "a\N{REPLACEMENT CHARACTER}b"]
    assert op["tags"] == ["ann\N{REPLACEMENT CHARACTER}@1"]


def test_a_key_that_is_not_there_is_null() -> None:
    ops = recorded(ITEMS, Insert(0, (None, None, b"1")), Delete(0, (None, b"x", b"1")), Compensation(0, (None,) * 3))
    assert [op["row"] for op in ops] == [[None, None, "1"], [None] * 3, [None] * 3]


def test_a_row_whose_key_was_to_change_goes_by_the_one_it_had() -> None:
    """That is the row of which the operation had observed something."""
    (op,) = recorded(ITEMS, Update(0, (b"2", b"new", b"3"), (b"1", b"old", b"3"), TAGS))
    assert (op["row"], op["modified"], op["new_key"]) == (["1", "new", "3"], [True, True, False], ["2"])


def test_columns_that_a_table_does_not_have_stand_beside_by_name() -> None:
    (op,) = recorded(WIDE, Insert(0, (b"1", b"what"), TAGS))
    assert (op["row"], op["modified"]) == (["1", None, None], [True, False, False])
    assert op["unknown"] == {"surprise": "what"}


def test_a_table_that_is_not_synced_stands_by_its_name_and_its_rows_by_those_of_their_columns() -> None:
    insert, update, delete = recorded(
        NOWHERE,
        Insert(0, (b"1", b"\xff"), TAGS),
        Update(0, (b"1", b"new"), (b"1", b"old")),
        Delete(0, (b"1", None)),
    )
    name = "x\N{REPLACEMENT CHARACTER}y"
    assert insert == {
        "table": "nowhere",
        "op": "I",
        "row": {"id": "1", name: "\\xff"},
        "modified": ["id", name],
        "tags": ["ann@1"],
    }
    assert (update["row"], update["modified"]) == ({"id": "1", name: "new"}, [name])
    assert (delete["row"], delete["modified"]) == ({"id": "1", name: None}, [])


def test_what_no_device_sends_is_written_down_too() -> None:
    (op,) = recorded(ITEMS, Gone(0, (b"1", None, None)))
    assert (op["op"], op["row"], op["tags"]) == ("G", ["1", None, None], [])


def test_columns_are_written_as_what_they_are_now() -> None:
    table = CATALOG.named("items")
    assert table is not None
    now = replace(table, types_now={"body": "bytea"})
    (op,) = json.loads(b"[" + encode_refused(((ITEMS, Insert(0, (b"1", b"x", b"no"))),), lambda _: now) + b"]")
    assert op["row"] == ["1", "\\x78", "no"]
