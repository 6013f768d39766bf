"""Rows of several tables as one snapshot shows them: those of a clause, and those with given values in given columns.

Both come a part at a time, and whoever walks a tree asks for the one between parts of the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
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
    copied,
    give_back,
    has_tags,
    shown_tags,
)
from syncline.actors.postgres.typemap import OIDS_BY_NAME, output_text, to_wire
from syncline.proto.values import Cell

if TYPE_CHECKING:
    from syncline.actors.shapes.tree import Node
    from syncline.actors.shapes.treevalues import Query

ROWS_AT_ONCE = 500
VALUES_AT_ONCE = 1_000


class Subtree:
    """As of one snapshot, ``visibility``; it ends with ``aclose``. All methods raise what asyncpg raises.

    ``end``, ``has_tags``: as of a ``Snapshot``.
    """

    def __init__(
        self,
        end: Callable[[], Awaitable[None]],
        connection: asyncpg.Connection,
        tables: Mapping[int, TableInfo],
        visibility: Visibility,
        *,
        has_tags: dict[int, bool] | None = None,
    ) -> None:
        self._end = end
        self._connection: asyncpg.Connection | None = connection
        self._tables = tables
        self._has_tags = {} if has_tags is None else has_tags
        self.visibility = visibility

    async def at(
        self, nodes: Sequence[Node], n: int, clause: Callable[[int], str]
    ) -> AsyncGenerator[list[TaggedRow], None]:
        """The rows of the table of ``nodes[n]`` that satisfy its clause and hang on rows at the node above it, each of
        them once, some at a time. ``clause``: SQL over rows ``t`` of a node; empty: all. Until it is through nothing
        else can be asked."""
        table = self._tables[nodes[n].relation_id]
        inside = self._inside(nodes, n, clause)
        if inside is None:
            return
        tracked = await self._tracked(table)
        tags = f", {ROW_TAGS_SQL} AS tags" if tracked else ""
        columns = ", ".join(f"t.{quote_identifier(name)}" for name in table.relation.names)
        where = f" WHERE {inside}" if inside else ""
        query = f"SELECT {columns}{tags} FROM {_with_tags(table, tracked=tracked)}{where}"  # noqa: S608 - quoted
        async with contextlib.aclosing(
            copied(self._open, table, query, self.visibility.at_ms, tracked=tracked)
        ) as parts:
            async for part in parts:
                yield part

    async def having(
        self, relation_id: int, places: Sequence[int], values: Sequence[Sequence[Cell]]
    ) -> AsyncGenerator[list[TaggedRow], None]:
        """The rows of a table that have one of ``values`` at ``places``, some at a time."""
        table = self._tables[relation_id]
        decode = _decoder(table, self.visibility.at_ms)
        matching = await self._matching(table, places, values)
        if matching is not None:
            cursor = await self._open.watched(self._open.cursor(matching[0], *matching[1]), matching[1])
            while part := await self._open.watched(cursor.fetch(ROWS_AT_ONCE)):
                yield [decode(row) for row in part]

    async def answers(self, queries: Iterable[Query]) -> dict[Query, list[TaggedRow]]:
        """The rows of each query: none of a table that the snapshot is not of, which is gone."""
        found: dict[Query, list[TaggedRow]] = {query: [] for query in queries}
        alike: dict[tuple[int, tuple[int, ...]], list[Query]] = {}
        for query in found:
            alike.setdefault((query.relation_id, query.places), []).append(query)
        for (relation_id, places), of_table in alike.items():
            if relation_id not in self._tables:
                continue
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
        matching = await self._matching(table, places, [query.value for query in queries])
        if matching is None:
            return
        decode = _decoder(table, self.visibility.at_ms)
        cursor = await self._open.watched(self._open.cursor(matching[0], *matching[1]), matching[1])
        while part := await self._open.watched(cursor.fetch(ROWS_AT_ONCE)):
            for row in part:
                found[queries[row["place"] - 1]].append(decode(row))

    async def _matching(
        self, table: TableInfo, places: Sequence[int], values: Sequence[Sequence[Cell]]
    ) -> tuple[str, list[list[str]]] | None:
        """A query for the rows with one of ``values`` at ``places``, and its arguments; None: there are none."""
        columns = [table.relation.columns[place] for place in places]
        if not _all_there(table, places):
            return None
        texts: list[list[str]] = [[] for _ in columns]
        for value in values:
            for column, text, cell in zip(columns, texts, value, strict=True):
                text.append(output_text(OIDS_BY_NAME.get(table.type_now(column.name), 0), cell or b""))
        arrays = ", ".join(f"${number}::text[]" for number in range(1, len(columns) + 1))
        names = ", ".join(f"k{number}" for number in range(len(columns)))
        matches = " AND ".join(
            f"t.{quote_identifier(column.name)} = w.k{number}::{table.cast_type(column.name)}"
            for number, column in enumerate(columns)
        )
        tracked = await self._tracked(table)
        tags = ROW_TAGS_SQL if tracked else "NULL::text[]"
        query = (
            f"SELECT w.place, {_cells(table)} AS cells, {tags} AS tags "  # noqa: S608 - identifiers, quoted
            f"FROM unnest({arrays}) WITH ORDINALITY AS w ({names}, place) "
            f"JOIN {_with_tags(table, f'ON {matches}', tracked=tracked)}"
        )
        return query, texts

    def _inside(self, nodes: Sequence[Node], n: int, clause: Callable[[int], str]) -> str | None:
        """SQL over rows ``t``: which of them are at node ``n``; None: there are none. Each level is a query of its own
        within the one below, so however many rows there are, each table is read once a level."""
        node = nodes[n]
        parts = [f"({clause(n)})"] if clause(n) else []
        if n:
            above = self._tables[nodes[node.above].relation_id]
            table = self._tables[node.relation_id]
            inside = self._inside(nodes, node.above, clause)
            if not _all_there(table, node.own) or not _all_there(above, node.theirs) or inside is None:
                return None
            own, theirs = _names(table, node.own), _names(above, node.theirs)
            where = f" WHERE {inside}" if inside else ""
            parts.append(f"({own}) IN (SELECT {theirs} FROM {above.rows_sql}{where})")  # noqa: S608 - quoted
        return " AND ".join(parts)

    async def _tracked(self, table: TableInfo) -> bool:
        """Whether any row of the table has tags. That of no row is known of most tables, and saves a join."""
        if table.oid not in self._has_tags:
            self._has_tags[table.oid] = await has_tags(self._open, table.oid)
        return self._has_tags[table.oid]

    @property
    def _open(self) -> asyncpg.Connection:
        if self._connection is None:
            raise RuntimeError("the snapshot is closed")
        return self._connection

    async def aclose(self) -> None:
        """Ends the transaction and gives the connection back. Repeats are harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._end()


