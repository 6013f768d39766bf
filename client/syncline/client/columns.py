"""Which columns of its tables the device holds. Pure.

A shape may name columns of a table; of the tables it does not name, rows come whole if they come. The service adds to
the columns named what a row cannot do without: its key, the columns of foreign keys at either end, and what a
constraint ties to any of them. The device does not know all of that, but learns it from the relations under which rows
are sent (``announced``): a shape's columns are those of the smallest relation that has all which it surely has.

What is unclear is decided for the application: a write to a column that is not here after all is one that the server
takes all the same, while a refused one cannot be made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from syncline.client.schema import Table
from syncline.client.shape_spec import ShapeSpec
from syncline.proto.values import Relation

Columns: TypeAlias = frozenset[str] | None
"""Of a table; None: all of them."""


def named(spec: ShapeSpec) -> dict[str, Columns]:
    """By table, what a shape names of it: all columns if any part of it does."""
    found: dict[str, Columns] = {spec.table: frozenset(spec.columns) if spec.columns else None}
    for _, below in spec.include:
        for table, columns in named(below).items():
            before = found.get(table, columns)
            found[table] = None if before is None or columns is None else before | columns
    return found


def narrowed(specs: Iterable[ShapeSpec]) -> set[str]:
    """The tables of which some shape names columns."""
    return {table for spec in specs for table, columns in named(spec).items() if columns is not None}


def columns_of(relation: Relation, table: Table) -> Columns:
    columns = frozenset(relation.names).intersection(table.columns)
    return None if len(columns) == len(table.columns) else columns


def lacking(table: Table, specs: Sequence[ShapeSpec], announced: Collection[Columns]) -> tuple[str, ...]:
    """The columns of ``table`` that no row here has. ``specs``: of the shapes whose rows are here."""
    every = [named(spec).get(table.name, frozenset()) for spec in specs]
    theirs = [columns for columns in every if columns is None or columns]
    if None in theirs or not theirs:
        return ()
    if None in announced and len(theirs) < len(every):
        return ()  # it may be among what the others refer to
    held: set[str] = set()
    for columns in theirs:
        assert columns is not None
        held |= _sent(columns.union(_linking(table)), announced, table)
    return tuple(column for column in table.columns if column not in held)


def _sent(surely: frozenset[str], announced: Collection[Columns], table: Table) -> frozenset[str]:
    sets = [frozenset(table.columns) if columns is None else columns for columns in announced]
    return min((columns for columns in sets if columns >= surely), key=len, default=surely)


def _linking(table: Table) -> frozenset[str]:
    return frozenset(table.primary_key).union(*(key.columns for key in table.foreign_keys))


def unexplained(specs: Iterable[ShapeSpec], tables: Mapping[str, Table]) -> set[str]:
    """The tables of which no shape can bring whole rows, so far as foreign keys tell."""
    reached: set[str] = set()
    for spec in specs:
        names = named(spec)
        reached |= {table for table, columns in names.items() if columns is None}
        open_tables, seen = set(names), set(names)
        while open_tables:
            table = tables.get(open_tables.pop())
            parents = {key.parent_table for key in table.foreign_keys} if table is not None else set()
            open_tables |= parents - seen
            seen |= parents
        reached |= seen - names.keys()
    return tables.keys() - reached
