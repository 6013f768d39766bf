"""SQL text of the triggers that capture local writes into the oplog. Pure: a table description in, statements out.

Capture must be exact: the row images in the oplog are what the server will store. JSON alone is not enough for that,
as SQLite prints a REAL in JSON with 15 digits and has no JSON for a BLOB. So each non-null value that is not an
integer becomes a JSON string whose first letter names its storage class: ``s`` text, ``r`` the shortest decimal that
reads back as the same double (from the function ``syncline_real``, which the writer connection registers), ``b``
hexadecimal bytes. Integers are JSON numbers, exact to 64 bits on both sides.

A key is the JSON array of the key's values as text; it is made by the same SQL expression everywhere (``key_sql``),
so a key computed in a trigger and one computed from bound parameters can never differ.

A foreign key adds a compensation for the parent, written before the child's own entry: if someone deletes the parent
concurrently, it is revived everywhere. It is written for updates that leave the foreign key alone too, since they
also keep the child alive. An update that changes nothing is not captured.

A row image has the columns that the device holds (``Table.held``), and a write to another one is refused here: its NULL
says nothing about the row in Postgres. So is NULL where the table says NOT NULL, in SQLite's words (``ddl`` says why
SQLite does not do it itself). A column that is NULL already may stay so: another shape's row may lack it.
And so is what a CHECK of the table does not let pass, as far as the server could put it into SQLite, where one of its
columns changes. A row that has been invalid before may not be as it is in Postgres, which judges the others.
"""

# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from syncline.client.cells import Value
from syncline.client.schema import ForeignKey, Table, literal, quoted

REAL_FUNCTION = "syncline_real"
# Of the bytes that a key has as hexadecimal text.
BYTES_FUNCTION = "syncline_bytes"
# Of a table, a column, and what the column is to be where an insert leaves it out: that, or NULL where it is lacking.
DEFAULT_FUNCTION = "syncline_default"
# Of a table and a column: the next value of its sequence.
NEXT_FUNCTION = "syncline_next"

# SQLite allows 127 arguments to a function: an image of more columns is a concatenation of several objects.
_IMAGE_COLUMNS_MAX = 50

_CAPTURING = "(SELECT capture FROM _syncline_state)"


def value_sql(reference: str) -> str:
    return (
        f"CASE typeof({reference}) WHEN 'text' THEN 's' || {reference} WHEN 'blob' THEN 'b' || hex({reference}) "
        f"WHEN 'real' THEN 'r' || {REAL_FUNCTION}({reference}) ELSE {reference} END"
    )


def key_sql(references: Sequence[str]) -> str:
    """The expression of a row's key text; ``references`` are columns or parameters, in the order of the key."""
    parts = ", ".join(
        f"CASE typeof({ref}) WHEN 'blob' THEN hex({ref}) WHEN 'real' THEN {REAL_FUNCTION}({ref}) "
        f"ELSE CAST({ref} AS TEXT) END"
        for ref in references
    )
    return f"json_array({parts})"


def image_sql(row: str, columns: Sequence[str]) -> str:
    """The expression of a row image: a JSON object, or for a wide table a JSON array of objects."""
    objects = []
    for start in range(0, len(columns), _IMAGE_COLUMNS_MAX):
        pairs = ", ".join(
            f"{literal(name)}, {value_sql(f'{row}.{quoted(name)}')}"
            for name in columns[start : start + _IMAGE_COLUMNS_MAX]
        )
        objects.append(f"json_object({pairs})")
    if len(objects) == 1:
        return objects[0]
    return "'[' || " + " || ',' || ".join(objects) + " || ']'"


def parse_image(text: str) -> dict[str, Value]:
    """The values of an image by column name, exactly as the row held them."""
    parsed = json.loads(text)
    objects = parsed if isinstance(parsed, list) else [parsed]
    return {name: _parse_value(value) for part in objects for name, value in part.items()}


def image_of(values: Mapping[str, Value]) -> str:
    """What ``parse_image`` reads back."""
    return json.dumps({name: _image_value(value) for name, value in values.items()})


def _image_value(value: Value) -> int | str | None:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return f"s{value}"
    return f"r{value!r}" if isinstance(value, float) else f"b{value.hex()}"


def _parse_value(value: int | str | None) -> Value:
    if not isinstance(value, str):
        return value
    kind, rest = value[0], value[1:]
    if kind == "s":
        return rest
    return float(rest) if kind == "r" else bytes.fromhex(rest)


def trigger_names(table: Table) -> tuple[str, ...]:
    return tuple(f"_syncline_{table.id}_{event}" for event in ("key", "insert", "update", "delete"))


