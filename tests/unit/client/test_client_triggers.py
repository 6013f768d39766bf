"""What the triggers write down about a local change."""

from __future__ import annotations

import sqlite3

import pytest
from tests.unit.client.client_scene import captured_database, entries_of, stamp_at

from syncline.client.cells import Value
from syncline.client.oplog import Entry
from syncline.client.schema import ForeignKey, Table


def captured(*statements: str) -> list[Entry]:
    connection = captured_database()
    for sql in statements:
        connection.execute(sql)
    stamp_at(connection, 100)
    return entries_of(connection)


def captured_apart(*statements: str) -> list[Entry]:
    """Each statement in a transaction of its own."""
    connection = captured_database()
    for at_ms, sql in enumerate(statements, 100):
        connection.execute(sql)
        stamp_at(connection, at_ms)
    return entries_of(connection)


def test_an_insert_is_captured_with_its_new_row() -> None:
    (entry,) = captured("INSERT INTO projects VALUES ('p', 'Launch')")
    assert (entry.table_name, entry.op, entry.new, entry.old) == ("projects", "I", {"id": "p", "name": "Launch"}, None)


def test_an_update_is_captured_with_both_rows() -> None:
    *_, entry = captured("INSERT INTO projects VALUES ('p', 'Launch')", "UPDATE projects SET name = 'Land'")
    assert (entry.op, entry.new, entry.old) == ("U", {"id": "p", "name": "Land"}, {"id": "p", "name": "Launch"})


def test_a_delete_is_captured_with_its_old_row() -> None:
    *_, entry = captured("INSERT INTO projects VALUES ('p', 'Launch')", "DELETE FROM projects")
    assert (entry.op, entry.new, entry.old) == ("D", None, {"id": "p", "name": "Launch"})


def test_an_update_that_changes_nothing_is_not_captured() -> None:
    assert len(captured("INSERT INTO projects VALUES ('p', 'Launch')", "UPDATE projects SET name = name")) == 1


def test_a_primary_key_cannot_change() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'Launch')")
    with pytest.raises(sqlite3.IntegrityError, match="primary key of projects cannot change"):
        connection.execute("UPDATE projects SET id = 'q'")


def test_writing_the_same_primary_key_again_is_no_change() -> None:
    assert captured("INSERT INTO projects VALUES ('p', 'a')", "UPDATE projects SET id = 'p', name = 'b'")[-1].op == "U"


def test_a_child_is_preceded_by_a_compensation_for_its_parent() -> None:
    entries = captured_apart(
        "INSERT INTO projects VALUES ('p', 'x')", "INSERT INTO items (id, project_id) VALUES ('i', 'p')"
    )
    assert [(entry.table_name, entry.op) for entry in entries] == [("projects", "I"), ("projects", "C"), ("items", "I")]
    assert entries[1].new == {"id": "p"}


@pytest.mark.parametrize("write", ["INSERT INTO projects VALUES ('p', 'new')", "UPDATE projects SET name = 'new'"])
def test_a_parent_that_is_written_with_its_child_needs_no_compensation(write: str) -> None:
    """It would go ahead of the write, and bring back of a parent that nobody remembers no more than the key."""
    connection = captured_database()
    if write.startswith("UPDATE"):
        connection.execute("INSERT INTO projects VALUES ('p', 'x')")
        stamp_at(connection, 100)
    before = len(entries_of(connection))
    connection.execute("INSERT INTO items (id, project_id) VALUES ('i', 'p')")
    connection.execute(write)
    connection.execute("UPDATE items SET title = 'child'")
    stamp_at(connection, 101)
    assert [(entry.table_name, entry.op) for entry in entries_of(connection)[before:]] == [
        ("items", "I"),
        ("projects", write[0]),
        ("items", "U"),
    ]


def test_a_child_without_parent_here_needs_no_compensation() -> None:
    entries = captured("INSERT INTO items (id, project_id) VALUES ('i', 'elsewhere'), ('j', NULL)")
    assert [entry.op for entry in entries] == ["I", "I"]


def test_an_update_of_a_child_keeps_its_parent_alive_too() -> None:
    entries = captured_apart(
        "INSERT INTO projects VALUES ('p', 'x')",
        "INSERT INTO items (id, project_id) VALUES ('i', 'p')",
        "UPDATE items SET title = 'new'",
    )
    assert [entry.op for entry in entries[-2:]] == ["C", "U"]


def test_a_row_that_references_itself_is_not_compensated() -> None:
    staff = Table(0, "staff", ("id", "boss"), ("text", "text"), ("id",), (ForeignKey(("boss",), "staff", ("id",)),))
    connection = captured_database([staff])
    connection.execute("INSERT INTO staff VALUES ('a', 'a')")
    stamp_at(connection, 100)
    connection.execute("INSERT INTO staff VALUES ('b', 'a')")
    stamp_at(connection, 101)
    assert [(entry.op, entry.new) for entry in entries_of(connection)] == [
        ("I", {"id": "a", "boss": "a"}),
        ("C", {"id": "a"}),
        ("I", {"id": "b", "boss": "a"}),
    ]


def test_replacing_a_row_is_a_delete_and_an_insert() -> None:
    entries = captured("INSERT INTO projects VALUES ('p', 'a')", "INSERT OR REPLACE INTO projects VALUES ('p', 'b')")
    assert [entry.op for entry in entries] == ["I", "D", "I"]


def test_nothing_is_captured_while_incoming_changes_are_applied() -> None:
    assert captured("UPDATE _syncline_state SET capture = 0", "INSERT INTO projects VALUES ('p', 'a')") == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        1,
        -(2**63),
        2**63 - 1,
        0.1,
        -5.209276979050559e285,
        5e-324,
        "NaN",
        "-Infinity",
        "",
        "é🙂\x00\n\"'",
        b"",
        b"\x00\xff",
    ],
)
def test_an_image_holds_the_value_exactly(value: Value) -> None:
    for column in ("title", "rank", "weight", "data"):
        connection = captured_database()
        connection.execute(f"INSERT INTO items (id, {column}) VALUES ('i', ?)", (value,))
        (stored,) = connection.execute(f"SELECT {column} FROM items").fetchone()
        stamp_at(connection, 100)
        (entry,) = entries_of(connection)
        assert entry.new is not None
        assert (type(entry.new[column]), entry.new[column]) == (type(stored), stored)


def test_odd_names_are_quoted_everywhere() -> None:
    odd = Table(0, 'my "table"\'s', ("the id", 'a "b"', "select"), ("text", "text", "text"), ("the id",))
    connection = captured_database([odd])
    connection.execute('INSERT INTO "my ""table""\'s" VALUES (1, 2, 3)')
    stamp_at(connection, 100)
    (entry,) = entries_of(connection)
    assert entry.table_name == odd.name
    assert entry.new == {"the id": "1", 'a "b"': "2", "select": "3"}


def test_a_table_wider_than_a_function_takes_arguments_is_captured_whole() -> None:
    columns = tuple(f"c{number}" for number in range(180))
    wide = Table(0, "wide", ("id", *columns), ("text",) * 181, ("id",))
    connection = captured_database([wide])
    connection.execute("INSERT INTO wide (id, c0, c99, c179) VALUES ('i', 'a', 'b', 'c')")
    stamp_at(connection, 100)
    (entry,) = entries_of(connection)
    assert entry.new is not None
    assert (entry.new["c0"], entry.new["c99"], entry.new["c179"], entry.new["c1"]) == ("a", "b", "c", None)
