"""The statements that apply incoming rows of one table. Pure.

``INSERT OR REPLACE`` also pushes aside another row that holds the same value of some unique index. Within a transaction
two rows may swap such values; the final state satisfies every constraint, as the server enforced them.

It replaces whole rows. A row that comes with some of its columns takes the others from the row that is here: SQLite's
``ON CONFLICT DO UPDATE`` would do that too, but never push another row aside.
"""

# ruff: noqa: S608 - SQL is made of quoted names and constants; values are parameters.
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from syncline.client.oplog import ENTRY_COLUMNS
from syncline.client.schema import Table, literal, quoted
from syncline.client.triggers import key_sql


class TableSql:
    """Parameters: whole rows, or keys (with the tags before them)."""

    def __init__(self, table: Table) -> None:
        name = quoted(table.name)
        columns = ", ".join(quoted(column) for column in table.columns)
        marks = ", ".join("?" for _ in table.columns)
        width = len(table.primary_key)
        matches = " AND ".join(f"{quoted(column)} = ?" for column in table.primary_key)
        key = key_sql([f"?{i + 1}" for i in range(width)])
        tagged_key = key_sql([f"?{i + 2}" for i in range(width)])
        self.put = f"INSERT OR REPLACE INTO {name} ({columns}) VALUES ({marks})"
        self.delete = f"DELETE FROM {name} WHERE {matches}"
        self.put_tags = (
            f"INSERT OR REPLACE INTO _syncline_shadow (tags, table_name, key) "
            f"VALUES (?1, {literal(table.name)}, {tagged_key})"
        )
        self.drop_tags = f"DELETE FROM _syncline_shadow WHERE table_name = {literal(table.name)} AND key = {key}"
        self.leave = f"INSERT OR IGNORE INTO _syncline_leaving (table_name, key) VALUES ({literal(table.name)}, {key})"
        self.stay = f"DELETE FROM _syncline_leaving WHERE table_name = {literal(table.name)} AND key = {key}"
        self.lose = (
            "UPDATE _syncline_oplog SET lost = json_patch(lost, ?1) "
            f"WHERE table_name = {literal(table.name)} AND key = {tagged_key}"
        )
        self.regain = (
            f"UPDATE _syncline_oplog SET lost = '{{}}' WHERE table_name = {literal(table.name)} AND key = {key}"
        )
        # The server decides our transactions in their order: what was written before one that has come back is in the
        # rows that come from then on, or was rejected, though its own echo is still to come. Nor is on top of a row
        # what we have been told is in it, or have written to it before that.
        entries = f"_syncline_oplog WHERE table_name = {literal(table.name)} AND key = {key}"
        self.pending = (
            f"SELECT {ENTRY_COLUMNS} FROM {entries} "
            f"AND id > coalesce((SELECT max(id) FROM {entries} AND carried_out), 0) AND "
            "(commit_ms > (SELECT echoed_ms FROM _syncline_state) OR origin IS NOT NULL AND commit_ms IS NOT NULL) "
            "ORDER BY id"
        )
        self.has_entries = f"SELECT EXISTS (SELECT 1 FROM {entries})"


@lru_cache(maxsize=1_000)
def table_sql(table: Table) -> TableSql:
    return TableSql(table)


@lru_cache(maxsize=1_000)
def put_sql(table: Table, present: tuple[bool, ...]) -> str:
    """Put a row of which those columns have come that are ``present``. Parameters: the whole row; what has not come
    counts where there is no such row here."""
    if all(present):
        return table_sql(table).put
    columns = ", ".join(quoted(column) for column in table.columns)
    is_new = f"old.{quoted(table.primary_key[0])} IS NULL"
    values = ", ".join(
        f"?{number}" if there else f"CASE WHEN {is_new} THEN ?{number} ELSE old.{quoted(column)} END"
        for number, (column, there) in enumerate(zip(table.columns, present, strict=True), 1)
    )
    matches = " AND ".join(f"old.{quoted(table.columns[index])} = ?{index + 1}" for index in table.key_indexes)
    name = quoted(table.name)
    return (
        f"INSERT OR REPLACE INTO {name} ({columns}) "
        f"SELECT {values} FROM (SELECT 1) LEFT JOIN {name} AS old ON {matches}"
    )


@lru_cache(maxsize=1_000)
def forget_sql(table: Table, columns: Sequence[str]) -> str:
    """Of a row that stays these ``columns`` become NULL. Parameters: its key."""
    nothing = ", ".join(f"{quoted(column)} = NULL" for column in columns)
    matches = " AND ".join(f"{quoted(column)} = ?" for column in table.primary_key)
    return f"UPDATE {quoted(table.name)} SET {nothing} WHERE {matches}"
