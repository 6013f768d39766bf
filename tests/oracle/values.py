"""A few values of each type, as both databases write them; what SQLite holds for what Postgres prints. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

Value: TypeAlias = int | float | str | bytes | None
"""What a device's SQLite holds."""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _texts(*texts: str) -> list[tuple[str, str]]:
    return [(_quoted(text), _quoted(text)) for text in texts]


def _numbers(*numbers: int | float) -> list[tuple[str, str]]:
    return [(str(number), str(number)) for number in numbers]


UUIDS = [f"{number:08x}-0000-4000-8000-00000000000{number:x}" for number in range(1, 13)]

# (Postgres literal, SQLite literal). Few of each, so that rows collide, match where clauses and stop matching.
DOMAINS: dict[str, list[tuple[str, str]]] = {
    "int4": _numbers(0, 1, 2, 3, 4, 5),
    "int8": _numbers(-(2**62), -1, 0, 7, 2**62),
    "text": _texts("", "red", "Red", "green", "it's", "50%", "a_b", "grün"),
    "varchar": _texts("x", "y", "long one"),
    "bool": [("true", "1"), ("false", "0")],
    "float8": [("0", "0.0"), ("0.1", "0.1"), ("-2.5", "-2.5"), ("1e100", "1e100")],
    "date": _texts("2024-02-29", "1999-12-31", "2030-01-01"),
    "timestamptz": _texts("2024-02-29 12:34:56.789Z", "1999-12-31 23:59:59Z", "2030-01-01 00:00:00.000001Z"),
    "uuid": _texts(*UUIDS[:4]),
    "jsonb": _texts('{"a": 1, "b": "x"}', '{"a": 2}', "[1, 2]", "null"),
    "bytea": [("'\\x00ff'::bytea", "x'00ff'"), ("''::bytea", "x''")],
}
KEYS: dict[str, list[tuple[str, str]]] = {
    "int4": _numbers(*range(1, 13)),
    "int8": _numbers(*(10**12 * number for number in range(1, 13))),
    "text": _texts("", "a", "A", "b b", "it's", '"q"', "é", "50%", "10", "9", "x/y", "null"),
    "uuid": _texts(*UUIDS),
}


def draw(rng: random.Random, type_name: str, nullable: bool = True) -> tuple[str, str]:
    """A value of a column: its literals in Postgres and SQLite."""
    if nullable and rng.random() < 0.15:
        return "NULL", "NULL"
    return rng.choice(DOMAINS[type_name])


def on_device(type_name: str) -> Callable[[str | None], Value]:
    """From what Postgres prints (TimeZone UTC) to what a device holds."""
    convert = _CONVERTERS.get(type_name, str)
    return lambda text: None if text is None else convert(text)


def _timestamptz(text: str) -> str:
    assert text.endswith("+00"), text
    return text[:-3] + "Z"


_CONVERTERS: dict[str, Callable[[str], Value]] = {
    "bool": lambda text: int(text in ("t", "true")),
    "int4": int,
    "int8": int,
    "float8": float,
    "bytea": lambda text: bytes.fromhex(text[2:]),
    "timestamptz": _timestamptz,
}
