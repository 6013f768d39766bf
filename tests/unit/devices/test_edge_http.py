"""The plain HTTP half of the edge, and the archive it hands out."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from http import HTTPStatus
from typing import Any

import pytest

from syncline.actors.devices.http import Api, PostgresState
from syncline.actors.devices.request import Request, Response
from syncline.proto import satellite_pb2 as pb

TABLE: dict[str, Any] = {
    "schema": "public",
    "table": "items",
    "oid": 7,
    "columns": [
        {"name": "id", "type": "uuid", "not_null": True, "pk": 1, "enum": None},
        {"name": "mood", "type": "mood", "not_null": False, "pk": None, "enum": ["good", "bad"]},
    ],
    "fks": [],
    "indexes": [{"name": "items_mood", "unique": False, "columns": ["mood"]}],
}
GROWN = {
    **TABLE,
    "columns": [*TABLE["columns"], {"name": "n", "type": "int4", "not_null": False, "pk": None, "enum": None}],
}
HISTORY = [("20240601120000_001", [TABLE]), ("20240601120000_002", [GROWN])]


def api(history: list[Any] | None = None, state: PostgresState = PostgresState.UP) -> Api:
    async def read() -> list[Any]:
        return HISTORY if history is None else history

    async def vitals() -> dict[str, object]:
        return {"devices": 2, "held_writes": None}

    return Api(lambda: state, read, vitals)


async def get(
    path: str, served: Api | None = None, *, method: str = "GET", accept: str = "*/*", **query: str
) -> Response:
    return await (served or api())(Request(method, path, query, {"accept": accept}))


def unzipped(response: Response) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(response.body)) as content:
        return {name: content.read(name).decode() for name in content.namelist()}


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [
        (PostgresState.UP, 200, b"Connection to Postgres is up!"),
        (PostgresState.STARTING, 503, b"Initializing connection to Posgres..."),
        (PostgresState.DOWN, 503, b"Database connection failure."),
    ],
)
async def test_status_tells_how_it_stands_with_postgres(state: PostgresState, status: int, text: bytes) -> None:
    response = await get("/api/status", api(state=state))
    assert (response.status, response.body) == (status, text)


async def test_status_tells_more_to_who_asks_for_json() -> None:
    response = await get("/api/status", api(state=PostgresState.DOWN), accept="application/json, text/plain")
    assert (response.status, response.content_type) == (503, "application/json; charset=utf-8")
    assert json.loads(response.body) == {
        "status": "down",
        "message": "Database connection failure.",
        "devices": 2,
        "held_writes": None,
    }


@pytest.mark.parametrize("path", ["/", "/api", "/api/other", "/wsx"])
async def test_anything_else_is_not_found(path: str) -> None:
    response = await get(path)
    assert (response.status, response.body) == (404, b"Not found")


async def test_only_reading_is_allowed() -> None:
    assert (await get("/api/status", method="HEAD")).status == HTTPStatus.OK
    assert (await get("/api/status", method="POST")).status == HTTPStatus.METHOD_NOT_ALLOWED


async def test_all_migrations_come_as_two_files_a_version() -> None:
    response = await get("/api/migrations", dialect="sqlite", version="")
    assert (response.status, response.content_type) == (200, "application/zip")
    files = unzipped(response)
    assert list(files) == [
        "20240601120000_001/migration.sql",
        "20240601120000_001/metadata.json",
        "20240601120000_002/migration.sql",
        "20240601120000_002/metadata.json",
    ]
    assert files["20240601120000_001/migration.sql"] == (
        'CREATE TABLE "items" (\n  "id" TEXT NOT NULL,\n  "mood" TEXT,\n'
        '  CONSTRAINT "items_pkey" PRIMARY KEY ("id")\n);\n\n'
        'CREATE INDEX "items_mood" ON "items" ("mood");\n'
    )


async def test_metadata_has_exactly_the_generators_keys_and_operations_it_can_read() -> None:
    files = unzipped(await get("/api/migrations", dialect="sqlite"))
    metadata = json.loads(files["20240601120000_001/metadata.json"])
    assert metadata.keys() == {"format", "ops", "protocol_version", "version"}
    assert metadata["format"] == "SatOpMigrate"
    assert metadata["protocol_version"] == "Electric.Satellite"
    assert metadata["version"] == "20240601120000_001"
    create, index = [pb.SatOpMigrate.FromString(base64.b64decode(op)) for op in metadata["ops"]]
    assert create.version == "20240601120000_001"
    assert create.stmts[0].type == pb.SatOpMigrate.CREATE_TABLE
    assert [(c.name, c.sqlite_type, c.pg_type.name) for c in create.table.columns] == [
        ("id", "TEXT", "uuid"),
        ("mood", "TEXT", "mood"),
    ]
    assert list(create.table.pks) == ["id"]
    assert not index.HasField("table")


async def test_the_postgres_dialect_has_the_enum_as_an_operation_of_its_own() -> None:
    files = unzipped(await get("/api/migrations", dialect="postgresql"))
    ops = json.loads(files["20240601120000_001/metadata.json"])["ops"]
    enum, create, _ = [pb.SatOpMigrate.FromString(base64.b64decode(op)) for op in ops]
    assert (enum.enum_type.name, list(enum.enum_type.values)) == ("mood", ["good", "bad"])
    assert create.HasField("table")


async def test_after_a_version_only_later_ones_come() -> None:
    files = unzipped(await get("/api/migrations", dialect="sqlite", version="20240601120000_001"))
    assert {name.split("/")[0] for name in files} == {"20240601120000_002"}
    assert files["20240601120000_002/migration.sql"] == 'ALTER TABLE "items" ADD COLUMN "n" INTEGER;\n'


async def test_nothing_new_is_204() -> None:
    assert (await get("/api/migrations", dialect="sqlite", version="20240601120000_002")).status == 204
    assert (await get("/api/migrations", api([]), dialect="sqlite")).status == 204


@pytest.mark.parametrize("query", [{}, {"dialect": "oracle"}, {"dialect": ""}, {"dialect": "sqlite", "version": "9"}])
async def test_a_bad_question_is_403_with_the_error_as_json(query: dict[str, str]) -> None:
    response = await get("/api/migrations", **query)
    assert response.status == 403
    assert json.loads(response.body).keys() == {"error"}


async def test_the_same_history_gives_the_same_bytes() -> None:
    assert (await get("/api/migrations", dialect="sqlite")).body == (
        await get("/api/migrations", dialect="sqlite")
    ).body
