"""Rows of synced tables by their keys, as Postgres has them now, and where in the WAL that is.

They are read by what tables and columns are called now. Of a column that is gone they have NULL, as in the stream; and
of a table that is gone, or the columns that its rows are known by, there is nothing to be read. Nor is there of one
that our role may not read: what a device has of it stays as it is until the stream tells of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.rowkey import cell_sql, key_sql, quote_identifier
from syncline.actors.postgres.snapshot import ROW_TAGS_SQL, Visibility, check_unaltered, shown_tags, visibility_of
from syncline.actors.postgres.spelling import same_key
from syncline.actors.postgres.typemap import from_wire, to_wire
from syncline.proto.values import Key, Row

KEYS_AT_ONCE = 1_000  # rows asked for in one query
READING_BYTES_MAX = 8 << 20  # of rows read one by one; the last may be beyond it

# What Postgres says of a value that a column does not take: its type, or a check of its domain, or what that calls.
_NOT_TAKEN = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.PLPGSQLError,
)

WAL_END = """
SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, current_setting('wal_block_size')::int4
"""
WAL_PAGE_HEADER_BYTES_MAX = 40


def end_of_records(insert: Lsn, page_bytes: int) -> Lsn:
    """Where the records end of a WAL that is inserted up to ``insert``. At the beginning of a page that is behind its
    header, which nobody flushes, or streams, before there is another record."""
    inside = insert % page_bytes
    return Lsn(insert - inside) if inside <= WAL_PAGE_HEADER_BYTES_MAX else insert


@dataclass(frozen=True, slots=True)
class CurrentRow:
    """A row as Postgres has it now; ``row`` None: there is none, or none whose key a device would spell as ``key``."""

    table: TableInfo
    key: Key
    row: Row | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows as a snapshot of this ``visibility`` shows them. ``position``: the WAL ended there afterwards, so what it
    shows was committed below. That does not say that it shows everything below: others commit meanwhile, and a commit
    is flushed some time before it is visible, with synchronous standbys a long time. Who needs that asks the stream,
    which knows what lies below. ``left``: what was asked for and would have been too much."""

    rows: tuple[CurrentRow, ...]
    position: Lsn
    visibility: Visibility
    left: tuple[tuple[int, Key], ...] = ()


async def read_current_rows(
    pool: asyncpg.Pool,
    tables: Mapping[int, TableInfo],
    keys: Iterable[tuple[int, Key]],
    forbidden: Callable[[TableInfo, asyncpg.InsufficientPrivilegeError], object] | None = None,
) -> Reading:
    """The rows with these (relation id, key) as one snapshot shows them. A table that is not among ``tables``, or has
    lost columns of its key, is left out; what of the others is beyond ``READING_BYTES_MAX`` is told as ``left``, and at
    least one row is read. ``forbidden``: told of a table that our role may not read, which is left out then, too.
    Raises what asyncpg raises: UndefinedTableError for a table that has been altered since ``tables`` were read, too,
    whatever has come in its place."""
    wanted: dict[int, list[Key]] = {}
    for relation_id, key in keys:
        wanted.setdefault(relation_id, []).append(key)
    known = {id: tables[id] for id in wanted if id in tables}
    told_apart = {id: table for id, table in known.items() if table.has_key}
    rows: list[CurrentRow] = []
    left: list[tuple[int, Key]] = []
    asked: list[TableInfo] = []
    room = READING_BYTES_MAX
    async with pool.acquire() as connection:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            visibility = await visibility_of(connection)
            for relation_id, table in told_apart.items():
                of_table = wanted[relation_id]
                for start in range(0, len(of_table), KEYS_AT_ONCE):
                    of_query = of_table[start : start + KEYS_AT_ONCE]
                    found: list[CurrentRow] = []
                    if room > 0:
                        try:
                            found = await _current_rows(connection, table, of_query, visibility.at_ms, room)
                        except asyncpg.InsufficientPrivilegeError as error:
                            if forbidden is None:
                                raise
                            forbidden(table, error)
                            break
                        if table not in asked:
                            asked.append(table)
                    rows += found
                    left += [(relation_id, key) for key in of_query[len(found) :]]
                    room = 0 if left else room - sum(len(cell or b"") for row in found for cell in row.row or ())
            # Afterwards: what has been read keeps its name as long as the transaction lasts.
            await check_unaltered(connection, asked)
        position = await _flushed_end(connection, beyond_flushed=bool(rows))
    return Reading(tuple(rows), position, visibility, tuple(left))


