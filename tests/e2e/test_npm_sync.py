"""The published npm client against the service: rows down, rows up, live, through its own API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest
from tests.npm.rig import NpmDevice, NpmError, devices, eventually
from tests.npm.service import serving
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice

from syncline.proto import events

ITEMS = """
CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL, rank int);
INSERT INTO items SELECT i, 'title ' || i, i FROM generate_series(1, 1000) i;
"""


async def test_a_table_of_a_thousand_rows_arrives_whole(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        assert await ann.dump("items") == await _items(postgres)


async def test_inserts_updates_and_deletes_in_postgres_arrive_live(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        await postgres.execute("INSERT INTO items VALUES (1001, 'new', NULL)")
        await postgres.execute("UPDATE items SET title = 'changed', rank = NULL WHERE id = 7")
        await postgres.execute("DELETE FROM items WHERE id BETWEEN 100 AND 199")
        await postgres.execute("UPDATE items SET id = 2000 WHERE id = 8")
        await eventually(lambda: _agree(postgres, ann))


@pytest.mark.each_runtime
async def test_what_the_typed_api_writes_reaches_postgres_and_every_other_device(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("items")
        await bob.sync("items")
        await ann.create("items", id=1001, title="by ann", rank=1)
        await ann.create_many("items", [{"id": n, "title": "many", "rank": None} for n in range(1002, 1010)])
        await ann.update("items", {"id": 1}, title="changed by ann")
        await ann.delete("items", id=2)
        await eventually(lambda: _agree(postgres, ann, bob))
        assert await postgres.fetchval("SELECT title FROM items WHERE id = 1") == "changed by ann"
        assert await postgres.fetchval("SELECT count(*) FROM items WHERE id > 1000") == 9


async def test_writes_are_confirmed_by_their_echo_even_where_no_shape_holds_them(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.create("items", id=1001, title="in no shape of mine", rank=1)
        await eventually(lambda: _nothing_pending(ann))
        assert await postgres.fetchval("SELECT title FROM items WHERE id = 1001") == "in no shape of mine"


async def test_a_local_transaction_arrives_as_one(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await postgres.execute("CREATE TABLE seen (id int, xact bigint)")
        await postgres.execute("""
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen VALUES (NEW.id, txid_current()); RETURN NEW; END';
            CREATE TRIGGER note AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION note();
        """)
        await ann.sync("items")
        await ann.execute(*(("INSERT INTO items VALUES (?, 'together', ?)", n, n) for n in range(1001, 1051)))
        await eventually(lambda: _agree(postgres, ann))
        assert await postgres.fetchrow("SELECT count(*) AS rows, count(DISTINCT xact) AS xacts FROM seen") == (50, 1)


async def test_a_transaction_in_postgres_is_never_seen_in_part(database: str, tmp_path: Path) -> None:
    """Each has so many bytes that it comes in several messages, and so few rows that a slow machine can take it."""
    sql = f"{ITEMS} DELETE FROM items WHERE id > 500; UPDATE items SET rank = 0, title = repeat('long ', 4000);"
    async with (
        serving(database, tmp_path, sql=sql, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
        RawDevice.connected(service.url) as counting,
    ):
        await ann.sync("items")
        await counting.start()
        await counting.subscribe("items")
        seen = set()
        for newest in range(1, 4):
            messages = counting.frames
            await postgres.execute("UPDATE items SET rank = $1", newest)
            async with asyncio.timeout(PATIENCE_S):
                while newest not in seen:
                    [row] = await ann.query("SELECT min(rank) AS oldest, max(rank) AS newest FROM items")
                    assert row["oldest"] == row["newest"]
                    seen.add(row["newest"])
            await counting.expect(events.TransactionReceived)
            assert counting.frames - messages > 1
        await eventually(lambda: _agree(postgres, ann))


@pytest.mark.each_runtime
async def test_a_transaction_across_two_shapes_is_seen_whole(database: str, tmp_path: Path) -> None:
    sql = f"{ITEMS} CREATE TABLE totals (id int PRIMARY KEY, rank int); INSERT INTO totals VALUES (1, 1);"
    sql += "UPDATE items SET rank = 1;"
    async with (
        serving(database, tmp_path, sql=sql, electrified=("items", "totals")) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        seen_enough = asyncio.Event()
        changing = asyncio.create_task(_raise_ranks(postgres, seen_enough))
        await ann.sync("totals")
        apart, totals = set(), set()
        async with asyncio.timeout(PATIENCE_S):
            while len(totals) < 5:
                [row] = await ann.query(
                    "SELECT (SELECT max(rank) FROM items) - totals.rank AS apart, totals.rank AS total FROM totals"
                )
                apart.add(row["apart"])
                totals.add(row["total"])
        seen_enough.set()
        await changing
        await eventually(lambda: _agree(postgres, ann, table="totals"))
        await eventually(lambda: _agree(postgres, ann))
        assert apart == {0}


async def test_a_shape_that_cannot_be_served_is_refused_and_the_connection_stays(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, _),
        devices(tmp_path, service.url, "ann", schema={"secrets": {"columns": {}}, "items": {"columns": {}}}) as [ann],
    ):
        connected = len(ann.events)
        with pytest.raises(NpmError, match="secrets"):
            await ann.sync("secrets")
        await ann.sync("items")
        assert await ann.count("items") == 1000
        assert not [event for event in ann.events[connected:] if event["event"] == "connectivity"]


async def test_tables_come_down_the_stream_where_no_migrations_are_bundled(database: str, tmp_path: Path) -> None:
    known = {"items": {"columns": {"id": "int4", "title": "text", "rank": "int4"}}}
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", migrations="none", schema=known) as [ann],
    ):
        await ann.sync("items")
        await ann.update("items", {"id": 3}, title="changed by ann")
        await eventually(lambda: _agree(postgres, ann))


async def test_a_table_opened_to_devices_reaches_those_connected(database: str, tmp_path: Path) -> None:
    known = {"items": {"columns": {}}, "notes": {"columns": {"id": "text", "body": "text"}}}
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", migrations="none", schema=known) as [ann],
    ):
        await ann.sync("items")
        await postgres.execute("CREATE TABLE notes (id text PRIMARY KEY, body text)")
        await postgres.execute("CALL electric.electrify('notes')")
        await eventually(lambda: ann.query("SELECT 1 AS there FROM sqlite_schema WHERE name = 'notes'"))
        await ann.sync("notes")
        await ann.create("notes", id="a", body="written by ann")
        await eventually(lambda: postgres.fetchval("SELECT body FROM notes WHERE id = 'a'"))


async def test_a_table_is_open_to_devices_as_soon_as_electrify_returns(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", migrations="none", schema={"notes": {"columns": {}}}) as [ann],
    ):
        await postgres.execute("CREATE TABLE notes (id text PRIMARY KEY, body text); CALL electric.electrify('notes')")
        await ann.subscribe("notes")
        await postgres.execute("CREATE TABLE marks (id text PRIMARY KEY); CALL electric.electrify('marks')")
        async with await NpmDevice.open(tmp_path / "bob.db", service.url) as bob:
            assert await bob.dump("marks") == {}


async def test_rows_that_reference_each_other_arrive_and_leave_in_any_order(database: str, tmp_path: Path) -> None:
    sql = """
        CREATE TABLE projects (id int PRIMARY KEY, name text);
        CREATE TABLE issues (id int PRIMARY KEY, project_id int NOT NULL REFERENCES projects, title text);
        INSERT INTO projects SELECT i, 'project ' || i FROM generate_series(1, 20) i;
        INSERT INTO issues SELECT i, 1 + i % 20, 'issue ' || i FROM generate_series(1, 200) i;
    """
    async with (
        serving(database, tmp_path, sql=sql, electrified=("projects", "issues")) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("issues")
        await ann.sync("projects")
        await bob.sync("projects")
        await bob.sync("issues")
        await ann.create("projects", id=21, name="by ann")
        await ann.create("issues", id=201, project_id=21, title="by ann")
        await bob.update("issues", {"id": 5}, project_id=2)
        async with postgres.transaction():
            await postgres.execute("DELETE FROM issues WHERE project_id = 3")
            await postgres.execute("DELETE FROM projects WHERE id = 3")
        await eventually(lambda: _agree(postgres, ann, bob, table="issues"))
        await eventually(lambda: _agree(postgres, ann, bob, table="projects"))
        assert await postgres.fetchval("SELECT count(*) FROM issues WHERE id = 201 AND project_id = 21") == 1


async def _raise_ranks(postgres: asyncpg.Connection, ended: asyncio.Event) -> None:
    while not ended.is_set():
        async with postgres.transaction():
            await postgres.execute("UPDATE items SET rank = rank + 1 WHERE id <= 100 OR id > 900")
            await postgres.execute("UPDATE totals SET rank = rank + 1")
        await asyncio.sleep(0.1)  # the client has to find time for queries in between, on a slow machine too


async def _items(postgres: asyncpg.Connection, table: str = "items") -> dict[int, dict[str, object]]:
    return {row["id"]: dict(row) for row in await postgres.fetch(f"SELECT * FROM {table}")}


async def _agree(postgres: asyncpg.Connection, *npm: NpmDevice, table: str = "items") -> bool:
    """Whether Postgres and these devices hold the same rows and nothing is on its way; asserts what differs."""
    there = await _items(postgres, table)
    for device in npm:
        assert await device.dump(table) == there
        assert await device.pending() == 0
        assert device.unhandled == []
    return True


async def _nothing_pending(device: NpmDevice) -> bool:
    return await device.pending() == 0
