"""A table for tests of where clauses: a column of each type that devices can have."""

from __future__ import annotations

from typing import Final

from syncline.actors.postgres.catalog import TableInfo, table_info
from syncline.proto.values import Row

COLUMNS: Final = {
    "id": "int4",
    "title": "text",
    "rank": "int4",
    "done": "bool",
    "at": "timestamptz",
    "small": "int2",
    "big": "int8",
    "short": "varchar",
    "owner": "uuid",
    "mood": "mood",
    "day": "date",
    "clock": "time",
    "moment": "timestamp",
    "ratio": "float8",
    "single": "float4",
    "raw": "bytea",
    "doc": "jsonb",
    "plain": "json",
    "Col": "text",
}
LABELS: Final = ("sad", "ok", "it's fine")

TABLE: Final[TableInfo] = table_info(
    {
        "oid": 7,
        "schema": "public",
        "table": "items",
        "columns": [
            {
                "name": name,
                "type": kind,
                "not_null": name == "id",
                "pk": 1 if name == "id" else None,
                "enum": list(LABELS) if kind == "mood" else None,
            }
            for name, kind in COLUMNS.items()
        ],
        "fks": [],
    }
)


def row(**cells: bytes | None) -> Row:
    """A row with these cells, NULL elsewhere."""
    return tuple(cells.get(name) for name in COLUMNS)
