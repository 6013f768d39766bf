"""Foreign keys of several columns: the device learns of them from the statements that make its tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from syncline.client.live import Changes
from syncline.client.replica import Replica, load_replica
from syncline.client.schema import STORE_STEPS, ForeignKey
from syncline.client.store import Store, open_store
from syncline.proto.values import CREATE_TABLE, Insert, Migrate, MigrationColumn, MigrationTable, Transaction, Update

ROOMS = Migrate(
    "1",
    ((CREATE_TABLE, "CREATE TABLE rooms (title TEXT, number INTEGER, house TEXT, PRIMARY KEY (house, number))"),),
    MigrationTable(
        "rooms",
        (
            MigrationColumn("title", "TEXT", "text"),
            MigrationColumn("number", "INTEGER", "int4"),
            MigrationColumn("house", "TEXT", "text"),
        ),
        (),
        ("house", "number"),
    ),
)
KEYS = "FOREIGN KEY (number, house) REFERENCES rooms (number, house) ON DELETE SET NULL"
BEDS = Migrate(
    "2",
    ((CREATE_TABLE, f"CREATE TABLE beds (id TEXT PRIMARY KEY, house TEXT, number INTEGER, {KEYS})"),),
    MigrationTable(
        "beds",
        (
            MigrationColumn("id", "TEXT", "text"),
            MigrationColumn("house", "TEXT", "text"),
            MigrationColumn("number", "INTEGER", "int4"),
        ),
        (),
        ("id",),
    ),
)
TO_ROOMS = ForeignKey(("number", "house"), "rooms", ("number", "house"))


async def entries(store: Store, replica: Replica, *statements: str) -> list[tuple[str, str, object]]:
    """What a local transaction leaves in the oplog: table, operation, key."""

    def work(connection: sqlite3.Connection) -> list[tuple[str, str, object]]:
        before = connection.execute("SELECT coalesce(max(id), 0) FROM _syncline_oplog").fetchone()
        for sql in statements:
            connection.execute(sql)
        replica.stamp(connection)
        rows = connection.execute("SELECT table_name, op, key FROM _syncline_oplog WHERE id > ? ORDER BY id", before)
        return [(table, op, json.loads(key)) for table, op, key in rows]

    return await store.write(work)


@pytest.mark.parametrize("migrations", [[ROOMS, BEDS], [BEDS, ROOMS]], ids=["parents first", "children first"])
async def test_a_child_keeps_a_parent_with_a_key_of_several_columns(
    migrations: Sequence[Migrate], tmp_path: Path
) -> None:
    async with open_store(tmp_path / "app.db") as store:
        replica = await load_replica(store, Changes(), lambda: 100)
        for step in migrations:
            await replica.migrate([step])
        assert replica.tables["beds"].foreign_keys == (TO_ROOMS,)
        insert_room = "INSERT INTO rooms (house, number) VALUES ('h', 1)"
        assert await entries(store, replica, insert_room) == [("rooms", "I", ["h", "1"])]
        written = await entries(store, replica, "INSERT INTO beds VALUES ('b', 'h', 1)")
        assert written == [("rooms", "C", ["h", "1"]), ("beds", "I", ["b"])]
        assert await entries(store, replica, "INSERT INTO beds VALUES ('c', 'h', NULL)") == [("beds", "I", ["c"])]


async def test_a_file_of_an_earlier_release_learns_of_them_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    async with open_store(path) as store:
        replica = await load_replica(store, Changes(), lambda: 100)
        await replica.migrate([ROOMS, BEDS])
    with sqlite3.connect(path) as connection:
        (described,) = connection.execute("SELECT description FROM _syncline_tables WHERE name = 'beds'").fetchone()
        before = json.dumps({**json.loads(described), "foreign_keys": []})
        connection.execute("UPDATE _syncline_tables SET description = ? WHERE name = 'beds'", (before,))
        connection.execute("ALTER TABLE _syncline_state DROP COLUMN echoed_ms")
        connection.execute("ALTER TABLE _syncline_oplog DROP COLUMN carried_out")
        connection.execute("ALTER TABLE _syncline_rejections DROP COLUMN winner")
        connection.execute("ALTER TABLE _syncline_rejections DROP COLUMN follows")
        connection.execute("DROP TABLE _syncline_blocks")
        connection.execute("DROP TABLE _syncline_sequences")
        connection.execute(f"PRAGMA user_version = {STORE_STEPS.index(())}")
    connection.close()
    async with open_store(path) as store:
        replica = await load_replica(store, Changes(), lambda: 100)
        assert replica.tables["beds"].foreign_keys == (TO_ROOMS,)
        insert_room = "INSERT INTO rooms (house, number) VALUES ('h', 1)"
        await entries(store, replica, insert_room)
        assert ("rooms", "C", ["h", "1"]) in await entries(store, replica, "INSERT INTO beds VALUES ('b', 'h', 1)")


@pytest.mark.parametrize(("theirs_ms", "shown"), [(5_000, ("h", 2)), (50, ("i", 1))], ids=["later", "earlier"])
async def test_two_writes_of_one_reference_never_make_a_third(
    theirs_ms: int, shown: tuple[str, int], tmp_path: Path
) -> None:
    """One changes the house, the other the number: as in Postgres, the later write has both columns."""
    async with open_store(tmp_path / "app.db") as store:
        replica = await load_replica(store, Changes(), lambda: 100)
        await replica.migrate([ROOMS, BEDS])
        beds = replica.tables["beds"].relation
        there = Insert(beds.id, (b"b", b"h", b"1"), ("other@10",))
        await replica.apply_transactions([Transaction(10, b"1", (there,), "other", 1)], {beds.id: beds})
        rooms = "INSERT INTO rooms (house, number) VALUES ('h', 1), ('i', 1)"
        await entries(store, replica, rooms, "UPDATE beds SET house = 'i'")
        tag = f"other@{theirs_ms}"
        moved = Update(beds.id, (b"b", b"h", b"2"), (b"b", b"h", b"1"), (tag,))
        await replica.apply_transactions([Transaction(theirs_ms, b"2", (moved,), "other", 2)], {beds.id: beds})
        rows = await store.read(lambda connection: connection.execute("SELECT house, number FROM beds").fetchall())
        assert [tuple(row) for row in rows] == [shown]
