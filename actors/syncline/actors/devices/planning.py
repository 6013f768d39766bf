"""A shape request with a clause or an include tree, as one shape. Pure.

An include names the columns of a foreign key. If the included table has that key to the table above, its rows are those
that refer to the rows above; if the table above has it, they are those that are referred to. Besides, whatever a row of
the shape refers to comes along, by every foreign key, directly or not.

Requests that mean the same become equal shapes, in whatever order they list what they include.

Where columns are named, a row comes with these and with all that it takes to be itself on a device: its key, what it
refers by and is referred to by, and what a constraint ties to any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from syncline.actors.postgres.catalog import Catalog, TableInfo
from syncline.actors.shapes.shape import Included, Reference, Shape
from syncline.actors.shapes.where import Where, WhereRefused, parse
from syncline.proto.values import ShapeRequest

TABLE_NAME_CHARS_MAX = COLUMN_NAME_CHARS_MAX = 64
CELLS_MAX = 1_000  # of a column, by which changes find the shape
INCLUDED_MAX = 62  # a row's nodes are bits of a number in SQLite


Selection: TypeAlias = frozenset[str] | None
"""Columns of a table; None: all."""


class PlanRefused(Exception):
    """``code``: a ShapeReqError.Code name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TableUnknown(PlanRefused):
    """A table is not synced, or not any more."""


@dataclass(frozen=True, slots=True, order=True)
class _Branch:
    """A part of the tree whose order among others is that of its content."""

    relation_id: int
    many: bool
    columns: tuple[str, ...]
    above_columns: tuple[str, ...]
    where: str
    below: tuple[_Branch, ...]


def find_table(request: ShapeRequest, catalog: Catalog) -> TableInfo:
    """The table that ``request`` names. Raises PlanRefused."""
    if not request.table:
        raise PlanRefused("EMPTY_SHAPE_DEFINITION", "a shape names a table")
    name = request.table[:TABLE_NAME_CHARS_MAX]
    table = catalog.named(request.table) if len(request.table) <= TABLE_NAME_CHARS_MAX else None
    if table is None:
        hint = f"run CALL electric.electrify('{name}')"
        raise TableUnknown("TABLE_NOT_FOUND", f'table "{name}" is not synced: {hint}')
    unknown = [column for column in request.columns if column not in table.relation.names]
    if unknown:
        columns = ", ".join(table.relation.names)
        name = unknown[0][:COLUMN_NAME_CHARS_MAX]
        raise PlanRefused("CODE_UNSPECIFIED", f'table "{table.relation.table}" has no column "{name}": {columns}')
    return table


def selected_shape(request: ShapeRequest, catalog: Catalog) -> Shape:
    """Raises PlanRefused."""
    table = find_table(request, catalog)
    where = _clause(request, table)
    included: list[Included] = []
    _flatten(_branches(request, table, catalog), 0, included)
    selections: dict[int, Selection] = {}
    _select(request, table, catalog, selections)
    if len(included) > INCLUDED_MAX:
        raise PlanRefused("INVALID_INCLUDE_TREE", f"a shape includes at most {INCLUDED_MAX} tables")
    reached, references = _closure([table.oid, *(one.relation_id for one in included)], catalog)
    others = tuple((oid, catalog.tables[oid].relation.names) for oid in sorted(reached - {table.oid}))
    relation = table.relation
    return Shape(
        "table",
        relation.schema,
        relation.table,
        relation.id,
        relation.names,
        where="" if where is None else where.canonical,
        included=tuple(included),
        references=references,
        others=others,
        projected=projected(selections, catalog),
        one_of=None if where is None else _one_of(where),
    )


