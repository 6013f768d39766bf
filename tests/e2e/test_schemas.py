"""Tables of schemas other than public: what devices call them, and that they refer to one another across schemas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import jwt
import pytest
from tests.npm.rig import devices, eventually
from tests.npm.service import serving

from syncline.client import Database, open_db

SCHEMAS = """
CREATE SCHEMA app;
CREATE SCHEMA "Mixed";
CREATE TYPE mood AS ENUM ('sad');
CREATE TYPE app.mood AS ENUM ('glad');
CREATE TABLE users (id text PRIMARY KEY, name text, feels mood);
CREATE TABLE app.users (id text PRIMARY KEY, name text UNIQUE, feels app.mood);
CREATE INDEX users_name ON users (name);
CREATE INDEX users_name ON app.users (name);
CREATE TABLE "Mixed"."Notes" (
    id text PRIMARY KEY, of_app text REFERENCES app.users ON DELETE CASCADE, of_public text REFERENCES users, note text
);
INSERT INTO users VALUES ('u', 'of public', 'sad');
INSERT INTO app.users VALUES ('u', 'of app', 'glad');
INSERT INTO "Mixed"."Notes" VALUES ('n', 'u', 'u', 'first');
"""
TABLES = ("app.users", "users", '"Mixed"."Notes"')
NOTES = "Mixed__Notes"


@asynccontextmanager
async def eve(url: str, folder: Path) -> AsyncIterator[Database]:
    async with open_db(folder / "eve.db", url.replace("http", "ws")) as device:
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        yield device


async def notes(postgres: asyncpg.Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await postgres.fetch('SELECT * FROM "Mixed"."Notes" ORDER BY id')]


@pytest.mark.every_major
async def test_a_python_device_holds_tables_of_several_schemas(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SCHEMAS, electrified=TABLES) as (service, postgres),
        eve(service.url, tmp_path) as device,
    ):
        await (await device.sync(NOTES)).synced()  # what it refers to comes along

        async def held(table: str) -> list[tuple[object, ...]]:
            return [tuple(row) for row in await device.sql(f'SELECT * FROM "{table}" ORDER BY id')]

        assert await held("users") == [("u", "of public", "sad")]
        assert await held("app__users") == [("u", "of app", "glad")]
        await device.execute("INSERT INTO app__users VALUES ('v', 'by eve', 'glad')")
        await device.execute(f"INSERT INTO \"{NOTES}\" VALUES ('m', 'v', 'u', 'by eve')")
        await device.execute(f"UPDATE \"{NOTES}\" SET note = 'changed' WHERE id = 'n'")
        wanted = [("m", "v", "u", "by eve"), ("n", "u", "u", "changed")]

        async def has_come() -> bool:
            return await notes(postgres) == wanted

        await eventually(has_come)
        await postgres.execute("DELETE FROM app.users WHERE id = 'v'")

        async def has_gone() -> bool:
            return await held(NOTES) == wanted[1:] and await held("app__users") == [("u", "of app", "glad")]

        await eventually(has_gone)
        assert await device.rejections() == []


async def test_what_is_rejected_names_the_table_as_the_device_knows_it(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SCHEMAS, electrified=TABLES) as (service, postgres),
        eve(service.url, tmp_path) as device,
    ):
        await (await device.sync("app__users")).synced()
        await device.disconnect()
        await postgres.execute("INSERT INTO app.users VALUES ('v', 'of SQL', 'glad')")
        await device.execute("INSERT INTO app__users VALUES ('w', 'of SQL', 'glad')")
        await device.connect()

        async def is_rejected() -> bool:
            return bool(await device.rejections())

        await eventually(is_rejected)
        [rejection] = await device.rejections()
        assert (rejection.table, rejection.key, rejection.columns) == ("app__users", {"id": "w"}, ("name",))


async def test_an_npm_device_holds_tables_of_several_schemas(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SCHEMAS, electrified=TABLES) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("app__users")
        await ann.execute(("INSERT INTO app__users VALUES ('v', 'by ann', 'glad')",))

        async def has_come() -> bool:
            return await postgres.fetchval("SELECT name FROM app.users WHERE id = 'v'") == "by ann"

        await eventually(has_come)
        await postgres.execute("UPDATE app.users SET name = 'changed' WHERE id = 'u'")

        async def is_changed() -> bool:
            return {key: row["name"] for key, row in (await ann.dump("app__users")).items()} == {
                "u": "changed",
                "v": "by ann",
            }

        await eventually(is_changed)
