"""Values of Postgres types for which Python has none of its own. Pure.

``Json`` says of a value that it is JSON; ``Interval``, ``Range`` and ``Multirange`` are what Postgres means by these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Json:
    """A JSON value, where it could be taken for something else: a list, which is an array by itself; a string, whose
    ``str`` is taken for text; JSON's null, as None is SQL's NULL. ``value``: of None, bool, int, float, Decimal, str,
    and lists and dictionaries of these."""

    value: Any


@dataclass(frozen=True)
class Interval:
    """What Postgres keeps of an interval: a month has no number of days, and a day none of hours. May be negative."""

    months: int = 0
    days: int = 0
    microseconds: int = 0

    @classmethod
    def of(cls, duration: timedelta) -> Interval:
        """The interval that is so long, in whole days and a time that has their sign."""
        sign = -1 if duration < timedelta(0) else 1
        days, rest = divmod(abs(duration), _DAY)
        return cls(days=sign * days, microseconds=sign * (rest // _MICROSECOND))

    def timedelta(self) -> timedelta:
        """How long it is, with days of 24 hours. Raises ValueError with months, OverflowError where Python's ends."""
        if self.months:
            raise ValueError("months have no length of their own")
        return timedelta(days=self.days, microseconds=self.microseconds)


@dataclass(frozen=True)
class Range:
    """From ``lower`` to ``upper``, None: without end there. An empty one has no bounds: ``Range(empty=True)``."""

    lower: Any = None
    upper: Any = None
    lower_inclusive: bool = True
    upper_inclusive: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Multirange:
    """Several ranges as one value."""

    ranges: tuple[Range, ...] = ()

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)
