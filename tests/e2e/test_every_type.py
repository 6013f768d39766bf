"""Every type that Postgres has, and arrays of each: Postgres -> device -> Postgres, equal to the byte."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import jwt
import pytest
from tests.e2e.every_type import EXTENSIONS, OWN_TYPES, VALUES, types_of
from tests.npm.rig import NpmDevice, devices, eventually
from tests.npm.service import serving

from syncline.client import Database, Interval, Json, Range, open_db

# The npm client turns what it reads of these columns into numbers, and writes 0 for -0, NULL for NaN.
NUMBERS_OF_NPM = ("float4", "float8")
Texts = dict[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class Stage:
    """``columns``: their types by their names, of the table ``every``. ``postgres``: prints as the service does."""

    postgres: asyncpg.Connection
    url: str
    columns: Mapping[str, str]

    async def printed(self, like: str = "%") -> Texts:
        """The rows as Postgres prints them, by their ids."""
        cells = ", ".join(
            f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END" for name in self.columns
        )
        rows = await self.postgres.fetch(f"SELECT id, ARRAY[{cells}] AS cells FROM every WHERE id LIKE $1", like)
        return {row["id"]: tuple(row["cells"]) for row in rows}

    def copying(self, author: str, columns: Sequence[str]) -> str:
        """What an author says to write all that it holds once more."""
        names = ", ".join(columns)
        return f"INSERT INTO every (id, {names}) SELECT '{author} ' || id, {names} FROM every WHERE id LIKE 'row %'"


@asynccontextmanager
async def stage(database: str, folder: Path, *, rows_first: bool) -> AsyncIterator[Stage]:
    """A service, and a table with a column of each type and one of its arrays. ``rows_first``: before anybody asks."""
    connection = await asyncpg.connect(database)
    there = {row["name"] for row in await connection.fetch("SELECT name FROM pg_available_extensions")}
    for extension in EXTENSIONS:
        if extension in there:
            await connection.execute(f"CREATE EXTENSION {extension}")
    await connection.execute(OWN_TYPES)
    types = await types_of(connection)
    await connection.close()
    columns = {f"v{number}": kind for number, kind in enumerate(types)}
    columns |= {f"a{number}": f"{kind}[]" for number, kind in enumerate(types)}
    table = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    async with serving(
        database, folder, sql=f"CREATE TABLE every (id text PRIMARY KEY, {table})", electrified=("every",)
    ) as (service, postgres):
        for name, value in {"TimeZone": "UTC", "lc_monetary": "C"}.items():
            await postgres.execute(f"SET {name} = '{value}'")
        made = Stage(postgres, service.url, columns)
        if rows_first:
            await fill(made)
        yield made


async def fill(made: Stage) -> None:
    """Row n has the value n of each type, as far as there is one; the arrays have several forms."""
    missing = {kind for kind in made.columns.values() if kind.removesuffix("[]") not in VALUES}
    assert not missing, "tests/e2e/every_type.py has no values of these"
    longest = max(map(len, VALUES.values()))
    for number in range(longest + 1):  # in the last all is NULL, but for arrays
        cells = [_cell(kind, number) for kind in made.columns.values()]
        names = ", ".join(made.columns)
        await made.postgres.execute(f"INSERT INTO every (id, {names}) VALUES ('row {number}', {', '.join(cells)})")


def _cell(kind: str, number: int) -> str:
    """An SQL expression."""
    element = kind.removesuffix("[]")
    values = [f"{_quoted(value)}::{element}" for value in VALUES[element]]
    if kind == element:
        return values[number] if number < len(values) else "NULL"
    forms = (
        f"ARRAY[{', '.join(values)}, NULL]::{kind}",
        f"'{{}}'::{kind}",
        f"'{{NULL}}'::{kind}",
        f"array_fill({values[-1]}, '{{2,2}}', '{{0,-1}}')",
    )
    return forms[number] if number < len(forms) else "NULL"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@asynccontextmanager
async def eve(made: Stage, folder: Path) -> AsyncIterator[Database]:
    async with open_db(folder / "eve.db", made.url.replace("http", "ws")) as device:
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("every")).synced()
        yield device


def held(columns: Mapping[str, str], texts: Sequence[str | None]) -> list[object]:
    """What a device holds of a row of these texts."""
    return [None if text is None else _held(kind, text) for kind, text in zip(columns.values(), texts, strict=True)]


def _held(kind: str, text: str) -> object:
    match kind:
        case "int2" | "int4" | "int8" | "small" | "smaller":
            return int(text)
        case "bool":
            return int(text == "t")
        case "float4" | "float8":
            return text if text in ("NaN", "Infinity", "-Infinity") else float(text) + 0.0  # SQLite has no -0.0
        case "bytea":
            return bytes.fromhex(text[2:])
        case "timestamptz" | "timestamptz(3)":
            return text.replace("+00", "Z")
    return text


def _written(kind: str, text: str | None) -> str | None:
    """What comes back of a text that a device holds."""
    return "0" if kind in ("float4", "float8") and text == "-0" else text


def differences(columns: Mapping[str, str], here: Sequence[Any], there: Sequence[object]) -> dict[str, Any]:
    return {
        kind: (mine, wanted)
        for kind, mine, wanted in zip(columns.values(), here, there, strict=True)
        if mine != wanted or str(mine) != str(wanted)
    }


async def assert_held(made: Stage, device: Database) -> None:
    printed = await made.printed()

    async def has_all() -> bool:
        return len(await device.sql("SELECT id FROM every")) == len(printed)

    await eventually(has_all)
    for key, texts in printed.items():
        [row] = await device.sql(f"SELECT {', '.join(made.columns)} FROM every WHERE id = ?", (key,))
        assert not differences(made.columns, tuple(row), held(made.columns, texts)), key


async def assert_copied(made: Stage, author: str, columns: Sequence[str]) -> None:
    async def has_come() -> bool:
        return len(await made.printed(f"{author} %")) == len(await made.printed("row %"))

    await eventually(has_come)
    originals = await made.printed("row %")
    for key, texts in (await made.printed(f"{author} %")).items():
        wanted = originals[key.removeprefix(f"{author} ")]
        kinds = {name: kind for name, kind in made.columns.items() if name in columns}
        mine = [text for name, text in zip(made.columns, texts, strict=True) if name in columns]
        theirs = [
            _written(made.columns[name], text)
            for name, text in zip(made.columns, wanted, strict=True)
            if name in columns
        ]
        assert not differences(kinds, mine, theirs), key


@pytest.mark.every_major
@pytest.mark.parametrize("rows_first", [True, False])
async def test_a_python_device_holds_and_writes_every_type(database: str, tmp_path: Path, *, rows_first: bool) -> None:
    async with stage(database, tmp_path, rows_first=rows_first) as made, eve(made, tmp_path) as device:
        if not rows_first:
            await fill(made)
        await assert_held(made, device)
        await device.execute(made.copying("eve", list(made.columns)))
        await assert_copied(made, "eve", list(made.columns))
        await assert_held(made, device)  # as Postgres has spelled what the device wrote


@pytest.mark.every_major
async def test_a_python_device_writes_every_type_as_python_values(database: str, tmp_path: Path) -> None:
    async with stage(database, tmp_path, rows_first=True) as made, eve(made, tmp_path) as device:
        original: dict[str, dict[str, object]] = {}
        for row in await device.sql("SELECT * FROM every"):
            values = original[row["id"]] = device.decode("every", row)
            written = device.encode("every", {**values, "id": f"eve {row['id']}"})
            names = ", ".join(f":{name}" for name in written)
            await device.execute(f"INSERT INTO every ({', '.join(written)}) VALUES ({names})", written)
        # Python has no blanks and trailing zeros in what is JSON: equal, not the same text.
        texts = [name for name, kind in made.columns.items() if kind.removesuffix("[]") not in ("json", "jsonb")]
        await assert_copied(made, "eve", texts)
        await made.postgres.execute("DELETE FROM every WHERE id LIKE 'row %'")

        async def has_come_back() -> bool:
            return len(await device.sql("SELECT id FROM every")) == len(original)

        await eventually(has_come_back)
        for row in await device.sql("SELECT * FROM every"):
            wanted = original[row["id"].removeprefix("eve ")]
            assert repr({**device.decode("every", row), "id": ""}) == repr({**wanted, "id": ""})  # a NaN is no NaN


async def test_arguments_of_python_types_are_in_postgres_what_they_are_here(database: str, tmp_path: Path) -> None:
    noon, day = datetime(2024, 2, 29, 12, tzinfo=UTC), date(2024, 2, 29)
    columns: dict[str, tuple[str, object, object]] = {  # type, on the device, as asyncpg reads it
        "id": ("uuid", UUID(int=1), UUID(int=1)),
        "price": ("numeric", Decimal("1.50"), Decimal("1.50")),
        "took": ("interval", timedelta(days=1, hours=-2), timedelta(hours=22)),
        "monthly": ("interval", Interval(months=1), timedelta(days=30)),
        "at": ("timestamptz", noon.astimezone(timezone(timedelta(hours=2))), noon),
        "day": ("date", day, day),
        "clock": ("timetz", time(12, tzinfo=UTC), time(12, tzinfo=UTC)),
        "address": ("inet", ip_interface("10.1.2.3/8"), ip_interface("10.1.2.3/8")),
        "network": ("cidr", ip_network("10.0.0.0/8"), ip_network("10.0.0.0/8")),
        "tags": ("text[]", ["a b", None, "NULL"], ["a b", None, "NULL"]),
        "matrix": ("numeric[]", [[Decimal("1.50"), 2], [3, 4]], [[Decimal("1.50"), 2], [3, 4]]),
        "days": ("timestamptz[]", (noon,), [noon]),
        "facts": ("jsonb", {"a": [1, None]}, '{"a": [1, null]}'),
        "notes": ("jsonb", Json(["a"]), '["a"]'),
        "span": ("tstzrange", Range(noon, None), asyncpg.Range(noon, None)),
        "data": ("bytea", b"\0\xff", b"\0\xff"),
        "done": ("bool", True, True),
    }
    table = ", ".join(f"{name} {kind}" for name, (kind, _, _) in columns.items())
    sql = f"CREATE TABLE typed ({table}, PRIMARY KEY (id))"
    async with (
        serving(database, tmp_path, sql=sql, electrified=("typed",)) as (service, postgres),
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as device,
    ):
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("typed")).synced()
        places = ", ".join("?" for _ in columns)
        arguments = [here for _, here, _ in columns.values()]
        await device.execute(f"INSERT INTO typed VALUES ({places})", arguments, durable="server")
        assert dict(await postgres.fetchrow("SELECT * FROM typed")) == {
            name: there for name, (_, _, there) in columns.items()
        }
        await postgres.execute("UPDATE typed SET price = price + 1, tags = tags || '{d}'::text[], took = '36:00:00'")

        async def has_come() -> bool:
            [row] = await device.sql("SELECT price FROM typed WHERE id = ?", (UUID(int=1),))
            return device.decode("typed", row) == {"price": Decimal("2.50")}

        await eventually(has_come)
        [row] = await device.sql("SELECT * FROM typed")
        assert device.decode("typed", row) == {
            **{name: here for name, (_, here, _) in columns.items()},
            "price": Decimal("2.50"),
            "tags": ["a b", None, "NULL", "d"],
            "took": Interval(microseconds=36 * 3_600_000_000),
            "days": [noon],
            "notes": ["a"],
        }


@pytest.mark.every_major
async def test_keys_of_other_types_name_their_rows(database: str, tmp_path: Path) -> None:
    kinds = {
        "numeric(10,2)": "1.50",
        "char(3)": "a  ",
        "int4[]": "{1,NULL}",
        "daterange": "[2024-01-01,infinity)",
        "inet": "10.0.0.1",
        "timetz": "12:00:00+02",
        "moment": "2024-02-29 12:34:56+00",
        "bit(3)": "101",
    }
    names = {f"k{number}": kind for number, kind in enumerate(kinds)}
    table = ", ".join(f"{name} {kind}" for name, kind in names.items())
    sql = f"CREATE DOMAIN moment AS timestamptz; CREATE TABLE keyed ({table}, n int, PRIMARY KEY ({', '.join(names)}))"
    values = ", ".join(f"'{value}'" for value in kinds.values())
    is_row = " AND ".join(f"{name} = '{value}'" for name, value in zip(names, kinds.values(), strict=True))
    async with (
        serving(database, tmp_path, sql=sql, electrified=("keyed",)) as (service, postgres),
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as device,
    ):

        async def holds(*wanted: int) -> None:
            async def has() -> bool:
                here = [row[0] for row in await device.sql("SELECT n FROM keyed")]
                there = [row["n"] for row in await postgres.fetch("SELECT n FROM keyed")]
                return here == there == list(wanted)

            await eventually(has)

        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("keyed")).synced()
        await device.execute(f"INSERT INTO keyed VALUES ({values}, 1)")
        await holds(1)
        await postgres.execute("UPDATE keyed SET n = 2")
        await holds(2)
        await device.execute(f"UPDATE keyed SET n = 3 WHERE {is_row}")
        await holds(3)
        await device.execute(f"DELETE FROM keyed WHERE {is_row}")
        await holds()
        await postgres.execute(f"INSERT INTO keyed VALUES ({values}, 4)")
        await holds(4)
        assert await device.rejections() == []


async def test_a_name_of_what_is_not_there_is_rejected_alone(database: str, tmp_path: Path) -> None:
    """Postgres says of these that there is no such relation, as it does when one of ours has gone."""
    kinds = ("regclass", "regproc", "regtype", "regrole", "regnamespace", "regconfig")
    async with stage(database, tmp_path, rows_first=False) as made, eve(made, tmp_path) as device:
        names = {kind: name for name, kind in made.columns.items()}
        for kind in kinds:
            await device.execute(f"INSERT INTO every (id, {names[kind]}) VALUES (?, 'nowhere.none')", (kind,))
        await device.execute("INSERT INTO every (id) VALUES ('good')")

        async def has_come() -> bool:
            return await made.printed("good") != {} and len(await device.rejections()) == len(kinds)

        await eventually(has_come)
        rejected = {rejection.key["id"]: rejection.columns for rejection in await device.rejections()}
        assert rejected == {kind: (names[kind],) for kind in kinds}
        assert [tuple(row) for row in await device.sql("SELECT id FROM every")] == [("good",)]


async def test_an_npm_device_holds_and_writes_every_type(database: str, tmp_path: Path) -> None:
    async with (
        stage(database, tmp_path, rows_first=True) as made,
        devices(tmp_path, made.url, "ann") as [ann],
    ):
        await ann.sync("every")
        await assert_held_by_npm(made, ann)
        written = [name for name, kind in made.columns.items() if kind not in NUMBERS_OF_NPM]
        await ann.execute((made.copying("ann", written),))
        await assert_copied(made, "ann", written)


async def assert_held_by_npm(made: Stage, device: NpmDevice) -> None:
    rows = await device.dump("every")
    for key, texts in (await made.printed()).items():
        here = [_by_json(rows[key][name]) for name in made.columns]
        assert not differences(made.columns, here, held(made.columns, texts)), key


def _by_json(value: object) -> object:
    """The harness has it of the client by JSON, which Python reads infinities of."""
    return str(value).replace("inf", "Infinity") if value in (math.inf, -math.inf) else value
