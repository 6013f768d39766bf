"""Columns and constants of a CHECK as SQLite expressions. Pure.

A device holds a value as ``client.cells`` makes it, and its application may have spelled one otherwise than Postgres
prints it. What is made here of a column is the value that Postgres will see, or NULL where that is not certain. Such a
NULL is a *doubt*: it stands for any value. Whatever is strict, and AND, OR and NOT, then give what they give for every
value, or NULL. So a condition with doubts is false only where Postgres' is. What tells NULL from a value may not ask a
doubtful operand: it asks the ``raw`` one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.actors.shapes.where import literals
from syncline.proto.conditions import MOMENT, moment

TEXTS: Final = frozenset({"text", "varchar"})
MOMENTS: Final = frozenset({"date", "timestamp", "timestamptz", "time"})
JSON: Final = frozenset({"json", "jsonb"})
INTEGERS: Final = frozenset(literals.INTEGER_RANGES)

_STORAGE: Final[Mapping[str, str]] = {
    **dict.fromkeys((*INTEGERS, "bool"), "integer"),
    **dict.fromkeys(("float4", "float8"), "real"),
    "bytea": "blob",
}
_NUMERIC: Final = re.compile(r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?\Z")
_HEADER: Final = 4
"""What Postgres adds to the length or precision that a type has."""


class Untranslatable(Exception):
    """Postgres alone judges by it."""


@dataclass(frozen=True, slots=True)
class Collation:
    """See ``electric.check_column``."""

    deterministic: bool = True
    by_bytes: bool = False
    ascii_case: bool = False

    def with_other(self, other: Collation) -> Collation:
        return Collation(
            self.deterministic and other.deterministic,
            self.by_bytes and other.by_bytes,
            self.ascii_case and other.ascii_case,
        )


OF_CONSTANTS: Final = Collation(by_bytes=True, ascii_case=True)
"""They have whatever collation they are compared by."""
BY_BYTES: Final = Collation(by_bytes=True, ascii_case=True)


@dataclass(frozen=True, slots=True)
class Operand:
    """A value. ``raw``: an expression that is NULL exactly where the value is, in Postgres; None: there is none. It is
    ``sql`` itself where there is no doubt. ``constant``: what it is, where it is one."""

    type: str
    sql: str
    raw: str | None
    collation: Collation = OF_CONSTANTS
    constant: str | int | float | None = None

    @property
    def sure(self) -> bool:
        return self.raw == self.sql

    @property
    def known_null(self) -> str:
        """Raises Untranslatable."""
        if self.raw is None:
            raise Untranslatable
        return self.raw


def sure(kind: str, sql: str, collation: Collation = OF_CONSTANTS) -> Operand:
    return Operand(kind, sql, sql, collation)


def constant(kind: str, value: str | int | float) -> Operand:
    """``value``: as SQLite has it. Raises Untranslatable for a date beyond those that are compared as texts."""
    if kind in MOMENTS:
        spelled = moment(str(value).encode().decode())
        if spelled is None:
            raise Untranslatable
        value = spelled
    sql = quoted_text(value) if isinstance(value, str) else repr(value)
    return Operand(kind, sql, sql, OF_CONSTANTS, value)


def typed(text: str, kind: str) -> Operand:
    """A string literal of that type. Raises Untranslatable where it is not certain what it means."""
    found: str | int | float | None
    if kind in TEXTS:
        found, kind = text, "text"
    elif kind == "bpchar":
        found = text.rstrip(" ")
    elif kind.startswith("enum "):
        found = text
    elif kind in INTEGERS:
        found, kind = literals.integer(text, kind), "integer"
    elif kind == "float8":
        found = literals.double(text)
    elif kind == "numeric":
        found = text if _NUMERIC.match(text) else None
    elif kind == "bool":
        found = {b"t": 1, b"f": 0, None: None}[literals.cell(text, kind)]
    elif kind in MOMENTS or kind == "uuid":
        cell = literals.cell(text, kind)
        found = None if cell is None else cell.decode()
    else:
        found = None
    if found is None:
        raise Untranslatable
    return constant(kind, found)


@dataclass
class Columns:
    """The columns of one CHECK, by name, as ``electric.check_column`` describes them. ``written``: those of them that
    devices write. ``used``, ``guards``: what has been made use of, and the conditions under which a device holds what
    Postgres will see: of the storage class, that is, as which the type's values are held."""

    described: Mapping[str, Mapping[str, Any]]
    written: frozenset[str]
    used: dict[str, None] = field(default_factory=dict)
    guards: dict[str, None] = field(default_factory=dict)

    def raw(self, name: str) -> str:
        """Raises Untranslatable for a column that devices do not have."""
        if name not in self.described or name not in self.written:
            raise Untranslatable
        self.used[name] = None
        return new(name)

    def value(self, name: str) -> Operand:
        """Raises Untranslatable for a type of which too little is known."""
        raw = self.raw(name)
        column = self.described[name]
        kind, modifier = device_kind(column), column["modifier"]
        if kind == "opaque":
            return Operand(kind, raw, raw)
        collation = Collation(column["deterministic"], column["by_bytes"], column["ascii_case"])
        storage = _STORAGE.get(kind, "text")
        self.guards[f"typeof({raw}) IN ('{storage}', 'null')"] = None
        if kind in TEXTS:
            # What is longer than the type allows is blanks, and is cut off.
            sql = raw if modifier < 0 else f"substr({raw}, 1, {modifier - _HEADER})"
            return sure("text", sql, collation)
        if kind == "bpchar":
            return sure(kind, f"rtrim({raw}, ' ')", collation)
        if kind in INTEGERS:
            return sure("integer", raw)
        if kind == "uuid":
            return sure(kind, f"lower({raw})")
        if kind == "numeric":
            return Operand(kind, _within_scale(raw, modifier), raw)
        if kind in MOMENTS:
            if modifier >= 0:
                raise Untranslatable  # it is rounded
            return Operand(kind, f"{MOMENT}({raw})", raw)
        return sure(kind, raw)

    def padded(self, name: str) -> Operand:
        """A column of type char(n), with the blanks that Postgres gives it."""
        operand, modifier = self.value(name), self.described[name]["modifier"]
        if modifier < 0:
            raise Untranslatable
        length = modifier - _HEADER
        sql = f"substr({operand.sql} || {quoted_text(' ' * length)}, 1, {length})"
        return sure("text", sql, operand.collation)


