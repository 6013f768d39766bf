"""What a where clause may be, and what its writer is told when it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.shapes.where_scene import TABLE

from syncline.actors.shapes.where import WhereRefused, parse
from syncline.actors.shapes.where.bounds import DEPTH_MAX, SIZE_MAX, TEXT_BYTES_MAX

EVERYTHING = [
    "this.rank = 1 AND this.title <> 'x' OR NOT this.done",
    "this.rank IN (1, 2, NULL) AND this.title NOT IN ('a', 'b')",
    "this.rank BETWEEN 1 AND 9 AND this.rank NOT BETWEEN SYMMETRIC 7 AND 3",
    "this.title IS NULL OR this.rank IS NOT NULL",
    "this.done IS TRUE OR this.done IS NOT FALSE OR this.done IS UNKNOWN OR this.done IS NOT UNKNOWN",
    "this.rank IS DISTINCT FROM 3 AND this.title IS NOT DISTINCT FROM NULL",
    "this.title LIKE 'a!%b%' ESCAPE '!' AND this.title NOT ILIKE '_x' AND this.title LIKE this.short ESCAPE ''",
    "this.rank + this.small * 2 - -this.big / 3 % 5 > @ this.rank AND this.rank & 3 | 4 # 1 = ~this.rank << 2 >> 1",
    "this.rank::text = '1' AND CAST(this.title AS int4) > 2 AND this.ratio::numeric(10,2) = 1.5",
    "CASE WHEN this.done THEN 'a' WHEN this.rank > 3 THEN 'b' END = 'a'",
    "CASE this.rank WHEN 1 THEN true ELSE false END",
    "COALESCE(this.title, this.short, '') = NULLIF(this.title, 'x') AND GREATEST(this.rank, 3) > LEAST(this.small, 4)",
    "lower(this.title) || upper(this.short) = trim(both ' ' from this.title) AND position('a' in this.title) > 1",
    "substring(this.title from 2 for 3) = 'abc' AND overlay(this.title placing 'x' from 1) = 'y'",
    "this.at > timestamptz '2024-01-01' + interval '1 day' AND this.day - date '2024-01-01' < 30",
    "this.at AT TIME ZONE 'Europe/Vienna' > '2024-01-01' AND extract(year from this.day) = 2024",
    "date_trunc('day', this.moment) = '2024-01-01' AND this.moment < '2024-01-01'::date + this.clock",
    "this.moment - interval '1-2' year to month > '2024-01-01' AND make_interval(days => 3) > interval(3) '1 hour'",
    "this.mood > 'sad' AND this.mood IN ('ok', 'it''s fine')",
    "this.doc -> 'a' ->> 'b' = 'c' AND this.doc #> '{a,b}' = '1' AND this.doc @> '{\"a\": 1}' AND this.doc ? 'a'",
    "this.doc ?| ARRAY['a', 'b'] AND this.doc ?& '{a,b}' AND this.doc['a'] = '1'",
    "this.rank = ANY ('{1,2}') AND this.title <> ALL (ARRAY['a', 'b']) AND (string_to_array(this.title, ','))[1] = 'a'",
    "(string_to_array(this.title, ','))[1:2] = '{a,b}' AND this.title ~ '^a' AND this.title !~* 'b$'",
    "this.title SIMILAR TO '(a|b)%' AND this.title COLLATE \"C\" < 'b' AND this.rank OPERATOR(pg_catalog.=) 3",
    "this.raw = '\\x00ff' AND this.\"Col\" = E'\\n' AND this.title = $$it's$$ AND this.title = U&'\\0061'",
    "this.big = 9223372036854775807 AND this.rank > -2147483648 AND this.ratio > 1.5e3 AND this.rank = 0x1F",
    "/* a comment */ this.rank = 1 -- and another",
]


@pytest.mark.parametrize("text", EVERYTHING)
def test_a_clause_is_read_and_its_one_form_reads_as_itself(text: str) -> None:
    where = parse(text, TABLE)
    assert parse(where.canonical, TABLE) == where
    assert where.columns
    assert where.sql("t") == where.canonical.replace("this.", "t.")


REFUSED = [
    ("", "empty", None, "every row"),
    ("  ", "empty", None, "every row"),
    ("rank = 1", "columns are written with this", 1, "write this.rank"),
    ("true AND titel = 'x'", "columns are written with this", 10, "write this.title"),
    ("this.col = 'x'", "no column col", 1, 'write this."Col"'),
    ("this.done AND this.nonsense = 1", "no column nonsense", 15, "there are id, title"),
    ("this.ctid IS NULL", "no column ctid", 1, ""),
    ("other.id = 1", "its own table", 1, "this.id"),
    ("this.id.x = 1", "no fields", 1, ""),
    ("this IS NULL", "whole rows", 1, ""),
    ("this.* IS NULL", "whole rows", 1, ""),
    ("this.rank = $1", "parameters", 13, "the value itself"),
    ("this.rank = ?", "syntax error", None, ""),
    ("this.rank IN (SELECT 1)", "subquery", 11, "include"),
    ("EXISTS (SELECT FROM pg_class)", "subquery", 1, "include"),
    ("this.rank = (SELECT max(id) FROM items)", "subquery", 13, "include"),
    ("count(*) > 1", "aggregate", 1, ""),
    ("sum(this.rank) > 1", "aggregate", 1, ""),
    ("max(DISTINCT this.rank) > 1", "aggregate", 1, ""),
    ("rank() OVER () = 1", "window function", 1, ""),
    ("abs(this.rank) OVER (PARTITION BY this.id) = 1", "window function", 1, ""),
    ("this.at > now()", "something else each time", 11, "literal"),
    ("this.day = CURRENT_DATE", "CURRENT_DATE changes", 12, "literal"),
    ("this.at < LOCALTIMESTAMP(3)", "LOCALTIMESTAMP changes", 11, "literal"),
    ("this.title = CURRENT_USER", "of a session", 14, ""),
    ("age(this.at) > '1 day'", "something else each time", 1, "age(a, b)"),
    ("random() < 0.5", "something else each time", 1, ""),
    ("this.rank = 1; DROP TABLE items", "semicolon", 14, ""),
    ("this.rank = 1;", "semicolon", 14, ""),
    ("this.title = 'é€😀' AND this.rank = 1;", "semicolon", 37, ""),
    ("this.rank = 1 ORDER BY this.rank", "ORDER BY", 15, ""),
    ("this.rank = 1 LIMIT 3", "LIMIT", 15, ""),
    ("this.rank = 1 GROUP BY this.rank", "GROUP BY", 15, ""),
    ("this.rank = 1 UNION SELECT 1", "UNION", 15, ""),
    ("this.rank = 1 FOR UPDATE", "FOR", 15, ""),
    ("this.rank = 1) OR (true", "syntax error", 14, ""),
    ("this.rank =", "syntax error at end of input", 12, ""),
    ("this.title = 'x", "unterminated quoted string", 14, ""),
    ("this.title = 'é€😀' AND = 3", "syntax error", 24, ""),
    ("(this.id, this.rank) = (1, 2)", "several values", 1, "column by column"),
    ("concat(VARIADIC ARRAY['a'])= 'a'", "VARIADIC", 1, ""),
    ("B'101' = this.rank", "bit string", 1, ""),
    ("this.doc IS JSON", "cannot contain this", 1, ""),
    ("this.title LIKE 'a' ESCAPE 'xy'", "one character", 28, ""),
    ("this.title = '\0'", "U+0000", 15, ""),
    ("this.title = '\ud800'", "surrogate", 15, ""),
]


@pytest.mark.parametrize(("text", "message", "position", "hint"), REFUSED)
def test_what_is_refused_is_refused_with_the_reason_the_place_and_a_hint(
    text: str, message: str, position: int | None, hint: str
) -> None:
    with pytest.raises(WhereRefused) as refused:
        parse(text, TABLE)
    assert message in refused.value.message
    assert position is None or refused.value.position == position
    assert hint in refused.value.hint
    assert refused.value.message in str(refused.value)
    assert refused.value.hint in str(refused.value)
    assert refused.value.position is None or f"at character {refused.value.position}" in str(refused.value)


BOMBS = {
    "text": "this.title = '" + "x" * TEXT_BYTES_MAX + "'",
    "NOT": "NOT " * 15_000 + "this.done",
    "+": "this.rank" + " + this.rank" * 5_000 + " = 1",
    "(": "(" * 30_000 + "this.done" + ")" * 30_000,
    "nested calls": "abs(" * (DEPTH_MAX + 5) + "1" + ")" * (DEPTH_MAX + 5) + " = 1",
    "casts": "this.rank" + "::int" * 8_000,
    "subscripts": "(string_to_array(this.title, ','))" + "[1]" * (DEPTH_MAX + 5) + " = 'a'",
    "between": "(" * 20 + "this.done" + " BETWEEN true AND false)" * 20,
    "between symmetric": "(" * 10 + "this.done" + " BETWEEN SYMMETRIC true AND false)" * 10,
    "in": "(" * 20 + "this.done" + " IN (this.done, this.done))" * 20,
    "list": "this.rank IN (" + "1," * SIZE_MAX + "1)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_clause_without_measure_is_refused(name: str) -> None:
    with pytest.raises(WhereRefused):
        parse(BOMBS[name], TABLE)


def test_a_clause_of_many_alternatives_is_fine() -> None:
    assert parse(" OR ".join(f"this.rank = {i}" for i in range(400)), TABLE).compiled
    assert parse(f"this.rank IN ({','.join(map(str, range(5_000)))})", TABLE).compiled


SAME = [
    ("this.title = 'x'", "  this . \"title\"='x'"),
    ("this.title = 'x'", "((THIS.TITLE) = ('x'))"),
    ("this.title = 'x'", "'x' = this.title"),
    ("this.title = 'x'", "this.title IN ('x')"),
    ("this.title = 'x'", "this.title = U&'\\0078'"),
    ("this.title = 'x'", "this.title = $q$x$q$ /* so */"),
    ("this.title <> 'x'", "this.title != 'x'"),
    ("this.title <> 'x'", "this.title NOT IN ('x', 'x')"),
    ("this.rank = 7", "this.rank = 007"),
    ("this.rank = 7", "this.rank = +7"),
    ("this.rank > 3", "3 < this.rank"),
    ("this.rank > 0.5", "this.rank > .5"),
    ("this.rank > -31", "this.rank > - 0x1F"),
    ("this.rank IN (1, 2, 3)", "this.rank IN (3, 1, 2, 2)"),
    ("this.rank = 1 AND this.done AND this.id = 3", "(this.id = 3 AND this.rank = 1) AND this.done"),
    ("this.rank = 1 OR this.done OR this.id = 3", "this.done OR (this.id = 3 OR this.rank = 1)"),
    ("this.rank >= 1 AND this.rank <= 3", "this.rank BETWEEN 1 AND 3"),
    ("this.rank = 1", "this.rank = 1 AND this.rank = 1"),
    ("this.title LIKE 'a!%' ESCAPE '!'", "this.title LIKE 'a\\%'"),
    ("this.rank::int8 > 3", "CAST(this.rank AS bigint) > 3"),
    ("this.rank::int > 3", "this.rank::pg_catalog.int4 > 3"),
    ("this.title ILIKE 'a%' AND this.done", "this.done AND this.title ILIKE 'a%'"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_clause_are_one_clause(one: str, other: str) -> None:
    assert parse(one, TABLE) == parse(other, TABLE)
    assert hash(parse(one, TABLE)) == hash(parse(other, TABLE))


def test_a_clause_is_remembered_for_the_very_table_it_was_read_for() -> None:
    where = parse("this.rank = 1", TABLE)
    assert parse("this.rank = 1", TABLE) is where
    wider = replace(TABLE, enum_labels={})  # as after a new reading of the catalogue
    assert parse("this.rank = 1", wider) is not where
    assert parse("this.mood > 'sad'", TABLE).compiled
    assert not parse("this.mood > 'sad'", wider).compiled


DIFFERENT = [
    ("this.title = 'x'", "this.title = 'X'"),
    ("this.title = 'x'", "this.\"Col\" = 'x'"),
    ("this.rank = 1", "this.rank = 1.0"),
    ("this.rank = 1 AND this.done OR this.id = 2", "this.rank = 1 AND (this.done OR this.id = 2)"),
    ("1 / this.rank > 2 AND this.rank <> 0", "this.rank <> 0 AND 1 / this.rank > 2"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_clauses_that_may_differ_are_two(one: str, other: str) -> None:
    assert parse(one, TABLE) != parse(other, TABLE)


@pytest.mark.parametrize("text", ["x'; DROP TABLE items; --", "\\'; --", "\\", "''", '"', "$$", "a\nb"])
def test_a_literal_stays_one_in_the_sql(text: str) -> None:
    quoted = text.replace("'", "''")
    where = parse(f"this.title = '{quoted}'", TABLE)
    assert parse(where.sql("this"), TABLE) == where
    assert where.equalities == (("title", frozenset({text.encode()})),)
