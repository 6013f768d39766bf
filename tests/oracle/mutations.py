"""Random writes, in Postgres and on a device, as SQL that finds its rows by itself. Pure.

A statement is drawn without knowing what the database holds. It names rows by a small domain of keys or picks some of
those there are; what cannot be is refused by a constraint, and its transaction goes on without it.
"""

from __future__ import annotations

import random
from collections.abc import Set

from tests.oracle.schema import PULSE, ForeignKey, Schema, Table
from tests.oracle.values import KEYS, draw

STATEMENTS = {"insert": 26, "update": 26, "reparent": 18, "delete": 12, "many": 6, "key": 6, "rebirth": 4, "brief": 4}


def draw_transaction(rng: random.Random, schema: Schema, features: Set[str]) -> tuple[str, ...]:
    """The statements of one transaction in Postgres."""
    kinds = dict(STATEMENTS)
    if "key-changes" not in features:
        del kinds["key"]
    statements: list[str] = []
    for kind in rng.choices(list(kinds), list(kinds.values()), k=rng.choice((1, 1, 2, 3, 5))):
        statements += _STATEMENTS[kind](rng, rng.choice(schema.tables[:-1]), schema)
    return tuple(statements)


def fill(rng: random.Random, schema: Schema, rows: int) -> tuple[str, ...]:
    """Rows for every table, those that others need first; fewer where a key is taken or a parent is not there."""
    return tuple(insert(rng, table) for table in schema.parents_first if table.name != PULSE for _ in range(rows))


def truncate(rng: random.Random, schema: Schema) -> tuple[str, ...]:
    """A table and all that refer to it, and often some rows again at once."""
    names = ", ".join(table.name for table in rng.sample(schema.tables[:-1], rng.choice((1, 1, 2))))
    return (f"TRUNCATE {names} CASCADE", *(fill(rng, schema, 2) if rng.random() < 0.6 else ()))


# --- in Postgres ------------------------------------------------------------------------------------------------------


def insert(rng: random.Random, table: Table, key: dict[str, str] | None = None) -> str:
    """A row of a key of the domain, or of the one given, referring to rows there are."""
    values = {column.name: draw(rng, column.type_name, column.nullable)[0] for column in table.payload}
    values.update(key if key is not None else draw_key(rng, table))
    joins = []
    for number, fk in enumerate(table.foreign_keys):
        if fk.nullable and rng.random() < 0.25:
            values.update(dict.fromkeys(fk.columns, "NULL"))
            continue
        joins.append(f"LEFT JOIN LATERAL ({_some(rng, fk)}) f{number} ON true")
        columns = zip(fk.columns, fk.parent_columns, strict=True)
        values.update({column: f"f{number}.{parent}" for column, parent in columns if column not in (key or {})})
    return (
        f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} "
        f"FROM (SELECT) one {' '.join(joins)} ON CONFLICT DO NOTHING"
    )


def draw_key(rng: random.Random, table: Table) -> dict[str, str]:
    """Column -> literal; a column that is part of a foreign key takes a key of the parent's domain."""
    return {name: rng.choice(KEYS[table.types[name]])[0] for name in table.key}


def _some(rng: random.Random, fk: ForeignKey) -> str:
    return (
        f"SELECT {', '.join(fk.parent_columns)} FROM {fk.parent} ORDER BY {_shuffled(rng, fk.parent_columns)} LIMIT 1"
    )


def _shuffled(rng: random.Random, columns: tuple[str, ...]) -> str:
    return f"md5(concat_ws('/', {', '.join(columns)}) || '{rng.randrange(10_000)}')"


def _picked(rng: random.Random, table: Table, count: int) -> str:
    """A condition that holds for so many rows of those there are."""
    key = ", ".join(table.key)
    return f"({key}) IN (SELECT {key} FROM {table.name} ORDER BY {_shuffled(rng, table.key)} LIMIT {count})"


def _insert(rng: random.Random, table: Table, _: Schema) -> list[str]:
    return [insert(rng, table) for _ in range(rng.choice((1, 1, 2, 4)))]


def _update(rng: random.Random, table: Table, _: Schema) -> list[str]:
    columns = rng.sample(table.payload, rng.choice((1, 1, 2)))
    changes = ", ".join(f"{c.name} = {draw(rng, c.type_name, c.nullable)[0]}" for c in columns)
    return [f"UPDATE {table.name} SET {changes} WHERE {_picked(rng, table, rng.choice((1, 1, 2, 5)))}"]


def _many(rng: random.Random, table: Table, _: Schema) -> list[str]:
    number = "n = CASE WHEN n >= 5 THEN 0 ELSE coalesce(n, 0) + 1 END"
    return [f"UPDATE {table.name} SET {rng.choice((number, 'label = label'))}"]