def drop_triggers(table: Table) -> list[str]:
    return [f"DROP TRIGGER IF EXISTS {quoted(name)}" for name in trigger_names(table)]


def create_triggers(table: Table, tables: Mapping[str, Table]) -> list[str]:
    """The four triggers of a table. ``tables``: all synced tables by name, to find the keys of parents."""
    on_key, on_insert, on_update, on_delete = (quoted(name) for name in trigger_names(table))
    name = quoted(table.name)
    parents = "".join(
        _compensation(table, key, tables[key.parent_table]) for key in table.foreign_keys if key.parent_table in tables
    )
    key_columns = ", ".join(quoted(column) for column in table.primary_key)
    refusal = f"the primary key of {table.name} cannot change: delete the row and insert another"
    return [
        f"CREATE TRIGGER {on_key} BEFORE UPDATE OF {key_columns} ON {name} WHEN {_differs(table.primary_key)} "
        f"BEGIN SELECT RAISE(ABORT, {literal(refusal)}); END",
        f"CREATE TRIGGER {on_insert} AFTER INSERT ON {name} WHEN {_CAPTURING} "
        f"BEGIN {_refusals(table, 'NULL')}{parents}{_entry(table, 'I', 'new')} END",
        f"CREATE TRIGGER {on_update} AFTER UPDATE ON {name} WHEN {_CAPTURING} AND ({_differs(table.columns)}) "
        f"BEGIN {_refusals(table, 'old')}{parents}{_entry(table, 'U', 'new')} END",
        f"CREATE TRIGGER {on_delete} AFTER DELETE ON {name} WHEN {_CAPTURING} BEGIN {_entry(table, 'D', 'old')} END",
    ]


def _refusals(table: Table, before: str) -> str:
    """What the application may not write. ``before``: the row of an update before it, or NULL for an insert."""
    cases = []
    for column in table.columns:
        new = f"new.{quoted(column)}"
        old = "NULL" if before == "NULL" else f"{before}.{quoted(column)}"
        if column in table.lacking:
            refusal = (
                f"this device does not hold the column {column} of {table.name}: "
                "to write it, sync a shape that has the column"
            )
            cases.append(f"WHEN {new} IS NOT {old} THEN RAISE(ABORT, {literal(refusal)})")
        elif column in table.required:
            refusal = f"NOT NULL constraint failed: {table.name}.{column}"
            was_null = "" if before == "NULL" else f" AND {old} IS NOT NULL"
            cases.append(f"WHEN {new} IS NULL{was_null} THEN RAISE(ABORT, {literal(refusal)})")
    for check in table.checks:
        if all(column in table.held for column in check.columns):
            changes = "" if before == "NULL" else f"({_differs(check.columns)}) AND "
            cases.append(f"WHEN {changes}NOT ({check.condition}) THEN RAISE(ABORT, {literal(check.message)})")
    return f"SELECT CASE {' '.join(cases)} END; " if cases else ""


def _differs(columns: Sequence[str]) -> str:
    return " OR ".join(f"old.{quoted(column)} IS NOT new.{quoted(column)}" for column in columns)


def _entry(table: Table, op: str, row: str) -> str:
    key = key_sql([f"{row}.{quoted(column)}" for column in table.primary_key])
    new = "NULL" if op == "D" else image_sql("new", table.held)
    old = "NULL" if op == "I" else image_sql("old", table.held)
    return (
        "INSERT INTO _syncline_oplog (table_name, op, key, new_row, old_row) "
        f"VALUES ({literal(table.name)}, '{op}', {key}, {new}, {old});"
    )


def _compensation(table: Table, foreign_key: ForeignKey, parent: Table) -> str:
    """Keep the referenced row alive. A row that references itself needs no such help."""
    refers = " AND ".join(
        f"parent.{quoted(there)} = new.{quoted(here)}"
        for here, there in zip(foreign_key.columns, foreign_key.parent_columns, strict=True)
    )
    if parent.name == table.name:
        refers += " AND (" + " OR ".join(f"parent.{quoted(c)} IS NOT new.{quoted(c)}" for c in table.primary_key) + ")"
    key = key_sql([f"parent.{quoted(column)}" for column in parent.primary_key])
    return (
        "INSERT INTO _syncline_oplog (table_name, op, key, new_row) "
        f"SELECT {literal(parent.name)}, 'C', {key}, {image_sql('parent', parent.primary_key)} "
        f"FROM {quoted(parent.name)} AS parent WHERE {refers};"
    )
