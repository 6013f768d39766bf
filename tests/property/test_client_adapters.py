"""What a device makes of values that Postgres prints, and writes again: Postgres says whether it is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv6Address, ip_interface, ip_network
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tests.e2e.every_type import EXTENSIONS, OWN_TYPES, VALUES, types_of

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.typemap import SESSION_SETTINGS, to_wire
from syncline.client import ADAPTERS, Interval, Json, Multirange, Range
from syncline.client.cells import Value, decode_cell, decoder, encoder

ADDED = ADAPTERS.with_range("floats", of="float8")
NULL_TEXT = "CASE WHEN v IS DISTINCT FROM NULL THEN format('%s', v) END"  # a composite of NULLs IS NULL


class Oracle:
    """A Postgres that prints as it does for the service, asked from synchronous tests."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner()
        self.connection: asyncpg.Connection = self.run(asyncpg.connect(dsn, server_settings=SESSION_SETTINGS))
        there = {row["name"] for row in self.run(self.connection.fetch("SELECT name FROM pg_available_extensions"))}
        for extension in EXTENSIONS:
            if extension in there:
                self.run(self.connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}"))
        self.run(self.connection.execute(OWN_TYPES + "CREATE TABLE every ()"))
        self.types: list[str] = self.run(types_of(self.connection))

    def run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self.connection.close())
        self._runner.close()

    def printed(self, kind: str, sources: Sequence[str]) -> list[str | None]:
        """The output texts of SQL expressions of a type."""
        rows = ", ".join(f"(({source})::{kind})" for source in sources)
        query = f"SELECT {NULL_TEXT} FROM (VALUES {rows}) AS given (v)"
        return [row[0] for row in self.run(self.connection.fetch(query))]


@pytest.fixture(scope="module")
def oracle(postgres: EmbeddedPostgres) -> Iterator[Oracle]:
    with asyncio.Runner() as runner:
        shared: asyncpg.Connection = runner.run(asyncpg.connect(postgres.dsn()))
        runner.run(shared.execute("CREATE DATABASE adapters"))
        oracle = Oracle(postgres.dsn("adapters"))
        yield oracle
        oracle.close()
        runner.run(shared.execute("DROP DATABASE adapters"))
        runner.run(shared.close())


def quoted(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def device_type(kind: str) -> str:
    """As ``electric.device_type`` names it, of the types here."""
    element = kind.removesuffix("[]")
    name = {'"char"': "char", "timetz": "pg_catalog.timetz", "tempers": "_mood"}.get(element, element.partition("(")[0])
    name = {"email": "text", "small": "int2", "smaller": "int2"}.get(name, name)
    if element == kind:
        return name
    schema, dot, bare = name.removeprefix("pg_catalog.").rpartition(".")
    return f"{schema}{dot}_{bare}"


def held(pg_type: str, text: str | None) -> Value:
    """What a device has of an output text."""
    convert = to_wire(pg_type)
    cell = None if text is None else text.encode()
    value = decode_cell(decoder(pg_type), convert(cell) if convert and cell is not None else cell)
    return value + 0.0 if isinstance(value, float) else value  # SQLite has no -0.0


def sent(pg_type: str, value: Value) -> str | None:
    """The input text that Postgres is given of it."""
    cell = encoder(pg_type)(value)
    return None if cell is None else "\\x" + cell.hex() if pg_type == "bytea" else cell.decode()


def there_and_back(pg_type: str, text: str | None) -> str | None:
    return sent(pg_type, ADDED.encode(pg_type, ADDED.decode(pg_type, held(pg_type, text))))


def test_values_of_every_type_are_the_same_to_postgres_once_they_have_been_python_values(oracle: Oracle) -> None:
    for kind in oracle.types:
        values = [f"{quoted(value)}::{kind}" for value in VALUES[kind]]
        arrays = (
            f"ARRAY[{', '.join(values)}, NULL]::{kind}[]",
            f"'{{}}'::{kind}[]",
            f"array_fill({values[-1]}, '{{2,2}}', '{{0,-1}}')",
            f"array_fill({values[0]}, '{{2,2}}')",
        )
        for of, sources in ((kind, values), (f"{kind}[]", arrays)):
            printed = oracle.printed(of, sources)
            again = [there_and_back(device_type(of), text) for text in printed]
            same = oracle.printed(of, [quoted(text) for text in again])
            if "json" in of and "path" not in of:  # 1.50 is 1.5 there, and json has blanks that mean nothing
                jsonb = of.replace("jsonb", "json").replace("json", "jsonb")
                differ = " OR ".join(
                    f"{quoted(mine)}::{jsonb} IS DISTINCT FROM {quoted(theirs)}::{jsonb}"
                    for mine, theirs in zip(again, printed, strict=True)
                )
                assert not oracle.run(oracle.connection.fetchval(f"SELECT {differ}")), of
                continue
            wanted = ["0" if text == "-0" and of.startswith("float") else text for text in printed]
            assert same == wanted, of


def a_timedelta_if_it_is_one(value: Interval) -> object:
    return ADDED.decode("interval", ADDED.encode("interval", value))


def as_numbers(value: Any) -> Any:
    """JSON has numbers, of no type: those of a value as decimals."""
    match value:
        case Json(inner):
            return Json(as_numbers(inner))
        case float() | int() if not isinstance(value, bool):
            return Decimal(repr(value))
        case list():
            return list(map(as_numbers, value))
        case dict():
            return {name: as_numbers(inner) for name, inner in value.items()}
    return value


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.text(st.sampled_from('\t\n\r\f\v\\"{}[](),;NULLnull é😀.'), max_size=6)
MICROS = st.integers(-(1 << 62), 1 << 62)
OFFSETS = st.integers(-57_599, 57_599).map(lambda seconds: timezone(timedelta(seconds=seconds)))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.decimals(-(10**20), 10**20)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ADDRESSES = st.ip_addresses().map(str) | st.integers(0, 1 << 49).map(IPv6Address).map(str)
SCALARS: dict[str, SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int8": st.integers(-(1 << 63), (1 << 63) - 1),
    "float8": st.floats(allow_nan=False).filter(lambda value: str(value) != "-0.0"),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30),
    "text": TEXT | AWKWARD,
    "bytea": st.binary(max_size=8),
    "date": st.dates(),
    "time": st.times(),
    "timetz": st.times(timezones=OFFSETS),
    "timestamp": st.datetimes(),
    "timestamptz": st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS),  # noqa: DTZ001
    "interval": st.timedeltas()
    | st.builds(Interval, *[st.integers(-(1 << 31), (1 << 31) - 1)] * 2, MICROS).map(a_timedelta_if_it_is_one),
    "uuid": st.uuids(),
    "inet": (ADDRESSES | st.tuples(ADDRESSES, st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")).map(
        ip_interface
    ),
    "cidr": st.tuples(ADDRESSES, st.integers(0, 32)).map(lambda pair: ip_network(pair, strict=False)),
    "jsonb": JSON.map(lambda value: Json(value) if value is None or isinstance(value, str) else value),
    "hstore": st.dictionaries(TEXT | AWKWARD, st.none() | TEXT | AWKWARD, max_size=4),
}


