"""A string literal in a where clause -> the value it means for a column's type.

Pure. Postgres' input functions take many spellings. Here are the plain ones, of which it is certain what they mean;
``None`` is the answer to any other, and then Postgres itself evaluates the clause (and says what is wrong with it).

The values of a type have two forms. A *cell* is what a row holds: each value has exactly one text, so equality of cells
is equality of values (but for floats). A *key* is what ``<`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

INTEGER_RANGES: Final = {
    "int2": (-(1 << 15), (1 << 15) - 1),
    "int4": (-(1 << 31), (1 << 31) - 1),
    "int8": (-(1 << 63), (1 << 63) - 1),
}
DIGITS_MAX: Final = 40

_INTEGER = re.compile(r"[ \t\n]*([+-]?[0-9]{1,40})[ \t\n]*\Z")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]*)?(?:e-?[0-9]{1,4})?\Z")
_UUID = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\Z", re.IGNORECASE)
_BYTEA = re.compile(r"\\x((?:[0-9a-fA-F]{2})*)\Z")
_DATE = r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
_CLOCK = r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?"
_ZONE = r"(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_MOMENT = re.compile(rf"{_DATE}(?:[T ]{_CLOCK}{_ZONE})?\Z")
_TIME = re.compile(rf"{_CLOCK}\Z")
_BOOLS = {"true": b"t", "t": b"t", "false": b"f", "f": b"f"}


def integer(text: str, type_name: str) -> int | None:
    """The number, where the type can hold it."""
    match = _INTEGER.match(text)
    low, high = INTEGER_RANGES[type_name]
    if match is None or not low <= (number := int(match[1])) <= high:
        return None
    return number


def double(text: str) -> float | None:
    """A finite number of plain spelling, rounded as Postgres rounds it."""
    if _DECIMAL.match(text.lower()) is None:
        return None
    number = float(text)
    if number in (float("inf"), float("-inf")) or (
        number == 0.0 and re.search("[1-9]", text.lower().partition("e")[0])
    ):
        return None  # Postgres: out of range
    return number


def cell(text: str, type_name: str) -> bytes | None:
    """The literal as a row of this column would hold it. Not for float8."""
    if type_name in INTEGER_RANGES:
        number = integer(text, type_name)
        return None if number is None else str(number).encode()
    reader = _READERS.get(type_name)
    return None if reader is None else reader(text)


def _bool(text: str) -> bytes | None:
    return _BOOLS.get(text.lower())


def _uuid(text: str) -> bytes | None:
    match = _UUID.match(text)
    return None if match is None else "-".join(match.groups()).lower().encode()


def _bytea(text: str) -> bytes | None:
    match = _BYTEA.match(text)
    return None if match is None else bytes.fromhex(match[1])


def _moment(text: str) -> tuple[datetime, timedelta] | None:
    """(date and clock as written, offset from UTC), as far as the standard library's calendar goes."""
    match = _MOMENT.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        clock = datetime(  # noqa: DTZ001 - the offset is kept beside it
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "").ljust(6, "0")),
        )  # fmt: skip
    except ValueError:
        return None
    offset = timedelta()
    if zone not in (None, "Z"):
        hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
        if hours > 14 or minutes > 59:
            return None
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    return clock, offset


def _printed(clock: datetime) -> str:
    """As Postgres prints a timestamp: no trailing zeros of a second."""
    text = f"{clock.year:04}-{clock:%m-%d %H:%M:%S}"
    return f"{text}.{clock.microsecond:06}".rstrip("0") if clock.microsecond else text


def _timestamp(text: str) -> bytes | None:
    if text in ("infinity", "-infinity"):
        return text.encode()
    moment = _moment(text)  # an offset in the text of a timestamp means nothing to Postgres
    return None if moment is None else _printed(moment[0]).encode()


def _timestamptz(text: str) -> bytes | None:
    if text in ("infinity", "-infinity"):
        return text.encode()
    moment = _moment(text)
    if moment is None:
        return None
    try:
        return f"{_printed(moment[0] - moment[1])}Z".encode()
    except OverflowError:
        return None


def _date(text: str) -> bytes | None:
    if text in ("infinity", "-infinity"):
        return text.encode()
    moment = _moment(text)
    return None if moment is None else moment[0].date().isoformat().encode()


def _time(text: str) -> bytes | None:
    match = _TIME.match(text)
    if match is None:
        return None
    return _timestamp_part(f"2000-01-01 {text}")


def _timestamp_part(text: str) -> bytes | None:
    moment = _moment(text)
    return None if moment is None else _printed(moment[0]).encode()[11:]


_READERS: Final[dict[str, Callable[[str], bytes | None]]] = {
    "bool": _bool,
    "text": str.encode,
    "varchar": str.encode,
    "uuid": _uuid,
    "bytea": _bytea,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
}


# --- order ------------------------------------------------------------------------------------------------------------


def day_key(text: bytes) -> bytes:
    """The cell of a date or timestamp (without zone) -> bytes that sort as the values do.

    Years of four digits sort as they are printed; so do ``infinity`` and ``-infinity`` around them. Longer years sort
    behind a ``:``, which is just above the digits, those BC behind a ``/``, just below, with their years upside down.
    """
    if text[4] == 45 and text[-1] != 67:  # "-", "C"
        return text
    return _unusual_day_key(text)


def zoned_key(text: bytes) -> bytes:
    """The same for a timestamptz, whose ``Z`` would sort above fractions of the second it ends."""
    if text[4] == 45 and text[-1] == 90:  # "-", "Z"
        return text[:-1]
    return _unusual_day_key(text.replace(b"Z", b""))


def _unusual_day_key(text: bytes) -> bytes:
    if text in (b"infinity", b"-infinity"):
        return text
    bare, era, _ = text.partition(b" BC")
    year, _, rest = bare.partition(b"-")
    if era:
        return b"/%07d-%s" % (9_999_999 - int(year), rest)
    return b":%07d-%s" % (int(year), rest)


class _NotANumber:
    """NaN as Postgres orders it: equal to itself, above everything else."""

    def __eq__(self, other: object) -> bool:
        return other is self

    def __hash__(self) -> int:
        return 0

    def __lt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return other is self

    def __gt__(self, other: object) -> bool:
        return other is not self

    def __ge__(self, other: object) -> bool:
        return True


NAN: Final = _NotANumber()


def double_key(text: bytes) -> float | _NotANumber:
    """The cell of a float8 -> what compares as Postgres compares."""
    number = float(text)
    return number if number == number else NAN
