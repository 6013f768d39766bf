"""CHECKs as SQLite conditions, with Postgres as the oracle: what a device refuses, Postgres refuses.

``SYNCLINE_CHECK_EXAMPLES=5000 .venv/bin/python -m pytest tests/property/test_postgres_checks.py`` looks longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterator
from random import Random
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import fresh_database
from tests.property.check_expressions import BASE, COLUMNS, LABELS, VALUES, Checks, row

from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.checks import checks
from syncline.actors.postgres.checks.constraints import condition
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.typemap import SESSION_SETTINGS, sqlite_type
from syncline.client.cells import Value, encoder
from syncline.proto.conditions import FUNCTIONS
from syncline.proto.patterns import PatternRefused, pattern

EXAMPLES = int(os.environ.get("SYNCLINE_CHECK_EXAMPLES", "250"))
ROWS = 12
RANDOMS = st.integers(0, 2**64).map(Random)
SETTINGS = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)

_LABELS = ", ".join("'" + label.replace("'", "''") + "'" for label in LABELS)
SCHEMA = f"""
CREATE TYPE mood AS ENUM ({_LABELS});
CREATE DOMAIN years AS int4;
CREATE TABLE checked ({", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())});
CREATE FUNCTION verdict(cells text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO checked SELECT {
    ", ".join(f"(cells[{i}])::{BASE.get(kind, kind)}" for i, kind in enumerate(COLUMNS.values(), 1))
};
    RAISE EXCEPTION 'undone' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN RETURN 'passes';
WHEN check_violation THEN RETURN 'refused';
WHEN string_data_right_truncation THEN RETURN 'too long';
WHEN OTHERS THEN RETURN SQLSTATE;
END
$$;
"""


class Oracle:
    """A table in Postgres and the same on a device."""

    def __init__(self, runner: asyncio.Runner, dsn: str) -> None:
        self._run = runner.run
        self._run(bootstrap(dsn))
        self.connection: asyncpg.Connection = self._run(asyncpg.connect(dsn, server_settings=SESSION_SETTINGS))
        self.execute(SCHEMA)
        self.device = sqlite3.connect(":memory:", isolation_level=None)
        for name, (arguments, function) in FUNCTIONS.items():
            self.device.create_function(name, arguments, function)
        types = {
            name: BASE.get(kind, kind).replace("years", "int4").replace("text[]", "_text")
            for name, kind in COLUMNS.items()
        }
        columns = ", ".join(f'"{name}" {sqlite_type(kind)}' for name, kind in types.items())
        self.device.execute(f"CREATE TABLE checked ({columns})")
        self._encoders = [(kind, encoder(kind)) for kind in types.values()]

    def execute(self, sql: str) -> None:
        self._run(self.connection.execute(sql))

    def fetchval(self, sql: str, *args: object) -> Any:
        return self._run(self.connection.fetchval(sql, *args))

    def write(self, values: dict[str, object]) -> str:
        """On the device, and in Postgres what it sends; what that says."""
        self.device.execute("DELETE FROM checked")
        self.device.execute(f"INSERT INTO checked VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
        (held,) = self.device.execute("SELECT * FROM checked")
        return str(
            self.fetchval("SELECT verdict($1)", [self._text(*pair) for pair in zip(self._encoders, held, strict=True)])
        )

    @staticmethod
    def _text(typed: tuple[str, Any], value: Value) -> str | None:
        kind, encode = typed
        cell = encode(value)
        if cell is None:
            return None
        return "\\x" + cell.hex() if kind == "bytea" else cell.decode()

    def holds(self, sql: str) -> bool:
        """On the device: the row is not refused."""
        (value,) = self.device.execute(f"SELECT {sql} FROM checked AS new").fetchone()
        return value is None or bool(value)

    def judged(self, sql: str) -> object:
        """What Postgres says of an expression without columns; None for an error."""
        try:
            return self.fetchval(f"SELECT {sql}")
        except asyncpg.PostgresError:
            return None


@pytest.fixture(scope="module")
def oracle(postgres: EmbeddedPostgres) -> Iterator[Oracle]:
    with asyncio.Runner() as runner:
        database = fresh_database(postgres)
        oracle = Oracle(runner, runner.run(database.__aenter__()))
        yield oracle
        oracle.device.close()
        runner.run(oracle.connection.close())
        runner.run(database.__aexit__(None, None, None))


def test_a_device_refuses_nothing_that_postgres_takes(oracle: Oracle) -> None:
    """And what is said to be exact it refuses all of."""
    counts = {"translated": 0, "exact": 0, "refused": 0}

    @SETTINGS
    @given(RANDOMS)
    def agree(random: Random) -> None:
        expression = Checks(random).condition(random.randint(0, 3))
        try:
            oracle.execute(f"ALTER TABLE checked ADD CONSTRAINT tried CHECK ({expression})")
        except asyncpg.PostgresError:
            return  # it compares what cannot be compared
        try:
            (check,) = json.loads(oracle.fetchval("SELECT electric.checks('checked'::regclass)")) or [None]
            found = None if check is None else condition(check, frozenset(COLUMNS))
            if found is None:
                return
            counts["translated"] += 1
            counts["exact"] += found.exact
            for _ in range(ROWS):
                values = row(random)
                verdict = oracle.write(values)
                holds = oracle.holds(found.sql)
                context = (expression, found.sql, {name: values[name] for name in found.columns}, verdict)
                if not holds:
                    assert verdict != "passes", context
                    counts["refused"] += 1
                elif found.exact and not any(
                    isinstance(values[name], str) and COLUMNS[name] != "text" for name in found.columns
                ):
                    assert verdict != "refused", context
        finally:
            oracle.execute("ALTER TABLE checked DROP CONSTRAINT tried")

    agree()
    assert min(counts.values()) > EXAMPLES / 10, counts


PATTERN_PARTS = (
    *(
        "a",
        "b",
        "-",
        "1",
        ".",
        "^",
        "$",
        "|",
        "(",
        ")",
        "(?:",
        "*",
        "+",
        "?",
        "*?",
        "{2}",
        "{1,}",
        "{0,2}",
        "{,2}",
        "[ab]",
    ),
    *(
        "[^a]",
        "[a-c]",
        "[]-]",
        "[[:digit:]b]",
        "[^[:space:]]",
        "\\d",
        "\\W",
        "\\.",
        "\\s",
        "\\n",
        "ü",
        "[a\\]]",
        "[\\w-]",
    ),
)
TEXTS = st.text(alphabet="ab-1. \nAüß", max_size=6)


def test_a_pattern_means_what_it_means_to_postgres(oracle: Oracle) -> None:
    """Whatever is read at all is one that Postgres reads, too."""
    known = 0

    @SETTINGS
    @given(
        st.lists(st.sampled_from(PATTERN_PARTS), max_size=8).map("".join), st.lists(TEXTS, max_size=6), st.booleans()
    )
    def agree(text: str, subjects: list[str], any_case: bool) -> None:
        nonlocal known
        try:
            compiled = pattern(text, any_case=any_case)
        except PatternRefused:
            return
        known += 1
        for subject in subjects:
            said = oracle.fetchval(f"SELECT $1::text {'~*' if any_case else '~'} $2::text", subject, text)
            assert compiled.matches(subject) in (None, said), (text, subject, said)

    agree()
    assert known > EXAMPLES / 20


@pytest.mark.parametrize("kind", ["varchar(4)", "char(3)", "numeric(6,2)"])
def test_a_length_or_a_precision_refuses_nothing_that_postgres_takes(oracle: Oracle, kind: str) -> None:
    (name,) = (name for name, its in COLUMNS.items() if its == kind)
    described = json.loads(oracle.fetchval("SELECT electric.describe('checked'::regclass)"))
    (check,) = (check for check in checks(described, "checked") if check.columns == (name,))
    refused = 0
    for value in (None, *VALUES[kind]):
        verdict = oracle.write({**dict.fromkeys(COLUMNS), name: value})
        if not oracle.holds(check.condition):
            assert verdict in ("too long", "22003"), (value, verdict)
            refused += 1
        else:
            assert verdict != "too long", value
    assert refused
