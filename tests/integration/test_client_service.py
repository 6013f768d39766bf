"""Python devices, the service and a real Postgres: every type both ways, conflicts, cascades, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.actors.config import load
from syncline.actors.postgres.electrify import electrify
from syncline.actors.service import Service
from syncline.client import Database, open_db

pytestmark = pytest.mark.every_major

SCHEMA = """
CREATE TYPE mood AS ENUM ('happy', 'it''s "so-so"');
CREATE TABLE parents (id text PRIMARY KEY, name text, other text);
CREATE TABLE children (id text PRIMARY KEY, parent_id text REFERENCES parents (id) ON DELETE CASCADE);
CREATE TABLE kinds (
    id int8 PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, t text, v varchar(10), u uuid, d date,
    tm time, ts timestamp, tz timestamptz, j json, jb jsonb, ba bytea, m mood);
"""

KINDS: list[tuple[object, ...]] = [
    (1, *[None] * 17),
    (
        *(-(2**63), 1, -32768, -(2**31), -(2**63), "NaN", "-Infinity", "", "", "00000000-0000-4000-8000-0000000000c1"),
        *("0001-01-01", "00:00:00", "2024-02-29 12:34:56.789123", "2024-02-29 12:34:56.789123Z", "null", '{"a": 1}'),
        *(b"", "happy"),
    ),
    (
        *(2**63 - 1, 0, 32767, 2**31 - 1, 2**63 - 1, 3.4e38, 5e-324, "🙂é\n'\"\\" * 100, "ten chars!"),
        *("ffffffff-ffff-4fff-8fff-ffffffffffff", "9999-12-31", "23:59:59.999999", "9999-12-31 23:59:59.999999"),
        *("1970-01-01 00:00:00Z", '{"b":  [1, 2.50]}', '"€"', bytes(range(256)), 'it\'s "so-so"'),
    ),
    (4, 1, 0, 0, 0, 0.1, 0.1, "x" * 1_000_000, None, None, None, None, None, None, None, None, bytes(100_000), None),
]


def url_of(service: Service) -> str:
    return f"ws://127.0.0.1:{service.port}"


@asynccontextmanager
async def service_with(
    connection: asyncpg.Connection, database: str, folder: Path, schema: str, *tables: str
) -> AsyncIterator[Service]:
    """A service on ``database``, once ``schema`` has been run and ``tables`` are electrified."""
    async with service_on(database, folder) as service:
        await connection.execute(schema)
        for table in tables:
            await electrify(connection, table)
        yield service


@asynccontextmanager
async def service_on(dsn: str, folder: Path, port: int = 0) -> AsyncIterator[Service]:
    settings = {
        "DATABASE_URL": dsn,
        "SYNCLINE_DATA_DIR": str(folder),
        "HTTP_PORT": str(port),
        "AUTH_MODE": "insecure",
        "LOG_LEVEL": "error",
    }
    service = Service(load(settings, {}))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@pytest.fixture
async def postgres_connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, server_settings={"timezone": "UTC"})
    yield connection
    await connection.close()


@pytest.fixture
async def service(database: str, postgres_connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Service]:
    async with service_on(database, tmp_path / "service") as service:
        await postgres_connection.execute(SCHEMA)
        for table in ("parents", "children", "kinds"):
            await electrify(postgres_connection, table)
        yield service


@asynccontextmanager
async def device(path: Path, service: Service, *tables: str) -> AsyncIterator[Database]:
    """A connected device with these tables synced."""
    async with asyncio.timeout(PATIENCE_S), open_db(path, f"ws://127.0.0.1:{service.port}") as db:
        await db.connect(insecure_token("ann"))
        for shape in [await db.sync(table) for table in tables]:
            await shape.synced()
        yield db


async def until(db: Database, condition: str) -> None:
    async with db.sql(f"SELECT {condition}").live() as results:
        async for rows in results:
            if rows[0][0]:
                return


async def confirmed(db: Database) -> None:
    async for status in db.status_changes():
        if status.pending_writes == 0:
            return


async def rows(db: Database, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql(sql)]


INSERT_KINDS = f"INSERT INTO kinds VALUES ({', '.join('?' * 18)})"


async def test_every_type_arrives_on_another_device_as_it_was_written(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "kinds") as a, device(tmp_path / "b.db", service, "kinds") as b:
        async with a.transaction() as tx:
            await tx.execute_many(INSERT_KINDS, KINDS)  # type: ignore[arg-type]
        await until(b, f"(SELECT count(*) FROM kinds) = {len(KINDS)}")
        await confirmed(a)
        every = "SELECT * FROM kinds ORDER BY id"
        assert await rows(b, every) == sorted(KINDS, key=lambda row: row[0])  # type: ignore[arg-type,return-value]
        assert await rows(a, every) == await rows(b, every)
    async with device(tmp_path / "c.db", service, "kinds") as c:
        assert await rows(c, every) == sorted(KINDS, key=lambda row: row[0])  # type: ignore[arg-type,return-value]


async def test_columns_written_apart_merge_and_everyone_agrees(
    service: Service, postgres_connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "parents") as a, device(tmp_path / "b.db", service, "parents") as b:
        await postgres_connection.execute("INSERT INTO parents VALUES ('p', 'name', 'other')")
        await until(a, "EXISTS (SELECT 1 FROM parents)")
        await until(b, "EXISTS (SELECT 1 FROM parents)")
        await a.disconnect()
        await b.disconnect()
        await a.execute("UPDATE parents SET name = 'by a'")
        await b.execute("UPDATE parents SET other = 'by b'")
        await a.connect()
        await b.connect()
        merged = "EXISTS (SELECT 1 FROM parents WHERE name = 'by a' AND other = 'by b')"
        await until(a, merged)
        await until(b, merged)
        await confirmed(a)
        await confirmed(b)
        assert tuple(await postgres_connection.fetchrow("SELECT * FROM parents")) == ("p", "by a", "by b")


async def test_a_parent_deleted_elsewhere_comes_back_for_a_child_written_offline(
    service: Service, postgres_connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "parents", "children") as a:
        await postgres_connection.execute("INSERT INTO parents VALUES ('p', 'name', 'other')")
        await until(a, "EXISTS (SELECT 1 FROM parents)")
        await a.disconnect()
        await a.execute("INSERT INTO children VALUES ('c', 'p')")
        await postgres_connection.execute("DELETE FROM parents")
        await a.connect()
        await confirmed(a)
        assert await rows(a, "SELECT c.id, p.id FROM children c JOIN parents p ON p.id = c.parent_id") == [("c", "p")]
        assert [tuple(row) for row in await postgres_connection.fetch("SELECT id FROM parents")] == [("p",)]


async def test_what_postgres_refuses_is_undone_on_the_device_and_later_writes_go_on(
    service: Service, postgres_connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await postgres_connection.execute("ALTER TABLE parents ADD CONSTRAINT short CHECK (length(name) < 10)")
    async with device(tmp_path / "a.db", service, "parents") as a:
        await a.execute("INSERT INTO parents (id, name) VALUES ('bad', 'much too long a name')")
        await a.execute("INSERT INTO parents (id, name) VALUES ('good', 'short')")
        await confirmed(a)
        await until(a, "NOT EXISTS (SELECT 1 FROM parents WHERE id = 'bad')")
        assert await rows(a, "SELECT id FROM parents") == [("good",)]


async def test_a_device_catches_up_after_the_service_was_restarted(
    database: str, postgres_connection: asyncpg.Connection, service: Service, tmp_path: Path
) -> None:
    port = service.port
    async with device(tmp_path / "a.db", service, "parents") as a:
        await service.stop()
        await postgres_connection.execute("INSERT INTO parents VALUES ('p', 'meanwhile', NULL)")
        await a.execute("INSERT INTO parents VALUES ('q', 'offline', NULL)")
        async with service_on(database, tmp_path / "service", port):
            await until(a, "EXISTS (SELECT 1 FROM parents WHERE id = 'p')")
            await confirmed(a)
            assert len(await postgres_connection.fetch("SELECT * FROM parents")) == 2


async def test_a_table_opened_later_reaches_devices_that_are_connected(
    service: Service, postgres_connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "parents") as a:
        await postgres_connection.execute("CREATE TABLE late (id text PRIMARY KEY)")
        await electrify(postgres_connection, "late")
        await until(a, "EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'late')")
        shape = await a.sync("late")
        await shape.synced()
        await a.execute("INSERT INTO late VALUES ('x')")
        await confirmed(a)
        assert len(await postgres_connection.fetch("SELECT * FROM late")) == 1
