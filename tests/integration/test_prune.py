"""What was deleted long ago is forgotten, and what devices that were away even longer write still merges sanely."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.integration.tree_scene import running, until
from tests.integration.write_scene import Scene, scene, written

from syncline.actors.postgres.bootstrap import PROCEDURES, STEPS, bootstrap, sql_text
from syncline.actors.postgres.database import connect, connect_pool
from syncline.actors.postgres.pruning import KEPT, REMOVED, note_removed, prune, prune_living
from syncline.proto.forks import Opening

pytestmark = pytest.mark.every_major

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, a text, b text NOT NULL)"
OLD = "UPDATE electric.tombstones SET buried_at = now() - interval '31 days'"


@asynccontextmanager
async def deleted(database: str, rows: int = 1) -> AsyncIterator[tuple[Scene, asyncpg.Pool]]:
    """Rows that ann wrote and deleted."""
    async with scene(database, ITEMS, "items") as s:
        pool = await connect_pool(database, "test")
        keys = [str(n) for n in range(1, rows + 1)]
        await s.apply(written("ann", 100, *(s.insert("items", key, "one", "two") for key in keys)))
        await s.apply(written("ann", 200, *(s.delete("items", key, seen=["ann@100"]) for key in keys)))
        yield s, pool
        await pool.close()


async def left(s: Scene) -> tuple[int, int]:
    """Tombstones and entries of shadow."""
    query = "SELECT (SELECT count(*) FROM electric.tombstones), (SELECT count(*) FROM electric.shadow)"
    row = await s.connection.fetchrow(query)
    return row[0], row[1]


async def test_old_tombstones_go_in_batches_with_the_tags_of_their_rows(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.pruning.BATCH_ROWS", 2)
    async with deleted(database, 5) as (s, pool):
        assert await prune(pool) == 0
        assert await left(s) == (5, 5)
        await s.connection.execute(OLD + " WHERE key <> '[\"5\"]'")
        assert await prune(pool) == 4
        assert await left(s) == (1, 1)


async def test_what_direct_sql_deleted_is_forgotten_as_soon_and_what_it_changed_later(database: str) -> None:
    async with deleted(database) as (s, pool):
        await s.absorb("items", "8", 300, gone=["8", "one", "two"])
        await s.absorb("items", "9", 300, changed=[1])
        for days, left in ((29, 2), (31, 1), (89, 1), (91, 0)):
            await s.connection.execute(f"UPDATE electric.direct SET absorbed_at = now() - interval '{days} days'")
            await prune(pool)
            assert await s.connection.fetchval("SELECT count(*) FROM electric.direct") == left


async def test_what_devices_knew_of_a_row_goes_with_what_direct_sql_did_to_it_since(database: str) -> None:
    """Else who has seen the later write of SQL, and not who had written before, could not delete the row."""
    async with scene(database, ITEMS, "items") as s, asyncpg.create_pool(database, min_size=0) as pool:
        keys = ("1", "2", "3")
        await s.apply(written("ann", 100, *(s.insert("items", key, "one", "two") for key in keys)))
        await s.connection.execute("UPDATE items SET a = 'by SQL' WHERE id = 1; DELETE FROM items WHERE id = 2")
        await s.absorb("items", "1", 300, changed=[1])
        await s.absorb("items", "2", 300, gone=["2", "one", "two"])
        await s.connection.execute("UPDATE electric.direct SET absorbed_at = now() - interval '91 days'")
        await prune(pool)
        assert [await s.tags("items", key) for key in keys] == [[], [], ["ann@100"]]
        assert await s.statuses(written("bob", 400, s.delete("items", "1", seen=["postgres_1@300"]))) == ["applied"]
        assert await s.rows("items") == [(3, "one", "two")]


async def test_what_went_by_truncate_is_forgotten_with_it(database: str) -> None:
    async with scene(database, ITEMS, "items") as s, asyncpg.create_pool(database, min_size=0) as pool:
        await s.apply(written("ann", 100, *(s.insert("items", key, "one", "two") for key in ("1", "2"))))
        await s.connection.execute("TRUNCATE items")
        lsn = await s.connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        await s.apply(written("ann", 200, s.insert("items", "3", "one", "two")))
        truncated = f"{s.relids['items']}, '', '{lsn}', 150, '{{}}', NULL, now() - interval '91 days'"
        await s.connection.execute(f"INSERT INTO electric.direct VALUES ({truncated})")
        await prune(pool)
        assert [await s.tags("items", key) for key in ("1", "2", "3")] == [[], [], ["ann@200"]]
        assert await s.connection.fetchval("SELECT count(*) FROM electric.direct") == 0


AWAY = "UPDATE electric.clients SET last_seen = now() - interval '91 days' WHERE client_id = ANY ($1)"


async def test_who_wrote_a_row_is_forgotten_with_all_who_did_and_whoever_holds_it_may_still_delete_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.pruning.WALK_ROWS", 2)
    async with scene(database, ITEMS, "items") as s, asyncpg.create_pool(database, min_size=0) as pool:
        keys = [str(n) for n in range(1, 6)]
        await s.apply(written("ann", 100, *(s.insert("items", key, "one", "two") for key in keys)))
        await s.apply(written("bob", 200, s.update("items", "2", "bob's", "two", changed=[1], seen=["ann@100"])))
        await s.apply(written("ann", 300, s.update("items", "3", "new", "two", changed=[1], seen=["ann@100"])))
        assert await prune_living(pool) == 0
        await s.connection.execute(AWAY, ["ann"])
        await s.connection.execute(
            "UPDATE electric.shadow SET written_at = now() - interval '91 days' WHERE key <> '[\"3\"]'"
        )
        await s.connection.execute("INSERT INTO electric.positions VALUES ('ann', 'here')")
        assert await prune_living(pool) == 0  # she is not forgotten yet
        await s.connection.execute("DELETE FROM electric.positions")
        assert await prune_living(pool) == 3
        assert [await s.tags("items", key) for key in keys] == [[], ["bob@200"], ["ann@300"], [], []]
        assert await s.statuses(written("cyd", 400, s.delete("items", "1", seen=["ann@100"]))) == ["applied"]
        late = s.update("items", "4", "late", "two", changed=[1], seen=["ann@100"])
        assert await s.statuses(written("bob", 250, late)) == ["applied"]
        assert await s.rows("items") == [
            (2, "bob's", "two"), (3, "new", "two"), (4, "late", "two"), (5, "one", "two")
        ]  # fmt: skip


async def test_entries_of_a_dropped_table_and_of_rows_that_nobody_can_bring_back_go(database: str) -> None:
    async with deleted(database, 2) as (s, pool):
        await s.connection.execute(
            "UPDATE electric.shadow SET written_at = now() - interval '91 days';"
            "DELETE FROM electric.tombstones WHERE key = '[\"1\"]'"
        )
        assert await prune_living(pool) == 1
        await s.connection.execute("DROP TABLE items")
        assert await prune_living(pool) == 1


async def test_a_device_is_forgotten_but_for_how_far_its_writes_are_decided(database: str) -> None:
    async with scene(database, ITEMS, "items") as s:
        database_ = await connect(database, "test", "here")
        first = written("ann", 100, s.insert("items", "1", "one", "two"))
        for client in ("ann", "bob", "cyd"):
            assert await database_.device_seen(client, "user", proven=True)
            await database_.begin_history(client)
            await database_.add_subscription(client, "s", [])
            assert await database_.open_file(client, [Opening(f"{client} 1", 1)]) is None
            assert await database_.open_file(client, [Opening(f"{client} 1", 1), Opening(f"{client} 2", 200)]) is None
        assert await s.statuses(first) == ["applied"]
        await s.connection.execute(AWAY, ["ann", "bob"])
        assert await database_.forget_unseen(90 * 86_400) == 2
        assert await database_.forget_unseen(90 * 86_400) == 0
        left = {
            table: [row[0] for row in await s.connection.fetch(f"SELECT client_id FROM electric.{table} ORDER BY 1")]
            for table in ("clients", "subscriptions", "positions", "openings")
        }
        assert left == {
            "clients": ["ann", "cyd"], "subscriptions": ["cyd"], "positions": ["cyd"], "openings": ["ann", "cyd", "cyd"]
        }  # fmt: skip
        # Her file is the one that is known, and what she had not heard of is not carried out again.
        assert await database_.open_file("ann", [Opening("ann 2", 200), Opening("ann 3", 201)]) is None
        assert await database_.open_file("ann", [Opening("other", 1)]) is not None
        await s.connection.execute("DELETE FROM items")
        assert await s.statuses(first) == ["duplicate"]
        database_.terminate()


async def test_how_much_was_removed_adds_up(database: str) -> None:
    async with scene(database) as s, asyncpg.create_pool(database, min_size=0) as pool:
        for what, number in (("devices", 2), ("deleted_rows", 1_000), ("devices", 3), ("written_rows", 0)):
            await note_removed(pool, what, number)
        told = await s.connection.fetchval("SELECT value FROM electric.meta WHERE key = $1", REMOVED)
        assert json.loads(told) == {"devices": 5, "deleted_rows": 1_000}


async def test_a_row_that_lives_again_keeps_its_tags(database: str) -> None:
    async with deleted(database, 2) as (s, pool):
        await s.connection.execute("INSERT INTO items VALUES (1, 'direct', 'sql')")
        await s.apply(written("ann", 300, s.update("items", "1", "ann's", "sql", changed=[1], seen=["postgres_1@0"])))
        await s.connection.execute(OLD)
        assert await prune(pool) == 1
        assert await s.tags("items", "1") == ["ann@300"]


async def test_a_row_that_is_deleted_again_is_kept_from_then_on(database: str) -> None:
    async with deleted(database) as (s, pool):
        await s.connection.execute(OLD)
        await s.connection.execute("INSERT INTO items VALUES (1, 'direct', 'sql')")
        await s.apply(written("ann", 300, s.delete("items", "1", seen=["postgres_1@0"])))
        assert await prune(pool) == 0


@pytest.mark.parametrize("pruned", [False, True])
async def test_a_write_that_had_not_seen_the_delete_brings_the_row_back(database: str, pruned: bool) -> None:
    """With what others had written meanwhile as long as that is remembered, then with what the device shows."""
    async with deleted(database) as (s, pool):
        if pruned:
            await s.connection.execute(OLD)
            await prune(pool)
        away = s.update("items", "1", "away", "as seen", changed=[1], seen=["ann@50"])
        assert await s.statuses(written("bob", 150, away)) == ["applied"]
        assert await s.rows("items") == [(1, "away", "as seen" if pruned else "two")]


async def test_a_parent_that_is_long_gone_cannot_be_kept(database: str) -> None:
    """As with one that direct SQL deleted: it would come back without its columns, and one of them may not be NULL."""
    async with deleted(database) as (s, pool):
        await s.connection.execute(OLD)
        await prune(pool)
        kept = s.keep("items", "1", None, None, seen=["ann@50"])
        assert await s.statuses(written("bob", 300, kept)) == ["rejected"]


async def test_a_tombstone_that_a_write_is_at_waits_for_another_time(database: str) -> None:
    async with deleted(database) as (s, pool):
        await s.connection.execute(OLD)
        async with s.connection.transaction():
            await s.connection.execute("SELECT FROM electric.tombstones FOR UPDATE")
            assert await prune(pool) == 0
        assert await prune(pool) == 1


async def test_a_service_prunes_at_its_start(database: str, tmp_path: Path) -> None:
    async with deleted(database) as (s, _):
        await s.connection.execute(OLD)
        async with running(database, tmp_path, "SELECT", ()):

            async def pruned() -> bool:
                return await left(s) == (0, 0)

            await until(pruned)


async def test_tombstones_of_an_older_schema_are_kept_from_the_upgrade_on(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(sql_text("schema.sql"))
    await connection.execute(
        "INSERT INTO electric.meta VALUES ('schema_version', '1');"
        "INSERT INTO electric.tombstones VALUES (7, '[\"1\"]', '{1}', 5)"
    )
    assert PROCEDURES
    assert (await bootstrap(connection)).schema_version == len(STEPS)
    age = await connection.fetchval("SELECT now() - buried_at FROM electric.tombstones")
    assert age < KEPT / 2
    assert isinstance(age, datetime.timedelta)
    await connection.close()
