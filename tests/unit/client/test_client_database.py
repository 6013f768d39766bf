"""The database without a server: local writes, their capture, live queries, status."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncline.client import Database, UsageError, open_db
from syncline.client import oplog as oplog_module
from syncline.proto.assembly import TransactionLimits
from syncline.proto.values import CREATE_TABLE, Migrate, MigrationColumn, MigrationForeignKey, MigrationTable

URL = "ws://127.0.0.1:1"

SCHEMA = (
    Migrate(
        "1",
        ((CREATE_TABLE, "CREATE TABLE projects (id TEXT PRIMARY KEY, name TEXT)"),),
        MigrationTable(
            "projects", (MigrationColumn("id", "TEXT", "uuid"), MigrationColumn("name", "TEXT", "text")), (), ("id",)
        ),
    ),
    Migrate(
        "1",
        (
            (
                CREATE_TABLE,
                "CREATE TABLE items (id TEXT PRIMARY KEY, project_id TEXT REFERENCES projects (id) ON DELETE CASCADE)",
            ),
        ),
        MigrationTable(
            "items",
            (MigrationColumn("id", "TEXT", "uuid"), MigrationColumn("project_id", "TEXT", "uuid")),
            (MigrationForeignKey(("project_id",), "projects", ("id",)),),
            ("id",),
        ),
    ),
)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_db(tmp_path / "app.db", URL, migrations=SCHEMA) as db:
        yield db


async def oplog(db: Database) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql("SELECT table_name, op, commit_ms FROM _syncline_oplog ORDER BY id")]


async def names(db: Database) -> list[str]:
    return [row["name"] for row in await db.sql("SELECT name FROM projects ORDER BY id")]


async def test_one_statement_is_one_device_transaction(db: Database) -> None:
    assert await db.execute("INSERT INTO projects VALUES ('p', 'a'), ('q', 'b')") == 2
    assert await db.execute("UPDATE projects SET name = ? WHERE id = ?", ("c", "p")) == 1
    first, second, third = await oplog(db)
    assert first[2] == second[2] != third[2]
    assert db.status.pending_writes == 2


async def test_a_transaction_block_is_one_device_transaction(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO projects VALUES ('p', 'a')")
        await tx.execute_many("INSERT INTO items VALUES (?, ?)", [("i", "p"), ("j", "p")])
        assert [row["id"] for row in await tx.sql("SELECT id FROM items ORDER BY id")] == ["i", "j"]
        assert await db.sql("SELECT * FROM items") == []
    assert len({commit_ms for _, _, commit_ms in await oplog(db)}) == 1
    assert db.status.pending_writes == 1


async def test_a_transaction_that_raises_leaves_neither_rows_nor_oplog(db: Database) -> None:
    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO projects VALUES ('p', 'a')")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError):
        await write()
    assert (await names(db), await oplog(db), db.status.pending_writes) == ([], [], 0)


async def test_a_transaction_that_breaks_a_deferred_foreign_key_is_rolled_back_and_says_so(db: Database) -> None:
    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute("PRAGMA defer_foreign_keys = ON")
            await tx.execute("INSERT INTO items VALUES ('i', 'nowhere')")

    with pytest.raises(sqlite3.IntegrityError):
        await write()
    assert await oplog(db) == []
    await db.execute("INSERT INTO projects VALUES ('p', 'a')")


async def test_a_cascade_on_the_device_is_captured_row_by_row(db: Database) -> None:
    await db.execute("INSERT INTO projects VALUES ('p', 'a')")
    await db.execute("INSERT INTO items VALUES ('i', 'p')")
    await db.execute("DELETE FROM projects")
    assert sorted((table, op) for table, op, _ in (await oplog(db))[-2:]) == [("items", "D"), ("projects", "D")]


TREE = """
CREATE TABLE nodes (
    id TEXT PRIMARY KEY, up TEXT REFERENCES nodes (id) ON DELETE CASCADE,
    friend TEXT REFERENCES nodes (id) ON DELETE SET NULL)
