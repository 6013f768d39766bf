from __future__ import annotations

import pytest

from syncline.actors.postgres.typemap import (
    from_wire,
    parse_text_array,
    sqlite_type,
    to_wire,
    to_wire_by_oid,
)


def test_only_bytea_and_timestamptz_change_on_their_way_out() -> None:
    unhex, zulu = to_wire("bytea"), to_wire("timestamptz")
    assert unhex is not None
    assert unhex(b"\\x00ff") == b"\x00\xff"
    assert unhex(b"\\x") == b""
    assert zulu is not None
    assert zulu(b"2024-01-31 12:00:00.5+00") == b"2024-01-31 12:00:00.5Z"
    assert zulu(b"0044-03-15 00:00:00+00 BC") == b"0044-03-15 00:00:00Z BC"
    assert zulu(b"infinity") == b"infinity"
    assert all(to_wire(name) is None for name in ("int4", "text", "bool", "timestamp", "mood"))


def test_the_stream_names_types_by_oid() -> None:
    assert to_wire_by_oid(17) is to_wire("bytea")
    assert to_wire_by_oid(1184) is to_wire("timestamptz")
    assert to_wire_by_oid(25) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", "INTEGER"),
        ("bool", "INTEGER"),
        ("float4", "REAL"),
        ("bytea", "BLOB"),
        ("jsonb", "TEXT_JSON"),
        ("_text", "TEXT"),
        ("numeric", "TEXT"),
        ("uuid", "TEXT"),
        ("mood", "TEXT"),
    ],
)
def test_sqlite_types(name: str, expected: str) -> None:
    assert sqlite_type(name) == expected


ACCEPTED = [
    ("bool", b"t"),
    ("bool", b"f"),
    ("int2", b"-32768"),
    ("int4", b"+2147483647"),
    ("int8", b"-9223372036854775808"),
    ("int8", b"00000000000000000000000001"),
    ("float4", b"3.4028235e+38"),
    ("float8", b"NaN"),
    ("float8", b"-infinity"),
    ("float8", b"INF"),
    ("float8", b"5e-324"),
    ("float8", b".5"),
    ("float8", b"-0"),
    ("text", "é😀".encode()),
    ("varchar", b""),
    ("uuid", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
    ("date", b"2024-02-29"),
    ("date", b"infinity"),
    ("date", b"12024-02-29"),
    ("date", b"0044-03-15 BC"),
    ("time", b"23:59:59.999999"),
    ("time", b"24:00:00"),
    ("timestamp", b"2024-01-31 12:00:00.123"),
    ("timestamp", b"2024-01-31T12:00:00"),
    ("timestamptz", b"2024-01-31 12:00:00Z"),
    ("timestamptz", b"2024-01-31 12:00:00.1+00:00"),
    ("timestamptz", b"0044-03-15 00:00:00Z BC"),
    ("json", b' {"a": [1, null, "\\u0041"]} '),
    ("jsonb", b"null"),
    ("interval", b"1 day"),
]
REFUSED = [
    ("bool", b"true"),
    ("bool", b""),
    ("int2", b"32768"),
    ("int4", b"1.0"),
    ("int4", b"1 "),
    ("int4", b"\xd9\xa1"),
    ("int8", b"9223372036854775808"),
    ("int8", b"9" * 5000),
    ("float4", b"3.5e38"),
    ("float4", b"1e-50"),
    ("float8", b"1e400"),
    ("float8", b"1e-400"),
    ("float8", b"1_0"),
    ("float8", b"0x10"),
    ("float8", b""),
    ("text", b"\xff"),
    ("text", b"a\0b"),
    ("uuid", b"a0eebc99"),
    ("date", b"2023-02-29"),
    ("date", b"0000-01-01"),
    ("date", b"20240229"),
    ("date", b"2024-2-9"),
    ("time", b"24:00:01"),
    ("time", b"12:60:00"),
    ("time", b"12:00"),
    ("time", b"12:00:00+01"),
    ("timestamp", b"2024-01-31 12:00:00Z"),
    ("timestamp", b"2024-01-31"),
    ("timestamptz", b"2024-01-31 12:00:00"),
    ("timestamptz", b"2024-01-31 12:00:00+01:00"),
    ("timestamptz", b"2024-02-30 12:00:00Z"),
    ("json", b"{"),
    ("json", b"NaN"),
    ("jsonb", b""),
]


@pytest.mark.parametrize(("name", "cell"), ACCEPTED)
def test_accepts_what_the_type_holds(name: str, cell: bytes) -> None:
    assert from_wire(name, cell) == cell.decode()


@pytest.mark.parametrize(("name", "cell"), REFUSED)
def test_refuses_what_the_type_cannot_hold(name: str, cell: bytes) -> None:
    with pytest.raises(ValueError, match=f"^{name}: ") as refused:
        from_wire(name, cell)
    assert len(str(refused.value)) < 150


def test_bytea_comes_in_raw() -> None:
    assert from_wire("bytea", b"\x00\xff") == "\\x00ff"


def test_an_enum_takes_its_labels_only() -> None:
    assert from_wire("mood", b"sad", ["sad", "ok"]) == "sad"
    with pytest.raises(ValueError, match="not a label"):
        from_wire("mood", b"Sad", ["sad", "ok"])


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (b"{}", ()),
        (b"{a@1}", ("a@1",)),
        (b"{a@1,b@2,NULL}", ("a@1", "b@2")),
        (b'{"a b","c\\"d\\\\",e,"NULL",""}', ("a b", 'c"d\\', "e", "NULL", "")),
    ],
)
def test_reads_text_arrays(text: bytes, elements: tuple[str, ...]) -> None:
    assert parse_text_array(text) == elements


@pytest.mark.parametrize("text", [b"", b"a", b'{"a}', b'{"a"b}', b'{"a",}'])
def test_refuses_what_is_no_text_array(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a text array"):
        parse_text_array(text)


def test_how_deep_json_may_be_is_for_postgres_to_say() -> None:
    assert from_wire("jsonb", b"[" * 100_000) == "[" * 100_000
