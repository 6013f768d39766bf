# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
"""What is said of the rows here so that a server can find those that differ (``proto.digest``).

Tables are read a page at a time: others read in between, and nobody holds an old state of the file. That is no snapshot
and need not be one. Nothing comes from the server meanwhile, and a row that is written here meanwhile has its change
pending, which protects it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial

from syncline.client.apply import tags_from_json
from syncline.client.cells import Value, Values, encode_row
from syncline.client.execution import tracked
from syncline.client.schema import Table, literal, quoted
from syncline.client.store import Store
from syncline.client.triggers import key_sql
from syncline.proto.digest import SALT_BYTES, Digests, Holdings, TableDifference, buckets_for, held_tags
from syncline.proto.ops import insert_body

# About 10 ms of the reader's time.
PAGE_ROWS = 1_000


async def holdings_of(store: Store, tables: Iterable[Table]) -> Holdings:
    """Of all rows of ``tables``."""
    tables = tuple(tables)
    salt = secrets.token_bytes(SALT_BYTES)
    counts = [await store.read(partial(_count, table)) for table in tables]
    held = [(table, count) for table, count in zip(tables, counts, strict=True) if count]
    sums: dict[str, bytes] = {}
    for (table, _), buckets in zip(held, buckets_for([count for _, count in held]), strict=True):
        digests = Digests(buckets, salt)
        page = await store.read(partial(_digesting, table, digests))
        after: Values | None = ()
        while after is not None:
            after = await store.read(page(after))
        sums[table.name] = digests.sums()
    return Holdings(salt, sums)


async def held_in(store: Store, table: Table, difference: TableDifference) -> AsyncIterator[list[Values]]:
    """The keys of the rows in buckets that differ, some at a time."""
    after: Values | None = () if difference.any else None
    while after is not None:
        keys, after = await store.read(partial(_keys_in, table, difference, after=after))
        if keys:
            yield keys


def _count(table: Table, connection: sqlite3.Connection) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM main.{quoted(table.name)}").fetchone()
    assert isinstance(count, int)
    return count


def _digesting(
    table: Table, digests: Digests, connection: sqlite3.Connection
) -> Callable[[Values], Callable[[sqlite3.Connection], Values | None]]:
    """For a key (empty: none) the work that adds the page of ``table`` behind it to ``digests``, and returns the page's
    last key, or None when it was the last page."""
    columns = ", ".join(f"main_row.{quoted(column)}" for column in table.columns)
    tags, joined = "NULL", ""
    if tracked(connection, [table.name]):
        key = key_sql([f"main_row.{quoted(column)}" for column in table.primary_key])
        tags = "shadow.tags"
        joined = (
            f"LEFT JOIN _syncline_shadow AS shadow ON shadow.table_name = {literal(table.name)} AND shadow.key = {key}"
        )
    key_places = table.relation.key_indexes
    encoders = table.encoders
    untracked = tags_from_json(None)

    def read(connection: sqlite3.Connection, after: Values) -> Values | None:
        select = f"SELECT {tags}, {columns} FROM main.{quoted(table.name)} AS main_row {joined}"
        last: tuple[Value, ...] | None = None
        count = 0
        for own_tags, *values in connection.execute(*_page(select, table, after)):
            row = encode_row(values, encoders)
            held = untracked if own_tags is None else held_tags(tags_from_json(own_tags))
            digests.add(tuple([row[place] for place in key_places]), insert_body(row, held))
            last = tuple(values)
            count += 1
        return None if last is None or count < PAGE_ROWS else tuple(last[index] for index in table.key_indexes)

    return lambda after: lambda connection: read(connection, after)


def _keys_in(
    table: Table, difference: TableDifference, connection: sqlite3.Connection, after: Values
) -> tuple[list[Values], Values | None]:
    """Of a page of ``table`` the keys in buckets that differ; and the page's last key, None when it was the last."""
    columns = ", ".join(f"main_row.{quoted(column)}" for column in table.primary_key)
    select = f"SELECT {columns} FROM main.{quoted(table.name)} AS main_row"
    page = [tuple(row) for row in connection.execute(*_page(select, table, after))]
    encoders = [table.encoders[index] for index in table.key_indexes]
    # A key's cells are in the order of the columns, on the wire.
    order = sorted(range(len(encoders)), key=lambda place: table.key_indexes[place])
    found = [key for key in page if difference.includes(tuple([encoders[place](key[place]) for place in order]))]
    return found, page[-1] if len(page) == PAGE_ROWS else None


def _page(select: str, table: Table, after: Values) -> tuple[str, Values]:
    """``select``, of the rows behind the key ``after``, and its parameters."""
    key = ", ".join(f"main_row.{quoted(column)}" for column in table.primary_key)
    behind = f"WHERE ({key}) > ({', '.join('?' for _ in after)})" if after else ""
    return f"{select} {behind} ORDER BY {key} LIMIT {PAGE_ROWS}", after
