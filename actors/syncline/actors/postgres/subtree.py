"""Rows of several tables as one snapshot shows them: those of a clause, and those with given values in given columns.

Both come a part at a time, and whoever walks a tree asks for the one between parts of the other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.rowkey import cell_sql, key_sql, quote_identifier
from syncline.actors.postgres.snapshot import (
    ROW_TAGS_SQL,
    Seen,
    TaggedRow,
    Visibility,
    begin,
    give_back,
)
from syncline.actors.postgres.transaction import UNTRACKED_TAGS
from syncline.actors.postgres.typemap import from_wire, to_wire
from syncline.proto.values import Cell

if TYPE_CHECKING:
    from syncline.actors.shapes.membership import Query

ROWS_AT_ONCE = 500
VALUES_AT_ONCE = 1_000


class Subtree:
    """As of one snapshot, ``visibility``; it ends with ``aclose``. All methods raise what asyncpg raises.

    ``columns``: those that the tables have by now. Others are NULL, as they are in the stream.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        connection: asyncpg.Connection,
        tables: Mapping[int, TableInfo],
        visibility: Visibility,
        columns: Mapping[int, frozenset[str]],
    ) -> None:
        self._pool = pool
        self._connection: asyncpg.Connection | None = connection
        self._tables = tables
        self._columns = columns
        self.visibility = visibility

    async def rows(self, relation_id: int, clause: str = "") -> AsyncIterator[list[TaggedRow]]:
        """The rows ``t`` of a table for which the SQL ``clause`` holds (empty: all), some at a time."""
        table = self._tables[relation_id]
        where = f"WHERE {clause}" if clause else ""
        query = f"SELECT {self._cells(table)} AS cells, {ROW_TAGS_SQL} AS tags FROM {_tagged(table)} {where}"  # noqa: S608
        cursor = await self._open.cursor(query)
        decode = _decoder(table)
        while part := await cursor.fetch(ROWS_AT_ONCE):
            yield [decode(row) for row in part]

    async def having(
        self, relation_id: int, places: Sequence[int], values: Sequence[Sequence[Cell]]
    ) -> AsyncGenerator[list[TaggedRow], None]:
        """The rows of a table that have one of ``values`` at ``places``, some at a time."""
        table = self._tables[relation_id]
        decode = _decoder(table)
        matching = self._matching(table, places, values)
        if matching is not None:
            cursor = await self._open.cursor(matching[0], *matching[1])
            while part := await cursor.fetch(ROWS_AT_ONCE):
                yield [decode(row) for row in part]

    async def answers(self, queries: Iterable[Query]) -> dict[Query, list[TaggedRow]]:
        """The rows of each query."""
        found: dict[Query, list[TaggedRow]] = {query: [] for query in queries}
        alike: dict[tuple[int, tuple[int, ...]], list[Query]] = {}
        for query in found:
            alike.setdefault((query.relation_id, query.places), []).append(query)
        for (relation_id, places), of_table in alike.items():
            for start in range(0, len(of_table), VALUES_AT_ONCE):
                await self._answer(self._tables[relation_id], places, of_table[start : start + VALUES_AT_ONCE], found)
        return found

    async def _answer(
        self,
        table: TableInfo,
        places: Sequence[int],
        queries: Sequence[Query],
        found: dict[Query, list[TaggedRow]],
    ) -> None:
        matching = self._matching(table, places, [query.value for query in queries])
        if matching is None:
            return
        decode = _decoder(table)
        for row in await self._open.fetch(matching[0], *matching[1]):
            found[queries[row["place"] - 1]].append(decode(row))

    def _matching(
        self, table: TableInfo, places: Sequence[int], values: Sequence[Sequence[Cell]]
    ) -> tuple[str, list[list[str]]] | None:
        """A query for the rows with one of ``values`` at ``places``, and its arguments; None: there are none."""
        columns = [table.relation.columns[place] for place in places]
        if not self._columns.get(table.oid, frozenset()).issuperset(column.name for column in columns):
            return None  # nothing is referred to by a column that is gone
        texts: list[list[str]] = [[] for _ in columns]
        for value in values:
            for column, text, cell in zip(columns, texts, value, strict=True):
                text.append(from_wire(column.type_name, cell or b"", table.enum_labels.get(column.name)))
        arrays = ", ".join(f"${number}::text[]" for number in range(1, len(columns) + 1))
        names = ", ".join(f"k{number}" for number in range(len(columns)))
        matches = " AND ".join(
            f"t.{quote_identifier(column.name)} = w.k{number}::{quote_identifier(column.type_name)}"
            for number, column in enumerate(columns)
        )
        query = (
            f"SELECT w.place, {self._cells(table)} AS cells, {ROW_TAGS_SQL} AS tags "  # noqa: S608 - identifiers, quoted
            f"FROM unnest({arrays}) WITH ORDINALITY AS w ({names}, place) "
            f"JOIN {table.sql_name} t ON {matches} "
            f"LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key_sql(table.key_names, 't')}"
        )
        return query, texts

    def _cells(self, table: TableInfo) -> str:
        there = self._columns.get(table.oid, frozenset())
        cells = (cell_sql(name) if name in there else "NULL" for name in table.relation.names)
        return f"ARRAY[{', '.join(cells)}]::text[]"

    @property
    def _open(self) -> asyncpg.Connection:
        if self._connection is None:
            raise RuntimeError("the snapshot is closed")
        return self._connection

    async def aclose(self) -> None:
        """Ends the transaction and gives the connection back. Repeats are harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await give_back(self._pool, connection)


async def open_subtree(pool: asyncpg.Pool, tables: Mapping[int, TableInfo], seen: Seen) -> Subtree:
    """A snapshot of ``tables`` (by relation id). ``seen``: whether it shows all that it has to; else it is taken again,
    with a growing pause. Holds a connection of the pool until it is closed. Raises what asyncpg and ``seen`` raise."""
    connection = await pool.acquire()
    try:
        visibility = await begin(connection, tables.values(), seen)
        return Subtree(pool, connection, tables, visibility, await _columns_of(connection, tables))
    except BaseException:
        await give_back(pool, connection)
        raise


async def _columns_of(connection: asyncpg.Connection, tables: Iterable[int]) -> dict[int, frozenset[str]]:
    rows = await connection.fetch(
        "SELECT attrelid::int8 AS oid, array_agg(attname::text) AS names FROM pg_attribute "
        "WHERE attrelid = ANY ($1::int8[]::oid[]) AND attnum > 0 AND NOT attisdropped GROUP BY attrelid",
        list(tables),
    )
    return {row["oid"]: frozenset(row["names"]) for row in rows}


def _tagged(table: TableInfo) -> str:
    key = key_sql(table.key_names, "t")
    return f"{table.sql_name} t LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key}"


def _decoder(table: TableInfo) -> Callable[[Any], TaggedRow]:
    converters = [to_wire(column.type_name) for column in table.relation.columns]
    odd = [(place, convert) for place, convert in enumerate(converters) if convert is not None]

    def decode(row: Any) -> TaggedRow:
        cells = [None if text is None else text.encode() for text in row["cells"]]
        for place, convert in odd:
            cell = cells[place]
            if cell is not None:
                cells[place] = convert(cell)
        return tuple(cells), tuple(row["tags"] or UNTRACKED_TAGS)

    return decode
