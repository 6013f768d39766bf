"""Many tables opened to devices at once: what is planned, what is left out and why, and that the rest goes on."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene

from syncline.actors.postgres.dialect import operations

pytestmark = pytest.mark.every_major

SHOP = """
CREATE SCHEMA app;
CREATE TABLE app.users (id int PRIMARY KEY, favourite int);
CREATE TABLE app.orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES app.users);
CREATE TABLE app.lines (order_id int REFERENCES app.orders, place int, product int, PRIMARY KEY (order_id, place));
CREATE TABLE app.products (id int PRIMARY KEY, maker int REFERENCES app.users, parent int REFERENCES app.products);
ALTER TABLE app.users ADD FOREIGN KEY (favourite) REFERENCES app.products;
ALTER TABLE app.lines ADD FOREIGN KEY (product) REFERENCES app.products;
CREATE TABLE app.log (line text);
CREATE UNLOGGED TABLE app.cache (id int PRIMARY KEY);
CREATE TABLE settings (id int PRIMARY KEY);
"""


async def plan(s: Scene, *names: str) -> list[dict[str, Any]]:
    rows = await s.connection.fetch("SELECT * FROM electric.plan(VARIADIC $1::text[])", names)
    return [dict(row) for row in rows]


async def versions(s: Scene) -> list[list[str]]:
    """The tables of each migration."""
    rows = await s.connection.fetch("SELECT tables FROM electric.migrations ORDER BY id")
    return [[table["table"] for table in json.loads(row["tables"])] for row in rows]


async def test_the_plan_of_a_whole_database_has_parents_first_and_circles_in_one_step(database: str) -> None:
    async with scene(database, SHOP) as s:
        planned = await plan(s)
        assert [(row["step"], row["name"], row["action"]) for row in planned] == [
            (1, "app.products", "electrify"),
            (1, "app.users", "electrify"),
            (2, "public.settings", "electrify"),
            (3, "app.orders", "electrify"),
            (4, "app.lines", "electrify"),
            (None, "app.cache", "refused"),
            (None, "app.log", "refused"),
        ]
        assert planned[-1]["message"] == "app.log has no key by which its rows are told apart"
        assert "ALTER TABLE app.log ADD PRIMARY KEY" in planned[-1]["hint"]
        assert planned[-2]["hint"] == "ALTER TABLE app.cache SET LOGGED"
        assert await versions(s) == []


async def test_a_schema_is_opened_but_for_what_cannot_be_and_warnings_say_why(database: str) -> None:
    async with scene(database, SHOP) as s:
        said: list[tuple[str, str]] = []
        s.connection.add_log_listener(lambda _, message: said.append((message.severity, message.message)))
        await s.connection.execute("CALL electric.electrify_schema('app')")
        assert await versions(s) == [["products", "users"], ["orders"], ["lines"]]
        assert sorted(said) == [
            ("WARNING", "app.cache is unlogged, so its changes are not in the WAL"),
            ("WARNING", "app.log has no key by which its rows are told apart"),
        ]
        again = await plan(s)
        assert {row["name"]: row["action"] for row in again if row["action"] != "refused"} == {
            **dict.fromkeys(("app.lines", "app.orders", "app.products", "app.users"), "already"),
            "public.settings": "electrify",
        }
        await s.connection.execute("CALL electric.electrify_all()")
        assert (await versions(s))[3:] == [["settings"]]


async def test_tables_of_a_circle_refer_to_one_another_on_devices_too(database: str) -> None:
    async with scene(database, SHOP) as s:
        await s.connection.execute("CALL electric.electrify_schema('app')")
        history = [
            (row["version"], json.loads(row["tables"]))
            for row in await s.connection.fetch("SELECT version, tables FROM electric.migrations ORDER BY id")
        ]
        device = sqlite3.connect(":memory:")
        for _, steps in operations(history, "sqlite"):
            for statement in (sql for step in steps for _, sql in step.statements):
                device.execute(statement)
        refers = {
            table: sorted(row[2] for row in device.execute(f"PRAGMA foreign_key_list({table})"))
            for table in ("app__users", "app__products", "app__lines")
        }
        assert refers == {
            "app__users": ["app__products"],
            "app__products": ["app__products", "app__users"],
            "app__lines": ["app__orders", "app__products"],
        }


async def test_what_refers_to_a_table_that_is_not_named_is_left_out_with_all_that_refers_to_it(database: str) -> None:
    async with scene(database, SHOP) as s:
        planned = await plan(s, "app.lines", "app.orders", "settings")
        assert {row["name"]: (row["action"], row["message"]) for row in planned} == {
            "public.settings": ("electrify", None),
            "app.orders": (
                "refused",
                "app.orders refers to tables that are not electrified: app.products, app.users",
            ),
            "app.lines": (
                "refused",
                "app.lines refers to tables that are not electrified: app.products, app.users",
            ),
        }
        (orders,) = [row["hint"] for row in planned if row["name"] == "app.orders"]
        await s.connection.execute(orders.partition(": ")[2])
        assert await versions(s) == [["products", "users"], ["orders"]]


async def test_a_table_does_without_a_parent_that_cannot_sync(database: str) -> None:
    tables = """
    CREATE TABLE kinds (id int UNIQUE);
    CREATE TABLE things (id int PRIMARY KEY, kind int REFERENCES kinds (id));
    """
    async with scene(database, tables) as s:
        await s.connection.execute("CALL electric.electrify_all()")
        assert await versions(s) == [["things"]]


async def test_names_that_clash_within_a_set_leave_these_out_alone(database: str) -> None:
    tables = "".join(f"CREATE TABLE {name} (id int PRIMARY KEY);" for name in ('"Items"', "items", "t"))
    async with scene(database, tables) as s:
        await s.connection.execute("CALL electric.electrify_all()")
        assert await versions(s) == [["t"]]


async def test_a_schema_that_there_is_not_is_an_error(database: str) -> None:
    async with scene(database) as s:
        with pytest.raises(asyncpg.InvalidSchemaNameError, match="schema apps does not exist"):
            await s.connection.execute("CALL electric.electrify_schema('apps')")


async def test_what_an_extension_brings_is_not_the_applications(database: str) -> None:
    async with scene(database, "CREATE TABLE t (id int PRIMARY KEY)") as s:
        await s.connection.execute("CREATE TABLE of_extension (id int PRIMARY KEY)")
        await s.connection.execute("ALTER EXTENSION plpgsql ADD TABLE of_extension")
        assert [row["name"] for row in await plan(s)] == ["public.t"]