async def _flushed_end(connection: asyncpg.Connection, *, beyond_flushed: bool) -> Lsn:
    """Behind every commit that is visible by now, and on the disk. A commit that does not wait for the disk is visible
    before it is there, and nobody might bring it there for seconds. Without ``beyond_flushed`` those do not matter."""
    insert, flushed, page_bytes = await connection.fetchrow(WAL_END)
    end = end_of_records(Lsn.parse(insert), page_bytes)
    if end <= Lsn.parse(flushed) or not beyond_flushed:
        return Lsn.parse(flushed)
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = local")
        await connection.execute("SELECT pg_logical_emit_message(true, 'syncline.flush', '')")
    return end


async def _current_rows(
    connection: asyncpg.Connection, table: TableInfo, keys: Sequence[Key], at_ms: int, room: int
) -> list[CurrentRow]:
    """One for each key, in order, up to the one that fills ``room`` bytes. ``at_ms``: when the snapshot was taken.

    A key that its column cannot hold is no row's. Which keys these are is known of the types that devices were told of,
    as far as it can be known here; a column may have another one by now. Otherwise Postgres says so.
    """
    try:
        async with connection.transaction():
            return await _found(connection, table, keys, at_ms, room)
    except _NOT_TAKEN:
        if len(keys) == 1:
            return [CurrentRow(table, keys[0], None, ())]
    found: list[CurrentRow] = []
    for key in keys:
        if room > 0:
            (row,) = await _current_rows(connection, table, [key], at_ms, room)
            found.append(row)
            room -= sum(len(cell or b"") for cell in row.row or ())
    return found


async def _found(
    connection: asyncpg.Connection, table: TableInfo, keys: Sequence[Key], at_ms: int, room: int
) -> list[CurrentRow]:
    found = [CurrentRow(table, key, None, ()) for key in keys]
    names, types = table.key_names, [table.type_now(name) for name in table.key_names]
    texts: list[list[str]] = [[] for _ in names]
    places: list[int] = []
    for place, key in enumerate(keys):
        try:
            cells = [
                from_wire(type_name, cell or b"", table.enum_labels.get(name))
                for name, type_name, cell in zip(names, types, key, strict=True)
            ]
        except ValueError:
            continue  # no row can have such a key
        places.append(place)
        for column, text in zip(texts, cells, strict=True):
            column.append(text)
    arrays = ", ".join(f"${number}::text[]" for number in range(2, len(names) + 2))
    wanted = ", ".join(f"k{number}" for number in range(len(names)))
    matches = " AND ".join(
        f"t.{quote_identifier(name)} = w.k{number}::{table.cast_type(name)}" for number, name in enumerate(names)
    )
    cells_sql = ", ".join(map(cell_sql, table.relation.names))
    rows = await connection.fetch(
        "WITH found AS MATERIALIZED ("  # noqa: S608 - identifiers, quoted
        f"SELECT w.place, ARRAY[{cells_sql}] AS cells, {ROW_TAGS_SQL} AS tags "
        f"FROM unnest($1::int4[], {arrays}) AS w (place, {wanted}) JOIN {table.rows_sql} ON {matches} "
        f"LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key_sql(names, 't')}), "
        "sized AS "
        "(SELECT place, sum(octet_length(array_to_string(cells, ''))) OVER (ORDER BY place) AS upto FROM found), "
        f"filled AS (SELECT min(place) AS last FROM sized WHERE upto >= ${len(names) + 2}::int8) "
        "SELECT place, cells, tags, last FROM found CROSS JOIN filled WHERE last IS NULL OR place <= last",
        places,
        *texts,
        room,
    )
    converters = [to_wire(table.type_now(name)) for name in table.relation.names]
    for row in rows:
        encoded = [None if text is None else text.encode() for text in row["cells"]]
        wire = tuple(
            convert(cell) if cell is not None and convert is not None else cell
            for cell, convert in zip(encoded, converters, strict=True)
        )
        place = row["place"]
        alike = zip(types, table.relation.key_of(wire), keys[place], strict=True)
        if not all(same_key(*cells) for cells in alike):
            continue  # the device is to have it under its own key, by the stream
        found[place] = CurrentRow(table, keys[place], wire, shown_tags(row["tags"], at_ms))
    filled = rows[0]["last"] if rows else None
    return found if filled is None else found[: filled + 1]
