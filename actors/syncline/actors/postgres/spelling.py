"""Whether a device spells a key as Postgres prints it. Pure.

Postgres takes many spellings of a value and prints one: a uuid in small letters, a timestamp with a blank in its
middle. A device keeps most values as texts, and to SQLite two spellings are two keys. So the row that a device has
inserted and the one that comes back would be two for it, of which nobody else has the first.

Of the types that are numbers in SQLite every spelling is the same value there. ``float4`` is one only up to six digits,
since a device keeps more of them than Postgres does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

Printed: TypeAlias = Callable[[bytes], bool]
"""Whether a cell of the wire is as Postgres prints it. In doubt it is not."""

# Of these SQLite has the same value whatever the spelling, or there is but one.
_AS_WRITTEN = frozenset({"bool", "int2", "int4", "int8", "text", "varchar", "bytea"})
_NUMBERS = frozenset({"int2", "int4", "int8", "float4", "float8"})
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_WORDS = frozenset({b"NaN", b"Infinity", b"-Infinity", b"infinity", b"-infinity"})
_DATE = rb"(?:[0-9]{4}|[1-9][0-9]{4,6})-[0-9]{2}-[0-9]{2}"
_TIME = rb"(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}"
_FRACTION = rb"(?:\.[0-9]{0,5}[1-9])?"
_SINGLE_DIGITS = 6  # as many as are never lost in a float4


def printed(type_name: str, *, limited: bool = False) -> Printed | None:
    """The test for cells of a type; None where every spelling is the same key to a device, too. ``limited``: the column
    has a length or a precision, to which Postgres may cut a value."""
    if type_name == "jsonb":
        return _never
    if type_name == "varchar" and limited:
        return _without_blank_end
    if type_name in _AS_WRITTEN:
        return None
    return _LIMITED[type_name] if limited and type_name in _LIMITED else _PRINTED.get(type_name, _never)


def same_key(type_name: str, one: bytes | None, other: bytes | None) -> bool:
    """Whether two cells of a key are the same to a device."""
    if one == other:
        return True
    if type_name not in _NUMBERS or one is None or other is None or not (_NUMBER.match(one) and _NUMBER.match(other)):
        return False
    return float(one) == float(other) if type_name.startswith("float") else int(one) == int(other)


def _never(_: bytes) -> bool:
    return False


def _without_blank_end(cell: bytes) -> bool:
    return not cell.endswith(b" ")


def _in_small_letters(cell: bytes) -> bool:
    return cell == cell.lower()


def _printed_single(cell: bytes) -> bool:
    if cell in _WORDS:
        return True
    mantissa = re.split(rb"[eE]", cell)[0]
    digits = re.sub(rb"[^0-9]", b"", mantissa).strip(b"0")
    return _NUMBER.match(cell) is not None and len(digits) <= _SINGLE_DIGITS


def _printed_double(cell: bytes) -> bool:
    return cell in _WORDS or _NUMBER.match(cell) is not None


def _matching(pattern: bytes) -> Printed:
    compiled = re.compile(pattern)

    def matches(cell: bytes) -> bool:
        return compiled.fullmatch(cell) is not None or cell in _WORDS

    return matches


_PRINTED: dict[str, Printed] = {
    "uuid": _in_small_letters,
    "float4": _printed_single,
    "float8": _printed_double,
    "date": _matching(_DATE + rb"(?: BC)?"),
    "time": _matching(_TIME + _FRACTION),
    "timestamp": _matching(_DATE + rb" " + _TIME + _FRACTION + rb"(?: BC)?"),
    "timestamptz": _matching(_DATE + rb" " + _TIME + _FRACTION + rb"Z(?: BC)?"),
}
# Seconds of a limited precision are rounded: without a fraction there is nothing to round.
_LIMITED: dict[str, Printed] = {
    "time": _matching(_TIME),
    "timestamp": _matching(_DATE + rb" " + _TIME + rb"(?: BC)?"),
    "timestamptz": _matching(_DATE + rb" " + _TIME + rb"Z(?: BC)?"),
}
