"""Texts of single values and the Python values that are exactly these: times, intervals, numbers, JSON. Pure.

Each ``read_`` raises ValueError, or OverflowError, for a text that Python has no equal value for (``infinity``, the
year 10000 and those before Christ, 24:00:00), and for one that Postgres would not print.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Final

from syncline.client.typed_values import Interval, Json

# --- numbers ----------------------------------------------------------------------------------------------------------

# Beyond what numeric holds, zeros are not written out.
_NUMERIC_DIGITS: Final = 131_072


def read_numeric(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"not a number: {text[:40]!r}") from None


def numeric_text(value: Decimal | int | float) -> str:
    """As Postgres prints it; a float by the fewest digits that are no other float."""
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if number.is_nan():
        return "NaN"
    if number.is_infinite() or abs(number.adjusted()) > _NUMERIC_DIGITS:
        return str(number)
    return format(number, "f")


# --- dates and times --------------------------------------------------------------------------------------------------

_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
_OFFSET: Final = r"(?:Z|[+-][0-9]{2}(?::[0-9]{2}){0,2})"
_ONLY_DATE: Final = re.compile(_DATE)
_ONLY_TIME: Final = re.compile(_TIME)
_TIMETZ: Final = re.compile(_TIME + _OFFSET)
_TIMESTAMP: Final = re.compile(f"{_DATE}[ T]{_TIME}")
_TIMESTAMPTZ: Final = re.compile(f"{_DATE}[ T]{_TIME}{_OFFSET}")


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueError(f"Python has no such time: {text[:40]!r}")
    return text


def read_date(text: str) -> date:
    return date.fromisoformat(_matched(_ONLY_DATE, text))


def date_text(value: date) -> str:
    if isinstance(value, datetime):
        raise ValueError("a datetime is no date; its date() is")
    return value.isoformat()


def read_time(text: str) -> time:
    return time.fromisoformat(_matched(_ONLY_TIME, text))


def time_text(value: time) -> str:
    if value.tzinfo is not None:
        raise ValueError("a time without a time zone has no tzinfo")
    return _without_zeros(value.isoformat())


def read_timetz(text: str) -> time:
    return time.fromisoformat(_matched(_TIMETZ, text))


def timetz_text(value: time) -> str:
    offset = value.utcoffset()
    if offset is None:
        raise ValueError("a time with a time zone has an offset to UTC")
    sign = "-" if offset < timedelta(0) else "+"
    seconds, rest = divmod(abs(offset), timedelta(seconds=1))
    if rest:
        raise ValueError("an offset to UTC is in seconds")
    fields = (seconds // 3600, seconds // 60 % 60, seconds % 60)
    shown = 3 if fields[2] else 2 if fields[1] else 1
    printed = ":".join(f"{field:02}" for field in fields[:shown])
    return _without_zeros(value.replace(tzinfo=None).isoformat()) + sign + printed


def read_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(_matched(_TIMESTAMP, text))


def timestamp_text(value: datetime) -> str:
    if value.tzinfo is not None:
        raise ValueError("a timestamp without a time zone has no tzinfo; say which zone's time it is to be")
    return _without_zeros(value.isoformat(" "))


def read_timestamptz(text: str) -> datetime:
    """In UTC."""
    return datetime.fromisoformat(_matched(_TIMESTAMPTZ, text)).astimezone(UTC)


def timestamptz_text(value: datetime) -> str:
    """As devices have it: in UTC, with a ``Z``."""
    if value.utcoffset() is None:
        raise ValueError("a timestamp with a time zone needs a tzinfo, such as datetime.UTC")
    return timestamp_text(value.astimezone(UTC).replace(tzinfo=None)) + "Z"


def _without_zeros(text: str) -> str:
    return text.rstrip("0") if "." in text else text


# --- intervals --------------------------------------------------------------------------------------------------------

_INTERVAL: Final = re.compile(
    r"(?:([+-]?[0-9]+) years?(?: |\Z))?(?:([+-]?[0-9]+) mons?(?: |\Z))?(?:([+-]?[0-9]+) days?(?: |\Z))?"
    r"(?:([+-]?)([0-9]{2,}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?)?"
)


def read_interval(text: str) -> timedelta | Interval:
    """A timedelta where that comes to the same interval again, else an ``Interval``: with months, with 24 hours or more
    that are not days, or with days and a time of different signs."""
    match = _INTERVAL.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"not as Postgres prints an interval: {text[:40]!r}")
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups("0")
    micros = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000 + int(f"{fraction:0<6}")
    interval = Interval(int(years) * 12 + int(months), int(days), -micros if sign == "-" else micros)
    try:
        duration = interval.timedelta()
    except (ValueError, OverflowError):
        return interval
    return duration if Interval.of(duration) == interval else interval


def interval_text(value: timedelta | Interval) -> str:
    """In the IntervalStyle ``postgres``."""
    interval = Interval.of(value) if isinstance(value, timedelta) else value
    years, months = divmod(abs(interval.months), 12)
    sign = -1 if interval.months < 0 else 1
    printed: list[str] = []
    negative = False  # what comes next, if it is positive, says so
    for count, unit in ((sign * years, "year"), (sign * months, "mon"), (interval.days, "day")):
        if count:
            printed.append(f"{'+' if negative and count > 0 else ''}{count} {unit}{'' if count == 1 else 's'}")
            negative = count < 0
    if interval.microseconds or not printed:
        seconds, micros = divmod(abs(interval.microseconds), 1_000_000)
        before = "-" if interval.microseconds < 0 else "+" if negative else ""
        clock = f"{before}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        printed.append(_without_zeros(f"{clock}.{micros:06}") if micros else clock)
    return " ".join(printed)


# --- addresses --------------------------------------------------------------------------------------------------------


def inet_text(value: IPv4Interface | IPv6Interface | IPv4Address | IPv6Address) -> str:
    """As Postgres prints it: of a host without the length of its network."""
    if not isinstance(value, IPv4Interface | IPv6Interface):
        return _address_text(value)
    length = value.network.prefixlen
    return _address_text(value.ip) + ("" if length == value.max_prefixlen else f"/{length}")


def cidr_text(value: IPv4Network | IPv6Network) -> str:
    return f"{_address_text(value.network_address)}/{value.prefixlen}"


def _address_text(address: IPv4Address | IPv6Address) -> str:
    """Postgres has the dots of an IPv4 address in IPv6 ones that hold one."""
    before, embedded = divmod(int(address), 1 << 32)
    if address.version == 4 or not (before == 0xFFFF or (before == 0 and embedded >= 1 << 16)):
        return str(address)
    return f"::{'ffff:' if before else ''}{IPv4Address(embedded)}"


# --- JSON -------------------------------------------------------------------------------------------------------------


# Each level takes Python's stack. Of what is read no more are taken than can be written, wherever that is.
_JSON_LEVELS_MAX: Final = 100


def read_json(text: str) -> Any:
    """The value; a string or null by itself as ``Json`` of it.

    A number that is no integer is a float, or a Decimal where a float would be another number. What a dict cannot hold,
    a name that is there twice, raises ValueError, and so do more than 100 levels.
    """
    value = json.loads(text, parse_float=_json_number, parse_constant=_no_json_constant, object_pairs_hook=_json_object)
    if text.count("[") + text.count("{") > _JSON_LEVELS_MAX:
        json_text(value)
    return Json(value) if value is None or isinstance(value, str) else value


def _json_number(text: str) -> float | Decimal:
    exact, near = Decimal(text), float(text)
    return near if Decimal(repr(near)) == exact else exact


def _no_json_constant(text: str) -> None:
    raise ValueError(f"JSON has no {text}")


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is there twice")
    return value


def json_text(value: object) -> str:
    """The JSON of a value of ``Json``. Raises TypeError for another type, ValueError for a number that JSON lacks, and
    for more than 100 levels."""
    return _json_text(value.value if isinstance(value, Json) else value, _JSON_LEVELS_MAX)


def _json_text(value: object, levels: int) -> str:
    if levels < 0:
        raise ValueError(f"more than {_JSON_LEVELS_MAX} levels")
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _json_string(value)
        case int():
            return int.__repr__(value)
        case float() | Decimal():
            number = Decimal(repr(value)) if isinstance(value, float) else value
            if not number.is_finite():
                raise ValueError(f"JSON has no {number}")
            return repr(value) if isinstance(value, float) else str(value)
        case dict():
            members = (f"{_json_name(name)}: {_json_text(inner, levels - 1)}" for name, inner in value.items())
            return "{" + ", ".join(members) + "}"
        case list() | tuple():
            return "[" + ", ".join(_json_text(inner, levels - 1) for inner in value) + "]"
    raise TypeError(f"JSON has no {type(value).__name__}")


def _json_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name in JSON is a text, not {type(name).__name__}")
    return _json_string(name)


def _json_string(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: json takes its escape, UTF-8 has none
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
