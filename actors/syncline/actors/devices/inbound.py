"""Is this device transaction acceptable, and what does it mean in Postgres' terms?

A device names columns by name, in its own order, and its types are whatever its SQLite says: names are taken from it,
keys from the catalogue, and so are types, labels and which columns may not be NULL, as they are by now: that may be
other than the device was told. What an update has not changed is not judged: it stands in the row already. What cannot
be written is refused here already, transaction by transaction, with the reason; nothing a device sends may block
another device, nor its own later transactions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.spelling import Printed
from syncline.actors.postgres.typemap import from_wire
from syncline.actors.postgres.write import Rejection, RowOperation
from syncline.proto.values import Cell, Compensation, Delete, Gone, Insert, Key, Relation, Row, RowChange, Update

# SQLSTATEs for what we refuse before Postgres sees it, so that a rejection reads the same whoever made it.
UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
INVALID_TEXT = "22P02"
NOT_NULL_VIOLATION = "23502"
KEY_CHANGED = "0A000"
AS_TABLES_ARE = frozenset({INVALID_TEXT, NOT_NULL_VIOLATION})
"""Of these what is refused by a table as it was a while ago may be accepted by the same table now."""


class WriteRefused(Exception):
    """A device transaction that can never be applied, with what its author will be told."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


def _refused(
    sqlstate: str, message: str, table: str, hint: str | None = None, columns: tuple[str, ...] = ()
) -> WriteRefused:
    return WriteRefused(Rejection(sqlstate, message, hint=hint, table=table, columns=columns))


@dataclass(frozen=True, slots=True)
class HeldColumns:
    """Of a table the columns that ``some`` rows on a device have, and those that ``every`` one has. None: all."""

    some: Collection[str] | None
    every: Collection[str] | None


Lookup = Callable[[str], TableInfo | None]
Held = Callable[[int], HeldColumns | None]
"""The columns that a device has of a table (its oid) of which it has rows; None: all, in each of them."""


def everything(_: int) -> None:
    """``Held`` of a device that has all columns of its tables."""


def accept(
    changes: tuple[tuple[Relation, RowChange], ...], lookup: Lookup, held: Held = everything
) -> tuple[RowOperation, ...]:
    """The operations of a device transaction. ``lookup`` finds a synced table by its name on devices.

    Raises WriteRefused, which names the first thing wrong.
    """
    accepted: list[RowOperation] = []
    for relation, change in changes:
        try:
            accepted.append(_accept_one(relation, change, lookup, held))
        except WriteRefused as refused:
            key = _key_of(relation, change, lookup(relation.table))
            raise WriteRefused(replace(refused.rejection, key=key)) from refused
    return tuple(accepted)


def _key_of(relation: Relation, change: RowChange, table: TableInfo | None) -> tuple[str, ...]:
    """The row that is refused, as far as it has a key."""
    if table is None:
        return ()
    row = change.old_row if isinstance(change, Delete) else change.row
    cells = dict(zip(relation.names, row, strict=False))
    try:
        known = _key_texts(tuple(cells.get(name) for name in table.relation.names), table)
    except WriteRefused:
        return ()
    return tuple(known[index] or "" for index in table.relation.key_indexes)


def touched_keys(changes: tuple[tuple[Relation, RowChange], ...], lookup: Lookup) -> tuple[tuple[int, Key], ...]:
    """(relation id, key cells) of every row the transaction names in a table we know, in order, once each."""
    keys: dict[tuple[int, Key], None] = {}
    for relation, change in changes:
        table = lookup(relation.table)
        if table is None:
            continue
        row = change.old_row if isinstance(change, Delete) else change.row
        cells = dict(zip(relation.names, row, strict=False))
        key = tuple(cells.get(name) for name in (table.relation.names[i] for i in table.relation.key_indexes))
        if None not in key:
            keys[(table.relation.id, key)] = None
    return tuple(keys)


