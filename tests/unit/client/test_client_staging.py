"""Rows of a delivery where they wait: every one, with the values the device's columns are to hold."""

from __future__ import annotations

import sqlite3

import pytest
from tests.unit.client.client_scene import ITEMS, captured_database

from syncline.client.cells import decode_row
from syncline.client.execution import STAGED_AT_ONCE, put_staged
from syncline.client.staging import StagingSql
from syncline.proto.values import Row

STAGED = StagingSql(ITEMS, (True,) * len(ITEMS.columns))
EDGES: list[Row] = [
    (b"i", b"p", "é🙂\n'\"".encode(), b"t", b"-9223372036854775808", b"NaN", b"\x00\xff"),
    (b"j", None, b"", b"f", b"9223372036854775807", b"-Infinity", b""),
    (b"k", None, None, None, None, None, None),
    (b"l", b"p", b"12", None, b"0", b"1e308", None),
]


def staged(rows: list[Row], variables_max: int | None = None) -> list[tuple[object, ...]]:
    connection = captured_database()
    connection.execute(STAGED.create)
    if variables_max is not None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, variables_max)
    put_staged(connection, STAGED, [STAGED.values('["o@1"]', row) for row in rows])
    return connection.execute("SELECT * FROM temp._syncline_staged_1").fetchall()


def test_values_are_those_of_the_columns_types() -> None:
    assert staged(EDGES) == [('["o@1"]', *decode_row(row, ITEMS.decoders)) for row in EDGES]


@pytest.mark.parametrize("variables_max", [None, 999, 8])
def test_no_row_is_left_out_however_many_one_statement_takes(variables_max: int | None) -> None:
    keys = [b"%05d" % number for number in range(2 * STAGED_AT_ONCE + 7)]
    rows = staged([(key, None, None, None, None, None, None) for key in keys], variables_max)
    assert [str(row[1]).encode() for row in rows] == keys


def test_a_cell_its_type_forbids_is_a_text() -> None:
    row = (b"i", None, None, b"yes", b"12", b"many", None)
    assert STAGED.values(None, row) == [None, b"i", None, None, "yes", 12, "many", None]
