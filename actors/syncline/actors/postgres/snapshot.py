"""The rows of a table, and the exact place in the stream that they belong to.

A snapshot and a position in the stream are different clocks: a transaction becomes visible only some time after its
commit record was written, and not always in the order of those records. So no position can simply be read off. Instead:

1. the caller is already receiving the table's changes ("registered");
2. a REPEATABLE READ transaction takes a snapshot, whose identity ``pg_current_snapshot()`` tells (which transactions it
   sees). If it does not see some transaction that was streamed *before* the registration, that one's rows would be
   in neither half, so the snapshot is taken again until it sees them all;
3. after that, a *mark* is committed on another connection: ``pg_logical_emit_message(true, 'syncline.mark', id)``.

Everything the snapshot sees committed before the mark in the WAL, since it was visible before the mark was written. So
the image at the mark's position is exact: the snapshot's rows, changed by every transaction from the registration up
to the mark that ``visible`` denies (applying the others too, newest version per key, gives the same).

The table is locked (ACCESS SHARE) before the snapshot is taken, since TRUNCATE and rewrites do not respect snapshots.
Rows come from COPY in text format, which prints values as pgoutput does, in chunks; nothing holds more than a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import FORM_SQL, TableInfo
from syncline.actors.postgres.copytext import CopyText, copy_out
from syncline.actors.postgres.rowkey import key_sql, quote_identifier
from syncline.actors.postgres.streamed import MARK_PREFIX
from syncline.actors.postgres.typemap import SESSION_SETTINGS, Converter, parse_text_array, to_wire
from syncline.proto.values import POSTGRES_ORIGIN, Cell, Row

TaggedRow: TypeAlias = tuple[Row, tuple[str, ...]]

ROW_TAGS_SQL: Final = """CASE
    WHEN coalesce(s.row_xmin, s.xmin) = t.xmin THEN s.tags
    WHEN s.tags <> '{}' AND NOT EXISTS (
        SELECT FROM electric.direct d WHERE d.relid = s.relid AND d.key = s.key AND d.lsn > s.at_lsn)
    THEN array_append(s.tags, '') END"""
"""The tags of row ``t`` whose entry in ``electric.shadow``, if any, is ``s``, for ``shown_tags``: NULL where no device
wrote it last, an empty text for whatever Postgres may have written.

An entry counts only while it describes this version of the row: where its xmin is another, direct SQL has written the
row since, and had observed everything; or the table was written anew, and the entry still holds. Where the stream has
not told of such a write (yet), both are said.
"""

CHUNK_ROWS_MAX = 2_000
BUFFERS_MAX = 2  # COPY buffers (some 100 KB each) read ahead of the consumer
RETAKE_FIRST_S = 0.005
RETAKE_MAX_S = 0.5

ALTERED: Final = f"""
SELECT e.name FROM unnest($1::text[], $2::int8[]::oid[], $3::text[]) AS e (name, relid, form)
WHERE to_regclass(e.name) IS DISTINCT FROM e.relid OR (e.form <> '' AND e.form IS DISTINCT FROM {FORM_SQL})
"""  # noqa: S608 - nothing but the above


# --- which transactions a snapshot sees -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visibility:
    """A ``pg_snapshot``: everything below ``xmin`` is seen, nothing from ``xmax`` on, between them all not ``running``.

    Transaction ids here have 64 bits. ``at_ms``: just before it was taken, by Postgres' clock.
    """

    xmin: int
    xmax: int
    running: frozenset[int]
    at_ms: int = 0

    @classmethod
    def parse(cls, text: str, at_ms: int) -> Visibility:
        """Reads Postgres' ``xmin:xmax:xip,xip``. Raises ValueError."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid), at_ms)

    def widen(self, xid: int) -> int:
        """The 64-bit id of a recent transaction of which the stream gave the low 32 bits.

        Ids in use span less than 2^31, so it is the one nearest to ``xmax``.
        """
        wide = self.xmax & ~0xFFFFFFFF | xid
        if wide > self.xmax + (1 << 31):
            return wide - (1 << 32)
        return wide + (1 << 32) if wide < self.xmax - (1 << 31) else wide

    def visible(self, xid: int) -> bool:
        """Whether the snapshot sees what the transaction with these low 32 bits committed."""
        wide = self.widen(xid)
        return wide < self.xmin or (wide < self.xmax and wide not in self.running)

    def sees_all(self, xids: Iterable[int]) -> bool:
        """Whether each of these (low 32 bits) is ``visible``; made for thousands of them."""
        edge, running = self.xmax & 0xFFFFFFFF, {xid & 0xFFFFFFFF for xid in self.running}
        listed = tuple(xids)
        if not listed:
            return True
        if not running.isdisjoint(listed):
            return False
        if max(listed) < edge and edge - min(listed) < 1 << 31:
            return True  # but for the few times that 32 bits overflow
        return all((xid - edge) & 0xFFFFFFFF > 1 << 31 for xid in listed)