def spelled_keys(changes: Iterable[tuple[Relation, RowChange]], lookup: Lookup) -> Iterator[tuple[int, Key]]:
    """Of the rows that the changes name in tables we know those whose keys are spelled otherwise than Postgres prints
    them, as ``touched_keys`` names them; each as often as it is named. See ``spelling``."""
    relation: Relation | None = None
    table: TableInfo | None = None
    tests: tuple[tuple[int, Printed], ...] = ()
    for of, change in changes:
        if of is not relation:
            relation, table = of, lookup(of.table)
            spellings = () if table is None else table.key_spellings
            tests = tuple((of.names.index(name), test) for name, test in spellings if name in of.names)
        if not tests or table is None:
            continue
        row = change.old_row if isinstance(change, Delete) else change.row
        for index, test in tests:
            cell = row[index]
            if cell is not None and not test(cell):
                cells = dict(zip(of.names, row, strict=False))
                yield table.relation.id, tuple(cells.get(name) for name in table.key_names)
                break


class RowNamer:
    """Leaves of changes nothing but the keys of their rows, for ``touched_keys`` to find."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._relation: Relation | None = None
        self._kept: tuple[Relation, tuple[int, ...]] | None = None

    def __call__(self, relation: Relation, change: RowChange) -> tuple[Relation, RowChange] | None:
        """None in a table we do not know."""
        if relation is not self._relation:
            self._relation, self._kept = relation, self._key_of(relation)
        if self._kept is None:
            return None
        keys, indexes = self._kept
        row = change.old_row if isinstance(change, Delete) else change.row
        key = tuple(row[index] for index in indexes)
        if isinstance(change, Compensation):
            return keys, Compensation(change.relation_id, key, ())
        return keys, Gone(change.relation_id, key)

    def _key_of(self, relation: Relation) -> tuple[Relation, tuple[int, ...]] | None:
        table = self._lookup(relation.table)
        if table is None:
            return None
        indexes = tuple(index for index, name in enumerate(relation.names) if name in table.key_names)
        return replace(relation, columns=tuple(relation.columns[index] for index in indexes)), indexes


def _accept_one(relation: Relation, change: RowChange, lookup: Lookup, held: Held) -> RowOperation:
    table = lookup(relation.table)
    if table is None:
        raise _refused(
            UNDEFINED_TABLE,
            f'table "{relation.table}" is not synced',
            relation.table,
            f"run: CALL electric.electrify('{relation.table}')",
        )
    server = table.relation
    match change:
        case Insert(_, row, tags):
            cells = _in_catalogue_order(relation, row, table)
            _check_held(table, held(table.oid), [cell is not None for cell in cells])
            given = _given(relation, cells, table)
            return RowOperation(server.id, "I", _texts(cells, table, given), given, tags)
        case Update(_, row, old_row, tags):
            return _accept_update(relation, row, old_row, tags, table, held(table.oid))
        case Delete(_, old_row, tags):
            cells = _in_catalogue_order(relation, old_row, table)
            return RowOperation(server.id, "D", _key_texts(cells, table), (False,) * len(cells), tags)
        case Compensation(_, row, tags):
            cells = _in_catalogue_order(relation, row, table)
            return RowOperation(server.id, "C", _key_texts(cells, table), (False,) * len(cells), tags)
        case Gone():
            raise _refused(KEY_CHANGED, "a device does not send GONE", server.table)


def _given(relation: Relation, cells: Row, table: TableInfo) -> tuple[bool, ...]:
    """Which of our columns an insert gives; the others take their defaults. Of what only Postgres can fill in a device
    has left out what is NULL."""
    all_held = relation.names == table.relation.names
    if all_held and not table.left_to_postgres:
        return (True,) * len(cells)
    return tuple(
        (all_held or name in relation.names) and (cell is not None or name not in table.left_to_postgres)
        for name, cell in zip(table.relation.names, cells, strict=True)
    )


def _check_held(table: TableInfo, held: HeldColumns | None, written: Sequence[bool]) -> None:
    """A device knows nothing of a column it does not have, so what it writes there was never meant."""
    if held is None or held.some is None:
        return
    for name, writes in zip(table.relation.names, written, strict=True):
        if writes and name not in held.some:
            raise _refused(
                UNDEFINED_COLUMN,
                f'the device does not hold column "{name}" of "{table.relation.table}"',
                table.relation.table,
                "name it among the columns of a shape",
                (name,),
            )


def _accept_update(
    relation: Relation, row: Row, old_row: Row | None, tags: tuple[str, ...], table: TableInfo, held: HeldColumns | None
) -> RowOperation:
    server = table.relation
    cells = _in_catalogue_order(relation, row, table)
    absent = _not_in(relation.names, server)
    if old_row is None:
        modified = tuple(not column.primary_key and column.name in relation.names for column in server.columns)
    else:
        old = _in_catalogue_order(relation, old_row, table)
        if server.key_of(old) != server.key_of(cells):
            raise _refused(
                KEY_CHANGED,
                f'the primary key of "{server.table}" may not be changed',
                server.table,
                "delete the row and insert it anew",
                table.key_names,
            )
        modified = tuple(new != was for new, was in zip(cells, old, strict=True))
        if held is not None and held.every is not None:
            # A row is NULL in the columns that only other shapes bring. Neither the device nor we know which these are.
            doubtful = _not_in(held.every, server)
            absent += tuple(i for i in doubtful if i not in absent and cells[i] is None and old[i] is None)
    _check_held(table, held, modified)
    return RowOperation(server.id, "U", _texts(cells, table, modified), modified, tags, absent)


def _not_in(names: Collection[str], server: Relation) -> tuple[int, ...]:
    """The places of our columns that are not among ``names``."""
    return () if names == server.names else tuple(i for i, name in enumerate(server.names) if name not in names)


def _in_catalogue_order(relation: Relation, row: Row, table: TableInfo) -> Row:
    """The device's row in our column order; a column it does not have is NULL."""
    server = table.relation
    if relation.names == server.names:
        return row
    cells: dict[str, Cell] = dict(zip(relation.names, row, strict=True))
    unknown = [name for name in cells if name not in server.names]
    if unknown:
        raise _refused(
            UNDEFINED_COLUMN,
            f'table "{server.table}" has no column "{unknown[0]}"',
            server.table,
            f"its columns are {', '.join(server.names)}",
            (unknown[0],),
        )
    return tuple(cells.get(name) for name in server.names)


