"""Values of columns: what a device holds of one that Postgres prints, others like it, and some out of nothing."""

from __future__ import annotations

import contextlib
import json
import random
import re
import string
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from tests.schemas.catalogue import Column

Value: TypeAlias = int | float | str | bytes | None

TEXTS: Final = frozenset({"text", "varchar", "bpchar", "citext", "name"})
_LIKE_TEXTS: Final = TEXTS | {"ltree", "macaddr", "macaddr8", "numeric"}
"""Types of which letters and digits can be others."""
INTEGERS: Final = {"int2": 1 << 15, "int4": 1 << 31, "int8": 1 << 53}
"""With the first number that is too large; of int8, that a JavaScript device cannot tell from the next one."""
FIRST_LEAP_YEAR, LAST_LEAP_YEAR = 2000, 2096
"""Between them every fourth year is one."""
_DATED: Final = frozenset(
    "date timestamp timestamptz daterange tsrange tstzrange datemultirange tsmultirange tstzmultirange".split()  # noqa: SIM905
)
_YEAR: Final = re.compile(r"\b\d{4}(?=-\d\d-\d\d)")
_HEXADECIMAL: Final = re.compile(r"[0-9a-f:-]*[a-f][0-9a-f:-]*")

# A value of a type that nothing else is known of. Two rows may have it: what must be unique is made so by `fresh`.
_FIRST: Final[Mapping[str, Value]] = {
    "bool": 0,
    "bytea": b"\x00\xff",
    "box": "(1,1),(0,0)",
    "cidr": "10.0.0.0/8",
    "circle": "<(0,0),1>",
    "date": "2024-02-29",
    "float4": 0.5,
    "float8": 0.5,
    "hstore": '"a"=>"b"',
    "inet": "10.0.0.1",
    "interval": "1 day",
    "json": "{}",
    "jsonb": "{}",
    "line": "{1,-1,0}",
    "lseg": "[(0,0),(1,1)]",
    "ltree": "a.b",
    "macaddr": "08:00:2b:01:02:03",
    "money": "$1.00",
    "numeric": "1",
    "oid": "1",
    "path": "((0,0),(1,1))",
    "pg_lsn": "0/0",
    "point": "(1,2)",
    "polygon": "((0,0),(1,0),(1,1))",
    "time": "12:00:00",
    "timestamp": "2024-02-29 12:00:00",
    "timestamptz": "2024-02-29 12:00:00Z",
    "timetz": "12:00:00+00",
    "pg_catalog.timetz": "12:00:00+00",
    "tsquery": "'a'",
    "tsvector": "'a':1",
    "varbit": "1",
    "xml": "<a/>",
}


class NoValueError(Exception):
    """Nothing is known of the type of this column."""


def on_devices(column: Column, text: str | None) -> Value:
    """What a device holds of a value that Postgres prints so."""
    if text is None:
        return None
    match column.type:
        case "int2" | "int4" | "int8":
            return int(text)
        case "bool":
            return int(text == "t")
        case "float4" | "float8":
            return text if text in ("NaN", "Infinity", "-Infinity") else float(text) + 0.0  # SQLite has no -0.0
        case "bytea":
            return bytes.fromhex(text.removeprefix("\\x"))
        case "timestamptz":
            return text.replace("+00", "Z")
    return text


def in_postgres(value: Value) -> str | None:
    """A text that Postgres reads as what a device holds."""
    match value:
        case None | str():
            return value
        case bytes():
            return "\\x" + value.hex()
    return repr(value)


def alike(column: Column, value: Value, rng: random.Random) -> Value:
    """Another value of the same form, which whatever checks the form takes too; the same where none is known."""
    if value is None or column.labels:
        with contextlib.suppress(NoValueError):
            return invented(column, rng)
    match column.type, value:
        case "bool", int():
            return 1 - value
        case "int2" | "int4" | "int8", int():
            return value + rng.choice((-2, -1, 1, 2)) if 2 < value < INTEGERS[column.type] - 2 else rng.randint(1, 9)
        case "float4" | "float8", _:
            return rng.randint(1, 1000) / 4  # exact in both
        case "bytea", bytes():
            return rng.randbytes(len(value))
        case "uuid", _:
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        case (("json" | "jsonb"), str()):
            return _other_json(value, rng)
        case kind, str() if kind in _LIKE_TEXTS:
            return _scrambled(value, rng) if value else invented(column, rng)
        case kind, str() if kind in _DATED:
            return _in_other_years(value, rng)
    return value


def fresh(column: Column, value: Value, others: Sequence[Value], rng: random.Random) -> Value:
    """One that no other row has, as far as chance goes. ``others``: those there are."""
    match column.type, value:
        case "int2" | "int4" | "int8", _ if column.numbered:
            limit = INTEGERS[column.type]
            return rng.randrange(limit // 16, limit)  # no sequence comes there soon
        case "int2" | "int4" | "int8", _:
            return max((other for other in others if isinstance(other, int)), default=0) + rng.randint(1, 20)
        case (("text" | "varchar" | "citext"), str()) if len(value) < 8 and (
            column.length is None or column.length > 16
        ):
            return _scrambled(value, rng) + _token(rng)
    return alike(column, value, rng)


def invented(column: Column, rng: random.Random) -> Value:
    """One out of nothing. Raises NoValueError."""
    if column.labels:
        return rng.choice(column.labels)
    if column.type in INTEGERS:
        return rng.randint(1, 9)
    if column.type in TEXTS:
        return _token(rng)[: column.length]
    if column.type == "uuid":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if column.type.startswith("_"):
        return "{}"
    if column.type.endswith("multirange"):
        return "{}"
    if column.type.endswith("range"):
        return "empty"
    if column.type not in _FIRST:
        raise NoValueError(column)
    return _FIRST[column.type]


def _token(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=8))


def _scrambled(text: str, rng: random.Random) -> str:
    """Letters for letters, digits for digits; the first digit of a number stays, so that 0.5 does not become 7.5."""
    letters = "abcdef" if _HEXADECIMAL.fullmatch(text) else string.ascii_lowercase

    def other(place: int, character: str) -> str:
        if character in string.ascii_lowercase:
            return rng.choice(letters)
        if character in string.ascii_uppercase:
            return rng.choice(letters).upper()
        if character in string.digits and place > 0 and text[place - 1] != "-":
            return rng.choice(string.digits)
        return character

    return "".join(other(place, character) for place, character in enumerate(text))


def _in_other_years(text: str, rng: random.Random) -> str:
    """All of its dates by the same number of years, so that a range remains one, and a leap year, too."""
    years = sorted(map(int, _YEAR.findall(text)))
    if not years:
        return text
    later = 4 * rng.randint(1, 10)
    if years[-1] + later > LAST_LEAP_YEAR:
        later = (FIRST_LEAP_YEAR - years[0]) // 4 * 4
    return _YEAR.sub(lambda year: str(int(year.group()) + later), text)


def _other_json(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    number = rng.randint(1, 999)
    if isinstance(value, dict):
        return json.dumps({**value, "changed": number})
    return json.dumps([*value, number]) if isinstance(value, list) else json.dumps(number)
