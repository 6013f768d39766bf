"""SQLite's values <-> Python's, type by type, and what an application adds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from syncline.client import ADAPTERS, Database, Interval, Json, Multirange, Range, UsageError, open_db
from syncline.client.cells import Value
from syncline.client.composed_texts import array_text, hstore_text, read_array, read_hstore
from syncline.proto.values import CREATE_TABLE, Migrate, MigrationColumn, MigrationTable

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)

BOTH_WAYS: list[tuple[str, Value, object]] = [
    ("bool", 1, True),
    ("int8", 2**63 - 1, 2**63 - 1),
    ("float8", 1.5, 1.5),
    ("float8", "Infinity", float("inf")),
    ("numeric", "1.50", Decimal("1.50")),
    ("numeric", "-Infinity", Decimal("-Infinity")),
    ("text", "{a}", "{a}"),
    ("bytea", b"\0", b"\0"),
    ("date", "2024-02-29", date(2024, 2, 29)),
    ("time", "12:00:00.5", time(12, 0, 0, 500_000)),
    ("pg_catalog.timetz", "12:00:00-03:30", time(12, tzinfo=timezone(-timedelta(hours=3, minutes=30)))),
    ("timestamp", "2024-02-29 12:34:56.7", datetime(2024, 2, 29, 12, 34, 56, 700_000)),  # noqa: DTZ001 - it has none
    ("timestamptz", "2024-02-29 12:00:00Z", NOON),
    ("interval", "1 day 02:00:00", timedelta(days=1, hours=2)),
    ("interval", "-02:00:00.000001", -timedelta(hours=2, microseconds=1)),
    ("interval", "24:00:00", Interval(microseconds=86_400_000_000)),
    ("interval", "-1 years -2 mons +3 days -04:05:06.789", Interval(-14, 3, -14_706_789_000)),
    ("uuid", "00000000-0000-0000-0000-0000000000ff", UUID(int=255)),
    ("inet", "10.1.2.3", ip_interface("10.1.2.3")),
    ("inet", "10.1.2.3/8", ip_interface("10.1.2.3/8")),
    ("cidr", "2001:db8::/32", ip_network("2001:db8::/32")),
    ("jsonb", '{"a": [1, null, "é", 0.5]}', {"a": [1, None, "é", 0.5]}),
    ("jsonb", "[1]", [1]),
    ("json", "null", Json(None)),
    ("json", '"a"', Json("a")),
    ("jsonb", "0.1234567890123456789", Decimal("0.1234567890123456789")),
    ("jsonb", "[" * 101 + "]" * 101, None),
    ("hstore", '"a"=>NULL, "b c"=>"d\\"e"', {"a": None, "b c": 'd"e'}),
    ("_int4", "{{1,2},{3,NULL}}", [[1, 2], [3, None]]),
    ("_text", '{"","NULL",NULL,"a \\"b\\"",c}', ["", "NULL", None, 'a "b"', "c"]),
    ("_bool", "{t,f}", [True, False]),
    ("_float8", "{1.5,-0,NaN}", None),
    ("_bytea", '{"\\\\x00ff"}', [b"\0\xff"]),
    ("_timestamptz", '{"2024-02-29 12:00:00+00",infinity}', [NOON, "infinity"]),
    ("_timetz", "{12:00:00+00}", [time(12, tzinfo=UTC)]),
    ("_jsonb", '{[1],"null",NULL,"{\\"a\\": 1}"}', [Json([1]), Json(None), None, {"a": 1}]),
    ("_mood", '{sad,"so so"}', ["sad", "so so"]),
    ("_box", "{(1,1),(0,0);(2,2),(0,0)}", ["(1,1),(0,0)", "(2,2),(0,0)"]),
    ("app._mood", "{sad}", ["sad"]),
    ("int4range", "[1,10)", Range(1, 10)),
    ("int4range", "(,5)", Range(None, 5, lower_inclusive=False)),
    ("numrange", "empty", Range(empty=True)),
    ("daterange", "[2024-01-01,infinity]", Range(date(2024, 1, 1), "infinity", upper_inclusive=True)),
    ("tstzrange", '["2024-02-29 12:00:00+00",)', Range(NOON)),
    ("int4multirange", "{[1,3),[5,)}", Multirange((Range(1, 3), Range(5)))),
    ("_int4range", '{"[1,3)",empty}', [Range(1, 3), Range(empty=True)]),
    ("_int4multirange", '{"{[1,3)}","{}"}', [Multirange((Range(1, 3),)), Multirange()]),
]
STAYS_A_TEXT = [
    ("date", "infinity"),
    ("date", "0044-03-15 BC"),
    ("date", "10000-01-01"),
    ("time", "24:00:00"),
    ("timestamp", "4713-11-24 00:00:00 BC"),
    ("timestamptz", "294276-12-31 23:59:59.999999Z"),
    ("timestamptz", "0001-01-01 00:00:00+02"),  # the year before, in UTC
    ("interval", "infinity"),
    ("json", '{"a": 1, "a": 2}'),
    ("json", "[" * 100_000 + "]" * 100_000),
    ("json", "[" * 102 + "]" * 102),
    ("_int4", "[0:1]={1,2}"),
    ("point", "(1,2)"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("money", "$1.50"),
    ("place", "(a,,)"),
    ("nobody_knows", "what"),
    ("bool", "maybe"),
    ("uuid", "none"),
]


@pytest.mark.parametrize(("pg_type", "held", "value"), BOTH_WAYS)
def test_a_value_becomes_python_and_the_same_value_again(pg_type: str, held: Value, value: object) -> None:
    decoded = ADAPTERS.decode(pg_type, held)
    if value is not None:
        assert (type(decoded), decoded) == (type(value), value)
    assert isinstance(decoded, str) == isinstance(value, str)
    assert ADAPTERS.encode(pg_type, decoded) == held


@pytest.mark.parametrize(("pg_type", "text"), STAYS_A_TEXT)
def test_what_python_has_no_equal_for_stays_the_text(pg_type: str, text: str) -> None:
    assert ADAPTERS.decode(pg_type, text) == text
    assert ADAPTERS.encode(pg_type, text) == text


@pytest.mark.parametrize("pg_type", ["bool", "numeric", "jsonb", "_int4", "int4range", "nobody_knows"])
def test_null_is_none(pg_type: str) -> None:
    assert ADAPTERS.decode(pg_type, None) is None
    assert ADAPTERS.encode(pg_type, None) is None


class Colour(StrEnum):
    RED = "red"


ARGUMENTS: list[tuple[object, Value]] = [
    (True, 1),
    (7, 7),
    (1.5, 1.5),
    (float("inf"), float("inf")),
    (float("nan"), "NaN"),
    ("text", "text"),
    (Colour.RED, "red"),
    (b"\0", b"\0"),
    (None, None),
    (Decimal("1E+3"), "1000"),
    (timedelta(days=-1, hours=1), "-23:00:00"),
    (Interval(months=1), "1 mon"),
    (NOON, "2024-02-29 12:00:00Z"),
    (NOON.astimezone(timezone(timedelta(hours=2))), "2024-02-29 12:00:00Z"),
    (NOON.replace(tzinfo=None), "2024-02-29 12:00:00"),
    (NOON.date(), "2024-02-29"),
    (time(12), "12:00:00"),
    (time(12, tzinfo=UTC), "12:00:00+00"),
    (UUID(int=255), "00000000-0000-0000-0000-0000000000ff"),
    (ip_address("10.1.2.3"), "10.1.2.3"),
    (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    ({"a": [Decimal("1.50"), True]}, '{"a": [1.50, true]}'),
    (Json([1, "é"]), '[1, "é"]'),
    ([1, None, "a b"], '{1,NULL,"a b"}'),
    ((Decimal("1.50"), True, b"\xff", {"a": 1}), '{1.50,t,"\\\\xff","{\\"a\\": 1}"}'),
    ([[1, 2], [3, 4]], "{{1,2},{3,4}}"),
    (Range(NOON.date(), None), "[2024-02-29,)"),
    (Multirange((Range(1, 3), Range(5))), "{[1,3),[5,)}"),
]


@pytest.mark.parametrize(("value", "written"), ARGUMENTS)
def test_an_argument_is_written_by_its_python_type(value: object, written: Value) -> None:
    assert ADAPTERS.argument(value) == written


def test_an_argument_of_an_unknown_type_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"no adapter for builtins\.set.*with_type"):
        ADAPTERS.argument({1})


@pytest.mark.parametrize(
    ("pg_type", "value"),
    [
        ("date", NOON),
        ("timestamp", NOON),
        ("timestamptz", NOON.replace(tzinfo=None)),
        ("jsonb", {1: 2}),
        ("jsonb", float("nan")),
        ("jsonb", object()),
        ("hstore", {"a": 1}),
    ],
)
def test_what_a_type_has_no_value_for_is_refused(pg_type: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{pg_type} has no value for this {type(value).__name__}"):
        ADAPTERS.encode(pg_type, value)


# --- what an application adds -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    names: tuple[str, ...]


WITH_LTREE = ADAPTERS.with_type(
    "LTree",
    python_type=Labels,
    decode=lambda text: Labels(tuple(text.split("."))),
    encode=lambda path: ".".join(path.names),
)


def test_a_type_of_the_application_counts_in_arrays_and_arguments_too() -> None:
    assert WITH_LTREE.decode("ltree", "a.b") == Labels(("a", "b"))
    assert WITH_LTREE.decode("_ltree", "{a.b,NULL}") == [Labels(("a", "b")), None]
    assert WITH_LTREE.encode("_ltree", [Labels(("a",))]) == "{a}"
    assert WITH_LTREE.argument([Labels(("a", "b"))]) == "{a.b}"
    assert ADAPTERS.decode("ltree", "a.b") == "a.b"


def test_an_adapter_may_take_the_place_of_ours_without_what_is_written_of_its_python_type() -> None:
    cents = ADAPTERS.with_type(
        "money",
        python_type=Decimal,
        decode=lambda text: Decimal(text.replace("$", "").replace(",", "")),
        encode=lambda amount: f"${amount}",
    )
    assert cents.decode("money", "$1,234.50") == Decimal("1234.50")
    assert cents.encode("money", Decimal("1.50")) == "$1.50"
    assert cents.argument(Decimal("1.50")) == "1.50"


class Point(NamedTuple):
    x: float
    y: float


def read_point(text: str) -> Point:
    x, y = text.strip("()").split(",")
    return Point(float(x), float(y))


def test_a_type_of_the_application_may_be_a_tuple() -> None:
    ours = ADAPTERS.with_type("point", python_type=Point, decode=read_point, encode=lambda p: f"({p.x},{p.y})")
    held = '{{"(1.0,2.0)",NULL},{"(3.0,4.0)","(5.0,6.0)"}}'
    assert ours.decode("_point", held) == [[Point(1, 2), None], [Point(3, 4), Point(5, 6)]]
    assert ours.encode("_point", ours.decode("_point", held)) == held
    assert ours.argument(Point(1.5, 2.5)) == "(1.5,2.5)"
    bare = ADAPTERS.with_type("point", python_type=tuple, decode=lambda text: tuple(read_point(text)), encode=str)
    assert bare.decode("_point", held) == ADAPTERS.decode("_point", held)  # texts, as a tuple is an array there


def test_in_place_of_ours_other_values_of_the_type_are_written_as_before() -> None:
    @dataclass(frozen=True)
    class Document:
        text: str

    ours = ADAPTERS.with_type("jsonb", python_type=Document, decode=Document, encode=lambda document: document.text)
    assert ours.decode("jsonb", "[1]") == Document("[1]")
    assert ours.encode("_jsonb", [Document("[1]"), {"a": 1}]) == '{[1],"{\\"a\\": 1}"}'
    assert ours.argument({"a": 1}) == '{"a": 1}'
    assert ours.argument(Document("[1]")) == "[1]"


def test_a_range_of_the_application_has_bounds_of_its_type() -> None:
    ours = ADAPTERS.with_range("floats", of="float8").with_range("timerange", of="time")
    assert ours.decode("floats", "[0.1,Infinity]") == Range(0.1, float("inf"), upper_inclusive=True)
    assert ours.decode("floats_multirange", "{[0.1,1)}") == Multirange((Range(0.1, 1.0),))
    assert ours.encode("timemultirange", Multirange((Range(time(1), time(2)),))) == "{[01:00:00,02:00:00)}"


# --- texts made of texts ----------------------------------------------------------------------------------------------

PART = st.text(st.sampled_from('\t\n\v"\\{}[](),;é😀 aNULnul'), max_size=6) | st.text(max_size=6)


def rectangles(parts: SearchStrategy[Any]) -> SearchStrategy[list[Any]]:
    def of(size: tuple[int, int]) -> SearchStrategy[list[Any]]:
        row = st.lists(parts, min_size=size[1], max_size=size[1])
        return st.lists(row, min_size=size[0], max_size=size[0])

    return st.lists(parts, max_size=4) | st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(of)


@given(rectangles(PART | st.none()), st.sampled_from(",;:"))
def test_an_array_that_is_printed_is_read_again(parts: list[Any], delimiter: str) -> None:
    assert read_array(array_text(parts, delimiter), delimiter) == parts


@given(st.text(st.sampled_from('{}",\\ aNUL'), max_size=12))
def test_what_is_read_as_an_array_is_printed_as_one_of_the_same_parts(text: str) -> None:
    try:
        parts = read_array("{" + text)
    except ValueError:
        return
    assert read_array(array_text(parts)) == parts


@given(st.dictionaries(PART, PART | st.none()))
def test_an_hstore_that_is_printed_is_read_again(pairs: dict[str, str | None]) -> None:
    assert read_hstore(hstore_text(pairs)) == pairs


@pytest.mark.parametrize("text", ["", "{", "{a", "{a}b", "{a,}", "{,a}", "{a b}", '{"a"b}', "{{a}b}", "{{a}{b}}", "}"])
def test_what_is_no_array_is_none(text: str) -> None:
    assert ADAPTERS.decode("_text", text) == text


@given(
    st.sampled_from(["_int4", "int4range", "int4multirange", "hstore", "jsonb", "interval", "timestamptz"]), st.text()
)
def test_reading_never_raises(pg_type: str, text: str) -> None:
    decoded = ADAPTERS.decode(pg_type, text)
    if not isinstance(decoded, str):
        assert ADAPTERS.decode(pg_type, ADAPTERS.encode(pg_type, decoded)) == decoded


# --- the database -----------------------------------------------------------------------------------------------------

COLUMNS = {"id": "uuid", "price": "numeric", "tags": "_text", "facts": "jsonb", "done": "bool"}
SCHEMA = Migrate(
    "1",
    ((CREATE_TABLE, "CREATE TABLE items (id TEXT PRIMARY KEY, price TEXT, tags TEXT, facts TEXT, done INTEGER)"),),
    MigrationTable("items", tuple(MigrationColumn(name, "TEXT", kind) for name, kind in COLUMNS.items()), (), ("id",)),
)
ITEM = {"id": UUID(int=1), "price": Decimal("1.50"), "tags": ["a", "b c"], "facts": [1, {"a": None}], "done": True}
INSERT = "INSERT INTO items VALUES (:id, :price, :tags, :facts, :done)"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_db(tmp_path / "app.db", "ws://127.0.0.1:1", migrations=[SCHEMA]) as db:
        yield db


async def test_a_row_is_written_and_read_as_python_values(db: Database) -> None:
    await db.execute(INSERT, db.encode("items", ITEM))
    [row] = await db.sql("SELECT * FROM items")
    assert tuple(row) == (str(ITEM["id"]), "1.50", '{a,"b c"}', '[1, {"a": null}]', 1)
    assert db.decode("items", row) == ITEM


async def test_what_a_query_has_beside_the_columns_of_the_table_stays_as_it_is(db: Database) -> None:
    await db.execute(INSERT, db.encode("items", ITEM))
    [row] = await db.sql("SELECT price, 1 + 1 AS two FROM items WHERE id = ?", (ITEM["id"],))
    assert db.decode("items", row) == {"price": Decimal("1.50"), "two": 2}


async def test_a_live_query_takes_python_values_and_gives_rows_to_decode(db: Database) -> None:
    async with db.sql("SELECT * FROM items WHERE done = ?", (True,)).live() as results, db.transaction() as tx:
        assert await anext(aiter(results)) == []
        await tx.execute(INSERT, {**ITEM, "facts": Json(ITEM["facts"])})
        [inside] = await tx.sql("SELECT * FROM items WHERE id = ?", (ITEM["id"],))
        assert db.decode("items", inside) == ITEM
        await tx.execute_many(INSERT, [{**ITEM, "id": UUID(int=2), "facts": {}}])
    async with db.sql("SELECT * FROM items WHERE id = ?", (UUID(int=2),)).live() as results:
        [row] = await anext(aiter(results))
        assert db.decode("items", row) == {**ITEM, "id": UUID(int=2), "facts": {}}


async def test_an_argument_without_adapter_changes_nothing(db: Database) -> None:
    with pytest.raises(UsageError, match=r"no adapter for builtins\.set"):
        await db.execute(INSERT, {**ITEM, "tags": {"a"}})
    assert await db.sql("SELECT * FROM items") == []


async def test_a_table_or_a_column_that_is_not_there_is_named(db: Database) -> None:
    with pytest.raises(UsageError, match="nothing is no synced table"):
        db.decode("nothing", {})
    with pytest.raises(UsageError, match="items has no column colour"):
        db.encode("items", {"colour": "red"})


async def test_a_database_is_opened_with_adapters_of_the_application(tmp_path: Path) -> None:
    class Tags(list[str]):
        pass

    ours = ADAPTERS.with_type("_text", python_type=Tags, decode=lambda text: Tags(text[1:-1].split(",")), encode=str)
    async with open_db(tmp_path / "app.db", "ws://127.0.0.1:1", migrations=[SCHEMA], adapters=ours) as db:
        await db.execute("INSERT INTO items (id, tags) VALUES ('1', '{a,b}')")
        [row] = await db.sql("SELECT tags FROM items")
        assert type(db.decode("items", row)["tags"]) is Tags
