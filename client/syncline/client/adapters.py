"""Values of SQLite's columns <-> Python values, by Postgres type. Pure.

On a device a value is an int, float, str, bytes or None: most types of Postgres are texts there, exact, as Postgres
prints them (see ``cells``). An ``Adapter`` says what such a value is in Python, and how that is written; ``Adapters``
has one for each type by its name, and makes those of arrays, ranges and multiranges out of those of their parts.

* What Python has no equal value for stays the text, and so does every value of a type without adapter. So ``decode``
  takes whatever Postgres prints, and ``encode`` of what it returns is the same value to Postgres.
* A ``str`` is never looked into: to ``encode`` it is the text itself, of whatever type. So are all values that SQLite
  takes as they are, unless the type is one of JSON.
* As the argument of a statement a Python value has no column to tell its type: its Python type does. Postgres' pseudo
  types stand for what that leaves open: a list is ``anyarray``.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import Any, Final, TypeAlias
from uuid import UUID

from syncline.client.cells import FLOAT_TYPES, INTEGER_TYPES, Value, decode_cell, decoder, encoder
from syncline.client.composed_texts import (
    Part,
    Parts,
    RangeParts,
    array_text,
    hstore_text,
    multirange_text,
    range_text,
    read_array,
    read_hstore,
    read_multirange,
    read_range,
)
from syncline.client.errors import UsageError
from syncline.client.scalar_texts import (
    cidr_text,
    date_text,
    inet_text,
    interval_text,
    json_text,
    numeric_text,
    read_date,
    read_interval,
    read_json,
    read_numeric,
    read_time,
    read_timestamp,
    read_timestamptz,
    read_timetz,
    time_text,
    timestamp_text,
    timestamptz_text,
    timetz_text,
)
from syncline.client.typed_values import Interval, Json, Multirange, Range

Arguments: TypeAlias = Sequence[object] | Mapping[str, object]
"""Arguments of a statement, of any type that has an adapter."""

JSON_TYPES: Final = frozenset({"json", "jsonb"})
# What a decode may raise of a text that Python has no value for.
_UNREADABLE: Final = (ValueError, ArithmeticError, RecursionError)
_UNWRITABLE: Final = (*_UNREADABLE, TypeError)


@dataclass(frozen=True)
class Adapter:
    """Of one Postgres type. ``python_type``: of the values that ``encode`` takes; others are encoded by their own type.

    ``decode`` takes what SQLite has, never None, and raises ValueError for what it has no exact value for: that stays
    as it is. ``encode`` raises ValueError or TypeError for what the type has no value for. ``delimiter``: between the
    elements of its arrays (``typdelim``).
    """

    python_type: type[Any] | tuple[type[Any], ...]
    decode: Callable[[Value], object]
    encode: Callable[[Any], Value]
    delimiter: str = ","


def _same(value: Any) -> Any:
    return value


def _of_text(read: Callable[[str], object]) -> Callable[[Value], object]:
    def decode(value: Value) -> object:
        if not isinstance(value, str):
            raise ValueError("no text")
        return read(value)

    return decode


def _read_bool(value: Value) -> bool:
    if value not in (0, 1):
        raise ValueError("a bool is 0 or 1")
    return bool(value)


def _read_float(value: Value) -> float:
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError("no number")
    if value is None or isinstance(value, bytes):
        raise ValueError("no number")
    return float(value)


def _float_value(value: float) -> Value:
    """SQLite makes NULL of a NaN."""
    if value - value == 0:
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _json_value(value: object) -> str:
    return value if isinstance(value, str) else json_text(value)


_PLAIN: Final = Adapter((), _same, _same)
_JSON: Final = Adapter(object, _of_text(read_json), _json_value)
_TIMETZ: Final = Adapter(time, _of_text(read_timetz), timetz_text)

_BUILT_IN: Final[Mapping[str, Adapter]] = {
    **dict.fromkeys(("text", "bytea", *INTEGER_TYPES), _PLAIN),
    **dict.fromkeys(FLOAT_TYPES, Adapter(float, _read_float, _float_value)),
    **dict.fromkeys(JSON_TYPES, _JSON),
    "bool": Adapter(bool, _read_bool, int),
    "numeric": Adapter((Decimal, int, float), _of_text(read_numeric), numeric_text),
    "date": Adapter(date, _of_text(read_date), date_text),
    "time": Adapter(time, _of_text(read_time), time_text),
    "timetz": _TIMETZ,
    "pg_catalog.timetz": _TIMETZ,  # what a column of it is called to devices
    "timestamp": Adapter(datetime, _of_text(read_timestamp), timestamp_text),
    "timestamptz": Adapter(datetime, _of_text(read_timestamptz), timestamptz_text),
    "interval": Adapter((timedelta, Interval), _of_text(read_interval), interval_text),
    "uuid": Adapter(UUID, _of_text(UUID), str),
    "inet": Adapter((IPv4Interface, IPv6Interface, IPv4Address, IPv6Address), _of_text(ip_interface), inet_text),
    "cidr": Adapter((IPv4Network, IPv6Network), _of_text(ip_network), cidr_text),
    "hstore": Adapter(dict, _of_text(read_hstore), hstore_text),
    # Texts, whose arrays are not separated by commas.
    "box": Adapter((), _same, _same, delimiter=";"),
    **dict.fromkeys(("geometry", "geography"), Adapter((), _same, _same, delimiter=":")),
}

_RANGES: Final[Mapping[str, str]] = {
    "int4range": "int4",
    "int8range": "int8",
    "numrange": "numeric",
    "daterange": "date",
    "tsrange": "timestamp",
    "tstzrange": "timestamptz",
    "anyrange": "anyelement",
}

_BY_PYTHON: Final[Mapping[type[Any], str]] = {
    type(None): "text",
    str: "text",
    bytes: "bytea",
    bytearray: "bytea",
    memoryview: "bytea",
    bool: "bool",
    int: "int8",
    float: "float8",
    Decimal: "numeric",
    date: "date",
    time: "time",
    datetime: "timestamp",
    timedelta: "interval",
    Interval: "interval",
    UUID: "uuid",
    **dict.fromkeys((IPv4Interface, IPv6Interface, IPv4Address, IPv6Address), "inet"),
    **dict.fromkeys((IPv4Network, IPv6Network), "cidr"),
    dict: "jsonb",
    Json: "jsonb",
    list: "anyarray",
    tuple: "anyarray",
    Range: "anyrange",
    Multirange: "anymultirange",
}
# Of those that have a time zone.
_ZONED: Final = {"timestamp": "timestamptz", "time": "timetz"}


def multirange_name(range_name: str) -> str:
    """What Postgres calls the multirange of a range, unless it is told otherwise."""
    if "range" in range_name:
        return range_name.replace("range", "multirange", 1)
    return f"{range_name}_multirange"


def _element_name(array_name: str) -> str | None:
    """``app._mood`` is the array of ``app.mood``."""
    schema, dot, name = array_name.rpartition(".")
    return f"{schema}{dot}{name[1:]}" if name.startswith("_") else None


@dataclass(frozen=True)
class Adapters:
    """The adapters of a database, by type names as devices know them: in small letters, ``numeric``, ``app.mood``."""

    types: Mapping[str, Adapter]
    ranges: Mapping[str, str]
    """The types of the bounds, by the names of range types."""
    by_python: Mapping[type[Any], str]
    """The Postgres types as which Python values are written where no column says."""
    _made: dict[str, Adapter] = field(default_factory=dict, init=False, repr=False, compare=False)

    # --- extending ----------------------------------------------------------------------------------------------------

    def with_type(
        self,
        name: str,
        *,
        python_type: type[Any],
        decode: Callable[[Any], object],
        encode: Callable[[Any], Value],
        delimiter: str = ",",
    ) -> Adapters:
        """These and one for the Postgres type ``name``, its arrays and ranges, in place of what there was for it.

        ``decode``, ``encode``, ``delimiter``: see ``Adapter``. A ``python_type`` that no other type is written as is
        taken as an argument of statements, too.
        """
        name = name.lower()
        adapter = Adapter(python_type, decode, encode, delimiter)
        return Adapters({**self.types, name: adapter}, self.ranges, {python_type: name, **self.by_python})

    def with_range(self, name: str, of: str) -> Adapters:
        """These and those for the range type ``name``, whose bounds are of the type ``of``, and for its multirange."""
        return Adapters(self.types, {**self.ranges, name.lower(): of.lower()}, self.by_python)

    # --- values -------------------------------------------------------------------------------------------------------

    def decode(self, pg_type: str, value: Value) -> object:
        """The Python value of what SQLite has in a column of ``pg_type``. Does not raise for what Postgres prints."""
        if value is None:
            return None
        try:
            return self.adapter(pg_type).decode(value)
        except _UNREADABLE:
            return value

    def encode(self, pg_type: str, value: object) -> Value:
        """What SQLite is to have in a column of ``pg_type``. Raises UsageError for what the type has no value for."""
        return self._encoded(pg_type, value)[1]

    def argument(self, value: object) -> Value:
        """The same where no column says what type it is. Raises UsageError for a Python type without adapter."""
        kind = type(value)
        if kind is str or kind is int or value is None or kind is bytes:
            return value  # type: ignore[return-value]
        if kind is float and value == value:
            return value  # type: ignore[return-value] # infinities, too: SQLite is to compare numbers with numbers
        return self._encoded("anyelement", value)[1]

    def arguments(self, values: Arguments) -> Sequence[Value] | Mapping[str, Value]:
        """All of a statement's."""
        if isinstance(values, Mapping):
            return {name: self.argument(value) for name, value in values.items()}
        return [self.argument(value) for value in values]

    # --- finding the adapter ------------------------------------------------------------------------------------------

    def adapter(self, pg_type: str) -> Adapter:
        """That of ``pg_type``; one that changes nothing for a type that nobody has named."""
        known = self.types.get(pg_type) or self._made.get(pg_type)
        if known is None:
            known = self._made[pg_type] = self._make(pg_type)
        return known

    def _make(self, pg_type: str) -> Adapter:
        if pg_type in self.ranges:
            return self._of_range(self.ranges[pg_type])
        for name, subtype in self.ranges.items():
            if pg_type == multirange_name(name):
                return self._of_multirange(subtype)
        element = "anyelement" if pg_type == "anyarray" else _element_name(pg_type)
        return _PLAIN if element is None else self._of_array(element)

    def _type_of(self, value: object) -> str:
        for kind in type(value).__mro__:
            name = self.by_python.get(kind)
            if name is not None:
                return _ZONED.get(name, name) if getattr(value, "tzinfo", None) is not None else name
        raise UsageError(
            f"there is no adapter for {type(value).__module__}.{type(value).__qualname__}",
            hint="give its text, or tell open_db how to write it: adapters=ADAPTERS.with_type(...)",
        )

    def _is_array(self, value: object) -> bool:
        """Rather than a value of a type of the application, a named tuple say."""
        return isinstance(value, list | tuple) and self._type_of(value) == "anyarray"

    def _encoded(self, pg_type: str, value: object) -> tuple[str, Value]:
        """The value, and the type as which it is written."""
        if value is None or type(value) is str:
            return pg_type, value
        adapter = self.adapter(pg_type)
        if not isinstance(value, adapter.python_type):
            pg_type = self._type_of(value)
            adapter = self.adapter(pg_type)
            if not isinstance(value, adapter.python_type):  # the application has one for other Python values
                adapter = _BUILT_IN.get(pg_type, adapter)
        try:
            return pg_type, adapter.encode(value)
        except _UNWRITABLE as problem:
            raise UsageError(f"{pg_type} has no value for this {type(value).__name__}: {problem}") from problem

    # --- of parts -----------------------------------------------------------------------------------------------------

    def _read_part(self, pg_type: str, text: Part) -> object:
        """In a larger text everything is as Postgres prints it, also what has a form of its own in a column."""
        if text is None:
            return None
        if pg_type == "bytea":
            return unhexlify(text.removeprefix("\\x"))
        return self.decode(pg_type, decode_cell(decoder(pg_type), text.encode("utf-8", "surrogatepass")))

    def _part_text(self, pg_type: str, value: object) -> Part:
        name, stored = self._encoded(pg_type, value)
        if stored is None:
            return None
        if isinstance(stored, bytes | bytearray | memoryview):
            return "\\x" + bytes(stored).hex()
        cell = encoder(name)(stored)
        assert cell is not None
        text = cell.decode("utf-8", "surrogatepass")
        return text.replace("Z", "+00") if name == "timestamptz" else text

    def _of_array(self, element: str) -> Adapter:
        delimiter = self.adapter(element).delimiter

        def read(part: Part | Parts) -> object:
            if isinstance(part, list):
                return list(map(read, part))
            value = self._read_part(element, part)
            if self._is_array(value):  # it would be taken for another dimension
                return Json(value) if element in JSON_TYPES else part
            return value

        def written(value: Any) -> Part | Parts:
            return list(map(written, value)) if self._is_array(value) else self._part_text(element, value)

        return Adapter(
            (list, tuple),
            _of_text(lambda text: list(map(read, read_array(text, delimiter)))),
            lambda values: array_text(list(map(written, values)), delimiter),
        )

    def _of_range(self, subtype: str) -> Adapter:
        return Adapter(
            Range,
            _of_text(lambda text: self._read_range(subtype, read_range(text))),
            lambda value: range_text(self._range_parts(subtype, value)),
        )

    def _of_multirange(self, subtype: str) -> Adapter:
        return Adapter(
            Multirange,
            _of_text(lambda text: Multirange(tuple(self._read_range(subtype, r) for r in read_multirange(text)))),
            lambda value: multirange_text([self._range_parts(subtype, r) for r in value]),
        )

    def _read_range(self, subtype: str, parts: RangeParts) -> Range:
        if parts is None:
            return Range(empty=True)
        lower, upper, *inclusive = parts
        return Range(self._read_part(subtype, lower), self._read_part(subtype, upper), *inclusive)

    def _range_parts(self, subtype: str, value: Range) -> RangeParts:
        if value.empty:
            return None
        lower, upper = self._part_text(subtype, value.lower), self._part_text(subtype, value.upper)
        return lower, upper, value.lower_inclusive, value.upper_inclusive


ADAPTERS: Final = Adapters(_BUILT_IN, _RANGES, _BY_PYTHON)
"""Those of the types that the library knows; see docs/guide/device.md for which."""
