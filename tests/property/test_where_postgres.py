"""Where clauses as Python and as SQL, with Postgres as the oracle: random clauses over random rows against SELECT.

``SYNCLINE_WHERE_EXAMPLES=5000 .venv/bin/python -m pytest tests/property/test_where_postgres.py`` looks longer.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import fresh_database
from tests.property.where_clauses import (
    COLUMNS,
    DESCRIPTION,
    INTEGERS,
    LABELS,
    SPELLINGS,
    SQL_TYPES,
    Clauses,
    cells,
    quoted,
    row,
    sql_rows,
)

from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.catalog import TableInfo, load_catalog, table_info
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.typemap import SESSION_SETTINGS
from syncline.actors.postgres.where_sql import evaluate
from syncline.actors.shapes.where import Undecided, Where, parse
from syncline.proto.values import Row

EXAMPLES = int(os.environ.get("SYNCLINE_WHERE_EXAMPLES", "60"))
RANDOMS = st.integers(0, 2**64).map(Random)


async def _pool(dsn: str) -> asyncpg.Pool:
    return await asyncpg.create_pool(dsn, min_size=1, server_settings=SESSION_SETTINGS)


class Session:
    """A connection under our session settings, driven from synchronous tests."""

    def __init__(self, runner: asyncio.Runner, dsn: str) -> None:
        self._runner = runner
        self.run(bootstrap(dsn))
        self.pool: asyncpg.Pool = self.run(_pool(dsn))
        labels = ", ".join("'" + label.replace("'", "''") + "'" for label in LABELS)
        self.run(self.pool.execute(f"CREATE TYPE mood AS ENUM ({labels})"))
        self.table = self.run(self._table())

    async def _table(self) -> TableInfo:
        """The table that rows are of; about collations the database is asked."""
        local = await self.pool.fetchval(
            "SELECT quote_ident(collname) FROM pg_collation"
            " WHERE collname = ANY ($1) AND collencoding IN (-1, pg_char_to_encoding('UTF8'))"
            " ORDER BY array_position($1, collname::text) LIMIT 1",
            ["en-x-icu", "en_US.utf8", "de_DE.utf8", "C.utf8"],
        )
        if local is not None:
            SQL_TYPES["local"] = f"text COLLATE {local}"
        await self.pool.execute(f"""
            CREATE TABLE texts (id int PRIMARY KEY, any_other text, posix text COLLATE "C", local {SQL_TYPES["local"]});
            CALL electric.electrify('public.texts');
        """)
        texts = (await load_catalog(self.pool)).named("texts")
        assert texts is not None
        collations = {
            name: texts.collations[name if name in ("posix", "local") else "any_other"]
            for name, kind in COLUMNS.items()
            if kind in ("text", "varchar")
        }
        assert all(collation.ascii_case for collation in collations.values())
        return replace(table_info(DESCRIPTION), collations=collations, sql_types=SQL_TYPES)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self.pool.close())

    def answers(self, conditions: Sequence[str], rows: Sequence[Row]) -> list[tuple[bool | None, ...]]:
        """For each row what Postgres makes of each condition."""
        query, arguments = sql_rows(rows)
        wanted = ", ".join(f"({condition})" for condition in conditions)
        return [tuple(row) for row in self.run(self.pool.fetch(f"SELECT {wanted} FROM ({query}) this", *arguments))]

    def answer(self, condition: str, row: Row) -> bool:
        """Whether it is true for the row; an error is as good as false."""
        try:
            return self.answers([condition], [row])[0][0] is True
        except asyncpg.DataError:
            return False


@pytest.fixture(scope="module")
def session(postgres: EmbeddedPostgres) -> Iterator[Session]:
    with asyncio.Runner() as runner:
        database = fresh_database(postgres)
        session = Session(runner, runner.run(database.__aenter__()))
        yield session
        session.close()
        runner.run(database.__aexit__(None, None, None))


def check_row(where: Where, row: Row, answer: bool | None) -> bool:
    """Python says what Postgres says, or that it has to be asked, about a text that is not ASCII: whether so."""
    try:
        assert where.predicate()(row) is answer, (where.canonical, row, answer)
        assert where.holds()(row) is (answer is True), (where.canonical, row, answer)
    except Undecided:
        texts = [where.canonical.encode(), *(row[list(COLUMNS).index(name)] for name in where.columns)]
        assert not all(text is None or text.isascii() for text in texts), (where.canonical, row)
        return True
    return False


def check_equalities(where: Where, rows: Sequence[Row], answers: Sequence[bool | None]) -> int:
    """A row that the clause is true for has one of the cells named. How many were looked at."""
    for one, inside in zip(rows, answers, strict=True):
        if inside:
            for column, cells in where.equalities:
                assert one[list(COLUMNS).index(column)] in cells, (where.canonical, column, cells, one)
    return len(where.equalities) * sum(map(bool, answers))


def test_python_and_both_spellings_say_what_postgres_says(session: Session) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES)
    @given(RANDOMS)
    def check(random: Random) -> None:
        clauses = Clauses(random)
        rows = [row(random) for _ in range(12)]
        texts = [clauses.boolean(random.randint(0, 3)) for _ in range(8)]
        wheres = [parse(text, session.table) for text in texts]
        seen["clauses"] += len(wheres)
        wanted = [(text, where) for text, where in zip(texts, wheres, strict=True) if where.compiled]
        seen["compiled"] += len(wanted)
        if not wanted:
            return
        conditions = [part for text, where in wanted for part in (text, where.sql("this"))]
        answers = session.answers(conditions, rows)
        for place, (text, where) in enumerate(wanted):
            written = [answer[2 * place] for answer in answers]
            assert [answer[2 * place + 1] for answer in answers] == written, (text, where.canonical)
            for one, answer in zip(rows, written, strict=True):
                seen["undecided"] += check_row(where, one, answer)
            seen["equalities"] += check_equalities(where, rows, written)
            seen.update({f"answer {answer}": 1 for answer in written})
            assert parse(where.canonical, session.table) == where

    check()
    assert seen["compiled"] > seen["clauses"] * 0.5, seen
    assert min(seen[f"answer {answer}"] for answer in (True, False, None)) > seen["compiled"] * 0.1, seen
    assert min(seen["equalities"], seen["undecided"]) > 0, seen


def _check_all(session: Session, texts: Sequence[str], rows: Sequence[Row]) -> int:
    """Asks Postgres about each clause that is compiled. How many there were."""
    wanted = [(text, where) for text in texts if (where := parse(text, session.table)).compiled]
    answers = session.answers([text for text, _ in wanted], rows)
    for place, (_, where) in enumerate(wanted):
        for one, answer in zip(rows, answers, strict=True):
            check_row(where, one, answer[place])
    return len(wanted)


def _row(**cells: bytes | None) -> Row:
    return tuple(cells.get(name) for name in COLUMNS)


@pytest.mark.parametrize(
    "name",
    [
        *("rank", "big", "title", "posix", "local", "done", "owner", "mood", "day", "clock", "moment", "at", "ratio"),
        "raw",
    ],
)
def test_every_value_compares_with_every_literal_as_in_postgres(session: Session, name: str) -> None:
    kind = COLUMNS[name]
    literals = [quoted("\\x" + one.hex() if kind == "bytea" else one.decode()) for one in cells(kind)]
    if kind in INTEGERS:
        literals += [*(literal.strip("'") for literal in literals), "0.5", "6.99", "7.0", "-1.5", "1e1"]
    if kind in ("date", "timestamp", "timestamptz"):
        literals += [quoted(text) for text in SPELLINGS]
    texts = [f"this.{name} {operator} {literal}" for operator in ("<", "=", ">=", "<>") for literal in literals]
    texts += [f"{literal} <= this.{name}" for literal in literals]
    texts += [f"this.{name} IS NOT DISTINCT FROM {literal}" for literal in literals]
    if kind == "text":
        texts += [f"{case}(this.{name}) = {literal}" for case in ("lower", "upper") for literal in literals]
    rows = [_row(**{name: one}) for one in (*cells(kind), None)]
    assert _check_all(session, texts, rows) >= len(texts) // 4


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("day", "born"), ("moment", "until"), ("at", "due"), ("ratio", "share"), ("mood", "other_mood")),
        *(("owner", "friend"), ("done", "seen"), ("rank", "small"), ("rank", "big")),
        ("title", "posix"),
    ],
)
def test_every_value_compares_with_every_other_as_in_postgres(session: Session, name: str, other: str) -> None:
    left, right = (*cells(COLUMNS[name]), None), (*cells(COLUMNS[other]), None)
    rows = [_row(**{name: one, other: another}) for one in left for another in right]
    texts = [f"this.{name} {operator} this.{other}" for operator in ("<", "<=", "=", "<>", ">", ">=")]
    texts.append(f"this.{name} IS DISTINCT FROM this.{other}")
    assert _check_all(session, texts, rows) == len(texts)


def test_every_short_pattern_matches_what_it_matches_in_postgres(session: Session) -> None:
    subjects = ["".join(letters) for size in range(5) for letters in product("ab", repeat=size)]
    patterns = ["".join(letters) for size in range(5) for letters in product("ab%_", repeat=size)]
    patterns += ["%aa%aa%", "%ab%ab%", "a%ab%b", "%a_%b", "%_b%a", "a_%_b", "%ba%b%a"]
    texts = [f"this.title LIKE {quoted(pattern)}" for pattern in patterns]
    assert _check_all(session, texts, [_row(title=subject.encode()) for subject in subjects]) == len(texts)

    texts = [f"this.local ILIKE {quoted(pattern)}" for pattern in ("A", "aB%", "_b", "%BA%", "B%a", "%A", "")]
    texts += [f"{case}(this.local) {test}" for case in ("lower", "upper") for test in ("= 'ab'", "LIKE 'AB%'", "<> ''")]
    subjects = ["".join(letters) for size in range(4) for letters in product("aAbB", repeat=size)]
    assert _check_all(session, texts, [_row(local=subject.encode()) for subject in subjects]) == len(texts)


def test_every_division_is_that_of_postgres(session: Session) -> None:
    rows = [_row(rank=one) for one in (*cells("int4"), b"-10", b"11", b"-6", None)]
    sides = [f"{symbol} {divisor}" for symbol in "/%" for divisor in (1, 2, -2, 3, -3, 7, -7, 2147483647)]
    texts = [f"this.rank {side} {test}" for side in sides for test in ("= 0", "> 0", "= 1", "= -1", "< -2")]
    texts += [f"{number} <= this.rank {side}" for side in sides for number in ("0.5", "-1.5", "2")]
    assert _check_all(session, texts, rows) == len(texts)


def test_postgres_says_of_rows_of_the_stream_what_it_says_of_rows_of_a_table(session: Session) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES)
    @given(RANDOMS)
    def check(random: Random) -> None:
        clauses = Clauses(random)
        rows = [row(random) for _ in range(6)]
        text = clauses.for_postgres()
        where = parse(text, session.table)
        assert parse(where.canonical, session.table) == where
        errors: list[int] = []
        inside = session.run(evaluate(session.pool, where, session.table, rows, lambda count, _: errors.append(count)))
        assert inside == [session.answer(text, one) for one in rows], (text, where.canonical, rows)
        assert where.can_raise or not errors, (text, rows)
        if not where.can_raise:
            assert [answer is True for (answer,) in session.answers([where.sql("this")], rows)] == inside
        check_equalities(where, rows, inside)
        seen.update(
            {"left": not where.compiled, "errors": bool(errors), "safe": not where.can_raise, "in": any(inside)}
        )

    check()
    assert min(seen[what] for what in ("left", "errors", "safe", "in")) > 0, seen
