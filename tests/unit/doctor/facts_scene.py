"""Facts of a database, made up: one that is ready, and what differs from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from syncline.actors.doctor.facts import (
    FIRST_WINS,
    Column,
    Constraint,
    Facts,
    Obstacle,
    Role,
    Server,
    Size,
    Table,
    UniqueIndex,
)
from syncline.actors.doctor.report import Report, report

SLOT, PUBLICATION, VERSION = "electric_replication_out_shop", "electric_publication", 15

SERVER = Server(
    database="shop",
    quoted_database="shop",
    version=180000,
    version_text="18.0",
    encoding="UTF8",
    settings={
        "wal_level": "logical",
        "max_replication_slots": "10",
        "max_wal_senders": "10",
        "max_slot_wal_keep_size": "51200",
    },
    senders=0,
    slots=(),
    role=Role("syncline", "syncline", "syncline", True, True, False),
    schema=None,
    publications=(),
    event_triggers=(),
)


def column(name: str, type_name: str = "text", **differing: Any) -> Column:
    return replace(Column(name, type_name, False, "", None, None), **differing)


def foreign_key(columns: str, parent: Table, parent_columns: str = "id") -> Constraint:
    return Constraint(f"{columns}_fkey", "f", (columns,), "", parent.relid, parent.name, (parent_columns,))


def table(name: str, relid: int, /, **differing: Any) -> Table:
    """``app.<name>`` of a key ``id`` and a column ``title``, which can sync."""
    description = {
        "schema": "app",
        "table": name,
        "columns": [
            {"name": "id", "type": "uuid", "not_null": True, "pk": 1, "enum": None},
            {"name": "title", "type": "text", "not_null": False, "pk": None, "enum": None},
        ],
        "fks": [],
        "indexes": [],
    }
    plain = Table(
        relid=relid,
        schema="app",
        quoted_schema="app",
        table=name,
        name=f"app.{name}",
        kind="r",
        persistence="p",
        owner="app",
        owned=True,
        schema_usage=True,
        obstacle=None,
        description=description,
        columns=(column("id", "uuid", not_null=True), column("title")),
        ambiguous_key=(),
        ties=(),
        constraints=(Constraint(f"{name}_pkey", "p", ("id",), "PRIMARY KEY (id)", 0, None, ()),),
        unique_indexes=(),
        triggers=(),
        rules=(),
        partitions=0,
        inherits_from=(),
        inherited_by=(),
        row_security_holds=False,
        policies=0,
        replica_identity="d",
        replica_identity_index=None,
        size=Size(1000, 100_000, 0, True),
    )
    return replace(plain, **differing)


def without_key(name: str, relid: int) -> Table:
    obstacle = Obstacle(f"app.{name} has no key", f"ALTER TABLE app.{name} ADD PRIMARY KEY", "invalid_table_definition")
    return table(name, relid, obstacle=obstacle, description=None)


def reported(*tables: Table, server: Server = SERVER, **differing: Any) -> Report:
    return report(replace(Facts(server, tables), **differing), SLOT, PUBLICATION, VERSION)


def unique(name: str, *columns: str) -> UniqueIndex:
    return UniqueIndex(name, FIRST_WINS, columns, partial=False, expressions=False)