async def open_subtree(pool: asyncpg.Pool, tables: Mapping[int, TableInfo], seen: Seen) -> Subtree:
    """A snapshot of ``tables`` (by relation id). ``seen``: whether it shows all that it has to; else it is taken again,
    with a growing pause. Holds a connection of the pool until it is closed. Raises what asyncpg and ``seen`` raise."""
    connection = await pool.acquire()
    try:
        visibility = await begin(connection, tables.values(), seen)
        return Subtree(partial(give_back, pool, connection), connection, tables, visibility)
    except BaseException:
        await give_back(pool, connection)
        raise


def _all_there(table: TableInfo, places: Sequence[int]) -> bool:
    """Nothing is referred to by a column that is gone."""
    return all(table.column_now(table.relation.names[place]) is not None for place in places)


def _names(table: TableInfo, places: Sequence[int]) -> str:
    return ", ".join(f"t.{quote_identifier(table.relation.names[place])}" for place in places)


def _cells(table: TableInfo) -> str:
    return f"ARRAY[{', '.join(map(cell_sql, table.relation.names))}]::text[]"


def _with_tags(table: TableInfo, on: str = "", *, tracked: bool) -> str:
    """The rows ``t`` of a table, joined ``on`` something with what is before, and the entries ``s`` of their tags."""
    tags = f"LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key_sql(table.key_names, 't')}"
    return " ".join((table.rows_sql, on, tags if tracked else ""))


def _decoder(table: TableInfo, at_ms: int) -> Callable[[Any], TaggedRow]:
    converters = [to_wire(table.type_now(name)) for name in table.relation.names]
    odd = [(place, convert) for place, convert in enumerate(converters) if convert is not None]

    def decode(row: Any) -> TaggedRow:
        cells = [None if text is None else text.encode() for text in row["cells"]]
        for place, convert in odd:
            cell = cells[place]
            if cell is not None:
                cells[place] = convert(cell)
        return tuple(cells), shown_tags(row["tags"], at_ms)

    return decode