def _texts(cells: Row, table: TableInfo, written: Sequence[bool]) -> tuple[str | None, ...]:
    """``written``: which of them are judged, beside those of the key: others stand there already."""
    texts: list[str | None] = []
    for column, cell, is_written in zip(table.relation.columns, cells, written, strict=True):
        if cell is None:
            if is_written and column.name in table.required:
                raise _refused(
                    NOT_NULL_VIOLATION,
                    f'column "{column.name}" of "{table.relation.table}" may not be NULL',
                    table.relation.table,
                    columns=(column.name,),
                )
            texts.append(None)
            continue
        try:
            texts.append(_text(cell, column.name, table, judged=is_written or column.primary_key))
        except ValueError as wrong:
            raise _refused(
                INVALID_TEXT,
                f'column "{column.name}" of "{table.relation.table}": {wrong}',
                table.relation.table,
                columns=(column.name,),
            ) from wrong
    return tuple(texts)


def _text(cell: bytes, column: str, table: TableInfo, *, judged: bool) -> str:
    type_name = table.type_now(column)
    try:
        return from_wire(type_name, cell, table.enum_labels.get(column))
    except ValueError:
        if judged:
            raise
    return from_wire("text", cell)  # it is to be a text all the same


def _key_texts(cells: Row, table: TableInfo) -> tuple[str | None, ...]:
    """Only the key counts of a delete or a compensation; the rest may be anything and is left out."""
    server = table.relation
    keys = server.key_row(server.key_of(cells))
    for index in server.key_indexes:
        if keys[index] is None:
            name = server.columns[index].name
            raise _refused(
                NOT_NULL_VIOLATION, f'the key of "{server.table}" lacks "{name}"', server.table, columns=(name,)
            )
    return _texts(keys, table, (False,) * len(keys))
