# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
"""Where the rows of a delivery wait until it is complete. Pure: SQL text.

A delivery appears on the device as a whole, in one transaction, and may be a million rows. Holding them in memory is
too much for a device, and holding the writer until the last has arrived would keep local writes waiting for the
network. So rows are put into a temporary table as they arrive, a batch at a time, and moved at the end by SQLite alone.
Temporary tables are no part of the database file: a crash, or a connection that breaks in the middle, leaves nothing to
clean up. Of rows that leave the keys wait in the same way.

A staged row is its tags (JSON, NULL for an untracked row) and its values in the order of the table's columns. Rows that
come with some of the columns have a temporary table of their own for each set of them. Columns that hold text are bound
as the bytes that came, and become text in SQLite, which is much faster than making a ``str`` of each: most of a first
sync is text. For the same reason one statement puts many rows: Python's interpreter lock is given up and taken again
for each execution, and meanwhile the next rows want to be decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncline.client.cells import Value, decode_bytes, decode_cell, decode_text
from syncline.client.merging import Present
from syncline.client.schema import Table, literal, quoted
from syncline.client.triggers import key_sql
from syncline.proto.values import Row

_BOUND_AS_BYTES = (decode_text, decode_bytes)


class StagingSql:
    """The statements for those staged rows of ``table`` that have its columns ``present``."""

    def __init__(self, table: Table, present: Present) -> None:
        self.table = table
        self._places = None if all(present) else [index for index, there in enumerate(present) if there]
        self.staged = table if self._places is None else table.only([table.columns[index] for index in self._places])
        some = "" if self._places is None else "_" + "_".join(map(str, self._places))
        self.name = f"_syncline_staged_{table.id}{some}"
        staged = f"temp.{self.name}"
        columns = ", ".join(quoted(column) for column in self.staged.columns)
        key = key_sql([quoted(column) for column in table.primary_key])
        name = literal(table.name)
        is_pending = f"{key} IN (SELECT key FROM _syncline_oplog WHERE table_name = {name})"
        self.drop = f"DROP TABLE IF EXISTS {staged}"
        self.create = f"CREATE TEMP TABLE {self.name} (_syncline_tags, {columns})"
        marks = ", ".join("CAST(? AS TEXT)" if decode is decode_text else "?" for decode in self.staged.decoders)
        self._put = f"INSERT INTO {staged} VALUES "
        self._row = f"(?, {marks})"
        self.parameters = len(self.staged.columns) + 1
        self._decoders = [(i, decode) for i, decode in enumerate(self.staged.decoders) if decode not in _BOUND_AS_BYTES]
        self.has_pending = f"SELECT EXISTS (SELECT 1 FROM _syncline_oplog WHERE table_name = {name})"
        self.pending = f"SELECT * FROM {staged} WHERE {is_pending}"
        self.drop_pending = f"DELETE FROM {staged} WHERE {is_pending}"
        # In the order of its key a table grows at its end; in another, all over the place. The newest of a key is last.
        order = ", ".join((*(f"new.{quoted(column)}" for column in table.primary_key), "new.rowid"))
        self.move = self._put_all(f"{staged} AS new") + f" ORDER BY {order}"
        self.drop_tags = (
            f"DELETE FROM _syncline_shadow WHERE table_name = {name} "
            f"AND key IN (SELECT {key} FROM {staged} WHERE _syncline_tags IS NULL)"
        )
        self.move_tags = (
            f"INSERT OR REPLACE INTO _syncline_shadow (table_name, key, tags) "
            f"SELECT {name}, {key}, _syncline_tags FROM {staged} WHERE _syncline_tags IS NOT NULL"
        )

    def _put_all(self, staged: str) -> str:
        """As ``row_sql`` puts a single row."""
        into = f"INSERT OR REPLACE INTO main.{quoted(self.table.name)}"
        columns = ", ".join(quoted(column) for column in self.table.columns)
        came = set(self.staged.columns)
        values = ", ".join(f"{'new' if column in came else 'old'}.{quoted(column)}" for column in self.table.columns)
        if self._places is None:
            return f"{into} ({columns}) SELECT {values} FROM {staged}"
        same = " AND ".join(f"old.{quoted(column)} = new.{quoted(column)}" for column in self.table.primary_key)
        here = f"main.{quoted(self.table.name)} AS old"
        return f"{into} ({columns}) SELECT {values} FROM {staged} LEFT JOIN {here} ON {same}"

    def put(self, rows: int) -> str:
        """The statement for so many rows; each has ``parameters`` of them."""
        return self._put + ", ".join([self._row] * rows)

    def values(self, tags: str | None, row: Row) -> list[Value]:
        """The parameters of one row, which is in the order of the table's columns."""
        cells = row if self._places is None else [row[place] for place in self._places]
        values: list[Value] = [tags, *cells]
        try:
            for index, decode in self._decoders:
                values[index + 1] = decode(cells[index])
        except ValueError:
            for index, decode in self._decoders:
                values[index + 1] = decode_cell(decode, cells[index])
        return values

    def can_hold(self, values: Sequence[Value]) -> bool:
        """Of these parameters, what ``Table.can_hold`` says of its values."""
        numbered = self.staged.numbered
        return numbered is None or isinstance(values[numbered + 1], int)


class GoneSql:
    """The statements for the keys of one table's rows that are going to leave. Parameters: keys.

    Rows with local changes pending stay, and are noted down as leaving.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.name = f"_syncline_gone_{table.id}"
        gone = f"temp.{self.name}"
        self._columns = columns = ", ".join(quoted(column) for column in table.primary_key)
        key = key_sql([quoted(column) for column in table.primary_key])
        name = literal(table.name)
        on_the_way = f"SELECT key FROM _syncline_oplog WHERE table_name = {name} AND NOT carried_out"
        pending = f"{key} IN ({on_the_way})"
        at_rest = f"{key} NOT IN ({on_the_way})"
        marks = ", ".join("?" for _ in table.primary_key)
        self.drop = f"DROP TABLE IF EXISTS {gone}"
        self.create = f"CREATE TEMP TABLE {self.name} ({columns}, PRIMARY KEY ({columns})) WITHOUT ROWID"
        self.put = f"INSERT OR IGNORE INTO {gone} VALUES ({marks})"
        self.leave = (
            f"INSERT OR IGNORE INTO _syncline_leaving (table_name, key) "
            f"SELECT {name}, {key} FROM {gone} WHERE {pending}"
        )
        self.at_rest = f"({columns}) IN (SELECT {columns} FROM {gone} WHERE {at_rest})"
        """The condition of the rows that go."""
        self.delete = f"DELETE FROM main.{quoted(table.name)} WHERE {self.at_rest}"
        self.drop_tags = (
            f"DELETE FROM _syncline_shadow WHERE table_name = {name} "
            f"AND key IN (SELECT {key} FROM {gone} WHERE {at_rest})"
        )

    def keep(self, staged: StagingSql) -> str:
        """The statement for what comes in the same delivery: it is here to stay."""
        columns = self._columns
        return f"DELETE FROM temp.{self.name} WHERE ({columns}) IN (SELECT {columns} FROM temp.{staged.name})"
