"""Types on three sides: Postgres, the wire, SQLite.

Going out, a value stays the bytes that Postgres' output function printed, except two: bytea travels raw instead of as
hex, and timestamptz ends in ``Z`` instead of ``+00``. ``to_wire`` gives the converter, or None where the bytes pass.
That presumes the session settings in ``SESSION_SETTINGS``; every connection that reads values must apply them.

Coming in, a device's cell becomes Postgres input text through ``from_wire``, which refuses what the type cannot hold.
What Postgres itself may print for a type is always accepted (infinite dates, years beyond 9999, BC, 24:00:00): devices
send whole rows back, and a value they never touched must not make their write invalid.
"""

from __future__ import annotations

import json
import re
import struct
from binascii import unhexlify
from collections.abc import Callable, Sequence
from datetime import date
from typing import TypeAlias

Converter: TypeAlias = Callable[[bytes], bytes]

SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "extra_float_digits": "1",
}
"""Settings under which every connection reads values, so that stream, snapshot and key texts agree to the byte."""

INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}

_SQLITE_TYPES = {
    "int2": "INTEGER",
    "int4": "INTEGER",
    "int8": "INTEGER",
    "bool": "INTEGER",
    "float4": "REAL",
    "float8": "REAL",
    "bytea": "BLOB",
    "json": "TEXT_JSON",
    "jsonb": "TEXT_JSON",
}


def sqlite_type(type_name: str) -> str:
    """The declared SQLite type for a Postgres type name (as ``electric.device_type`` has it). What SQLite has nothing
    exact for is TEXT, as Postgres prints it."""
    return _SQLITE_TYPES.get(type_name, "TEXT")


_TEXTS = frozenset({"text", "varchar", "bpchar", "name"})


def has_adapter(type_name: str) -> bool:
    """Whether a type is more to devices than a text that only Postgres can read: a value of SQLite, or one whose form
    is checked when it comes in. Labels of enums are, too, whatever their type is called."""
    return type_name in _SQLITE_TYPES or type_name in _CHECKS or type_name in _TEXTS


# --- out --------------------------------------------------------------------------------------------------------------


def _unhex(text: bytes) -> bytes:
    if not text.startswith(b"\\x"):
        return text  # the column has become one of texts since its type was read
    return unhexlify(text[2:])


def _zulu(text: bytes) -> bytes:
    return text.replace(b"+00", b"Z")


BYTEA, TIMESTAMPTZ = 17, 1184
"""OIDs of the types that travel otherwise than Postgres prints them."""

_TO_WIRE: dict[str, Converter] = {"bytea": _unhex, "timestamptz": _zulu}
_OIDS = {BYTEA: "bytea", TIMESTAMPTZ: "timestamptz"}
OIDS_BY_NAME = {name: oid for oid, name in _OIDS.items()}


def to_wire(type_name: str) -> Converter | None:
    """Postgres output text -> wire cell, for non-NULL values; None when they are the same bytes."""
    return _TO_WIRE.get(type_name)


def to_wire_by_oid(type_oid: int) -> Converter | None:
    """``to_wire`` for a built-in type's OID, as the stream names types."""
    name = _OIDS.get(type_oid)
    return None if name is None else _TO_WIRE[name]


def output_text(type_oid: int, cell: bytes) -> str:
    """A cell that ``to_wire_by_oid`` has made, as Postgres' output text again: it is judged by nobody. Never raises:
    what is no UTF-8, as in a database of the encoding SQL_ASCII, gets U+FFFD in its place."""
    if type_oid == BYTEA:
        return "\\x" + cell.hex()
    text = cell.decode(errors="replace")
    return text.replace("Z", "+00") if type_oid == TIMESTAMPTZ else text


_QUOTED_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def parse_text_array(cell: bytes) -> tuple[str, ...]:
    """The elements of a one-dimensional ``text[]`` in its output text. NULL elements are left out.

    Raises ValueError for anything else.
    """
    text = cell.decode()
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(f"not a text array: {text[:40]!r}")
    inner = text[1:-1]
    if not inner:
        return ()
    if '"' not in inner:
        return tuple(element for element in inner.split(",") if element != "NULL")
    elements = []
    position = 0
    while True:
        match = _QUOTED_ELEMENT.match(inner, position)
        if match is None:
            raise ValueError(f"not a text array: {text[:40]!r}")
        if match[1] is not None:
            elements.append(_ESCAPE.sub(r"\1", match[1]))
        elif match[2] != "NULL":
            elements.append(match[2])
        position = match.end()
        if position == len(inner):
            return tuple(elements)
        if inner[position] != ",":
            raise ValueError(f"not a text array: {text[:40]!r}")
        position += 1


# --- in ---------------------------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_FLOAT_WORDS = frozenset({"inf", "infinity", "-inf", "-infinity", "nan"})
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_DATE = r"([0-9]{4,7})-([0-9]{2})-([0-9]{2})"
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
_ONLY_DATE = re.compile(_DATE + r"(?: BC)?\Z")
_ONLY_TIME = re.compile(_TIME + r"\Z")
_TIMESTAMP = re.compile(rf"{_DATE}[T ]{_TIME}(?: BC)?\Z")
_TIMESTAMPTZ = re.compile(rf"{_DATE}[T ]{_TIME}(?:Z|[+-]00(?::?00)?)(?: BC)?\Z")
_INFINITE = frozenset({"infinity", "-infinity"})


