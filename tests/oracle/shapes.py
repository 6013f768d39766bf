"""Random shapes: a table, a where clause from a small grammar, columns, an include tree. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Set
from dataclasses import dataclass

from tests.oracle.schema import PULSE, Column, ForeignKey, Schema, Table
from tests.oracle.values import DOMAINS, KEYS

DEPTH_MAX = 3
COMPARED = frozenset({"int4", "int8", "text", "varchar", "float8", "date", "timestamptz", "uuid", "bool"})


@dataclass(frozen=True)
class Include:
    """Below a table, along ``foreign_key``: ``many``, the rows of ``table`` that refer to the rows above, those for
    which ``where`` holds; else the rows of ``table`` that the rows above refer to."""

    table: str
    foreign_key: ForeignKey
    many: bool
    where: str = ""
    include: tuple[Include, ...] = ()
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Shape:
    """``columns``: None for all."""

    table: str
    where: str = ""
    include: tuple[Include, ...] = ()
    columns: tuple[str, ...] | None = None

    def clauses(self) -> set[tuple[str, str]]:
        """(table, where) of every where clause in it."""
        return {(self.table, self.where), *_clauses(self.include)} - {(table.table, "") for table in self.nodes()}

    def nodes(self) -> Iterator[Shape | Include]:
        yield self
        yield from _nodes(self.include)

    def describe(self) -> str:
        return f"{self.table}{_described_columns(self)}{_describe(self)}"


def _clauses(include: tuple[Include, ...]) -> Iterator[tuple[str, str]]:
    for one in include:
        yield one.table, one.where
        yield from _clauses(one.include)


def _nodes(include: tuple[Include, ...]) -> Iterator[Include]:
    for one in include:
        yield one
        yield from _nodes(one.include)


def _described_columns(node: Shape | Include) -> str:
    return "" if node.columns is None else f" ({', '.join(node.columns)})"


def _describe(node: Shape | Include) -> str:
    below = ", ".join(
        f"{'many' if one.many else 'one'} {one.table}{_described_columns(one)} by {', '.join(one.foreign_key.columns)}"
        f"{_describe(one)}"
        for one in node.include
    )
    return (f" where {node.where}" if node.where else "") + (f" [{below}]" if below else "")


WHOLE_PULSE = Shape(PULSE)


def draw_shape(rng: random.Random, schema: Schema, features: Set[str]) -> Shape:
    table = rng.choice(schema.tables[:-1])
    where = draw_where(rng, features, table) if "where" in features and rng.random() < 0.75 else ""
    include = (
        draw_include(rng, schema, features, table, DEPTH_MAX) if "include" in features and rng.random() < 0.75 else ()
    )
    return Shape(table.name, where, include, draw_columns(rng, features, table))


def draw_columns(rng: random.Random, features: Set[str], table: Table) -> tuple[str, ...] | None:
    """Some of the payload; the service adds what a row cannot be without."""
    if "columns" not in features or rng.random() >= 0.4:
        return None
    kept = tuple(column.name for column in table.payload if rng.random() < 0.5)
    return kept or table.key


def draw_include(
    rng: random.Random, schema: Schema, features: Set[str], table: Table, depth: int
) -> tuple[Include, ...]:
    """At most two edges a table, none twice."""
    many = [(child, fk, True) for child in schema.tables for fk in child.foreign_keys if fk.parent == table.name]
    one = [(schema[fk.parent], fk, False) for fk in table.foreign_keys if fk.parent != table.name]
    chosen: list[Include] = []
    for target, fk, downwards in rng.sample(many + one, min(len(many + one), rng.choice((1, 1, 2)))):
        if any((other.table, other.foreign_key.columns) == (target.name, fk.columns) for other in chosen):
            continue
        where = draw_where(rng, features, target) if downwards and "where" in features and rng.random() < 0.4 else ""
        below = draw_include(rng, schema, features, target, depth - 1) if depth > 1 and rng.random() < 0.6 else ()
        columns = draw_columns(rng, features, target)
        chosen.append(Include(target.name, fk, downwards, where, below, columns))
    return tuple(sorted(chosen, key=lambda one: (one.table, one.foreign_key.columns)))  # the order means nothing


# --- where clauses ----------------------------------------------------------------------------------------------------


def draw_where(rng: random.Random, features: Set[str], table: Table, depth: int = 2) -> str:
    if depth == 2 and rng.random() < 0.05:
        return "true"
    if depth and rng.random() < 0.45:
        left, right = (draw_where(rng, features, table, depth - 1) for _ in range(2))
        joined = f"({left}) {rng.choice(('AND', 'OR', 'OR'))} ({right})"
        return f"NOT ({joined})" if rng.random() < 0.25 else joined
    column = rng.choice([column for column in table.columns if column.type_name in COMPARED])
    form = rng.choice(_forms(rng, column, of_key=column not in table.payload))
    if "where-postgres" in features and rng.random() < 0.2:
        form = rng.choice(_forms_for_postgres(rng, table) or [form])
    return form


def _forms(rng: random.Random, column: Column, *, of_key: bool) -> list[str]:
    name, type_name = f"this.{column.name}", column.type_name
    literals = [literal for literal, _ in (KEYS if of_key else DOMAINS)[type_name]]
    one = rng.choice(literals)
    forms = [f"{name} {rng.choice(('=', '=', '<>'))} {one}", f"{name} IS DISTINCT FROM {one}"]
    if column.nullable:
        forms += [f"{name} IS {rng.choice(('', 'NOT '))}NULL"]
    if type_name != "bool":
        few = ", ".join(rng.sample(literals, min(len(literals), rng.randint(1, 3))))
        forms += [f"{name} {rng.choice(('', 'NOT '))}IN ({few})"]
    if type_name in ("int4", "int8", "float8", "date", "timestamptz"):
        forms += [f"{name} {rng.choice(('<', '<=', '>', '>='))} {one}"] * 2
    if type_name == "int4":
        forms += [f"{name} % 2 = {rng.randint(0, 1)}", f"{name} BETWEEN 1 AND {rng.randint(1, 5)}"]
    if type_name in ("text", "varchar"):
        forms += [f"{name} {rng.choice(('LIKE', 'NOT LIKE'))} '{_pattern(rng)}'"]
        forms += [f"length({name}) > {rng.randint(1, 4)}"]
    if type_name == "bool":
        forms += [name, f"NOT {name}", f"{name} IS NOT TRUE"]
    return forms


def _pattern(rng: random.Random) -> str:
    return rng.choice(("%e%", "r%", "%d", "_ed", "a\\_b", "50\\%"))


def _forms_for_postgres(rng: random.Random, table: Table) -> list[str]:
    """What nobody but Postgres evaluates."""
    forms = [
        "upper(this.label) = 'RED'",
        f"this.label ILIKE '{_pattern(rng)}'",
        "this.label < 'h'",
        "round(10 / this.n) > 3",  # an error for some rows, which are outside then
    ]
    if "c_jsonb" in table.names:
        forms += ["this.c_jsonb->>'a' = '1'", "this.c_jsonb @> '[1]'", "this.c_jsonb ? 'b'"]
    if "c_timestamptz" in table.names:
        forms += ["date_trunc('year', this.c_timestamptz) = '2024-01-01Z'"]
    return forms
