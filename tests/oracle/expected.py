"""What a device must hold: the rows its shapes give in a state of the database. Pure, and nothing of the product's.

The rows of a shape are those of its table for which its where clause holds; along its include tree those that refer to
rows above and pass a where clause of their own, and those that rows above refer to; and, for every row held whatever
the reason, the rows that its foreign keys refer to, and theirs. A reference one of whose columns is NULL is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.oracle.schema import ForeignKey, Schema, Table
from tests.oracle.shapes import Include, Shape
from tests.oracle.values import Value

Row: TypeAlias = tuple[Value, ...]
Key: TypeAlias = tuple[Value, ...]
Held: TypeAlias = dict[str, set[Key]]
Matches: TypeAlias = Callable[[str, str, Row], bool]
"""Whether a row of a table satisfies a where clause; as Postgres says."""


@dataclass
class State:
    """All rows of the database at one moment: by table, by key."""

    schema: Schema
    rows: dict[str, dict[Key, Row]] = field(default_factory=dict)

    def of(self, table: str) -> dict[Key, Row]:
        return self.rows.setdefault(table, {})


def key_of(table: Table, row: Row) -> Key:
    return tuple([row[place] for place in table.key_places])


def rows_held(shapes: Iterable[Shape], state: State, matches: Matches) -> dict[str, dict[Key, Row]]:
    """What a device with these shapes holds: of each row the columns of those that hold it, NULL in place of others."""
    union: dict[str, dict[Key, frozenset[str]]] = {}
    for shape in shapes:
        columns = columns_held(shape, state.schema)
        for table, keys in keys_held(shape, state, matches).items():
            of_table = union.setdefault(table, {})
            for key in keys:
                of_table[key] = of_table.get(key, frozenset()) | columns.get(
                    table, frozenset(state.schema[table].names)
                )
    return {
        table: {key: _cut(state.schema[table], state.of(table)[key], columns) for key, columns in of_table.items()}
        for table, of_table in union.items()
    }


def columns_held(shape: Shape, schema: Schema) -> dict[str, frozenset[str]]:
    """Of the tables of which a shape names columns, those and what a row cannot be without: keys, foreign keys. A table
    that it names several times has them all; and all columns, if it is named once without any."""
    found: dict[str, frozenset[str]] = {}
    for node in shape.nodes():
        table = schema[node.table]
        payload = {column.name for column in table.payload}
        named = table.names if node.columns is None else node.columns
        kept = frozenset(name for name in table.names if name in named or name not in payload)
        found[node.table] = found.get(node.table, frozenset()) | kept
    return found


def _cut(table: Table, row: Row, columns: Set[str]) -> Row:
    return (
        row
        if len(columns) == len(row)
        else tuple(value if name in columns else None for name, value in zip(table.names, row, strict=True))
    )


def keys_held(shape: Shape, state: State, matches: Matches) -> Held:
    """The keys of one shape's rows, by table. A whole table brings the tables that it refers to whole."""
    held: Held = {}
    rows = state.of(shape.table)
    top = {key for key, row in rows.items() if not shape.where or matches(shape.table, shape.where, row)}
    _descend(shape, shape.table, top, state, matches, held)
    if shape.where or shape.include:
        _close(held, state)
    else:
        for name in list(held):
            for parent in state.schema.referenced[name]:
                held[parent] = set(state.of(parent))
    return held


def _descend(node: Shape | Include, table: str, keys: set[Key], state: State, matches: Matches, held: Held) -> None:
    held.setdefault(table, set()).update(keys)
    for below in node.include:
        fk = below.foreign_key
        if below.many:
            found = {
                key
                for key, row in state.of(below.table).items()
                if target(state.schema, below.table, fk, row) in keys
                and (not below.where or matches(below.table, below.where, row))
            }
        else:
            above = state.of(table)
            targets = {target(state.schema, table, fk, above[key]) for key in keys}
            found = {key for key in targets if key in state.of(below.table)}
        _descend(below, below.table, found, state, matches, held)


def _close(held: Held, state: State) -> None:
    waiting = [(table, key) for table, keys in held.items() for key in keys]
    while waiting:
        table, key = waiting.pop()
        row = state.of(table)[key]
        for fk in state.schema[table].foreign_keys:
            parent = target(state.schema, table, fk, row)
            if parent is not None and parent not in held.setdefault(fk.parent, set()):
                held[fk.parent].add(parent)
                waiting.append((fk.parent, parent))


def target(schema: Schema, table: str, fk: ForeignKey, row: Row) -> Key | None:
    """The key of the row that ``row`` refers to; None if it refers to none."""
    referring = [row[place] for place in schema[table].places(fk.columns)]
    if None in referring:
        return None
    named = dict(zip(fk.parent_columns, referring, strict=True))
    return tuple([named[name] for name in schema[fk.parent].key])


@dataclass(frozen=True)
class Difference:
    """Of one table: keys the device lacks, has too many, or has with other values (its row, the expected one)."""

    table: str
    missing: tuple[Key, ...]
    surplus: tuple[Key, ...]
    other: tuple[tuple[Row, Row], ...]

    def describe(self) -> str:
        parts = [f"missing {list(self.missing)}"] if self.missing else []
        parts += [f"surplus {list(self.surplus)}"] if self.surplus else []
        parts += [f"holds {has} in place of {wants}" for has, wants in self.other]
        return f"{self.table}: {'; '.join(parts)}"


def differences(
    device: Mapping[str, Mapping[Key, Row]],
    wanted: Mapping[str, Mapping[Key, Row]],
    apart: Set[tuple[str, Key]] = frozenset(),
    strays: Set[tuple[str, Key]] = frozenset(),
) -> list[Difference]:
    """Where a device differs from what it must hold; ``apart``: rows that do not count. ``strays``: nor do these if it
    has them and should not."""
    found = []
    for table in sorted({*device, *wanted}):
        wants = {key: row for key, row in wanted.get(table, {}).items() if (table, key) not in apart}
        has = {
            key: row
            for key, row in device.get(table, {}).items()
            if (table, key) not in apart and (key in wants or (table, key) not in strays)
        }
        if has == wants:
            continue
        other = tuple((has[key], wants[key]) for key in has.keys() & wants.keys() if has[key] != wants[key])
        missing, surplus = tuple(wants.keys() - has.keys()), tuple(has.keys() - wants.keys())
        found.append(Difference(table, missing, surplus, other))
    return found
