"""Wire cells and SQLite values, type by type."""

from __future__ import annotations

import pytest

from syncline.client.cells import Value, decoder, encoder
from syncline.proto.values import Cell

BOTH_WAYS: list[tuple[str, Cell, Value]] = [
    ("bool", b"t", 1),
    ("bool", b"f", 0),
    ("int2", b"-32768", -32768),
    ("int8", b"-9223372036854775808", -(2**63)),
    ("int8", b"9223372036854775807", 2**63 - 1),
    ("float4", b"3.4e+38", 3.4e38),
    ("float8", b"0.1", 0.1),
    ("float8", b"1", 1.0),
    ("float8", b"NaN", "NaN"),
    ("float8", b"Infinity", "Infinity"),
    ("float8", b"-Infinity", "-Infinity"),
    ("bytea", b"", b""),
    ("bytea", b"\x00\xff", b"\x00\xff"),
    ("text", "é🙂".encode(), "é🙂"),
    ("jsonb", b'{"a": null}', '{"a": null}'),
    ("timestamp", b"2024-02-29 12:34:56.789123", "2024-02-29 12:34:56.789123"),
    ("timestamptz", b"2024-02-29 12:34:56.789123Z", "2024-02-29 12:34:56.789123Z"),
    ("an_enum_of_ours", b"open", "open"),
]


@pytest.mark.parametrize(("pg_type", "cell", "value"), BOTH_WAYS)
def test_a_cell_becomes_a_value_and_the_same_cell_again(pg_type: str, cell: Cell, value: Value) -> None:
    decoded = decoder(pg_type)(cell)
    assert (type(decoded), decoded) == (type(value), value)
    assert encoder(pg_type)(value) == cell


@pytest.mark.parametrize("pg_type", ["bool", "int4", "float8", "bytea", "text"])
def test_null_is_none(pg_type: str) -> None:
    assert decoder(pg_type)(None) is None
    assert encoder(pg_type)(None) is None


def test_an_infinite_real_goes_out_as_postgres_spells_it() -> None:
    assert encoder("float8")(float("-inf")) == b"-Infinity"


def test_what_is_not_of_the_type_goes_out_as_its_text_for_the_server_to_judge() -> None:
    assert encoder("bool")("maybe") == b"maybe"
    assert encoder("int4")("many") == b"many"
    assert encoder("int4")(1.5) == b"1.5"


def test_a_bool_that_is_none_of_the_two_is_an_error() -> None:
    with pytest.raises(ValueError, match="t or f"):
        decoder("bool")(b"true")