def projected(selections: Mapping[int, Selection], catalog: Catalog) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Of tables of which not all columns are selected, the columns that devices get: those, and all that a row needs to
    be itself."""
    found: list[tuple[int, tuple[str, ...]]] = []
    for oid, selection in sorted(selections.items()):
        if selection is not None:
            names = catalog.tables[oid].relation.names
            kept = _with_tied(selection | catalog.linking[oid], catalog.tables[oid]).intersection(names)
            if len(kept) < len(names):
                found.append((oid, tuple(name for name in names if name in kept)))
    return tuple(found)


def _with_tied(columns: frozenset[str], table: TableInfo) -> frozenset[str]:
    """``columns``, and those that a constraint ties to one of them, directly or not: they are valid together only."""
    while more := [tied for tied in table.tied if not tied.isdisjoint(columns) and not tied <= columns]:
        columns = columns.union(*more)
    return columns


def _select(request: ShapeRequest, table: TableInfo, catalog: Catalog, selections: dict[int, Selection]) -> None:
    """Adds what ``request`` selects of its tables: all columns, if any part of it does."""
    wanted: Selection = frozenset(request.columns) if request.columns else None
    if table.oid in selections:
        before = selections[table.oid]
        wanted = None if before is None or wanted is None else before | wanted
    selections[table.oid] = wanted
    for _, select in request.include:
        _select(select, find_table(select, catalog), catalog, selections)


def _clause(request: ShapeRequest, table: TableInfo) -> Where | None:
    if not request.where:
        return None
    try:
        return parse(request.where, table)
    except WhereRefused as refused:
        raise PlanRefused("INVALID_WHERE_CLAUSE", str(refused)) from refused


def _one_of(where: Where) -> tuple[str, tuple[str, ...]] | None:
    """The column for which the clause leaves the fewest values."""
    few = [(column, cells) for column, cells in where.equalities if len(cells) <= CELLS_MAX]
    if not few:
        return None
    column, cells = min(few, key=lambda one: len(one[1]))
    return column, tuple(sorted(cell.decode() for cell in cells))


def _branches(request: ShapeRequest, above: TableInfo, catalog: Catalog) -> tuple[_Branch, ...]:
    branches: set[_Branch] = set()
    links: set[tuple[int, bool, tuple[str, ...]]] = set()
    for columns, select in request.include:
        table = find_table(select, catalog)
        many, own, theirs = _link(columns, table, above)
        link = (table.oid, many, own if many else theirs)  # the referring columns tell keys apart
        if link in links:
            by = ", ".join(columns)
            raise PlanRefused("INVALID_INCLUDE_TREE", f"{above.relation.table} includes {select.table} by {by} twice")
        links.add(link)
        if select.where and not many:
            raise PlanRefused(
                "INVALID_WHERE_CLAUSE",
                f"{above.relation.table} refers to {select.table}: what is referred to comes along, whatever it is "
                "like; leave out where",
            )
        clause = _clause(select, table)
        where = "" if clause is None else clause.canonical
        branches.add(_Branch(table.oid, many, own, theirs, where, _branches(select, table, catalog)))
    return tuple(sorted(branches))


def _link(
    columns: tuple[str, ...], table: TableInfo, above: TableInfo
) -> tuple[bool, tuple[str, ...], tuple[str, ...]]:
    """Whether it is the included ``table`` that refers to the one ``above``, and the columns on either side."""
    for key in table.description["fks"]:
        if set(key["columns"]) == set(columns) and _refers_to(key, above):
            return True, tuple(key["columns"]), tuple(key["ref_columns"])
    for key in above.description["fks"]:
        if set(key["columns"]) == set(columns) and _refers_to(key, table):
            return False, tuple(key["ref_columns"]), tuple(key["columns"])
    raise PlanRefused(
        "INVALID_INCLUDE_TREE",
        f"no foreign key ({', '.join(columns)}) between {table.relation.table} and {above.relation.table}",
    )


def _refers_to(key: dict[str, str], table: TableInfo) -> bool:
    return (key["schema"], key["table"]) == table.name


def _flatten(branches: Iterable[_Branch], above: int, included: list[Included]) -> None:
    """Adds ``branches`` to ``included``, each before those below it."""
    for branch in branches:
        included.append(
            Included(branch.relation_id, above, branch.many, branch.columns, branch.above_columns, branch.where)
        )
        _flatten(branch.below, len(included), included)


def _closure(oids: Iterable[int], catalog: Catalog) -> tuple[set[int], tuple[Reference, ...]]:
    """Every table that can be reached from these along references, and the references."""
    reached: set[int] = set()
    references: set[tuple[int, tuple[str, ...], int, tuple[str, ...]]] = set()
    waiting = list(oids)
    while waiting:
        oid = waiting.pop()
        if oid in reached:
            continue
        reached.add(oid)
        for key in catalog.tables[oid].description["fks"]:
            parent = catalog.named(key["table"], key["schema"])
            if parent is not None:
                references.add((oid, tuple(key["columns"]), parent.oid, tuple(key["ref_columns"])))
                waiting.append(parent.oid)
    return reached, tuple(Reference(*reference) for reference in sorted(references))
