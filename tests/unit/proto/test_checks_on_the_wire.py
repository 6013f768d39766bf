"""Checks and registers of a table travel with its migrations, to peers that take extensions."""

from __future__ import annotations

import pytest
from tests.outgoing_rules import extended

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.conditions import compare, matches, moment
from syncline.proto.op_reader import decode_changes
from syncline.proto.patterns import TEXT_MAX, PatternRefused, pattern
from syncline.proto.values import CREATE_TABLE, Insert, Migrate, MigrationCheck, MigrationColumn, MigrationTable

CHECK = MigrationCheck("positive", ("n",), 'new."n" > 0', "CHECK constraint failed: positive")
COLUMNS = (MigrationColumn("id", "TEXT", "text"), MigrationColumn("n", "INTEGER", "int4"))
PLAIN = MigrationTable("items", COLUMNS, (), ("id",))
TOLD = MigrationTable("items", COLUMNS, (), ("id",), (CHECK,), (("n", "m"),))


def migrate(table: MigrationTable) -> Migrate:
    return Migrate("1", ((CREATE_TABLE, "CREATE TABLE items (id TEXT)"),), table)


def test_they_come_as_they_were_sent() -> None:
    assert list(decode_changes(codec.encode_ops([migrate(TOLD)]))) == [migrate(TOLD)]


def test_without_extensions_all_else_of_a_log_is_as_it_was() -> None:
    insert = Insert(1, (b"a", None), ("postgres_1@1",))
    log = (
        codec.encode_begin(1, b"1", "postgres_1", 1)
        + codec.encode_ops([insert, migrate(TOLD)])
        + codec.encode_commit(1, b"1")
    )
    plain = codec.without_extensions(log)
    assert plain == (
        codec.encode_begin(1, b"1", "postgres_1", 1)
        + codec.encode_ops([insert, migrate(PLAIN)])
        + codec.encode_commit(1, b"1")
    )
    assert extended(pb.SatOpLog.FromString(log))
    assert not extended(pb.SatOpLog.FromString(plain))
    assert codec.without_extensions(plain) is plain


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ("1", "1.00", 0), ("-0", "0", 0), ("2", "10", -1), ("0.1", "0.09999999999999999999", 1), ("1e3", "1", None),
        ("", "1", None), (1, "1", None), (None, "1", None), (" 1", "1", None), ("NaN", "1", None),
        ("9" * 1001, "1", None),
    ],
)  # fmt: skip
def test_numbers_are_compared_exactly(left: object, right: object, said: int | None) -> None:
    assert compare(left, right) == said


@pytest.mark.parametrize(
    ("text", "sorts_as"),
    [
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02 03:04:05.000000"),
        ("2024-01-02 03:04:05.5+00:00", "2024-01-02 03:04:05.500000"),
        ("03:04:05.5", "03:04:05.500000"),
        ("24:00:00", "24:00:00.000000"),
        ("2024-01-02 24:00:00", None),
        ("2024-02-30", None),
        ("0000-01-01", None),
        ("10000-01-01", None),
        ("0044-03-15 BC", None),
        ("infinity", None),
        ("2024-01-02 03:04:05+02", None),
        (b"2024-01-02", None),
    ],
)
def test_moments_sort_as_texts(text: object, sorts_as: str | None) -> None:
    assert moment(text) == sorts_as


def test_a_pattern_that_would_keep_others_busy_for_ever_is_soon_done() -> None:
    assert matches("a" * 5_000 + "!", r"^(\w+\s?)*$", 0) == 0
    assert matches("a" * (TEXT_MAX + 1), "a", 0) is None


def test_what_a_locale_decides_has_no_answer() -> None:
    assert matches("ü", r"\w", 0) is None
    assert matches("Ü", "ü", 1) is None
    assert (matches("ü", "^ü$", 0), matches("AB", "^ab$", 1), matches("AB", "^ab$", 0)) == (1, 1, 0)


@pytest.mark.parametrize(
    "text", [r"(a)\1", "(?=a)", r"\ma", "a**", "*a", "a{256}", "(" * 60 + "a" + ")" * 60, "(a", "a)", "[a"]
)
def test_what_is_not_certain_is_refused(text: str) -> None:
    with pytest.raises(PatternRefused):
        pattern(text)
    assert matches("a", text, 0) is None
