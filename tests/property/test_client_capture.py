"""Capture loses nothing: for any local writes, the oplog and the rows say the same."""

from __future__ import annotations

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.client_scene import ITEMS, TABLES, captured_database, entries_of, stamp_at

from syncline.client.cells import Value, decoder, encoder
from syncline.client.oplog import change_of
from syncline.client.row_sql import table_sql
from syncline.client.schema import Table
from syncline.client.triggers import create_triggers
from syncline.proto.merge import RowState, apply_write, write_of
from syncline.proto.values import Insert

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(st.none(), TEXT, INTEGERS, FLOATS, st.binary(max_size=20))
KEYS = st.sampled_from(["a", "b", "c", 'quote"', "é"])

OPS = st.one_of(
    st.tuples(
        st.just("INSERT OR REPLACE INTO items (title, rank, weight, data, id) VALUES (?, ?, ?, ?, ?)"),
        VALUES,
        VALUES,
        VALUES,
        VALUES,
        KEYS,
    ),
    st.tuples(
        st.just("UPDATE items SET title = ?, rank = ?, weight = ?, data = ? WHERE id = ?"),
        VALUES,
        VALUES,
        VALUES,
        VALUES,
        KEYS,
    ),
    st.tuples(st.just("DELETE FROM items WHERE id = ?"), KEYS),
)


def rows_of(connection: sqlite3.Connection) -> dict[Value, dict[str, Value]]:
    cursor = connection.execute("SELECT * FROM items")
    names = [column[0] for column in cursor.description]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cursor}


@settings(max_examples=100)
@given(st.lists(st.lists(OPS, max_size=5), max_size=5))
def test_undoing_the_oplog_undoes_the_writes_exactly(transactions: list[list[tuple[Value, ...]]]) -> None:
    connection = captured_database()
    for number, transaction in enumerate(transactions):
        for sql, *args in transaction:
            connection.execute(str(sql), args)
        stamp_at(connection, 100 + number)
    rows = rows_of(connection)
    for entry in reversed(entries_of(connection)):
        image = entry.new if entry.new is not None else entry.old
        assert image is not None
        current = rows.pop(image["id"], None)
        assert repr(current) == repr(entry.new)
        if entry.old is not None:
            rows[image["id"]] = entry.old
    assert rows == {}


@settings(max_examples=100)
@given(st.lists(st.lists(OPS, max_size=5), max_size=5))
def test_a_server_that_merges_the_oplog_ends_with_the_rows_that_are_here(
    transactions: list[list[tuple[Value, ...]]],
) -> None:
    connection = captured_database()
    for number, transaction in enumerate(transactions):
        for sql, *args in transaction:
            connection.execute(str(sql), args)
        stamp_at(connection, 100 + number)
        alive = set(rows_of(connection))
        tagged = {key for (key,) in connection.execute("SELECT key FROM _syncline_shadow")}
        assert len(tagged) == len(alive)
    states: dict[Value, RowState] = {}
    for entry in entries_of(connection):
        key = (entry.new or entry.old or {})["id"]
        write = write_of(change_of(entry, ITEMS), "me", entry.commit_ms)
        states[key] = apply_write(states.get(key, RowState()), write)
    assert {key for key, state in states.items() if state.row is not None} == set(rows_of(connection))


@settings(max_examples=200)
@given(st.one_of(TEXT, INTEGERS, FLOATS, st.binary(max_size=20)), st.sampled_from(["", "TEXT", "INT", "REAL", "BLOB"]))
def test_a_key_bound_as_a_parameter_finds_what_a_trigger_wrote(value: Value, declared: str) -> None:
    keyed = Table(0, "keyed", ("id", "v"), ("text", "text"), ("id",))
    connection = captured_database([keyed])
    connection.execute("DROP TABLE keyed")
    connection.execute(f"CREATE TABLE keyed (id {declared} PRIMARY KEY, v TEXT)")
    for sql in create_triggers(keyed, {}):
        connection.execute(sql)
    connection.execute("INSERT INTO keyed VALUES (?, 'x')", (value,))
    stamp_at(connection, 100)
    (stored,) = connection.execute("SELECT id FROM keyed").fetchone()
    assert len(connection.execute(table_sql(keyed).pending, (stored,)).fetchall()) == 1


@settings(max_examples=200)
@given(st.tuples(TEXT, INTEGERS, FLOATS, st.binary(max_size=20), st.booleans()))
def test_what_is_written_here_arrives_unchanged_on_another_device(values: tuple[Value, ...]) -> None:
    title, rank, weight, data, done = values
    here, there = captured_database(), captured_database()
    here.execute(
        "INSERT INTO items (id, title, rank, weight, data, done) VALUES ('i', ?, ?, ?, ?, ?)",
        (title, rank, weight, data, done),
    )
    stamp_at(here, 100)
    change = change_of(entries_of(here)[0], TABLES["items"])
    assert isinstance(change, Insert)
    arrived = tuple(decode(cell) for decode, cell in zip(ITEMS.decoders, change.row, strict=True))
    there.execute(table_sql(ITEMS).put, arrived)
    assert repr(rows_of(here)) == repr(rows_of(there)) or weight == 0


@given(INTEGERS)
def test_integers_survive_the_wire(value: int) -> None:
    assert decoder("int8")(encoder("int8")(value)) == value