def from_wire(type_name: str, cell: bytes, enum_labels: Sequence[str] | None = None) -> str:
    """A device's cell (not NULL) -> Postgres input text.

    ``enum_labels``: the labels when the column's type is an enum. Raises ValueError, whose text says what is wrong
    with the value for the type and never repeats more than its beginning.
    """
    if type_name == "bytea":
        return "\\x" + cell.hex()
    try:
        text = cell.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{type_name}: not valid UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{type_name}: Postgres cannot store the character U+0000")
    if enum_labels is not None:
        if text not in enum_labels:
            raise _invalid(type_name, text, "not a label of the enum")
        return text
    check = _CHECKS.get(type_name)
    if check is not None:
        reason = check(text)
        if reason is not None:
            raise _invalid(type_name, text, reason)
    return text


def _invalid(type_name: str, text: str, reason: str) -> ValueError:
    shown = text if len(text) <= 40 else text[:40] + "..."
    return ValueError(f"{type_name}: {reason}: {shown!r}")


def _check_bool(text: str) -> str | None:
    return None if text in ("t", "f") else "neither t nor f"


def _integer_check(bits: int) -> Callable[[str], str | None]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def check(text: str) -> str | None:
        if _INTEGER.match(text) is None:
            return "not an integer"
        if len(text.lstrip("+-").lstrip("0")) > 19 or not low <= int(text) <= high:
            return "out of range"
        return None

    return check


def _check_float8(text: str) -> str | None:
    if text.lower() in _FLOAT_WORDS:
        return None
    if _FLOAT.match(text) is None:
        return "not a number"
    value = float(text)
    if value in (float("inf"), float("-inf")) or (value == 0.0 and _nonzero(text)):
        return "out of range"
    return None


def _check_float4(text: str) -> str | None:
    reason = _check_float8(text)
    if reason is not None or text.lower() in _FLOAT_WORDS:
        return reason
    try:
        (single,) = struct.unpack("<f", struct.pack("<f", float(text)))
    except OverflowError:
        return "out of range"
    return "out of range" if single == 0.0 and _nonzero(text) else None


def _nonzero(text: str) -> bool:
    mantissa = re.split("[eE]", text)[0]
    return any(digit in "123456789" for digit in mantissa)


def _check_uuid(text: str) -> str | None:
    return None if _UUID.match(text) else "not a UUID"


def _day_problem(year: str, month: str, day: str) -> str | None:
    """Any year keeps the calendar of the year 400 * n + r in 1..9999, which the standard library knows."""
    number = int(year)
    if number == 0:
        return "no such year"
    try:
        date(number if number <= 9999 else 2000 + number % 400, int(month), int(day))
    except ValueError:
        return "no such day"
    return None


def _time_problem(hour: str, minute: str, second: str, fraction: str | None) -> str | None:
    if int(hour) < 24 and int(minute) < 60 and int(second) < 60:
        return None
    if (hour, minute, second) == ("24", "00", "00") and not (fraction or "").strip("0"):
        return None
    return "no such time of day"


def _check_date(text: str) -> str | None:
    if text in _INFINITE:
        return None
    match = _ONLY_DATE.match(text)
    if match is None:
        return "not YYYY-MM-DD"
    return None if text.endswith("BC") else _day_problem(*match.groups())


def _check_time(text: str) -> str | None:
    match = _ONLY_TIME.match(text)
    return "not HH:MM:SS[.ffffff]" if match is None else _time_problem(*match.groups())


def _timestamp_check(pattern: re.Pattern[str], expected: str) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        if text in _INFINITE:
            return None
        match = pattern.match(text)
        if match is None:
            return f"not {expected}"
        year, month, day, *clock = match.groups()
        problem = None if text.endswith("BC") else _day_problem(year, month, day)
        return problem or _time_problem(*clock)

    return check


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_parse_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str, parse_float=str).decode


def _check_json(text: str) -> str | None:
    try:
        _parse_json(text)
    except ValueError:
        return "not JSON"
    except RecursionError:
        return None  # how deep is too deep, Postgres knows
    return None


_CHECKS: dict[str, Callable[[str], str | None]] = {
    "bool": _check_bool,
    **{name: _integer_check(bits) for name, bits in INTEGER_BITS.items()},
    "float4": _check_float4,
    "float8": _check_float8,
    "uuid": _check_uuid,
    "date": _check_date,
    "time": _check_time,
    "timestamp": _timestamp_check(_TIMESTAMP, "YYYY-MM-DD HH:MM:SS[.ffffff] without an offset"),
    "timestamptz": _timestamp_check(_TIMESTAMPTZ, "YYYY-MM-DD HH:MM:SS[.ffffff] with the offset Z or +00:00"),
    "json": _check_json,
    "jsonb": _check_json,
}
