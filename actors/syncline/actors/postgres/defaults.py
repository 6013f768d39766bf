"""What devices put into a column that an insert leaves out, in the DDL of their database. Pure.

``electric.described_default`` says of each column's default what kind it is; this is that kind as an SQL expression.
What SQLite fills in is stored, and sent, as a device stores such a value otherwise: a literal as ``typemap`` has it, a
time with milliseconds as Postgres prints it, a UUID in lower case.

A device has no time zone, so a ``timestamp`` that is *now* is that of UTC. A time is that of the statement.

No expression: a sequence, and what only Postgres can evaluate. It is left NULL on the device, and Postgres fills it in
when the insert arrives (``left_to_postgres``): so such a column is not NOT NULL there, unless it belongs to the key. Of
sequences our own library has values of its own, which it was told of by ``MigrationColumn.sequence``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from syncline.actors.postgres.typemap import INTEGER_BITS, sqlite_type, to_wire

DescribedColumn: TypeAlias = Mapping[str, Any]
"""A column in a table's description. Those of before have no key ``default``."""

LITERAL: Final = "literal"
NOW: Final = "now"
UUID: Final = "uuid"
SEQUENCE: Final = "sequence"
SERVER: Final = "server"

# What SQLite prints, and its length: 2024-02-29 12:34:56.789.
_MOMENT: Final = ("%Y-%m-%d %H:%M:%f", 23)
_FORMATS: Final = {"timestamp": _MOMENT, "timestamptz": _MOMENT, "time": ("%H:%M:%f", 12)}
_MILLISECONDS: Final = 3
_NOT_NUMBERS: Final = frozenset({"NaN", "Infinity", "-Infinity"})

# Version 4 is random, but for its version and its variant; version 7 begins with the time in milliseconds.
_RANDOM_HALF: Final = (
    "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))"
)
_MS: Final = "printf('%012x', strftime('%s', 'now') * 1000 + substr(strftime('%f', 'now'), 4))"
_THIRD: Final = "substr(hex(randomblob(2)), 2)"
_UUIDS: Final = {
    4: f"hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || {_THIRD} || '-' || {_RANDOM_HALF}",
    7: f"substr({_MS}, 1, 8) || '-' || substr({_MS}, 9) || '-7' || {_THIRD} || '-' || {_RANDOM_HALF}",
}


def kind_of(column: DescribedColumn) -> str | None:
    """The kind of its default; None: it has none, or nothing is known of it."""
    default = column.get("default")
    return None if default is None else default["kind"]


def left_to_postgres(column: DescribedColumn) -> bool:
    """Whether devices leave it NULL for Postgres to fill in. A key they have to know."""
    return column["pk"] is None and kind_of(column) in (SEQUENCE, SERVER)


def device_type(column: DescribedColumn) -> str:
    """Its declared type in SQLite. An INTEGER that is a key by itself is the number of the row there, and what leaves
    it out would get the largest plus one, whatever the default: so where there is one, it is an INT, else the same."""
    declared = sqlite_type(column["type"])
    return "INT" if declared == "INTEGER" and column["pk"] is not None and kind_of(column) is not None else declared


def sqlite_default(column: DescribedColumn) -> str | None:
    """An expression of SQLite; None: there is none, it is NULL."""
    default = column.get("default") or {}
    match default.get("kind"):
        case "literal":
            return sqlite_literal(column["type"], default["value"])
        case "now":
            return _sqlite_now(column["type"], default)
        case "uuid":
            return f"lower({_UUIDS[default['version']]})"
    return None


def sqlite_literal(type_name: str, text: str) -> str:
    """A value of a type, from Postgres' output text, as a device stores it."""
    if type_name == "bool":
        return "1" if text == "t" else "0"
    if type_name in INTEGER_BITS or (type_name in ("float4", "float8") and text not in _NOT_NUMBERS):
        return text
    convert = to_wire(type_name)
    cell = text.encode() if convert is None else convert(text.encode())
    return f"x'{cell.hex()}'" if type_name == "bytea" else quoted_text(cell.decode())


def _sqlite_now(type_name: str, default: Mapping[str, Any]) -> str:
    of, digits = default["of"], default.get("precision", _MILLISECONDS)
    # A domain's values travel as Postgres prints them.
    zone = {"timestamptz": "Z"}.get(type_name, "+00") if of == "timestamptz" else ""
    if of == "date":
        return "strftime('%Y-%m-%d', 'now')"
    if default.get("day"):
        return f"strftime('%Y-%m-%d 00:00:00{zone}', 'now')"
    form, chars = _FORMATS[of]
    printed = f"strftime('{form}', 'now')"
    if digits < _MILLISECONDS:
        printed = f"substr({printed}, 1, {chars - _MILLISECONDS + digits})"
    printed = f"rtrim(rtrim({printed}, '0'), '.')"
    return f"{printed} || '{zone}'" if zone else printed


def postgres_default(column: DescribedColumn) -> str | None:
    """The same for a device on Postgres."""
    default = column.get("default") or {}
    match default.get("kind"):
        case "literal":
            return quoted_text(default["value"])
        case "now":
            return _postgres_now(default)
        case "uuid":
            # Which majors have another version is not asked: all devices have this one.
            return "gen_random_uuid()"
    return None


def _postgres_now(default: Mapping[str, Any]) -> str:
    digits = f"({default['precision']})" if "precision" in default else ""
    now = f"CURRENT_TIMESTAMP{digits}"
    if default["of"] in ("timestamp", "time"):
        now = f"({now} AT TIME ZONE 'utc')"
    if default.get("day") or default["of"] == "date":
        return f"({now})::date"
    return f"({now})::time" if default["of"] == "time" else now


def quoted_text(text: str) -> str:
    """As an SQL string."""
    return "'" + text.replace("'", "''") + "'"
