"""The tables that are synced, as schema ``electric`` describes them.

``electric.tables`` holds one description (JSON) a table, written when the table was electrified. A ``Catalog`` is one
reading of all of them: an immutable value, so a reader never sees half of a reload. ``load_catalog`` reads anew; do
that at start and whenever the stream reports a migration, before its transaction is passed on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from syncline.actors.postgres.defaults import left_to_postgres
from syncline.actors.postgres.devicenames import device_name
from syncline.actors.postgres.rowkey import quote_identifier
from syncline.actors.postgres.spelling import Printed, printed
from syncline.proto.values import Column, Relation

if TYPE_CHECKING:
    import asyncpg

FORM_SQL: Final = """(
    SELECT string_agg(
        format('%s %I %s %s.%I %s', a.attnum, a.attname, t.oid, t.typnamespace, t.typname, a.attcollation),
        ', ' ORDER BY a.attnum)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = e.relid AND a.attnum > 0 AND NOT a.attisdropped
)"""
"""What the columns of the table ``e.relid`` are, as text that is the same in every session."""

_TABLES = f"""
SELECT e.relid::bigint AS relid, e.description::text AS description, format('%I.%I', cn.nspname, c.relname) AS name,
electric.own_rows(e.relid) AS own_rows,
{FORM_SQL} AS form, (
    SELECT json_object_agg(a.attname, json_build_object(
        'number', a.attnum,
        'name', electric.device_type(t.oid),
        'required', a.attnotnull OR t.typnotnull,
        'labels', (
            SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder)
            FROM pg_enum l WHERE l.enumtypid = electric.base_type(t.oid)),
        'key', array_position(k.key, a.attnum),
        'type', format('%I.%I', tn.nspname, t.typname),
        'collation', CASE WHEN a.attcollation <> t.typcollation THEN format('%I.%I', ln.nspname, l.collname) END,
        'limited', greatest(a.atttypmod, t.typtypmod) >= 0,
        'deterministic', l.collisdeterministic AND d.encoding <> 0,
        'utf8', d.encoding = 6,
        'provider', CASE l.collprovider WHEN 'd' THEN coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
            ELSE l.collprovider::text END,
        'order', CASE l.collprovider WHEN 'd' THEN d.datcollate::text ELSE l.collcollate::text END
    ))::text
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
    LEFT JOIN (pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace) ON l.oid = a.attcollation
    WHERE a.attrelid = e.relid AND a.attnum > 0 AND NOT a.attisdropped
) AS columns, (
    SELECT json_agg(tied.names)::text FROM (
        SELECT array_agg(a.attname::text) AS names
        FROM electric.ties(e.relid) AS c
        CROSS JOIN unnest(CASE WHEN computes THEN electric.inputs(e.relid, c.numbers) ELSE c.numbers END) AS n (attnum)
        JOIN pg_attribute a ON a.attrelid = e.relid AND a.attnum = n.attnum
        GROUP BY c.kind, c.id HAVING count(*) > 1
    ) AS tied
) AS tied
FROM electric.tables e JOIN pg_class c ON c.oid = e.relid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_database d ON d.datname = current_database()
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = e.relid AND a.attgenerated <> '') AS computes
) AS g
CROSS JOIN LATERAL (SELECT electric.key_of(e.relid) AS key) AS k
ORDER BY e.relid
"""  # noqa: S608 - nothing but the above
_ASCII = "".join(map(chr, range(1, 128)))


class TableGone(Exception):
    """A table exists no more."""


@dataclass(frozen=True, slots=True)
class Collation:
    """What a column's collation makes of texts, as far as it is known; in doubt, false.

    ``name``: as SQL has it, empty for the database's own. ``deterministic``: texts are equal only where their bytes
    are, and have characters (in the encoding SQL_ASCII they have none). ``by_bytes``: they are ordered as their bytes
    in UTF-8 are. ``ascii_case``: upper and lower case of ASCII texts are those of ASCII, which they are not in Turkish.
    """

    name: str = ""
    deterministic: bool = True
    by_bytes: bool = False
    ascii_case: bool = False


@dataclass(frozen=True)
class TableInfo:
    """One synced table. ``description``: the JSON of ``electric.tables``, parsed. ``enum_labels``: by column name.

    ``sql_types``: by column name, the type (and the collation, where it is not the type's own) as a cast names it, for
    example ``pg_catalog.text COLLATE public.ci``; read from the database, so a description alone has none.
    ``collations``: of those of texts. ``tied``: sets of columns that are valid together only, because a constraint, a
    unique index or a generated column is about all of them. ``name_now``: the table's own, as SQL wants it, where it is
    known. ``form``: its columns as ``FORM_SQL`` has them. ``renamed``: what columns of the key are called by now, as
    far as that is another name. ``types_now``: what the types of columns are called now, where that is known.
    ``required``: the columns that may not be NULL now. ``limited``: those with a length or a precision. Devices know
    what the relation says; what they write is judged by what is now, and that is what is read. Wherever something is
    known by the name of a column, that is the one that devices know. ``own_rows``: the table as FROM wants it, without
    those that inherit from it, where it is known.
    """

    relation: Relation
    description: Mapping[str, Any]
    enum_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sql_types: Mapping[str, str] = field(default_factory=dict)
    collations: Mapping[str, Collation] = field(default_factory=dict)
    tied: tuple[frozenset[str], ...] = ()
    name_now: str = ""
    own_rows: str = ""
    form: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    types_now: Mapping[str, str] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    limited: frozenset[str] = frozenset()

    @property
    def oid(self) -> int:
        return self.relation.id

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """Primary-key columns in column order, which is the order of row keys."""
        return tuple(self.relation.columns[i].name for i in self.relation.key_indexes)

    @cached_property
    def key_spellings(self) -> tuple[tuple[str, Printed], ...]:
        """The columns of the key that a device may spell otherwise than Postgres does, each with what tells."""
        tests = (
            (name, None if name in self.enum_labels else printed(self.types[name], limited=name in self.limited))
            for name in self.key_names
        )
        return tuple((name, test) for name, test in tests if test is not None)

    @cached_property
    def left_to_postgres(self) -> frozenset[str]:
        """The columns in which a NULL of an insert stands for the default: its author could not tell that."""
        return frozenset(column["name"] for column in self.description["columns"] if left_to_postgres(column))

    @cached_property
    def types(self) -> Mapping[str, str]:
        """Postgres type names by column name."""
        return {column.name: column.type_name for column in self.relation.columns}

    def type_now(self, name: str) -> str:
        """What the type of a column is called now."""
        return self.types_now.get(name) or self.types[name]

    def cast_type(self, name: str) -> str:
        """The type of a column, as a cast names it. An enum may be gone with the column: that is a text then."""
        gone_enum = self.column_now(name) is None and name in self.enum_labels
        return self.sql_types.get(name) or ("pg_catalog.text" if gone_enum else quote_identifier(self.types[name]))

    def column_now(self, name: str) -> str | None:
        """What a column is called now; None: it is not there any more."""
        return self.renamed.get(name, name) if name in self.sql_types or not self.sql_types else None

    def places(self, names: Sequence[str]) -> tuple[int | None, ...]:
        """Where each of our columns stands among these ``names``; None for one that is not there."""
        found = {name: place for place, name in enumerate(names)}
        return tuple(found.get(name, found.get(self.renamed.get(name, name))) for name in self.relation.names)

    def key_places(self, names: Sequence[str]) -> tuple[int, ...] | None:
        """Where the columns of the key stand among these ``names``; None when one is not there."""
        places = self.places(names)
        found = [place for place in map(places.__getitem__, self.relation.key_indexes) if place is not None]
        return tuple(found) if len(found) == len(self.key_names) else None

    @cached_property
    def sql_name(self) -> str:
        """The quoted, qualified name, as SQL wants it: whatever devices call the table."""
        return self.name_now or f"{quote_identifier(self.name[0])}.{quote_identifier(self.name[1])}"

    @property
    def name(self) -> tuple[str, str]:
        """The schema and the name that it was electrified by. Devices may call it otherwise: see ``relation``."""
        return self.description["schema"], self.description["table"]

    @property
    def has_key(self) -> bool:
        """Whether all columns of the key are there, so that rows are told apart."""
        return None not in map(self.column_now, self.key_names)

    @cached_property
    def rows_sql(self) -> str:
        """The rows ``t`` as FROM wants them, whatever table and columns are called: these have the names that devices
        know. One that is gone is NULL, as it is in the stream; without all of the key there are no rows. They have an
        ``xmin``, too."""
        now = {name: self.column_now(name) for name in self.relation.names}
        if all(name == known for known, name in now.items()):
            return f"{self.own_rows or self.sql_name} t"
        columns = ", ".join(
            f"{quote_identifier(name) if name is not None else f'NULL::{self.cast_type(known)}'} "
            f"AS {quote_identifier(known)}"
            for known, name in now.items()
        )
        none = "" if self.has_key else " WHERE false"
        return f"(SELECT xmin, {columns} FROM {self.own_rows or self.sql_name}{none}) t"  # noqa: S608 - identifiers, quoted


@dataclass(frozen=True)
class Catalog:
    """All synced tables by oid."""

    tables: Mapping[int, TableInfo] = field(default_factory=dict)

    def key_places(self, oid: int, names: Sequence[str]) -> tuple[int, ...] | None:
        """Where a table's key columns stand among the columns of these ``names``: the stream has others beside those
        that devices have. None when it is not synced, or a column of its key is not there."""
        table = self.tables.get(oid)
        return None if table is None else table.key_places(names)

    def named(self, name: str, schema: str | None = None) -> TableInfo | None:
        """The table of that name in that schema; without one, the table that devices call so."""
        return self._on_devices.get(name) if schema is None else self._by_name.get((schema, name))

    @cached_property
    def linking(self) -> Mapping[int, frozenset[str]]:
        """Of each table the columns of its key, those it refers to others by, and those others refer to it by."""
        found = {oid: set(table.key_names) for oid, table in self.tables.items()}
        for oid, table in self.tables.items():
            for key in table.description.get("fks", ()):
                found[oid].update(key["columns"])
                parent = self.named(key["table"], key["schema"])
                if parent is not None:
                    found[parent.oid].update(key["ref_columns"])
        return {oid: frozenset(columns) for oid, columns in found.items()}

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str], TableInfo]:
        return {table.name: table for table in self.tables.values()}

    @cached_property
    def _on_devices(self) -> Mapping[str, TableInfo]:
        return {table.relation.table: table for table in self.tables.values()}


def table_info(description: Mapping[str, Any]) -> TableInfo:
    """Reads one description. Raises KeyError or TypeError when it is not one."""
    columns = tuple(
        Column(
            name=column["name"],
            type_name=column["type"],
            primary_key=column["pk"] is not None,
            nullable=not column["not_null"],
        )
        for column in description["columns"]
    )
    labels = {
        column["name"]: tuple(column["enum"]) for column in description["columns"] if column.get("enum") is not None
    }
    name = device_name(description["schema"], description["table"])
    relation = Relation(int(description["oid"]), "public", name, columns)
    required = frozenset(column.name for column in columns if not column.nullable)
    return TableInfo(relation, description, labels, required=required)


async def load_catalog(connection: asyncpg.Connection | asyncpg.Pool) -> Catalog:
    """Reads the catalog; entries of tables dropped since are left out. Raises what asyncpg raises."""
    rows = await connection.fetch(_TABLES)
    columns = [json.loads(row["columns"]) for row in rows]
    names = {column["collation"] for of_table in columns for column in of_table.values() if column["provider"]}
    ascii_case = await _with_ascii_case(connection, names)
    tables = [
        replace(
            _with_columns(table_info({**json.loads(row["description"]), "oid": row["relid"]}), of_table, ascii_case),
            tied=tuple(map(frozenset, json.loads(row["tied"] or "[]"))),
            name_now=row["name"],
            own_rows=row["own_rows"],
            form=row["form"] or "",
        )
        for row, of_table in zip(rows, columns, strict=True)
    ]
    return Catalog({table.oid: table for table in tables})


async def _with_ascii_case(
    connection: asyncpg.Connection | asyncpg.Pool, names: Collection[str | None]
) -> frozenset[str | None]:
    """Those of these collations (None: the database's) that have the cases of ASCII: they are asked."""
    ordered = sorted(names, key=str)
    if not ordered:
        return frozenset()
    texts = [f"$1::text COLLATE {name}" if name is not None else "$1::text" for name in ordered]
    tests = ", ".join(f"lower({text}) = $2 AND upper({text}) = $3" for text in texts)
    row = await connection.fetchrow(f"SELECT {tests}", _ASCII, _ASCII.lower(), _ASCII.upper())
    return frozenset(name for name, alike in zip(ordered, row, strict=True) if alike)


def _with_columns(
    table: TableInfo, there: Mapping[str, Mapping[str, Any]], ascii_case: Collection[str | None]
) -> TableInfo:
    """``there``: the columns as they are now, by what they are called now."""
    renamed = _renamed(table, there)
    columns = {name: there[now] for name in table.types if (now := renamed.get(name, name)) in there}
    return replace(
        table,
        limited=frozenset(name for name, column in columns.items() if column["limited"]),
        sql_types={
            name: column["type"] + (f" COLLATE {column['collation']}" if column["collation"] is not None else "")
            for name, column in columns.items()
        },
        collations={
            name: Collation(
                name=column["collation"] or "",
                deterministic=column["deterministic"],
                by_bytes=column["utf8"]
                and (column["provider"] == "b" or (column["provider"] == "c" and column["order"] in ("C", "POSIX"))),
                ascii_case=column["collation"] in ascii_case,
            )
            for name, column in columns.items()
            if column["provider"] is not None
        },
        renamed=renamed,
        types_now={name: column["name"] for name, column in columns.items()},
        required=frozenset(name for name, column in columns.items() if column["required"]),
        enum_labels={
            **{name: labels for name, labels in table.enum_labels.items() if name not in columns},
            **{name: tuple(column["labels"]) for name, column in columns.items() if column["labels"] is not None},
        },
    )


def _renamed(table: TableInfo, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Columns of the key that are not there any more by their names, with those that have their places: in the key, and
    between the others of the table."""
    described = table.description["columns"]
    numbers = [columns[column["name"]]["number"] if column["name"] in columns else None for column in described]
    by_place = {column["key"]: name for name, column in columns.items() if column["key"] is not None}
    found: dict[str, str] = {}
    for index, column in enumerate(described):
        name = by_place.get(column["pk"])
        if numbers[index] is not None or name is None or name in table.types:
            continue
        before = [number for number in numbers[:index] if number is not None]
        behind = [number for number in numbers[index + 1 :] if number is not None]
        if max(before, default=0) < columns[name]["number"] < min(behind, default=math.inf):
            found[column["name"]] = name
    return found
