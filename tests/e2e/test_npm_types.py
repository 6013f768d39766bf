"""Two npm devices, a Python device and Postgres hold the same rows, value by value, for every type and its edges."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import jwt
from tests.npm.rig import Json, NpmDevice, devices, eventually
from tests.npm.service import serving

from syncline.client import Database, open_db

TYPES = {
    "id": "text",
    "b": "bool",
    "i2": "int2",
    "i4": "int4",
    "i8": "int8",
    "f4": "float4",
    "f8": "float8",
    "t": "text",
    "v": "varchar(40)",
    "u": "uuid",
    "d": "date",
    "h": "time",
    "s": "timestamp",
    "z": "timestamptz",
    "j": "json",
    "jb": "jsonb",
    "y": "bytea",
    "e": "mood",
}
SQL = f"""
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy');
CREATE TABLE everything ({", ".join(f"{name} {kind}" for name, kind in TYPES.items())}, PRIMARY KEY (id));
"""
MEGABYTE = "naïve 😀 'quoted' \\ \n" * 50_000
# Postgres input text, by column; every row leaves the other columns NULL.
ROWS: dict[str, dict[str, str]] = {
    "plain": {
        "b": "t",
        "i2": "1",
        "i4": "2",
        "i8": "3",
        "f4": "1.5",
        "f8": "2.25",
        "t": "text",
        "v": "varchar",
        "u": "6f0a3e9c-2a5b-4c2e-9a53-0d2d2f8f9f10",
        "d": "2024-02-29",
        "h": "12:34:56",
        "s": "2024-02-29 12:34:56",
        "z": "2024-02-29 12:34:56+02",
        "j": '{"a": [1, 2.50, null]}',
        "jb": '{"b": 1, "a": "x"}',
        "y": "\\x0102",
        "e": "ok",
    },
    "all null": {},
    "least": {
        "b": "f",
        "i2": "-32768",
        "i4": "-2147483648",
        "i8": "-9223372036854775808",
        "f4": "-3.4e38",
        "f8": "-1.7976931348623157e308",
        "t": "",
        "v": "",
        "u": "00000000-0000-0000-0000-000000000000",
        "d": "0001-01-01",
        "h": "00:00:00",
        "s": "0001-01-01 00:00:00",
        "z": "0001-01-01 00:00:00+00",
        "j": "null",
        "jb": "null",
        "y": "",
        "e": "sad",
    },
    "most": {
        "i2": "32767",
        "i4": "2147483647",
        "i8": "9223372036854775807",
        "f4": "3.4028235e38",
        "f8": "1.7976931348623157e308",
        "u": "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "d": "9999-12-31",
        "h": "23:59:59.999999",
        "s": "9999-12-31 23:59:59.999999",
        "z": "9999-12-31 23:59:59.999999+00",
        "j": "[]",
        "jb": "[]",
        "y": "\\x" + bytes(range(256)).hex(),
        "e": "very happy",
    },
    "beyond a double": {"i8": "9007199254740993", "f8": "5e-324", "f4": "1.1754944e-38"},
    "infinite": {"f4": "Infinity", "f8": "Infinity"},
    "minus infinite": {"f4": "-Infinity", "f8": "-Infinity"},
    "emoji 😀 ключ 'key' \\": {"t": "👩‍👩‍👧 Ünï\tcödé\r\n", "v": "😀", "jb": '{"😀": "👍"}', "j": '"\\u00e9"'},
    "like json": {"t": '{"not": json', "v": "null", "j": '{"n": 12345678901234567890.10}', "jb": "1e400"},
    "a megabyte": {"t": MEGABYTE, "jb": '"' + "x" * 100_000 + '"', "y": "\\x" + "ab" * 200_000},
}
NAN_ROW = {"f4": "NaN", "f8": "NaN"}

Values = dict[str, Any]


@dataclass(frozen=True)
class Everybody:
    """Two npm devices and a Python device that hold the table, and Postgres."""

    postgres: asyncpg.Connection
    ann: NpmDevice
    bob: NpmDevice
    eve: Database

    async def agree(self) -> bool:
        """Whether all hold the same and nothing is on its way; asserts what differs."""
        there = await self.in_postgres()
        in_npm = {key: _without_nan(row) for key, row in there.items()}
        in_eve = {row["id"]: _local(dict(row)) for row in await self.eve.sql("SELECT * FROM everything")}
        for name, here, wanted in (
            ("ann", await _of_npm(self.ann), in_npm),
            ("bob", await _of_npm(self.bob), in_npm),
            ("eve", in_eve, there),
        ):
            assert here.keys() == wanted.keys(), name
            for key, row in wanted.items():
                assert _short(here[key]) == _short(row), f"{name}, {key}"
                assert here[key] == row, f"{name}, {key}"
        assert await self.ann.pending() == await self.bob.pending() == self.eve.status.pending_writes == 0
        return True

    async def in_postgres(self) -> dict[str, Values]:
        columns = ", ".join(f"{name}::text" for name in TYPES)
        return {
            row["id"]: _expected(dict(row)) for row in await self.postgres.fetch(f"SELECT {columns} FROM everything")
        }


@asynccontextmanager
async def everybody(
    database: str, folder: Path, *, before: Mapping[str, Mapping[str, str]]
) -> AsyncIterator[Everybody]:
    """All of them, synced, with the rows ``before`` in Postgres already when they subscribe."""
    async with (
        serving(database, folder, sql=SQL, electrified=("everything",)) as (service, postgres),
        devices(folder, service.url, "ann", "bob") as [ann, bob],
        open_db(folder / "eve.db", service.url.replace("http", "ws")) as eve,
    ):
        await postgres.execute("SET TimeZone = 'UTC'")
        await _insert(postgres, before)
        await ann.sync("everything")
        await bob.sync("everything")
        await eve.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await eve.sync("everything")).synced()
        yield Everybody(postgres, ann, bob, eve)


async def test_rows_of_every_type_arrive_in_a_shape(database: str, tmp_path: Path) -> None:
    async with everybody(database, tmp_path, before=ROWS) as all_of_us:
        await eventually(all_of_us.agree)


async def test_rows_of_every_type_arrive_live(database: str, tmp_path: Path) -> None:
    async with everybody(database, tmp_path, before={}) as all_of_us:
        await _insert(all_of_us.postgres, ROWS)
        await eventually(all_of_us.agree)


async def test_a_nan_outlives_a_device_that_cannot_hold_one(database: str, tmp_path: Path) -> None:
    """The npm client shows NULL, and sends whole rows back: a column it did not touch must stay as it is."""
    async with everybody(database, tmp_path, before={"nan": NAN_ROW}) as all_of_us:
        [row] = await all_of_us.eve.sql("SELECT f4, f8 FROM everything")
        assert tuple(row) == ("NaN", "NaN")
        await all_of_us.ann.update("everything", {"id": "nan"}, t="touched")
        await eventually(lambda: all_of_us.postgres.fetchval("SELECT t FROM everything"))
        assert await all_of_us.postgres.fetchval("SELECT f4::text || f8::text FROM everything") == "NaNNaN"
        await eventually(all_of_us.agree)


async def test_what_an_npm_device_writes_of_every_type_arrives_everywhere(database: str, tmp_path: Path) -> None:
    async with everybody(database, tmp_path, before={}) as all_of_us:
        ann = all_of_us.ann
        moment = datetime(2024, 2, 29, 12, 34, 56, 789000, UTC)
        local = moment - _local_offset(moment)
        await ann.create(
            "everything",
            id="plain",
            b=True,
            i2=-32768,
            i4=2147483647,
            i8=2**63 - 1,
            f4=1.5,
            f8=0.1,
            t="naïve 😀",
            v="x" * 40,
            u="6f0a3e9c-2a5b-4c2e-9a53-0d2d2f8f9f10",
            d=local,
            h=local,
            s=local,
            z=moment,
            j=Json({"a": [1, None]}),
            jb=Json([True, "😀"]),
            y=bytes(range(256)),
            e="very happy",
        )
        await ann.create("everything", id="all null")
        await ann.create(
            "everything", id="least", b=False, i8=-(2**63), f4=-3.4e38, f8=5e-324, t="", y=b"", jb=Json(None)
        )
        await ann.create("everything", id="infinite", f4=math.inf, f8=math.inf)
        await ann.create("everything", id="minus infinite", f4=-math.inf, f8=-math.inf)
        await ann.create("everything", id="nan", f4=math.nan, f8=math.nan)
        await ann.create("everything", id="a megabyte", t=MEGABYTE, y=b"\xff" * 300_000)
        await ann.execute(("INSERT INTO everything (id, i8) VALUES (?, ?)", "raw", 9007199254740993))
        await eventually(lambda: _count(all_of_us.postgres, 8))
        await eventually(all_of_us.agree)
        there = await all_of_us.in_postgres()
        assert there["plain"]["z"] == "2024-02-29 12:34:56.789Z"
        assert there["plain"]["i8"] == 2**63 - 1
        assert there["nan"]["f4"] == there["nan"]["f8"] == "NaN"
        assert there["raw"]["i8"] == 9007199254740993
        assert there["least"]["jb"] == "null"


async def test_what_a_python_device_writes_of_every_type_arrives_everywhere(database: str, tmp_path: Path) -> None:
    async with everybody(database, tmp_path, before={}) as all_of_us:
        plain: Values = {
            "id": "plain",
            "b": 1,
            "i2": -32768,
            "i4": 2147483647,
            "i8": 2**63 - 1,
            "f4": 1.5,
            "f8": 0.1,
            "t": "naïve 😀",
            "v": "x" * 40,
            "u": "6f0a3e9c-2a5b-4c2e-9a53-0d2d2f8f9f10",
            "d": "2024-02-29",
            "h": "12:34:56.123456",
            "s": "2024-02-29 12:34:56.123456",
            "z": "2024-02-29 12:34:56.123456Z",
            "j": '{"a": [1, null]}',
            "jb": '[true, "😀"]',
            "y": bytes(range(256)),
            "e": "very happy",
        }
        least: Values = {
            "id": "least",
            "b": 0,
            "i8": -(2**63),
            "f4": -3.4e38,
            "f8": 5e-324,
            "t": "",
            "y": b"",
            "jb": "null",
        }
        rows: tuple[Values, ...] = (
            *(plain, least, {"id": "all null"}, {"id": "infinite", "f4": math.inf, "f8": math.inf}),
            *({"id": "minus infinite", "f4": -math.inf, "f8": -math.inf}, {"id": "nan", "f4": "NaN", "f8": "NaN"}),
            {"id": "a megabyte", "t": MEGABYTE, "y": b"\xff" * 300_000},
        )
        for row in rows:
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            await all_of_us.eve.execute(f"INSERT INTO everything ({names}) VALUES ({marks})", tuple(row.values()))
        await eventually(lambda: _count(all_of_us.postgres, 7))
        await eventually(all_of_us.agree)


async def test_each_changes_what_another_wrote(database: str, tmp_path: Path) -> None:
    async with everybody(database, tmp_path, before=ROWS) as all_of_us:
        ann, bob, eve, postgres = all_of_us.ann, all_of_us.bob, all_of_us.eve, all_of_us.postgres
        await ann.update("everything", {"id": "plain"}, t=None, b=False, i8=-(2**63))
        await bob.update("everything", {"id": "plain"}, f8=math.inf, y=b"")
        await eve.execute("UPDATE everything SET jb = '{}', d = NULL WHERE id = 'plain'")
        await postgres.execute("UPDATE everything SET e = NULL, i4 = 7 WHERE id = 'plain'")
        await ann.delete("everything", id="most")
        await bob.create("everything", id="of bob", t=MEGABYTE[:1000])
        await eve.execute("DELETE FROM everything WHERE id = 'infinite'")
        await ann.update("everything", {"id": "a megabyte"}, v="touched")
        await eventually(all_of_us.agree)
        row = (await all_of_us.in_postgres())["plain"]
        changed = {
            "t": None,
            "b": False,
            "i8": -(2**63),
            "f8": math.inf,
            "y": b"",
            "jb": "{}",
            "d": None,
            "e": None,
            "i4": 7,
        }
        assert {name: row[name] for name in changed} == changed
        assert not {"most", "infinite"} & (await all_of_us.in_postgres()).keys()


async def _insert(postgres: asyncpg.Connection, rows: Mapping[str, Mapping[str, str]]) -> None:
    for key, values in rows.items():
        names = ", ".join(("id", *values))
        kinds = ", ".join(f"${n}::text::{TYPES[name]}" for n, name in enumerate(("id", *values), 1))
        await postgres.execute(f"INSERT INTO everything ({names}) VALUES ({kinds})", key, *values.values())


async def _count(postgres: asyncpg.Connection, wanted: int) -> bool:
    return bool(await postgres.fetchval("SELECT count(*) = $1 FROM everything", wanted))


async def _of_npm(device: NpmDevice) -> dict[str, Values]:
    return {key: _without_nan(_local(row)) for key, row in (await device.dump("everything")).items()}


def _expected(row: Mapping[str, str | None]) -> Values:
    """A row of Postgres texts as values that compare."""
    return {name: _of_text(TYPES[name], text) for name, text in row.items()}


def _of_text(kind: str, text: str | None) -> Any:
    if text is None:
        return None
    if kind == "bool":
        return text == "true"
    if kind.startswith("int"):
        return int(text)
    if kind.startswith("float"):
        return _float(float(text))
    if kind == "bytea":
        return bytes.fromhex(text[2:])
    return text.replace("+00", "Z") if kind == "timestamptz" else text


def _local(row: Mapping[str, Any]) -> Values:
    """A row of SQLite values likewise. Which storage class a value has is part of what is compared."""
    values: Values = {}
    for name, value in row.items():
        kind = TYPES[name]
        if kind == "bool" and value in (0, 1):
            values[name] = bool(value)
        elif kind.startswith("float") and value is not None:
            values[name] = _float(float(value))
        else:
            values[name] = value
    return values


def _without_nan(row: Values) -> Values:
    """The client stores a NaN of a shape as text, and one of the stream as a number, which SQLite turns into NULL."""
    return {name: None if TYPES[name].startswith("float") and value == "NaN" else value for name, value in row.items()}


def _float(value: float) -> float | str:
    return "NaN" if math.isnan(value) else value


def _short(row: Values) -> Values:
    """For a failure a person can read."""
    return {
        name: value if len(str(value)) < 100 else f"{str(value)[:60]}... of {len(value)}" for name, value in row.items()
    }


def _local_offset(moment: datetime) -> timedelta:
    """The client reads a Date in local time for types without a zone."""
    return moment.astimezone().utcoffset() or timedelta()