VISIBILITY_SQL: Final = """
SELECT pg_current_snapshot()::text, floor(extract(epoch FROM statement_timestamp()) * 1000)::int8
"""


async def visibility_of(connection: asyncpg.Connection | asyncpg.Pool) -> Visibility:
    """Of the transaction that is open, whose snapshot this takes if it is its first query; else of a moment."""
    return Visibility.parse(*await connection.fetchrow(VISIBILITY_SQL))


def shown_tags(tags: Sequence[str] | None, at_ms: int) -> tuple[str, ...]:
    """The tags of a row for which ``ROW_TAGS_SQL`` gave ``tags``, in a snapshot taken ``at_ms``. Who has got the row
    has seen what Postgres had written by then: when the last of it was is not known, and it was not later."""
    of_postgres = f"{POSTGRES_ORIGIN}@{at_ms}"
    return tuple([tag or of_postgres for tag in tags]) if tags else (of_postgres,)


Seen: TypeAlias = Callable[[Visibility], Awaitable[bool]]
"""Whether a snapshot shows all that it has to."""


# --- the query --------------------------------------------------------------------------------------------------------


def rows_query(table: TableInfo, *, tracked: bool, clause: str = "") -> str:
    """SELECT of all columns in catalog order and, if ``tracked``, the row's tags as ``ROW_TAGS_SQL`` has them.
    ``clause``: SQL over the rows ``t``, those for which it holds; empty: all."""
    columns = ", ".join(f"t.{quote_identifier(name)}" for name in table.relation.names)
    where = f" WHERE {clause}" if clause else ""
    if not tracked:
        return f"SELECT {columns} FROM {table.rows_sql}{where}"  # noqa: S608 - identifiers, quoted
    key = key_sql(table.key_names, "t")
    return (
        f"SELECT {columns}, {ROW_TAGS_SQL} AS tags "  # noqa: S608 - identifiers, quoted
        f"FROM {table.rows_sql} LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key}{where}"
    )


class Snapshot:
    """One table as of one snapshot. Iterate it once, for chunks of (row in wire cells, tags); then it is closed.

    ``mark``: the id whose message tells where in the stream the snapshot belongs. ``selected``: its rows are those that
    were asked for, and no others. Leave it early with ``aclose``. Iteration raises what asyncpg raises. ``end``: of its
    use of the connection. ``has_tags``: what is known of tables by now, see there.
    """

    selected = True

    def __init__(
        self,
        end: Callable[[], Awaitable[None]],
        connection: asyncpg.Connection,
        table: TableInfo,
        mark: str,
        visibility: Visibility,
        clause: str = "",
        *,
        has_tags: dict[int, bool] | None = None,
    ) -> None:
        self._end = end
        self._has_tags = {} if has_tags is None else has_tags
        self._connection: asyncpg.Connection | None = connection
        self._table = table
        self._clause = clause
        self.mark = mark
        self.visibility = visibility

    def visible(self, xid: int) -> bool:
        """Whether the rows include what this transaction of the stream did."""
        return self.visibility.visible(xid)

    async def __aiter__(self) -> AsyncGenerator[list[TaggedRow], None]:
        if self._connection is None:
            raise RuntimeError("a snapshot can be read once")
        table = self._table
        try:
            if table.oid not in self._has_tags:
                self._has_tags[table.oid] = await has_tags(self._connection, table.oid)
            tracked = self._has_tags[table.oid]
            query = rows_query(table, tracked=tracked, clause=self._clause)
            at_ms = self.visibility.at_ms
            async with contextlib.aclosing(copied(self._connection, table, query, at_ms, tracked=tracked)) as parts:
                async for part in parts:
                    yield part
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Ends the transaction and gives the connection back. Repeats are harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._end()


