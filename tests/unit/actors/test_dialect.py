"""Descriptions to device DDL: the published client's shape of it, and what each migration adds."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from syncline.actors.postgres.dialect import DIALECTS, Dialect, operations
from syncline.proto.values import (
    ALTER_ADD_COLUMN,
    CREATE_ENUM_TYPE,
    CREATE_INDEX,
    CREATE_TABLE,
    Migrate,
    MigrationColumn,
    MigrationEnum,
    MigrationForeignKey,
    MigrationTable,
)


def column(name: str, type_name: str = "text", *, pk: int | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_name, "not_null": pk is not None, "pk": pk, "enum": None, **more}


def fk(columns: list[str], table: str, ref_columns: list[str], **more: Any) -> dict[str, Any]:
    defaults = {"schema": "public", "on_delete": "NO ACTION", "on_update": "NO ACTION"}
    return {"columns": columns, "table": table, "ref_columns": ref_columns, **defaults, **more}


def table(name: str, *columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schema": "public", "table": name, "oid": 1, "columns": list(columns), "fks": [], "indexes": [], **more}


def steps(*tables: dict[str, Any], dialect: Dialect = "sqlite") -> tuple[Migrate, ...]:
    """What the last of several one-table migrations does."""
    return operations([(str(n), [one]) for n, one in enumerate(tables)], dialect)[-1][1]


def only_sql(migrate: tuple[Migrate, ...]) -> list[str]:
    return [sql for step in migrate for _, sql in step.statements]


PROJECTS = table("projects", column("id", "uuid", pk=1), column("name"))


def test_a_new_table_is_created_as_the_published_client_expects_it() -> None:
    items = table(
        "items",
        column("id", "uuid", pk=1),
        column("project_id", "uuid", not_null=True),
        column("rank", "int4"),
        column("done", "bool"),
        column("size", "float8"),
        column("raw", "bytea"),
        column("extra", "jsonb"),
        fks=[fk(["project_id"], "projects", ["id"], on_delete="CASCADE")],
    )
    (step,) = steps(PROJECTS, items)
    assert step.statements == (
        (
            CREATE_TABLE,
            'CREATE TABLE "items" (\n'
            '  "id" TEXT NOT NULL,\n'
            '  "project_id" TEXT NOT NULL,\n'
            '  "rank" INTEGER,\n'
            '  "done" INTEGER,\n'
            '  "size" REAL,\n'
            '  "raw" BLOB,\n'
            '  "extra" TEXT_JSON,\n'
            '  CONSTRAINT "items_pkey" PRIMARY KEY ("id"),\n'
            '  CONSTRAINT "items_project_id_fkey" FOREIGN KEY ("project_id")'
            ' REFERENCES "projects" ("id") ON DELETE CASCADE\n'
            ");",
        ),
    )
    assert step.table == MigrationTable(
        "items",
        (
            MigrationColumn("id", "TEXT", "uuid"),
            MigrationColumn("project_id", "TEXT", "uuid"),
            MigrationColumn("rank", "INTEGER", "int4"),
            MigrationColumn("done", "INTEGER", "bool"),
            MigrationColumn("size", "REAL", "float8"),
            MigrationColumn("raw", "BLOB", "bytea"),
            MigrationColumn("extra", "TEXT_JSON", "jsonb"),
        ),
        (MigrationForeignKey(("project_id",), "projects", ("id",)),),
        ("id",),
    )


def test_the_postgres_dialect_keeps_native_types_and_names_the_schema() -> None:
    (step,) = steps(table("t", column("id", "int8", pk=1), column("tags", "_text")), dialect="postgresql")
    assert only_sql((step,)) == [
        'CREATE TABLE "public"."t" (\n'
        '  "id" int8 NOT NULL,\n  "tags" text[],\n  CONSTRAINT "t_pkey" PRIMARY KEY ("id")\n);'
    ]


def test_an_enum_is_a_type_in_postgres_and_text_in_sqlite() -> None:
    moods = table("t", column("id", pk=1), column("mood", "Mood", enum=["it's ok", "bad"]))
    enum, create = steps(moods, dialect="postgresql")
    assert enum.statements == ((CREATE_ENUM_TYPE, "CREATE TYPE \"public\".\"Mood\" AS ENUM ('it''s ok', 'bad');"),)
    assert enum.enum == MigrationEnum("Mood", ("it's ok", "bad"))
    assert '"mood" "public"."Mood"' in only_sql((create,))[0]
    (create,) = steps(moods)
    assert '"mood" TEXT' in only_sql((create,))[0]


def test_an_enum_shared_by_tables_is_made_once() -> None:
    one = table("one", column("id", pk=1), column("mood", "mood", enum=["a"]))
    assert len(steps(one, {**one, "table": "two"}, dialect="postgresql")) == 1


def test_primary_key_columns_keep_the_keys_order() -> None:
    (step,) = steps(table("t", column("a", pk=2), column("b", pk=1)))
    assert 'PRIMARY KEY ("b", "a")' in only_sql((step,))[0]
    assert step.table is not None
    assert step.table.primary_key == ("b", "a")


def test_composite_foreign_keys_are_in_the_ddl_but_not_in_the_description() -> None:
    parent = table("p", column("a", pk=1), column("b", pk=2))
    child = table("c", column("id", pk=1), column("x"), column("y"), fks=[fk(["x", "y"], "p", ["a", "b"])])
    (step,) = steps(parent, child)
    assert 'FOREIGN KEY ("x", "y") REFERENCES "p" ("a", "b")' in only_sql((step,))[0]
    assert step.table is not None
    assert step.table.foreign_keys == ()


@pytest.mark.parametrize("parents", [[], [table("p", column("id", pk=1), column("code"))]])
def test_foreign_keys_that_sqlite_would_choke_on_are_left_out(parents: list[dict[str, Any]]) -> None:
    child = table("c", column("id", pk=1), column("code"), fks=[fk(["code"], "p", ["code"])])
    (step,) = steps(*parents, child)
    assert "REFERENCES" not in only_sql((step,))[0]
    assert step.table is not None
    assert step.table.foreign_keys == ()


def test_a_table_may_refer_to_itself() -> None:
    (step,) = steps(table("t", column("id", pk=1), column("up"), fks=[fk(["up"], "t", ["id"], on_update="SET NULL")]))
    assert 'REFERENCES "t" ("id") ON UPDATE SET NULL' in only_sql((step,))[0]


def test_devices_do_not_do_what_they_could_not_do_as_postgres_does() -> None:
    keys = [
        fk(["up"], "t", ["id"], on_delete="SET DEFAULT", on_update="SET DEFAULT"),
        fk(["down"], "t", ["id"], on_delete="SET NULL (down)"),
        fk(["next"], "t", ["id"], on_delete="RESTRICT", on_update="CASCADE"),
    ]
    (step,) = steps(table("t", column("id", pk=1), column("up"), column("down"), column("next"), fks=keys))
    assert [
        line.partition(" REFERENCES ")[2] for line in only_sql((step,))[0].splitlines() if "REFERENCES" in line
    ] == [
        '"t" ("id"),',
        '"t" ("id"),',
        '"t" ("id") ON DELETE RESTRICT ON UPDATE CASCADE',
    ]


def test_a_later_column_is_added_with_its_foreign_key_and_without_not_null() -> None:
    before = table("t", column("id", pk=1))
    after = table("t", column("id", pk=1), column("p", not_null=True), fks=[fk(["p"], "projects", ["id"])])
    (step,) = steps(PROJECTS, before, after)
    assert step.statements == (
        (
            ALTER_ADD_COLUMN,
            'ALTER TABLE "t" ADD COLUMN "p" TEXT CONSTRAINT "t_p_fkey" REFERENCES "projects" ("id");',
        ),
    )
    assert step.table is not None
    assert [c.name for c in step.table.columns] == ["id", "p"]


def test_indexes_follow_their_table_without_uniqueness_and_once() -> None:
    indexed = table("t", column("id", pk=1), column("a"), indexes=[{"name": "t_a", "unique": True, "columns": ["a"]}])
    create, index = steps(indexed)
    assert create.statements[0][0] == CREATE_TABLE
    assert index == Migrate("0", ((CREATE_INDEX, 'CREATE INDEX "t_a" ON "t" ("a");'),))
    assert steps(indexed, indexed) == ()


def test_a_dropped_column_stays_on_the_device() -> None:
    assert steps(PROJECTS, table("projects", column("id", "uuid", pk=1))) == ()


def test_a_column_that_comes_back_with_a_table_made_anew_is_there_already() -> None:
    assert steps(PROJECTS, table("projects", column("id", "uuid", pk=1)), PROJECTS) == ()


def test_odd_names_are_quoted_and_sqlite_runs_it_all() -> None:
    odd = "we\"ird; na'me"
    parent = table(
        odd, column("id", "int4", pk=1), column(odd), indexes=[{"name": "i" + odd, "unique": False, "columns": [odd]}]
    )
    child = table(
        "c", column("id", "int8", pk=1), column(odd, "int4"), fks=[fk([odd], odd, ["id"], on_delete="CASCADE")]
    )
    grown = {
        **child,
        "columns": [*child["columns"], column("new", "int4")],
        "fks": [*child["fks"], fk(["new"], odd, ["id"])],
    }
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA foreign_keys = on")
    for _, migrate in operations([("1", [parent, child]), ("2", [grown])], "sqlite"):
        for sql in only_sql(migrate):
            database.execute(sql)
    name = '"' + odd.replace('"', '""') + '"'
    database.execute(f"INSERT INTO {name} VALUES (1, 'x')")
    database.execute("INSERT INTO c VALUES (1, 1, 1)")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO c VALUES (2, 7, NULL)")


def test_a_default_that_a_device_can_fill_in_is_in_its_table() -> None:
    items = table(
        "items",
        column("id", "uuid", pk=1, default={"kind": "uuid", "version": 4}),
        column("done", "bool", not_null=True, default={"kind": "literal", "value": "f"}),
        column("n", "int8", default={"kind": "literal", "value": "-9223372036854775808"}),
        column("ratio", "float8", default={"kind": "literal", "value": "1e+300"}),
        column("limit", "float4", default={"kind": "literal", "value": "-Infinity"}),
        column("raw", "bytea", default={"kind": "literal", "value": "\\x00ff"}),
        column("note", default={"kind": "literal", "value": "it's\nNOT NULL"}),
        column("since", "timestamptz", default={"kind": "literal", "value": "2024-02-29 12:00:00+00"}),
        column("made", "timestamptz", not_null=True, default={"kind": "now", "of": "timestamptz"}),
    )
    [sql] = only_sql(steps(items))
    device = sqlite3.connect(":memory:")
    device.execute(sql)
    device.execute("INSERT INTO items DEFAULT VALUES")
    [(id, *literals, made)] = device.execute("SELECT * FROM items")
    assert len(id) == 36
    assert literals == [
        *(0, -9223372036854775808, 1e300, "-Infinity", b"\x00\xff", "it's\nNOT NULL", "2024-02-29 12:00:00Z")
    ]
    assert made.endswith("Z")
    not_null = [name for _, name, _, required, *_ in device.execute("PRAGMA table_info(items)") if required]
    assert not_null == ["id", "done", "made"]


@pytest.mark.parametrize("kind", ["sequence", "server"])
def test_what_postgres_fills_in_may_be_null_unless_it_is_a_key(kind: str) -> None:
    default = {"kind": kind}
    items = table(
        "items", column("id", "int8", pk=1, default=default), column("place", "int8", not_null=True, default=default)
    )
    for dialect in DIALECTS:
        [sql] = only_sql(steps(items, dialect=dialect))
        assert sql.count("NOT NULL") == 1
        assert "DEFAULT" not in sql


def test_a_column_that_is_added_has_no_default() -> None:
    """Of the rows that are there nobody says that they have it."""
    later = table("items", column("id", pk=1), column("n", "int4", default={"kind": "literal", "value": "1"}))
    [sql] = only_sql(steps(table("items", column("id", pk=1)), later))
    assert sql == 'ALTER TABLE "items" ADD COLUMN "n" INTEGER;'
