"""What a device had written in a transaction that is refused at the edge, as far as it can be written down.

It is kept in ``electric.rejections``, for people and for ``electric.after_rejected``, which looks there for what the
device had observed of a row. So an operation on a table that we know says the same as one that was accepted, but
nothing of it is judged:

* a value that is none of its column's type stands as it came. What is no UTF-8 is written as ``bytea`` is, and U+0000,
  which Postgres cannot store, is replaced by U+FFFD;
* columns that the table does not have stand beside its ``row``, in ``unknown``, by name;
* a row whose key was to change goes by the key it had, the other is its ``new_key``.

An operation on a table that we do not know has the ``table``'s name instead of ``rel``. Its ``row`` is by the names of
the device's columns, and ``modified`` names those that it changed.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from syncline.actors.devices.inbound import Lookup
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.typemap import from_wire
from syncline.actors.postgres.write import encode_elements, without_nul
from syncline.proto.values import Cell, Compensation, Delete, Gone, Insert, Relation, Row, RowChange, Update

KINDS: Final = {Insert: "I", Update: "U", Delete: "D", Compensation: "C", Gone: "G"}

_Cells = Mapping[str, Cell]
"""By column."""


def encode_refused(changes: Iterable[tuple[Relation, RowChange]], lookup: Lookup) -> bytes:
    """At least one operation as the inside of a JSON array."""
    return encode_elements(_written_down(relation, change, lookup(relation.table)) for relation, change in changes)


def _written_down(relation: Relation, change: RowChange, table: TableInfo | None) -> Mapping[str, object]:
    cells = _by_name(relation, change.old_row if isinstance(change, Delete) else change.row)
    old = _by_name(relation, change.old_row) if isinstance(change, Update) and change.old_row is not None else None
    tags = () if isinstance(change, Gone) else change.tags
    told = {"op": KINDS[type(change)], "tags": list(map(without_nul, tags))}
    if table is not None:
        return _of_known(cells, old, change, table) | told
    modified = _modified(cells, old, change, ())
    return {
        "table": without_nul(relation.table),
        "row": _legible(cells),
        "modified": [without_nul(name) for name in cells if name in modified],
    } | told


def _of_known(cells: _Cells, old: _Cells | None, change: RowChange, table: TableInfo) -> dict[str, object]:
    names, keys = table.relation.names, table.key_names
    modified = _modified(cells, old, change, keys)
    absent = set(names).difference(cells) if isinstance(change, Update) else ()
    changed = [None if name in absent else name in modified for name in names]
    element: dict[str, object] = {"rel": table.relation.id, "modified": changed}
    row = dict(cells)
    if isinstance(change, Insert | Update):
        if unknown := {name: cell for name, cell in cells.items() if name not in names}:
            element["unknown"] = _legible(unknown)
    else:  # only the key counts
        row = {name: cells.get(name) for name in keys}
    if old is not None and not modified.isdisjoint(keys):
        element["new_key"] = [_text(cells.get(name), name, table) for name in keys]
        row |= {name: old.get(name) for name in keys}
    element["row"] = [_text(row.get(name), name, table) for name in names]
    return element


def _by_name(relation: Relation, row: Row) -> _Cells:
    return dict(zip(relation.names, row, strict=False))


def _modified(cells: _Cells, old: _Cells | None, change: RowChange, keys: Iterable[str]) -> set[str]:
    if isinstance(change, Insert):
        return set(cells)
    if not isinstance(change, Update):
        return set()
    return set(cells).difference(keys) if old is None else {name for name in cells if cells[name] != old.get(name)}


def _text(cell: Cell, column: str, table: TableInfo) -> str | None:
    if cell is None:
        return None
    try:
        return from_wire(table.type_now(column), cell, table.enum_labels.get(column))
    except ValueError:
        return _of_no_type(cell)


def _legible(cells: _Cells) -> dict[str, str | None]:
    return {without_nul(name): None if cell is None else _of_no_type(cell) for name, cell in cells.items()}


def _of_no_type(cell: bytes) -> str:
    try:
        return without_nul(cell.decode())
    except UnicodeDecodeError:
        return "\\x" + cell.hex()