def _reparent(rng: random.Random, table: Table, schema: Schema) -> list[str]:
    if not table.foreign_keys:
        return _update(rng, table, schema)
    fk = rng.choice(table.foreign_keys)
    if fk.nullable and rng.random() < 0.3:
        nulls = fk.columns if rng.random() < 0.7 else (rng.choice(fk.columns),)
        change = ", ".join(f"{column} = NULL" for column in nulls)
    else:
        change = f"({', '.join(fk.columns)}) = ({_some(rng, fk)})"
    return [f"UPDATE {table.name} SET {change} WHERE {_picked(rng, table, rng.choice((1, 1, 2, 3)))}"]


def _delete(rng: random.Random, table: Table, _: Schema) -> list[str]:
    return [f"DELETE FROM {table.name} WHERE {_picked(rng, table, rng.choice((1, 1, 1, 2)))}"]


def _key(rng: random.Random, table: Table, _: Schema) -> list[str]:
    column = rng.choice(table.key)
    literal = rng.choice(KEYS[table.types[column]])[0]
    return [f"UPDATE {table.name} SET {column} = {literal} WHERE {_picked(rng, table, 1)}"]


def _rebirth(rng: random.Random, table: Table, _: Schema) -> list[str]:
    """A row deleted and another one put in its place."""
    key = draw_key(rng, table)
    return [insert(rng, table, key), _delete_key(table, key), insert(rng, table, key)]


def _brief(rng: random.Random, table: Table, _: Schema) -> list[str]:
    """A row that nobody outside of the transaction ever sees, unless it was there before."""
    key = draw_key(rng, table)
    return [
        insert(rng, table, key),
        f"UPDATE {table.name} SET label = 'brief' WHERE {_where(key)}",
        _delete_key(table, key),
    ]


def _delete_key(table: Table, key: dict[str, str]) -> str:
    return f"DELETE FROM {table.name} WHERE {_where(key)}"


def _where(key: dict[str, str]) -> str:
    return " AND ".join(f"{name} = {literal}" for name, literal in key.items())


_STATEMENTS = {
    "insert": _insert,
    "update": _update,
    "many": _many,
    "reparent": _reparent,
    "delete": _delete,
    "key": _key,
    "rebirth": _rebirth,
    "brief": _brief,
}


# --- on a device ------------------------------------------------------------------------------------------------------


def draw_device_transaction(rng: random.Random, tables: list[Table]) -> tuple[str, ...]:
    """The statements of one transaction on a device that holds rows of ``tables``."""
    held = {table.name for table in tables}
    statements = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        table = rng.choice(tables)
        kind = rng.choices(("insert", "update", "reparent", "delete"), (30, 40, 20, 10))[0]
        parents = [fk for fk in table.foreign_keys if fk.parent in held and not set(fk.columns) & set(table.key)]
        if kind == "insert":
            statements.append(_device_insert(rng, table, held))
        elif kind == "delete":
            statements.append(f"DELETE FROM {table.name} WHERE {_device_pick(rng, table)}")
        elif kind == "reparent" and parents:
            fk = rng.choice(parents)
            change = f"({', '.join(fk.columns)}) = ({_device_some(rng, fk)})"
            statements.append(f"UPDATE {table.name} SET {change} WHERE {_device_pick(rng, table)}")
        else:
            column = rng.choice(table.payload)
            value = draw(rng, column.type_name, column.nullable)[1]
            statements.append(f"UPDATE {table.name} SET {column.name} = {value} WHERE {_device_pick(rng, table)}")
    return tuple(statements)


def _device_insert(rng: random.Random, table: Table, held: set[str]) -> str:
    values = {column.name: draw(rng, column.type_name, column.nullable)[1] for column in table.payload}
    values.update({name: rng.choice(KEYS[table.types[name]])[1] for name in table.key})
    joins = []
    for number, fk in enumerate(table.foreign_keys):
        if fk.nullable and (fk.parent not in held or rng.random() < 0.25):
            values.update(dict.fromkeys(fk.columns, "NULL"))
            continue
        joins.append(f"LEFT JOIN ({_device_some(rng, fk)}) f{number}")
        columns = zip(fk.columns, fk.parent_columns, strict=True)
        values.update({column: f"f{number}.{parent}" for column, parent in columns})
    return (
        f"INSERT INTO {table.name} ({', '.join(values)}) SELECT {', '.join(values.values())} "
        f"FROM (SELECT 1) one {' '.join(joins)}"
    )


def _device_some(rng: random.Random, fk: ForeignKey) -> str:
    offset = f"{rng.randrange(1000)} % max(1, (SELECT count(*) FROM {fk.parent}))"
    columns = ", ".join(fk.parent_columns)
    return f"SELECT {columns} FROM {fk.parent} ORDER BY {columns} LIMIT 1 OFFSET {offset}"


def _device_pick(rng: random.Random, table: Table) -> str:
    key = ", ".join(table.key)
    offset = f"{rng.randrange(1000)} % max(1, (SELECT count(*) FROM {table.name}))"
    return f"({key}) = (SELECT {key} FROM {table.name} ORDER BY {key} LIMIT 1 OFFSET {offset})"