def assert_the_same(oracle: Oracle, kind: str, value: object) -> None:
    """Postgres takes what is written of ``value``, and it is ``value`` again that is read of what Postgres prints."""
    name = device_type(kind)
    [printed] = oracle.printed(kind, [quoted(sent(name, ADDED.encode(name, value)))])
    again = ADDED.decode(name, held(name, printed))
    assert as_numbers(again) == as_numbers(value) if "json" in kind else again == value
    assert there_and_back(name, printed) == sent(name, held(name, printed)) or "json" in kind


@pytest.mark.parametrize("kind", SCALARS)
def test_a_python_value_comes_back_from_postgres_as_itself(oracle: Oracle, kind: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SCALARS[kind])
    def check(value: object) -> None:
        assert_the_same(oracle, kind, value)

    check()


def rectangles(parts: SearchStrategy[Any]) -> SearchStrategy[list[Any]]:
    def of(size: tuple[int, int]) -> SearchStrategy[list[Any]]:
        row = st.lists(parts, min_size=size[1], max_size=size[1])
        return st.lists(row, min_size=size[0], max_size=size[0])

    return st.lists(parts, max_size=4) | st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(of)


def unlike_a_list(value: object) -> object:
    return Json(value) if isinstance(value, list) else value


@pytest.mark.parametrize("kind", SCALARS)
def test_an_array_comes_back_from_postgres_as_itself(oracle: Oracle, kind: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(rectangles(SCALARS[kind].map(unlike_a_list) | st.none()))
    def check(value: list[Any]) -> None:
        assert_the_same(oracle, f"{kind}[]", value)

    check()


def test_an_array_is_read_as_asyncpg_reads_it(oracle: Oracle) -> None:
    @settings(max_examples=60, deadline=None)
    @given(rectangles(TEXT | AWKWARD | st.none()))
    def check(value: list[Any]) -> None:
        row = oracle.run(oracle.connection.fetchrow("SELECT $1::text[] AS v, $1::text[]::text AS printed", value))
        assert ADDED.decode("_text", row["printed"]) == row["v"] == value

    check()


BOUNDS = {"floats": "float8", "numrange": "numeric", "tsrange": "timestamp", "tstzrange": "timestamptz"}


def ranges(bounds: SearchStrategy[Any]) -> SearchStrategy[Range]:
    """Of continuous types, in which Postgres leaves bounds as they are, none of them empty."""

    def made(pair: tuple[Any, Any], lower_inclusive: bool, upper_inclusive: bool, open_ends: int) -> Range:
        lower, upper = sorted(pair)
        low, high = None if open_ends & 1 else lower, None if open_ends & 2 else upper
        return Range(low, high, low is not None and lower_inclusive, high is not None and upper_inclusive)

    pairs = st.tuples(bounds, bounds).filter(lambda pair: bool(pair[0] != pair[1]))
    return st.builds(made, pairs, st.booleans(), st.booleans(), st.integers(0, 3)) | st.just(Range(empty=True))


@pytest.mark.parametrize("kind", BOUNDS)
def test_a_range_comes_back_from_postgres_as_itself(oracle: Oracle, kind: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(ranges(SCALARS[BOUNDS[kind]]))
    def check(value: Range) -> None:
        assert_the_same(oracle, kind, value)
        assert_the_same(oracle, f"{kind}[]", [value, None])

    check()


@pytest.mark.every_major
def test_values_at_the_limits(oracle: Oracle) -> None:
    for kind, value in (
        ("numeric", Decimal("1E-16383")),
        ("numeric", Decimal("9" * 131_072)),
        ("numeric", Decimal("-Infinity")),
        ("float8[]", [float("inf"), 5e-324, 1e22, 1e15]),
        ("interval", Interval((1 << 31) - 1, -(1 << 31), 1)),
        ("timestamptz", datetime.max.replace(tzinfo=UTC)),
        ("timestamp", datetime.min),  # noqa: DTZ901
        ("daterange", Range(date(2024, 1, 1), "infinity", upper_inclusive=True)),
        ("tsmultirange", Multirange((Range(None, datetime(2024, 1, 1), lower_inclusive=False),))),  # noqa: DTZ001
        ("time[]", [time.max, "24:00:00"]),
        ("jsonb", [10**400, Decimal("1.00000000000000000000001")]),
    ):
        assert_the_same(oracle, kind, value)