"""
NODES = Migrate(
    "2",
    ((CREATE_TABLE, TREE),),
    MigrationTable(
        "nodes",
        tuple(MigrationColumn(name, "TEXT", "text") for name in ("id", "up", "friend")),
        (MigrationForeignKey(("up",), "nodes", ("id",)), MigrationForeignKey(("friend",), "nodes", ("id",))),
        ("id",),
    ),
)


async def test_whatever_a_delete_brings_about_by_foreign_keys_is_in_the_oplog(tmp_path: Path) -> None:
    """Rows that go, at any depth, and columns that become NULL, of rows that stay and of such as go too."""
    async with open_db(tmp_path / "tree.db", URL, migrations=(*SCHEMA, NODES)) as db:
        rows = [("a", None, None), ("b", "a", "a"), ("c", "b", "a"), ("d", None, "c"), ("e", "c", "d")]
        async with db.transaction() as tx:
            await tx.execute_many("INSERT INTO nodes VALUES (?, ?, ?)", rows)
        (before,) = (await db.sql("SELECT max(id) FROM _syncline_oplog"))[0]
        await db.execute("DELETE FROM nodes WHERE id = 'a'")
        assert [tuple(row) for row in await db.sql("SELECT * FROM nodes")] == [("d", None, None)]
        written = await db.sql("SELECT op, key FROM _syncline_oplog WHERE id > ? ORDER BY id", (before,))
        last = {json.loads(key)[0]: op for op, key in map(tuple, written) if op != "C"}
        assert last == {"a": "D", "b": "D", "c": "D", "e": "D", "d": "U"}
        (stamps,) = (await db.sql("SELECT count(DISTINCT commit_ms) FROM _syncline_oplog WHERE id > ?", (before,)))[0]
        assert stamps == 1


async def test_commit_timestamps_strictly_increase(db: Database) -> None:
    for number in range(20):
        await db.execute("INSERT INTO projects VALUES (?, 'x')", (str(number),))
    stamps = [commit_ms for _, _, commit_ms in await oplog(db)]
    assert stamps == sorted(set(stamps))


async def test_writes_from_many_tasks_take_turns(db: Database) -> None:
    async def write(number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO projects VALUES (?, 'x')", (f"a{number}",))
            await tx.execute("INSERT INTO projects VALUES (?, 'x')", (f"b{number}",))

    await asyncio.gather(*(write(number) for number in range(20)))
    groups = [commit_ms for _, _, commit_ms in await oplog(db)]
    assert groups == [stamp for stamp in sorted(set(groups)) for _ in range(2)]


async def test_writing_past_ones_own_transaction_is_refused(db: Database) -> None:
    async with db.transaction():
        with pytest.raises(UsageError, match="through that transaction"):
            await db.execute("DELETE FROM projects")


async def test_a_cancelled_transaction_is_rolled_back_and_the_next_goes_on(db: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO projects VALUES ('p', 'a')")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await inside.wait()
    task.cancel()
    await asyncio.wait({task})
    await db.execute("INSERT INTO projects VALUES ('q', 'b')")
    assert await names(db) == ["b"]


async def test_everything_pending_is_still_pending_after_reopening(tmp_path: Path) -> None:
    async with open_db(tmp_path / "app.db", URL, migrations=SCHEMA) as db:
        await db.execute("INSERT INTO projects VALUES ('p', 'a')")
        client_id = db.client_id
    async with open_db(tmp_path / "app.db", URL, migrations=SCHEMA) as db:
        assert (db.client_id, db.status.pending_writes, await names(db)) == (client_id, 1, ["a"])


async def test_a_live_query_yields_now_and_after_each_change(db: Database) -> None:
    async with db.sql("SELECT name FROM projects").live() as results:
        assert await anext(results) == []
        await db.execute("INSERT INTO projects VALUES ('p', 'a')")
        assert [row["name"] for row in await anext(results)] == ["a"]


async def test_a_live_query_sees_a_write_made_before_it_is_first_read(db: Database) -> None:
    async with db.sql("SELECT name FROM projects").live() as results:
        await db.execute("INSERT INTO projects VALUES ('p', 'a')")
        assert [row["name"] for row in await anext(results)] == ["a"]


async def test_a_live_query_does_not_wake_for_other_tables_or_equal_results(db: Database) -> None:
    await db.execute("CREATE TABLE notes (text)")
    await db.execute("INSERT INTO projects VALUES ('p', 'a')")
    async with db.sql("SELECT count(*) FROM projects").live() as results:
        await anext(results)
        waiting = asyncio.ensure_future(anext(results))
        await db.execute("INSERT INTO notes VALUES ('x')")
        await db.execute("UPDATE projects SET name = 'b'")
        await db.sql("SELECT 1")
        assert not waiting.done()
        await db.execute("INSERT INTO projects VALUES ('q', 'a')")
        assert [tuple(row) for row in await waiting] == [(2,)]


async def test_a_live_query_watches_local_tables_and_cascades_too(db: Database) -> None:
    await db.execute("INSERT INTO projects VALUES ('p', 'a')")
    await db.execute("INSERT INTO items VALUES ('i', 'p')")
    async with db.sql("SELECT count(*) FROM items").live() as results:
        assert [tuple(row) for row in await anext(results)] == [(1,)]
        await db.execute("DELETE FROM projects")
        assert [tuple(row) for row in await anext(results)] == [(0,)]


async def test_a_live_query_that_sqlite_refuses_raises_at_once(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        async with db.sql("SELECT * FROM nowhere").live():
            pass


async def test_a_query_cannot_write(db: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await db.sql("DELETE FROM projects")


async def test_status_changes_yield_the_status_now_and_each_new_one(db: Database) -> None:
    statuses = db.status_changes()
    assert (await anext(statuses)).pending_writes == 0
    await db.execute("INSERT INTO projects VALUES ('p', 'a')")
    assert (await anext(statuses)).pending_writes == 1


async def test_a_shape_can_be_asked_for_before_there_is_a_connection(tmp_path: Path) -> None:
    async with open_db(tmp_path / "app.db", URL, migrations=SCHEMA) as db:
        await db.sync("projects")
        await db.sync("projects")
        assert db.status.behind == 1
    async with open_db(tmp_path / "app.db", URL, migrations=SCHEMA) as db:
        assert db.status.behind == 1


async def test_connecting_without_ever_having_had_a_token_is_a_usage_error(db: Database) -> None:
    with pytest.raises(UsageError, match="token"):
        await db.connect()


async def test_connect_returns_when_the_server_cannot_be_reached_and_goes_on_trying(db: Database) -> None:
    await db.connect("token")
    assert (db.status.connected, db.status.reason) == (False, "unreachable")
    assert db.status.last_error is not None
    await db.disconnect()
    assert db.status.reason == "disconnected"


async def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a server address"):
        async with open_db(tmp_path / "app.db", "localhost"):
            pass


async def test_a_transaction_no_server_would_take_is_refused_and_changes_nothing(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oplog_module, "LIMITS", TransactionLimits(ops_max=3, bytes_max=1 << 20))
    rows = [(str(number), "x") for number in range(4)]
    with pytest.raises(UsageError, match="4 changed rows, and at most 3 can be sent"):
        async with db.transaction() as tx:
            await tx.execute_many("INSERT INTO projects VALUES (?, ?)", rows)
    assert (await names(db), await oplog(db), db.status.pending_writes) == ([], [], 0)
    async with db.transaction() as tx:
        await tx.execute_many("INSERT INTO projects VALUES (?, ?)", rows[:3])
    with pytest.raises(UsageError, match="write it as several transactions"):
        await db.execute("INSERT INTO projects SELECT id || 'again', name FROM projects UNION SELECT 'a', 'b'")
    assert len(await names(db)) == 3


async def test_the_size_of_a_transaction_is_what_it_takes_on_the_wire(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oplog_module, "LIMITS", TransactionLimits(ops_max=3, bytes_max=100_000))
    insert = "INSERT INTO projects VALUES (?, ?)"
    await db.execute(insert, ("escaped", "\n" * 99_000))  # twice as long as JSON
    with pytest.raises(UsageError, match="MiB, and at most"):
        await db.execute(insert, ("too long", "x" * 100_001))
    monkeypatch.setattr(oplog_module, "OPERATION_BYTES_MAX", 50_000)
    with pytest.raises(UsageError, match="a change of one row"):
        await db.execute(insert, ("too long", "x" * 50_001))


async def test_tables_of_the_application_itself_know_no_such_limit(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oplog_module, "LIMITS", TransactionLimits(ops_max=0, bytes_max=1 << 20))
    await db.execute("CREATE TABLE notes (n INTEGER)")
    assert await db.execute("INSERT INTO notes VALUES (1), (2)") == 2
