"""The constraints of a described table -> what its devices are told of them. Pure.

``checks`` are CHECKs of the table and of the domains of its columns, the lengths and precisions of types, and unique
constraints, each as far as the device sees. Where
only a part of a CHECK can be held on a device, or nothing, that is what is said. Which labels an enum has is not among
them: labels are added while devices are away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from syncline.actors.postgres.checks.conditions import Condition, translated
from syncline.actors.postgres.checks.operands import (
    Columns,
    length_of,
    new,
    precision_of,
    quoted_name,
    quoted_text,
    scale_of,
)
from syncline.actors.shapes.where.parsing import read
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.tree import Node
from syncline.proto.conditions import COMPARE
from syncline.proto.values import MigrationCheck

CHECKS_MAX: Final = 500
_VALUE: Final = "value"
"""What a domain calls the column."""


def checks(description: Mapping[str, Any], table: str) -> tuple[MigrationCheck, ...]:
    """``description``: of ``electric.describe``; one from before there were checks has none. ``table``: what devices
    call it."""
    found = [*_lengths(description, table), *_conditions(description), *_uniques(description, table)]
    return tuple(found[:CHECKS_MAX])


def registers(description: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The sets of columns that are valid together only, of those that devices have."""
    written = _written(description)
    sets = (tuple(name for name in names if name in written) for names in description.get("ties", ()))
    return tuple(names for names in sets if len(names) > 1)


def condition(check: Mapping[str, Any], written: frozenset[str]) -> Condition | None:
    """What a device can hold of one of the ``checks`` of a description. ``written``: the columns that devices have."""
    described = {column["name"]: column for column in check["columns"]}
    try:
        node = read(check["expression"], [_VALUE] if check["of_domain"] else list(described), printed=True)
    except WhereRefused:
        return None
    if check["of_domain"]:
        (name,) = described
        node = _renamed(node, name)
    return translated(node, Columns(described, written))


def _conditions(description: Mapping[str, Any]) -> Iterator[MigrationCheck]:
    written = _written(description)
    for check in description.get("checks", ()):
        found = condition(check, written)
        if found is not None:
            message = f"CHECK constraint failed: {check['name']}"
            yield MigrationCheck(check["name"], found.columns, found.sql, message)


def _lengths(description: Mapping[str, Any], table: str) -> Iterator[MigrationCheck]:
    written = _written(description)
    for column in description.get("limited", ()):
        name, modifier = column["name"], column["modifier"]
        if name not in written:
            continue
        raw, place = new(name), f"{table}.{name}"
        if column["type"] == "pg_catalog.numeric":
            digits = precision_of(modifier) - scale_of(modifier)
            if digits < 0:
                continue
            end = f"1{'0' * digits}"
            sql = f"({COMPARE}({raw}, '{end}') < 0 AND {COMPARE}({raw}, '-{end}') > 0)"
            message = f"numeric field overflow: {place}"
        else:
            length = length_of(modifier)
            sql = f"(length(rtrim({raw}, {quoted_text(' ')})) <= {length})"
            kind = "character" if column["type"] == "pg_catalog.bpchar" else "character varying"
            message = f"value too long for type {kind}({length}): {place}"
        yield MigrationCheck("", (name,), f"CASE WHEN typeof({raw}) = 'text' THEN {sql} ELSE 1 END", message)


def _uniques(description: Mapping[str, Any], table: str) -> Iterator[MigrationCheck]:
    """A device looks for another row that has the values among those that it has: with its own writes on their way, and
    maybe with one that has gone in Postgres since."""
    written = _written(description)
    key = [column["name"] for column in description["columns"] if column["pk"] is not None]
    for unique in description.get("uniques", ()):
        names = unique["columns"]
        if not written.issuperset(names):
            continue
        alike, same_row = (
            " AND ".join(f"other.{quoted_name(name)} = {new(name)}" for name in columns) for columns in (names, key)
        )
        others = f"SELECT 1 FROM {quoted_name(table)} AS other WHERE {alike} AND NOT ({same_row})"  # noqa: S608
        message = f"UNIQUE constraint failed: {', '.join(f'{table}.{name}' for name in names)}"
        yield MigrationCheck(unique["name"], tuple(names), f"NOT EXISTS ({others})", message)


def _written(description: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(column["name"] for column in description["columns"])


def _renamed(node: Node, name: str) -> Node:
    if node.kind == "column":
        return Node("column", name, (), node.at)
    return Node(node.kind, node.value, tuple([_renamed(arg, name) for arg in node.args]), node.at)
