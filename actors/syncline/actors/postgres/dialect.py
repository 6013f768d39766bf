"""Table descriptions -> the DDL a device runs, in the dialect of its database, step by step through the history.

The history is a list of migrations, each a version and the descriptions of the tables it touched, as they stood after
it. What a migration *does* is the difference to what came before: a table not seen yet is created, a column not seen
yet is added, an index not seen yet is created. Nothing is ever taken away from a device: its old rows may still need
the column, and its own writes name it.

What a device's tables leave out, and why:

* Uniqueness other than the primary key. Rows of other devices arrive in Postgres' order, not in the order in which a
  unique index would hold at every moment; Postgres enforces it, and a device must never fail to apply what it is sent.
  The index itself is made, without UNIQUE.
* Foreign keys whose parent is not synced (yet), or that point to other columns than the parent's key: SQLite refuses
  every write to a table with such a key. And those whose values may be spelled otherwise than what they refer to.
* SET DEFAULT, and SET NULL of some columns of a foreign key only: a device does not have all defaults, and SQLite sets
  all of them to NULL. What it did would be sent as its own write. So a device deletes no row that others refer to in
  such a way.
* NOT NULL on columns added later, and their defaults: the rows that are there already have no value for them.
* NOT NULL where Postgres fills in what an insert leaves out, and the device cannot (see ``defaults``).
* CHECK. One in SQLite's table would hit what is sent, too: a row that is merged with writes on their way, or one that
  was valid when it was written. A device could never go on. So they are beside the DDL (``MigrationTable.checks``), for
  our own library, whose triggers hold them against the application alone. What Postgres has of them by now is told by
  a migration without statements.

Composite foreign keys are in the DDL but not in a table's ``foreign_keys``: the published client throws on them. Our
own library asks SQLite for those that the DDL has made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from syncline.actors.postgres.checks import checks, registers
from syncline.actors.postgres.defaults import (
    SEQUENCE,
    device_type,
    kind_of,
    left_to_postgres,
    postgres_default,
    quoted_text,
    sqlite_default,
)
from syncline.actors.postgres.devicenames import on_devices
from syncline.proto.values import (
    ALTER_ADD_COLUMN,
    CREATE_ENUM_TYPE,
    CREATE_INDEX,
    CREATE_TABLE,
    Migrate,
    MigrationCheck,
    MigrationColumn,
    MigrationEnum,
    MigrationForeignKey,
    MigrationTable,
)

Dialect: TypeAlias = Literal["sqlite", "postgresql"]
DIALECTS: Final[tuple[Dialect, ...]] = get_args(Dialect)

Description: TypeAlias = Mapping[str, Any]
"""What electric.describe returns: schema, table, columns, fks, indexes, and what ``checks`` makes use of."""
Constraints: TypeAlias = tuple[tuple[MigrationCheck, ...], tuple[tuple[str, ...], ...]]
"""See ``MigrationTable``."""
History: TypeAlias = Sequence[tuple[str, Sequence[Description]]]
"""Versions in order, each with the descriptions of the tables it touched."""


def operations(history: History, dialect: Dialect) -> list[tuple[str, tuple[Migrate, ...]]]:
    """Every version with what it does to a device. A version may do nothing in a dialect."""
    schema = DeviceSchema(dialect)
    return [(version, schema.migrate(version, tables)) for version, tables in history]


# Types of Postgres' own, but for those that name objects of a database.
_BUILT_IN = frozenset(
    """
    bit bool box bpchar bytea cidr circle date datemultirange daterange float4 float8 inet int2 int4 int4multirange
    int4range int8 int8multirange int8range interval json jsonb jsonpath line lseg macaddr macaddr8 money name
    numeric nummultirange numrange oid path pg_lsn point polygon text time timestamp timestamptz timetz tsmultirange
    tsquery tsrange tstzmultirange tstzrange tsvector uuid varbit varchar xml
    """.split()  # noqa: SIM905 - as a list it takes a line a word
)
# What devices do themselves. What is left out is NO ACTION in both dialects.
_ACTIONS = frozenset({"CASCADE", "RESTRICT", "SET NULL"})

_NONE: Final[Constraints] = ((), ())


class DeviceSchema:
    """A device's schema as the migrations so far have made it; each ``migrate`` takes it one version on."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect = dialect
        self._tables: dict[str, Description] = {}
        self._columns: dict[str, set[str]] = {}  # of each table, those too that it has not any more
        self._told: dict[str, Constraints] = {}  # what devices have been told of each table
        self._indexes: set[str] = set()
        self._enums: set[str] = set()

    def migrate(self, version: str, tables: Iterable[Description]) -> tuple[Migrate, ...]:
        """What ``version`` does: ``tables`` are the descriptions of all it touched, as they stand after it."""
        steps: list[Migrate] = []
        changes = [on_devices(table) for table in tables]
        # All of them first: a foreign key may point to a table that the same version creates.
        self._tables.update({table["table"]: table for table in changes})
        for table in changes:
            known = self._columns.get(table["table"])
            if self._dialect == "postgresql":
                steps.extend(self._new_enums(version, table))
            if known is None:
                steps.append(self._step(version, table, [(CREATE_TABLE, self._create_table(table))]))
            else:
                added = [column for column in table["columns"] if column["name"] not in known]
                statements = [(ALTER_ADD_COLUMN, self._add_column(table, column)) for column in added]
                if statements or self._told_of(table) != self._told.get(table["table"], _NONE):
                    steps.append(self._step(version, table, statements))
            self._told[table["table"]] = self._told_of(table)
            self._columns[table["table"]] = (known or set()) | {column["name"] for column in table["columns"]}
            steps.extend(self._new_indexes(version, table))
        return tuple(steps)

    def _step(self, version: str, table: Description, statements: list[tuple[int, str]]) -> Migrate:
        columns = tuple(
            MigrationColumn(column["name"], device_type(column), column["type"], sequence=kind_of(column) == SEQUENCE)
            for column in table["columns"]
        )
        foreign_keys = tuple(
            MigrationForeignKey(tuple(fk["columns"]), fk["table"], tuple(fk["ref_columns"]))
            for fk in self._foreign_keys(table)
            if len(fk["columns"]) == 1
        )
        entity = MigrationTable(table["table"], columns, foreign_keys, _primary_key(table), *self._told_of(table))
        return Migrate(version, tuple(statements), table=entity)

    def _told_of(self, table: Description) -> Constraints:
        """Its CHECKs, and what is valid together only: for SQLite, in which our own library keeps its tables."""
        return (checks(table, table["table"]), registers(table)) if self._dialect == "sqlite" else _NONE

    def _new_enums(self, version: str, table: Description) -> Iterable[Migrate]:
        for column in table["columns"]:
            name, labels = column["type"], column["enum"]
            if labels is None or name in self._enums:
                continue
            self._enums.add(name)
            sql = f'CREATE TYPE "public".{_quoted(name)} AS ENUM ({", ".join(map(quoted_text, labels))});'
            yield Migrate(version, ((CREATE_ENUM_TYPE, sql),), enum=MigrationEnum(name, tuple(labels)))

    def _new_indexes(self, version: str, table: Description) -> Iterable[Migrate]:
        for index in table["indexes"]:
            if index["name"] in self._indexes:
                continue
            self._indexes.add(index["name"])
            columns = _list(index["columns"])
            sql = f"CREATE INDEX {_quoted(index['name'])} ON {self._name(table['table'])} ({columns});"
            yield Migrate(version, ((CREATE_INDEX, sql),))

    def _create_table(self, table: Description) -> str:
        lines = [self._column(column) + self._constraints(column) for column in table["columns"]]
        key = _quoted(f"{table['table']}_pkey")
        lines.append(f"CONSTRAINT {key} PRIMARY KEY ({_list(_primary_key(table))})")
        lines += [
            f"CONSTRAINT {_fk_name(table, fk)} FOREIGN KEY ({_list(fk['columns'])}) {self._references(fk)}"
            for fk in self._foreign_keys(table)
        ]
        body = ",\n".join(f"  {line}" for line in lines)
        return f"CREATE TABLE {self._name(table['table'])} (\n{body}\n);"

    def _add_column(self, table: Description, column: Mapping[str, Any]) -> str:
        sql = f"ALTER TABLE {self._name(table['table'])} ADD COLUMN {self._column(column)}"
        for fk in self._foreign_keys(table):
            if fk["columns"] == [column["name"]]:
                sql += f" CONSTRAINT {_fk_name(table, fk)} {self._references(fk)}"
        return sql + ";"

    def _column(self, column: Mapping[str, Any]) -> str:
        name, type_name = _quoted(column["name"]), column["type"]
        if self._dialect == "sqlite":
            return f"{name} {device_type(column)}"
        if column["enum"] is not None:
            return f'{name} "public".{_quoted(type_name)}'
        element = type_name.removeprefix("pg_catalog.").removeprefix("_")
        if element not in _BUILT_IN:
            return f"{name} text"  # what the device's Postgres may not have travels as it is printed
        return f"{name} {element}{'[]' if type_name.startswith('_') else ''}"

    def _constraints(self, column: Mapping[str, Any]) -> str:
        default = sqlite_default(column) if self._dialect == "sqlite" else postgres_default(column)
        not_null = " NOT NULL" if column["not_null"] and not left_to_postgres(column) else ""
        return not_null + ("" if default is None else f" DEFAULT ({default})")

    def _foreign_keys(self, table: Description) -> list[Mapping[str, Any]]:
        return [fk for fk in table["fks"] if not fk.get("loose") and self._points_to_a_key(fk)]

    def _points_to_a_key(self, fk: Mapping[str, Any]) -> bool:
        parent = self._tables.get(fk["table"])
        return parent is not None and sorted(_primary_key(parent)) == sorted(fk["ref_columns"])

    def _references(self, fk: Mapping[str, Any]) -> str:
        sql = f"REFERENCES {self._name(fk['table'])} ({_list(fk['ref_columns'])})"
        for clause, action in (("ON DELETE", fk["on_delete"]), ("ON UPDATE", fk["on_update"])):
            if action in _ACTIONS:
                sql += f" {clause} {action}"
        return sql

    def _name(self, table: str) -> str:
        return _quoted(table) if self._dialect == "sqlite" else f'"public".{_quoted(table)}'


def _primary_key(table: Description) -> tuple[str, ...]:
    places = {column["pk"]: column["name"] for column in table["columns"] if column["pk"] is not None}
    return tuple(name for _, name in sorted(places.items()))


def _fk_name(table: Description, fk: Mapping[str, Any]) -> str:
    return _quoted("_".join((table["table"], *fk["columns"], "fkey")))


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(_quoted, names))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
