"""Where clauses as Python: what the published client sends, three values of truth, and what is left to Postgres."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.unit.shapes.where_scene import TABLE, row

from syncline.actors.postgres.catalog import Collation, TableInfo
from syncline.actors.shapes.where import Undecided, parse

NULL = None
CASES = [
    ("this.\"title\" = 'o''brien'", row(title=b"o'brien"), True),
    ("this.\"title\" = 'o''brien'", row(title=b"obrien"), False),
    ("this.\"title\" = 'o''brien'", row(), NULL),
    ('this."rank" = 5', row(rank=b"5"), True),
    ('this."done" = true', row(done=b"t"), True),
    ('this."done" = true', row(done=b"f"), False),
    ('this."rank" IS NULL', row(), True),
    ('this."rank" IS NULL', row(rank=b"0"), False),
    ('this."rank" IN (1, 2)', row(rank=b"2"), True),
    ('this."rank" IN (1, 2)', row(rank=b"12"), False),
    ('this."rank" IN (1, NULL)', row(rank=b"2"), NULL),
    ("this.\"title\" NOT IN ('a', 'b')", row(title=b"c"), True),
    ("this.\"title\" NOT IN ('a', 'b')", row(), NULL),
    ("this.rank = ANY ('{1,2}')", row(rank=b"2"), True),
    ("this.rank = ANY (ARRAY[1, 2])", row(), NULL),
    ("this.title <> ALL (ARRAY['a', 'b'])", row(title=b"b"), False),
    ("this.mood = ANY ('{sad,ok}')", row(mood=b"ok"), True),
    ("this.\"title\" NOT IN ('a', NULL)", row(title=b"c"), NULL),
    ("this.\"title\" != 'k'", row(title=b""), True),
    ("this.\"title\" != 'k'", row(), NULL),
    ('this."rank" IS NOT NULL', row(rank=b"1"), True),
    ("this.\"title\" LIKE 'a\\%\\_b%'", row(title=b"a%_bcd"), True),
    ("this.\"title\" LIKE 'a\\%\\_b%'", row(title=b"axybcd"), False),
    ("this.\"title\" LIKE '%q%'", row(title="ünqü".encode()), True),
    ("this.\"title\" LIKE '%z'", row(title=b"zzy"), False),
    ('(this."rank" <= 9) AND (this."rank" > 1)', row(rank=b"9"), True),
    ('(this."rank" <= 9) AND (this."rank" > 1)', row(rank=b"10"), False),
    ('this."rank" = 1 OR this."title" = \'b\' AND this."done" = false', row(rank=b"1"), True),
    ('this."rank" = 1 OR this."title" = \'b\' AND this."done" = false', row(title=b"b", done=b"t"), NULL),
    ('(NOT this."rank" = 1) AND (NOT this."rank" = 2)', row(rank=b"3"), True),
    ("this.\"at\" >= '2024-01-02T03:04:05.678Z'", row(at=b"2024-01-02 03:04:05.678Z"), True),
    ("this.\"at\" >= '2024-01-02T03:04:05.678Z'", row(at=b"2024-01-02 03:04:05Z"), False),
    ("this.\"at\" >= '2024-01-02T03:04:05Z'", row(at=b"2024-01-02 03:04:05.1Z"), True),
    ("this.\"at\" >= '2024-01-02T03:04:05.678Z'", row(at=b"10000-01-01 00:00:00Z"), True),
    ("this.\"at\" >= '2024-01-02T03:04:05.678Z'", row(at=b"2024-01-02 03:04:05.678Z BC"), False),
    ("this.\"at\" > '2024-01-02T03:04:05+02:00'", row(at=b"2024-01-02 01:04:05.5Z"), True),
    ("this.day < 'infinity' AND this.day > '-infinity'", row(day=b"0044-03-15 BC"), True),
    ("this.moment < this.moment", row(moment=b"infinity"), False),
    ("this.mood > 'sad'", row(mood=b"ok"), True),
    ("this.mood > 'ok'", row(mood=b"sad"), False),
    ("this.owner = 'A0EEBC999C0B4EF8BB6D6BB9BD380A11'", row(owner=b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), True),
    ("this.ratio > 1.5", row(ratio=b"NaN"), True),
    ("this.ratio < 1.5", row(ratio=b"NaN"), False),
    ("this.ratio = this.ratio", row(ratio=b"NaN"), True),
    ("this.ratio = 0", row(ratio=b"-0"), True),
    ("this.ratio >= 1e-3", row(ratio=b"0.001"), True),
    ("this.rank > 1.5", row(rank=b"2"), True),
    ("this.rank = 1.5", row(rank=b"1"), False),
    ("this.rank < 1.5", row(rank=b"1"), True),
    ("this.big > 3000000000", row(big=b"3000000001"), True),
    ("this.small = this.big", row(small=b"-1", big=b"-1"), True),
    ("this.id % 10 = 3", row(id=b"13"), True),
    ("this.id % 10 = -3", row(id=b"-13"), True),
    ("this.id / 4 = -3", row(id=b"-13"), True),
    ("this.rank::int8 * 1000 + 1 > 0", row(rank=b"2147483647"), True),
    ("this.done IS NOT TRUE", row(), True),
    ("this.done IS UNKNOWN", row(), True),
    ("this.done", row(done=b"t"), True),
    ("NOT this.done", row(), NULL),
    ("NULL", row(), NULL),
    ("NULL OR true", row(), True),
    ("this.rank = NULL", row(rank=b"1"), NULL),
    ("this.rank IS DISTINCT FROM 3", row(), True),
    ("this.rank IS NOT DISTINCT FROM NULL", row(), True),
    ("this.title IS DISTINCT FROM this.short", row(title=b"a", short=b"a"), False),
    ("COALESCE(this.done, true)", row(), True),
    ("COALESCE(this.title, this.short, 'x') = 'x'", row(), True),
    ("NULLIF(this.title, '') IS NULL", row(title=b""), True),
    ("CASE WHEN this.done THEN this.rank ELSE 3 END > 2", row(), True),
    ("CASE this.rank WHEN 1 THEN 'one' WHEN 2 THEN 'two' END = 'two'", row(rank=b"2"), True),
    ("length(this.title) = 3", row(title="üöä".encode()), True),
    ("starts_with(this.title, 'ab') AND this.title ^@ 'a'", row(title=b"abc"), True),
    ("this.raw = '\\x00FF'", row(raw=b"\x00\xff"), True),
    ("this.doc IS NOT NULL", row(doc=b"{}"), True),
    ("this.id::text LIKE '1%'", row(id=b"12"), True),
    ("this.title LIKE 'a_c'", row(title="aüc".encode()), True),
    ("this.title LIKE '%a_c%d'", row(title=b"xxabc\nd"), True),
    ("this.title LIKE 'a%a'", row(title=b"a"), False),
    ("this.title NOT LIKE 'a%'", row(), NULL),
    ("(this.rank = 1) = this.done", row(rank=b"2", done=b"f"), True),
    ("(this.rank = 1 AND this.done) IS NULL", row(rank=b"1"), True),
]


@pytest.mark.parametrize(("text", "cells", "expected"), CASES)
def test_a_predicate_is_true_false_or_null(text: str, cells: tuple[bytes | None, ...], expected: bool | None) -> None:
    where = parse(text, TABLE)
    assert where.compiled
    assert not where.can_raise
    assert where.predicate()(cells) is expected
    assert where.holds()(cells) is (expected is True)


@pytest.mark.parametrize(
    "text",
    [
        "this.title < 'b'",
        "this.title ILIKE 'a%'",
        "lower(this.title) = 'a'",
        "this.rank + 1 > 3",
        "this.rank / this.small = 1",
        "this.title LIKE 'a\\'",
        "this.title LIKE '" + "_" * 100 + "'",
        "this.title LIKE this.short",
        "this.title ~ '(a+)+$'",
        "this.at > 'yesterday'",
        "this.day = '01/02/2024'",
        "this.rank = 'x'",
        "this.owner = 'x'",
        "this.mood = 'furious'",
        "this.single > 0.1",
        "this.doc ->> 'a' = 'b'",
        "this.rank::int2 = 1",
        "this.ratio > 1e400",
        "this.day = this.moment",
        "this.rank",
        "this.rank = ANY ('{}')",
        "this.rank = ANY ('{1,NULL}')",
        "this.rank < ANY ('{1}')",
        "this.title = ANY ('{\"a\"}')",
        "this.owner = ANY (ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'])",
        "'true'",
    ],
)
def test_what_is_not_certain_is_left_to_postgres(text: str) -> None:
    assert not parse(text, TABLE).compiled


def with_collations(**collations: Collation) -> TableInfo:
    return replace(TABLE, collations=collations)


def test_texts_of_a_collation_with_its_own_equality_are_left_to_postgres() -> None:
    table = with_collations(title=Collation("ci", deterministic=False, ascii_case=True))
    where = parse("this.title = 'x'", table)
    assert (where.compiled, where.equalities) == (False, ())
    assert not parse("this.title ILIKE 'x'", table).compiled
    assert parse("this.title IS NULL", table).compiled
    assert parse("this.short = 'x'", table).compiled


def test_texts_are_compared_in_order_where_that_is_the_order_of_their_bytes() -> None:
    table = with_collations(title=Collation(by_bytes=True), Col=Collation('"C"', by_bytes=True))
    assert parse("this.title < 'b' AND this.title >= this.\"Col\"", table).compiled
    assert parse("this.title < 'b'", table).predicate()(row(title=b"aa")) is True
    assert not parse("this.short < 'b'", table).compiled


def test_texts_of_two_collations_are_not_compared() -> None:
    table = with_collations(title=Collation("one", by_bytes=True), short=Collation("two", by_bytes=True))
    assert not parse("this.title = this.short", table).compiled
    assert not parse("this.title < this.short", table).compiled
    assert not parse("COALESCE(this.title, this.short) = 'x'", table).compiled
    assert parse("this.title = this.\"Col\" AND this.short = 'x'", table).compiled


def test_case_is_that_of_ascii_or_postgres_is_asked() -> None:
    table = with_collations(title=Collation(ascii_case=True))
    for text in ("this.title ILIKE 'aB%'", "lower(this.title) = 'abc'", "upper(COALESCE(this.title, '')) LIKE 'ABC%'"):
        where = parse(text, table)
        assert (where.compiled, where.can_raise) == (True, False)
        assert where.predicate()(row(title=b"AbC")) is True
        assert where.holds()(row(title=b"x")) is False
        for function in (where.predicate(), where.holds()):
            with pytest.raises(Undecided):
                function(row(title="abcÄ".encode()))
    assert parse("this.title NOT ILIKE 'a%'", table).predicate()(row()) is None
    assert not parse("this.title ILIKE 'ä%'", table).compiled
    assert not parse("this.short ILIKE 'a%'", table).compiled


def test_postgres_is_asked_about_a_label_from_after_the_description_where_its_place_matters() -> None:
    where = parse("this.mood > 'sad'", TABLE)
    with pytest.raises(Undecided, match="furious"):
        where.predicate()(row(mood=b"furious"))
    assert parse("this.mood = 'sad'", TABLE).predicate()(row(mood=b"furious")) is False


EQUALITIES = [
    ("this.rank = 5", {"rank": {b"5"}}),
    ("this.rank = '5' AND this.title = 'x'", {"rank": {b"5"}, "title": {b"x"}}),
    ("this.rank IN (1, 2, NULL) AND this.rank IN (2, 3)", {"rank": {b"2"}}),
    ("this.rank = ANY ('{1,2}') AND this.title <> ALL ('{a}')", {"rank": {b"1", b"2"}}),
    ("this.rank = 1 OR this.rank = 2", {"rank": {b"1", b"2"}}),
    ("this.rank = 1 AND this.done OR this.rank = 2", {"rank": {b"1", b"2"}}),
    ("this.rank = 1 OR this.title = 'x'", {}),
    ("this.rank = 1 AND this.title ILIKE 'x%' AND this.day > 'today'", {"rank": {b"1"}}),
    ("this.done AND NOT this.rank = 1", {"done": {b"t"}}),
    ("NOT this.done", {"done": {b"f"}}),
    ("this.done IS TRUE", {"done": {b"t"}}),
    ("(this.rank = 3) IS TRUE", {"rank": {b"3"}}),
    ("this.done IS NOT TRUE", {}),
    ("this.mood = 'ok'", {"mood": {b"ok"}}),
    ("this.owner = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", {"owner": {b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}}),
    ("this.rank <> 1", {}),
    ("this.rank NOT IN (1)", {}),
    ("this.rank = this.id", {}),
    ("this.rank = NULL", {}),
    ("this.ratio = 1", {}),
    ("this.rank > 1", {}),
    ("this.rank = 1 + 1", {}),
]


@pytest.mark.parametrize(("text", "expected"), EQUALITIES)
def test_equalities_are_what_a_clause_implies(text: str, expected: dict[str, set[bytes]]) -> None:
    found = parse(text, TABLE).equalities
    assert {column: set(cells) for column, cells in found} == expected
    assert [column for column, _ in found] == sorted(expected)


NESTED = {
    "NOT": "NOT (" * 25 + "this.done AND this.rank = 1" + " OR this.done)" * 25,
    "COALESCE": "COALESCE(" * 14 + "this.rank" + ", this.id)" * 14 + " = 1",
    "CASE": "CASE WHEN this.done THEN " * 12 + "this.rank" + " ELSE this.id END" * 12 + " = 1",
    "NULLIF": "(" * 13 + "this.done" + " = this.done)" * 13,
    "tests": "(" * 14 + "this.done" + " IS NOT UNKNOWN)" * 14,
    "both": "NOT (" * 20 + "COALESCE(" * 13 + "this.rank" + ", this.id)" * 13 + " = 1" + " OR this.done)" * 20,
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_as_deep_as_may_be_is_still_a_program(name: str) -> None:
    where = parse(NESTED[name], TABLE)
    assert where.compiled
    assert where.predicate()(row(id=b"1", rank=b"1", done=b"t")) in (True, False, None)
    assert where.holds()(row(id=b"1", done=b"f")) in (True, False)


@pytest.mark.parametrize(
    ("text", "can_raise"),
    [
        ("this.title ILIKE 'ä%' AND this.doc ->> 'a' = 'b'", False),
        ("this.doc -> 'a' #>> '{b}' LIKE 'x' OR this.doc ? 'a'", False),
        ("lower(this.title) < 'b' AND this.single > '0.1' AND this.mood IN ('ok', NULL)", False),
        ("this.title ILIKE 'ä\\'", True),
        ("this.title ILIKE 'ä\\\\'", False),
        ("this.plain ->> 'a' = 'b'", True),
        ("this.title ~ 'a'", True),
        ("1 / this.rank = 1 OR this.done", True),
        ("this.title < this.short", True),
        ("NOT this.doc @> '1' AND this.rank + 1 > 0", True),
    ],
)
def test_whether_a_clause_can_raise_an_error_is_known_without_postgres(text: str, can_raise: bool) -> None:
    where = parse(text, TABLE)
    assert (where.compiled, where.can_raise) == (False, can_raise)


def test_what_is_nested_deeper_is_left_to_postgres() -> None:
    assert not parse("COALESCE(" * 30 + "this.rank" + ", this.id)" * 30 + " = 1", TABLE).compiled


def test_a_pattern_made_to_take_for_ever_does_not() -> None:
    pattern = "%" + "%".join(random.Random(1).choices(["a", "aa", "ab"], k=2_000)) + "%b"
    matches = parse(f"this.title LIKE '{pattern}'", TABLE).predicate()
    assert matches(row(title=b"a" * 100_000)) is False
    wild = parse("this.title LIKE '" + "%a_a" * 15 + "%b'", TABLE).predicate()
    assert wild(row(title=b"a" * 100_000)) is False


def test_text_of_a_clause_is_never_text_of_a_program() -> None:
    name = '"'
    table = TABLE
    where = parse("this.title = ') or __import__(''os'').abort() or (' AND this.\"Col\" LIKE '%{0}\"%'", table)
    assert where.predicate()(row(title=b"x", Col=name.encode())) is False
