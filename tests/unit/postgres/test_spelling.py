"""Which spellings of a key are those that Postgres prints."""

from __future__ import annotations

import pytest

from syncline.actors.postgres.spelling import printed, same_key
from syncline.actors.postgres.typemap import from_wire

PRINTED = [
    ("uuid", b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("uuid", b"00000000-0000-0000-0000-000000000000"),
    ("date", b"2024-02-29"),
    ("date", b"0044-03-15 BC"),
    ("date", b"294276-12-31"),
    ("date", b"infinity"),
    ("time", b"00:00:00"),
    ("time", b"23:59:59.999999"),
    ("timestamp", b"2024-02-29 12:00:00.05"),
    ("timestamp", b"-infinity"),
    ("timestamptz", b"2024-02-29 12:00:00Z"),
    ("timestamptz", b"0044-03-15 00:00:00.1Z BC"),
    ("float4", b"0.1"),
    ("float4", b"1.17549e-38"),
    ("float4", b"NaN"),
    ("float8", b"0.30000000000000004"),
    ("float8", b"1.0"),
    ("float8", b"-Infinity"),
]
OTHERWISE = [
    ("uuid", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    ("uuid", b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380A11"),
    ("date", b"02024-02-29"),
    ("time", b"12:00:00.500"),
    ("time", b"12:00:00.0"),
    ("time", b"24:00:00.0"),
    ("timestamp", b"2024-02-29T12:00:00"),
    ("timestamp", b"2024-02-29 24:00:00"),
    ("timestamp", b"2024-02-29 12:00:00.10"),
    ("timestamptz", b"2024-02-29 12:00:00+00:00"),
    ("timestamptz", b"2024-02-29 12:00:00+00"),
    ("timestamptz", b"2024-02-29T12:00:00Z"),
    ("float4", b"0.12345678"),
    ("float4", b"inf"),
    ("float8", b"nan"),
    ("jsonb", b'{"a":1}'),
]


@pytest.mark.parametrize(("type_name", "cell"), PRINTED, ids=str)
def test_as_postgres_prints_it(type_name: str, cell: bytes) -> None:
    test = printed(type_name)
    assert test is not None
    assert test(cell)
    assert from_wire(type_name, cell) == cell.decode()


@pytest.mark.parametrize(("type_name", "cell"), OTHERWISE, ids=str)
def test_otherwise_or_in_doubt(type_name: str, cell: bytes) -> None:
    test = printed(type_name)
    assert test is not None
    assert not test(cell)
    from_wire(type_name, cell)


@pytest.mark.parametrize("type_name", ["bool", "int2", "int8", "text", "varchar", "bytea"])
def test_what_a_device_cannot_spell_otherwise_needs_no_test(type_name: str) -> None:
    assert printed(type_name) is None


@pytest.mark.parametrize(
    ("type_name", "whole", "cut"),
    [
        ("time", b"12:00:00", b"12:00:00.5"),
        ("timestamp", b"2024-02-29 12:00:00", b"2024-02-29 12:00:00.5"),
        ("timestamptz", b"2024-02-29 12:00:00Z", b"2024-02-29 12:00:00.5Z"),
        ("varchar", b"abc", b"abc "),
    ],
)
def test_what_a_column_may_cut_is_in_doubt(type_name: str, whole: bytes, cut: bytes) -> None:
    test = printed(type_name, limited=True)
    assert test is not None
    assert (test(whole), test(cut)) == (True, False)


def test_numbers_are_the_same_key_by_their_values_and_others_by_their_bytes() -> None:
    assert same_key("int4", b"+007", b"7")
    assert same_key("float8", b"1.0", b"1")
    assert same_key("float8", b"-0", b"0")
    assert not same_key("float4", b"0.123456789", b"0.12345679")
    assert not same_key("float8", b"inf", b"Infinity")
    assert not same_key("int4", b"7", None)
    assert not same_key("text", b"1.0", b"1")
    assert not same_key("uuid", b"A0", b"a0")