async def has_tags(connection: asyncpg.Connection, relation_id: int) -> bool:
    """Whether any row of the table has an entry in ``electric.shadow``."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM electric.shadow WHERE relid = $1::bigint::oid)", relation_id
    )
    return found


async def copied(
    connection: asyncpg.Connection, table: TableInfo, query: str, at_ms: int, *, tracked: bool
) -> AsyncGenerator[list[TaggedRow], None]:
    """The rows of ``query``, which selects the columns of ``table`` and, if ``tracked``, the tags, some at a time.
    ``at_ms``: when the snapshot was taken. Nothing else may be asked on the connection until it is through or closed;
    and that costs the connection."""
    decoder = CopyText(len(table.relation.columns) + tracked)
    types = [to_wire(table.type_now(name)) for name in table.relation.names]
    converters = [(i, convert) for i, convert in enumerate(types) if convert is not None]
    untracked = shown_tags(None, at_ms)
    async with contextlib.aclosing(copy_out(connection, query)) as buffers:
        async for data in buffers:
            rows = decoder.feed(data)
            for start in range(0, len(rows), CHUNK_ROWS_MAX):
                part = rows[start : start + CHUNK_ROWS_MAX]
                if tracked or converters:
                    yield [_tagged_row(cells, converters, at_ms if tracked else None, untracked) for cells in part]
                else:
                    yield [(tuple(cells), untracked) for cells in part]
    decoder.finish()


def _tagged_row(
    cells: list[Cell], converters: Sequence[tuple[int, Converter]], at_ms: int | None, untracked: tuple[str, ...]
) -> TaggedRow:
    """``at_ms``: None where there is no cell with tags."""
    tags = untracked
    if at_ms is not None:
        cell = cells.pop()
        if cell is not None:
            tags = shown_tags(parse_text_array(cell), at_ms)
    for i, convert in converters:
        cell = cells[i]
        if cell is not None:
            cells[i] = convert(cell)
    return tuple(cells), tags


async def take_snapshot(
    pool: asyncpg.Pool,
    table: TableInfo,
    mark: str,
    streamed_before: Callable[[], Iterable[int]],
    clause: str = "",
    others: Sequence[str] = (),
) -> Snapshot:
    """A snapshot of ``table`` and its mark, committed. Call it once the table's changes are being received.
    ``clause``: of its rows ``t`` those for which that SQL holds (empty: all). ``others``: marks besides, of those who
    share it; they stand at the same place.

    ``mark``: an id of the caller's, short text. ``streamed_before``: lists the xids (32 bits) of the transactions that
    were streamed before the registration and may not be visible yet; the latest few thousand do. The snapshot is
    taken again, with a growing pause, while any of them is invisible: as long as synchronous replication holds its
    commit back. Needs two connections of the pool for a moment, one until the snapshot is read. Raises what asyncpg
    raises.
    """

    async def seen(visibility: Visibility) -> bool:
        return visibility.sees_all(streamed_before())

    connection = await pool.acquire()
    try:
        visibility = await begin(connection, (table,), seen)
        await emit_marks(pool, (mark, *others))
    except BaseException:
        await give_back(pool, connection)
        raise
    return Snapshot(partial(give_back, pool, connection), connection, table, mark, visibility, clause)


async def emit_mark(pool: asyncpg.Pool, mark: str) -> None:
    """Commits a mark, without waiting for synchronous standbys: its place in the WAL is all that counts."""
    await emit_marks(pool, (mark,))


async def emit_marks(pool: asyncpg.Pool, marks: Sequence[str]) -> None:
    """The same for several, all in one place."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = local")
        await connection.execute(
            "SELECT pg_logical_emit_message(true, $1, mark) FROM unnest($2::text[]) AS mark", MARK_PREFIX, marks
        )


async def begin(connection: asyncpg.Connection, tables: Iterable[TableInfo], seen: Seen) -> Visibility:
    """Begins a transaction whose snapshot has been ``seen`` to show all that it has to; until then it is taken again,
    with a growing pause. Raises what asyncpg and ``seen`` raise: UndefinedTableError for a table that has been altered
    since ``tables`` were read, too, whatever has come in its place."""
    ordered = sorted(tables, key=lambda table: table.sql_name)
    attempt = 0
    while True:
        visibility = await _open(connection, ordered)
        if await seen(visibility):
            return visibility
        await connection.execute("ROLLBACK")
        pause_s = min(RETAKE_MAX_S, RETAKE_FIRST_S * 2.0 ** min(attempt, 10))
        await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load, protects nothing
        attempt += 1


async def _open(connection: asyncpg.Connection, tables: Sequence[TableInfo]) -> Visibility:
    """Begins the transaction, locks the tables and only then takes the snapshot: neither SET nor LOCK takes one."""
    settings = {**SESSION_SETTINGS, "statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
    lines = [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    names = ", ".join(table.sql_name for table in tables)
    await connection.execute("; ".join([*lines, f"LOCK TABLE {names} IN ACCESS SHARE MODE"]))
    await check_unaltered(connection, tables)
    return await visibility_of(connection)


async def check_unaltered(connection: asyncpg.Connection, tables: Iterable[TableInfo]) -> None:
    """Raises UndefinedTableError where a table has not the name, or not the columns, that it had as the catalogue was
    read. What has been locked before, or read, stays as it is until the transaction ends."""
    known = [(table.sql_name, table.oid, table.form) for table in tables]
    altered = await connection.fetchval(ALTERED, *([entry[place] for entry in known] for place in range(3)))
    if altered is not None:
        raise asyncpg.UndefinedTableError(f"{altered} has been altered since the catalogue was read")


async def give_back(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    """Ends the transaction and releases; shielded, so that a cancelled reader leaks nothing."""

    async def give_back() -> None:
        with contextlib.suppress(*AWAY):
            await connection.execute("ROLLBACK")
        await pool.release(connection)

    await asyncio.shield(give_back())
