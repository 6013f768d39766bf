"""What a running service says of itself: devices, tables, the stream's lag, and writes that wait for an operator."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.integration.test_cli_faults import run
from tests.integration.test_client_service import device, service_on
from tests.npm.rig import eventually

from syncline.actors.postgres.electrify import electrify
from syncline.actors.service import Service


def vitals(service: Service, path: str = "/api/status") -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        facts: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return facts


async def seen(service: Service, **wanted: Any) -> dict[str, Any]:
    """The vitals, as soon as they are as ``wanted``."""

    async def as_wanted() -> dict[str, Any] | None:
        facts = await asyncio.to_thread(vitals, service)
        return facts if all(facts[name] == value for name, value in wanted.items()) else None

    facts = await eventually(as_wanted)
    assert facts is not None
    return facts


async def test_rejected_transactions_are_counted_and_the_newest_told(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        # Devices are told of no CHECK that asks for the time: Postgres alone judges.
        await connection.execute(
            "CREATE TABLE items (id text PRIMARY KEY, size int4 CONSTRAINT small CHECK (size < 5 OR now() IS NULL))"
        )
        await electrify(connection, "items")
        async with device(tmp_path / "a.db", service, "items") as a:
            await seen(service, devices=1, rejections={"transactions": 0, "newest": []})
            for number in range(7):
                await a.execute("INSERT INTO items VALUES (?, 70)", (f"secret{number}",))

            async def all_seven() -> dict[str, Any] | None:
                told = (await asyncio.to_thread(vitals, service))["rejections"]
                return told if told["transactions"] == 7 else None

            told = await eventually(all_seven)
            assert told is not None
            assert len(told["newest"]) == 5
            at = told["newest"][0].pop("at")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", at)
            expected = {"device": a.client_id, "sqlstate": "23514", "table": "items", "constraint": "small"}
            assert told["newest"][0] == expected
            assert "secret" not in json.dumps(told)
            url = f"http://127.0.0.1:{service.port}"
            done = await asyncio.to_thread(run, "status", "--url", url, cwd=tmp_path, DATABASE_URL=database)
            assert "7 transactions of devices on record as rejected" in done.stdout
            assert "rejected transactions, the newest 5 of 7" in done.stdout
            assert "23514" in done.stdout
    await connection.close()


async def test_writes_that_wait_for_an_operator_are_counted_with_what_postgres_says(
    database: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute("CREATE TABLE items (id text PRIMARY KEY, name text)")
        await electrify(connection, "items")
        async with device(tmp_path / "a.db", service, "items") as a, device(tmp_path / "b.db", service, "items"):
            facts = await seen(service, devices=2, shapes=1, held_writes=None)
            assert facts["status"] == "up"
            assert facts["message"] == "Connection to Postgres is up!"

            await connection.execute("ALTER TABLE items RENAME COLUMN name TO title")
            for number in range(3):
                await a.execute("INSERT INTO items VALUES (?, 'x')", (str(number),))
            message = "public.items has no columns any more that devices write: name"
            await seen(service, held_writes={"writes": 3, "devices": 1, "message": message})
            url = f"http://127.0.0.1:{service.port}"
            done = await asyncio.to_thread(run, "status", "--url", url, cwd=tmp_path, DATABASE_URL=database)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "2 devices connected, 1 table live" in done.stdout
            assert f"3 writes of 1 device wait until this is mended in Postgres: {message}" in done.stdout

            await connection.execute("ALTER TABLE items RENAME COLUMN title TO name")
            await seen(service, held_writes=None)
            assert await connection.fetchval("SELECT count(*) FROM items") == 3
        await seen(service, devices=0)
    await connection.close()


async def test_writes_that_are_put_off_for_long_are_shown_until_they_are_done(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute("CREATE TABLE items (id text PRIMARY KEY, name text); INSERT INTO items VALUES ('1')")
        await electrify(connection, "items")
        async with device(tmp_path / "a.db", service, "items") as a:
            await connection.execute("BEGIN; SELECT FROM items FOR UPDATE")
            await a.execute("UPDATE items SET name = 'x'")
            await a.execute("INSERT INTO items VALUES ('2', 'y')")
            message = 'could not obtain lock on row in relation "items"'
            facts = await seen(service, held_writes={"writes": 2, "devices": 1, "message": message})
            assert facts["rejections"]["transactions"] == 0
            await connection.execute("ROLLBACK")
            facts = await seen(service, held_writes=None)
            assert facts["rejections"]["transactions"] == 0
            rows = await connection.fetch("SELECT * FROM items ORDER BY id")
            assert [tuple(row) for row in rows] == [("1", "x"), ("2", "y")]
    await connection.close()


async def test_the_lag_is_what_the_slot_has_not_confirmed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.shapes.shard.FLUSH_INTERVAL_S", 3600.0)
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        before = (await asyncio.to_thread(vitals, service))["lag_bytes"]
        start = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'")
        await connection.execute("CREATE TABLE big AS SELECT n FROM generate_series(1, 100000) n")
        written = int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'") - start)
        assert written > 1_000_000

        async def grown() -> int | None:
            lag: int = (await asyncio.to_thread(vitals, service))["lag_bytes"]
            return lag if lag >= before + written else None

        lag = await eventually(grown)
        assert lag is not None
        url = f"http://127.0.0.1:{service.port}"
        done = await asyncio.to_thread(run, "status", "--url", url, cwd=tmp_path, DATABASE_URL=database)
        for pattern in (r"([\d,]+) bytes of WAL not confirmed yet", r"in use, ([\d,]+) bytes not confirmed yet"):
            shown = re.search(pattern, done.stdout)
            assert shown is not None, done.stdout
            assert int(shown[1].replace(",", "")) >= lag
    await connection.close()


async def test_what_shapes_come_to_is_told_in_numbers(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute("CREATE TABLE items (id int4 PRIMARY KEY, name text)")
        await connection.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(1, 100) n")
        await electrify(connection, "items")
        await seen(service, shapes=0, shapes_loading=None, shapes_slow=0, rows_outside=0, oldest_position=None)
        async with device(tmp_path / "a.db", service, "items") as a:
            await (await a.sync("items", "10 / (this.id - 5) > 0")).synced()
            facts = await seen(service, shapes=2, shapes_loading=None, shapes_slow=1)
            assert facts["rows_outside"] == 1
            assert facts["disk_bytes"]["images"] > 100
            assert facts["oldest_position"] > 0
            before = facts["disk_bytes"]["logs"]
            await connection.execute("UPDATE items SET name = 'y'")

            async def grown() -> bool:
                return (await asyncio.to_thread(vitals, service))["disk_bytes"]["logs"] > before

            await eventually(grown)
    await connection.close()
