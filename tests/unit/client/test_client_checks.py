"""A CHECK holds for what the application writes, and for nothing that comes from the server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from syncline.client.database import open_db
from syncline.client.schema import Table, table_from_json, table_to_json
from syncline.client.triggers import REAL_FUNCTION, create_triggers
from syncline.proto.values import CREATE_TABLE, Migrate, MigrationCheck, MigrationColumn, MigrationTable

URL = "ws://127.0.0.1:9"
CREATE = "CREATE TABLE stays (id TEXT PRIMARY KEY NOT NULL, first INTEGER, last INTEGER, code TEXT, note TEXT)"
COLUMNS = (
    MigrationColumn("id", "TEXT", "text"),
    MigrationColumn("first", "INTEGER", "int4"),
    MigrationColumn("last", "INTEGER", "int4"),
    MigrationColumn("code", "TEXT", "text"),
    MigrationColumn("note", "TEXT", "text"),
)
IN_ORDER = MigrationCheck(
    "in_order", ("first", "last"), 'new."first" <= new."last"', "CHECK constraint failed: in_order"
)
CODE = MigrationCheck(
    "code_form", ("code",), """syncline_matches(new."code", '^[A-Z]+$', 0)""", "CHECK constraint failed: code_form"
)


def migrated(version: str, *checks: MigrationCheck, create: bool = True) -> Migrate:
    table = MigrationTable("stays", COLUMNS, (), ("id",), checks, (("first", "last"),))
    return Migrate(version, ((CREATE_TABLE, CREATE),) if create else (), table)


async def test_what_does_not_meet_a_check_fails_where_it_is_made(tmp_path: Path) -> None:
    async with open_db(tmp_path / "app.db", URL, migrations=[migrated("1", IN_ORDER, CODE)]) as db:
        await db.execute("INSERT INTO stays VALUES ('a', 1, 2, 'AB', NULL), ('b', NULL, 2, NULL, NULL)")
        for sql, failed in (
            ("INSERT INTO stays VALUES ('c', 3, 2, 'AB', NULL)", "in_order"),
            ("UPDATE stays SET first = 3", "in_order"),
            ("INSERT INTO stays (id, code) VALUES ('a', 'b') ON CONFLICT (id) DO UPDATE SET code = 'b'", "code_form"),
            ("INSERT OR IGNORE INTO stays (id, code) VALUES ('d', '')", "code_form"),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=rf"^CHECK constraint failed: {failed}$"):
                await db.execute(sql)
        rows = [tuple(row) for row in await db.sql("SELECT * FROM stays ORDER BY id")]
        assert rows == [("a", 1, 2, "AB", None), ("b", None, 2, None, None)]
        assert db.status.pending_writes == 1


async def test_a_check_that_is_gone_holds_no_more_and_a_new_one_does(tmp_path: Path) -> None:
    """Told by a migration without statements, and known when the file is opened again."""
    async with open_db(tmp_path / "app.db", URL, migrations=[migrated("1", IN_ORDER)]) as db:
        await db.execute("INSERT INTO stays VALUES ('a', 1, 2, 'ab', NULL)")
    for _ in range(2):
        migrations = [migrated("1", IN_ORDER), migrated("2", CODE, create=False)]
        async with open_db(tmp_path / "app.db", URL, migrations=migrations) as db:
            await db.execute("UPDATE stays SET first = 3, note = note || '+'")  # another column than that of the code
            with pytest.raises(sqlite3.IntegrityError, match="code_form"):
                await db.execute("UPDATE stays SET code = 'abc'")


def device(table: Table) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.create_function(REAL_FUNCTION, 1, repr)
    connection.execute(CREATE)
    connection.execute("CREATE TABLE _syncline_state (capture INTEGER)")
    connection.execute("INSERT INTO _syncline_state VALUES (1)")
    connection.execute("CREATE TABLE _syncline_oplog (table_name, op, key, new_row, old_row)")
    for sql in create_triggers(table, {"stays": table}):
        connection.execute(sql)
    return connection


def stays(*, lacking: tuple[str, ...] = ()) -> Table:
    names = tuple(column.name for column in COLUMNS)
    types = tuple(column.pg_type for column in COLUMNS)
    return Table(0, "stays", names, types, ("id",), lacking=lacking, checks=(IN_ORDER,), registers=(("first", "last"),))


def test_what_is_applied_is_not_checked_nor_an_update_of_it_that_leaves_the_columns_alone() -> None:
    connection = device(stays())
    connection.execute("UPDATE _syncline_state SET capture = 0")
    connection.execute("INSERT INTO stays VALUES ('a', 3, 2, NULL, NULL)")
    connection.execute("UPDATE _syncline_state SET capture = 1")
    connection.execute("UPDATE stays SET note = 'n'")
    with pytest.raises(sqlite3.IntegrityError, match="in_order"):
        connection.execute("UPDATE stays SET last = 1")
    connection.execute("UPDATE stays SET last = 4")


def test_a_check_of_a_column_that_is_not_here_is_for_postgres_alone() -> None:
    device(stays(lacking=("last",))).execute("INSERT INTO stays (id, first) VALUES ('a', 3)")


def test_registers_are_remembered_and_unite_where_they_overlap() -> None:
    table = table_from_json(0, "stays", table_to_json(stays()))
    assert table == stays()
    assert table.tied == (frozenset({1, 2}),)
    more = Table(
        0,
        "stays",
        table.columns,
        table.pg_types,
        ("id",),
        registers=(("first", "last"), ("code", "id"), ("last", "code")),
    )
    assert more.tied == (frozenset({1, 2, 3}),)


def test_a_file_of_the_release_before_knows_of_none() -> None:
    described = table_to_json(stays()).replace('"checks"', '"others"').replace('"registers"', '"more"')
    assert table_from_json(0, "stays", described).checks == ()