def device_kind(column: Mapping[str, Any]) -> str:
    """The type as conditions tell types apart; ``opaque``: it can be NULL, and no more is known of it."""
    schema, _, name = str(column["type"]).partition(".")
    if column["enum"]:
        return f"enum {column['type']}"
    known = (*INTEGERS, *TEXTS, *MOMENTS, *JSON, *_STORAGE, "bpchar", "uuid", "numeric")
    return name if schema == "pg_catalog" and name in known else "opaque"


def _within_scale(raw: str, modifier: int) -> str:
    """A numeric, unless Postgres rounds it."""
    if modifier < 0:
        return raw
    scale = scale_of(modifier)
    if scale < 0:
        raise Untranslatable
    return f"CASE WHEN length({raw}) - instr({raw} || '.', '.') <= {scale} THEN {raw} END"


def precision_of(modifier: int) -> int:
    """Of a numeric."""
    return (modifier - _HEADER) >> 16 & 0xFFFF


def scale_of(modifier: int) -> int:
    """Of a numeric; negative where it is rounded left of the point."""
    scale = (modifier - _HEADER) & 0x7FF
    return (scale ^ 0x400) - 0x400


def length_of(modifier: int) -> int:
    """Of a text."""
    return modifier - _HEADER


def new(name: str) -> str:
    """A column of the row that is written."""
    return f"new.{quoted_name(name)}"


def quoted_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
