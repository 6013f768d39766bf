"""The tables of an application as Postgres knows them: what of them syncs, and what ties their columns together.

Nothing here is about one schema. What devices hold of a table is read from ``electric.tables``, which says the columns
and the key they know its rows by; what Postgres demands of a row is read from Postgres' own catalogue, so that a writer
can make rows that hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import asyncpg

from syncline.actors.postgres.devicenames import device_name

# Of extensions, partitions (their table stands for them), and what Postgres and Syncline keep for themselves: none.
_TABLES: Final = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname !~ '^(pg_|electric$|information_schema$)'
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2
"""

_SYNCED: Final = """
WITH named AS (
    SELECT a.attrelid, a.attnum, a.attname::text AS name FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped
), domains AS (  -- columns whose domain has a CHECK
    SELECT a.attrelid, ARRAY[a.attnum] AS numbers FROM pg_attribute a
    WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = a.atttypid AND k.contype = 'c')
), bound AS (
    SELECT k.conrelid AS relid, k.conkey AS numbers FROM pg_constraint k WHERE k.contype IN ('c', 'x')
    UNION ALL SELECT d.attrelid, d.numbers FROM domains d
    UNION ALL SELECT p.partrelid, p.partattrs::smallint[] FROM pg_partitioned_table p
), uniques AS (  -- columns of expressions and of the predicate among them
    SELECT i.indrelid AS relid, i.indexrelid, array_agg(DISTINCT n.number) AS numbers
    FROM pg_index i CROSS JOIN LATERAL (
        SELECT unnest(i.indkey::smallint[]) AS number
        UNION ALL SELECT d.refobjsubid::smallint FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
    ) AS n
    WHERE i.indisunique AND n.number > 0 GROUP BY 1, 2
)
SELECT c.relkind = 'p' AS partitioned, t.schema_name AS schema, t.table_name AS name, t.description,
    (SELECT jsonb_object_agg(a.attname, jsonb_build_object(
        'cast', format_type(a.atttypid, a.atttypmod),
        'length', CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 4
            THEN a.atttypmod - 4 END,
        'defaulted', a.atthasdef OR a.attidentity <> '',
        'numbered', a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) ~ '^nextval\\(', false)
    )) FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS facts,
    (SELECT jsonb_agg(jsonb_build_object(
        'schema', pn.nspname, 'name', p.relname,
        'columns', (SELECT jsonb_agg(n.name ORDER BY array_position(k.conkey, n.attnum))
            FROM named n WHERE n.attrelid = c.oid AND n.attnum = ANY (k.conkey)),
        'parent_columns', (SELECT jsonb_agg(n.name ORDER BY array_position(k.confkey, n.attnum))
            FROM named n WHERE n.attrelid = p.oid AND n.attnum = ANY (k.confkey))
    ) ORDER BY k.conname) FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid
        JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0) AS refs,
    (SELECT jsonb_agg((SELECT jsonb_agg(n.name) FROM named n WHERE n.attrelid = c.oid AND n.attnum = ANY (b.numbers)))
        FROM bound b WHERE b.relid = c.oid) AS bound,
    (SELECT jsonb_agg((SELECT jsonb_agg(n.name) FROM named n WHERE n.attrelid = c.oid AND n.attnum = ANY (u.numbers)))
        FROM uniques u WHERE u.relid = c.oid) AS uniques
FROM electric.tables t JOIN pg_class c ON c.oid = t.relid ORDER BY t.schema_name, t.table_name
"""


@dataclass(frozen=True)
class Column:
    """``type``: as devices are told. ``cast``: as Postgres calls it. ``length``: of a varchar(n). ``defaulted``: it has
    a default or is an identity; ``numbered``: from a sequence."""

    name: str
    type: str
    cast: str
    not_null: bool
    labels: tuple[str, ...] = ()
    length: int | None = None
    defaulted: bool = False
    numbered: bool = False


@dataclass(frozen=True)
class Reference:
    """A foreign key: ``columns`` are these of ``parent``, by its name in Postgres."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table that syncs. ``name``: quoted, with its schema. ``bound``: the columns that a CHECK, an exclusion
    constraint or the bounds of partitions are about, constraint by constraint. ``uniques``: likewise, with the key."""

    name: str
    on_devices: str
    partitioned: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    references: tuple[Reference, ...]
    bound: tuple[frozenset[str], ...]
    uniques: tuple[frozenset[str], ...]

    @cached_property
    def column(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def referring(self) -> frozenset[str]:
        """The columns of its foreign keys."""
        return frozenset(name for reference in self.references for name in reference.columns)

    @cached_property
    def units(self) -> tuple[frozenset[str], ...]:
        """Its columns outside the key, those together that one constraint is about."""
        units = [frozenset({column.name}) for column in self.columns if column.name not in self.key]
        ties = (*self.bound, *self.uniques, *(frozenset(reference.columns) for reference in self.references))
        for tie in ties:
            touched = [unit for unit in units if unit & tie]
            if touched:
                units = [frozenset[str]().union(*touched), *(unit for unit in units if not unit & tie)]
        return tuple(sorted(units, key=sorted))


async def application_tables(postgres: asyncpg.Connection) -> dict[int, str]:
    """All of them by their oids; called by their names with their schemas, as in SQL."""
    return {row["oid"]: row["name"] for row in await postgres.fetch(_TABLES)}


async def synced_tables(postgres: asyncpg.Connection) -> list[Table]:
    """Those that are open to devices, parents before children where they are in no circle."""
    return _parents_first(_table(row) for row in await postgres.fetch(_SYNCED))


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _name(schema: str, name: str) -> str:
    return f"{quoted(schema)}.{quoted(name)}"


def _table(row: Mapping[str, Any]) -> Table:
    description, facts = json.loads(row["description"]), json.loads(row["facts"])
    names = [column["name"] for column in description["columns"]]
    columns = tuple(
        Column(
            column["name"],
            column["type"],
            not_null=column["not_null"],
            labels=tuple(column["enum"] or ()),
            **facts[column["name"]],
        )
        for column in description["columns"]
    )
    places = {column["pk"]: column["name"] for column in description["columns"] if column["pk"] is not None}

    def held(sets: str | None) -> tuple[frozenset[str], ...]:
        """Those that devices hold something of: generated columns are Postgres' own."""
        found = (frozenset(one or ()).intersection(names) for one in json.loads(sets or "[]"))
        return tuple(one for one in found if one)

    return Table(
        name=_name(row["schema"], row["name"]),
        on_devices=device_name(row["schema"], row["name"]),
        partitioned=row["partitioned"],
        columns=columns,
        key=tuple(name for _, name in sorted(places.items())),
        references=tuple(
            Reference(tuple(ref["columns"]), _name(ref["schema"], ref["name"]), tuple(ref["parent_columns"]))
            for ref in json.loads(row["refs"] or "[]")
        ),
        bound=held(row["bound"]),
        uniques=held(row["uniques"]),
    )


def _parents_first(tables: Iterable[Table]) -> list[Table]:
    waiting, ordered = list(tables), list[Table]()
    while waiting:
        names = {table.name for table in waiting}
        ready = [t for t in waiting if not any(r.parent in names and r.parent != t.name for r in t.references)]
        ordered += ready or waiting[:1]  # in a circle somebody has to be first
        waiting = [table for table in waiting if table not in ordered]
    return ordered
