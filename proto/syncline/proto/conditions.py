"""What the conditions of a device's checks call besides SQLite's own functions. Pure.

A condition is an SQLite expression (see ``SatOpMigrate.Table.Check``). The service makes them and a device evaluates
them, so both have to agree on these functions: a device registers ``FUNCTIONS`` under their names. Each gives NULL
where it is not certain what Postgres would say, and for NULL. A CHECK passes then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

from syncline.proto.patterns import PatternRefused, pattern

MATCHES: Final = "syncline_matches"
COMPARE: Final = "syncline_compare"
MOMENT: Final = "syncline_moment"

DIGITS_MAX: Final = 1_000

_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?\Z")
_CLOCK = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
_MOMENT = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})(?:[T ]{_CLOCK}(?:Z|[+-]00(?::?00)?)?)?\Z")
_TIME = re.compile(rf"{_CLOCK}\Z")


def matches(text: object, expression: object, any_case: object) -> int | None:
    """Whether a text matches a regular expression of Postgres (``patterns``), in any case of ASCII's letters or not."""
    if not isinstance(text, str) or not isinstance(expression, str):
        return None
    try:
        found = pattern(expression, any_case=bool(any_case)).matches(text)
    except PatternRefused:
        return None
    return None if found is None else int(found)


def compare(left: object, right: object) -> int | None:
    """-1, 0 or 1: the first of two numbers is the smaller one, they are equal, it is the greater one. Numbers are
    texts of digits, with a sign and a point or without."""
    if not (_is_decimal(left) and _is_decimal(right)):
        return None
    one, other = Decimal(str(left)), Decimal(str(right))
    return (one > other) - (one < other)


def _is_decimal(text: object) -> bool:
    return isinstance(text, str) and len(text) <= DIGITS_MAX and _DECIMAL.match(text) is not None


def moment(text: object) -> str | None:
    """A date, a time of day, or both, spelled so that texts sort as what they mean: with six digits of a second, with a
    blank, in UTC. None for what is not of the years 1 to 9999, as infinity, and for 24 o'clock of a day."""
    if not isinstance(text, str):
        return None
    clock = _TIME.match(text)
    if clock is not None:
        return _clock(*clock.groups())
    found = _MOMENT.match(text)
    if found is None:
        return None
    day, hour, minute, second, fraction = found.groups()
    try:
        date.fromisoformat(day)
    except ValueError:
        return None
    if hour is None:
        return str(day)
    return None if hour > "23" else f"{day} {_clock(hour, minute, second, fraction)}"


def _clock(hour: str, minute: str, second: str, fraction: str | None) -> str:
    return f"{hour}:{minute}:{second}.{(fraction or '').ljust(6, '0')}"


FUNCTIONS: Final[Mapping[str, tuple[int, Callable[..., Any]]]] = {
    MATCHES: (3, matches),
    COMPARE: (2, compare),
    MOMENT: (1, moment),
}
"""By name: how many arguments, and what is to be called."""
