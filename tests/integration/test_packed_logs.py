"""Logs that are packed while devices are away, on a real Postgres: they come back to what there is, and not to how it
came about."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from tests.e2e.shape_scene import ANNS, MOVES, SQL, TABLES, TREE, expected, issues_where, move
from tests.e2e.test_npm_shapes import INCLUDE as NPM_INCLUDE
from tests.e2e.test_npm_shapes import agree as npm_agree
from tests.e2e.test_shapes import INCLUDE, agree, device
from tests.integration.tree_scene import Tree, running
from tests.npm.rig import devices, eventually
from tests.patience import until
from tests.rawdevice import RawDevice

from syncline.actors.devices.images import Answer, Images
from syncline.actors.names import CONSUMERS, SHARD
from syncline.actors.shapes import readers, store
from syncline.actors.shapes.messages import ReadWatermark
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Ref
from syncline.cluster.supervisor import WhichChildren

ROWS, ROUNDS = 50, 40


@pytest.fixture(autouse=True)
def _always_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is folded and packed with every transaction, more or less."""
    monkeypatch.setattr(store, "FOLD_BYTES_MIN", 0)
    monkeypatch.setattr(store, "FOLD_SHARE", 0.0)
    monkeypatch.setattr(readers, "UNREAD_S", 0.1)


async def stores(tree: Tree) -> list[ShapeStore]:
    """Of the tables."""
    shapes = await tree.actor(CONSUMERS).call(WhichChildren())
    found = [ref._cell.actor._store for ref in shapes.values() if ref is not None]
    return [one for one in found if one.shape.kind == "table"]


async def packed(tree: Tree) -> None:
    """Everything that came so far is in the packed part of its log."""
    lsn = await tree.postgres.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8")
    await tree.postgres.execute("SELECT pg_logical_emit_message(true, 'syncline.mark', 'passing')")

    async def all_packed() -> bool:
        if await tree.actor(SHARD).call(ReadWatermark()) < lsn:
            return False
        return all(one.final_lsn == one.appended_lsn for one in await stores(tree))

    await until(all_packed)


async def test_a_device_long_away_gets_final_rows_and_the_log_stays_small(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, "CREATE TABLE items (id int4 PRIMARY KEY, n int4)") as tree:
        await tree.postgres.execute("INSERT INTO items SELECT g, 0 FROM generate_series(1, $1::int) g", ROWS)
        async with RawDevice.connected(tree.url) as first:
            await first.start()
            subscription = await first.subscribe("items")
        for _ in range(ROUNDS):
            await tree.postgres.execute("UPDATE items SET n = n + 1")
        await tree.postgres.execute("DELETE FROM items WHERE id = 1")
        await packed(tree)
        (items,) = await stores(tree)
        assert items.log_bytes < 100 * ROWS
        async with RawDevice.connected(tree.url, client_id=first.client_id) as again:
            again.rows = first.rows
            await again.start(first.lsn, (subscription,))
            await tree.postgres.execute("INSERT INTO items VALUES (1000, 0)")
            (oid,) = again.rows

            async def current() -> bool:
                return (b"1000", b"0") in again.rows[oid].values()

            await until(current)
            assert {row[0]: row[1] for row in again.rows[oid].values()} == {
                **{b"%d" % id: b"%d" % ROUNDS for id in range(2, ROWS + 1)},
                b"1000": b"0",
            }
            assert [len(transaction.changes) for transaction in again.transactions] == [ROWS, 1]


async def test_a_tree_and_its_devices_come_through_every_move_while_logs_are_packed(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path, SQL, TABLES) as tree:
        async with device(tmp_path / "ann.db", tree.url) as db:
            await (await db.sync("projects", ANNS, include=INCLUDE)).synced()
            await (await db.sync("issues", "this.rank > 6")).synced()
        for name in MOVES:
            await move(tree.postgres, name)
            await packed(tree)
            async with device(tmp_path / "ann.db", tree.url) as db:
                shape = await db.sync("projects", ANNS, include=INCLUDE)
                assert shape.status.state == "delivered"
                both = together(TREE, issues_where("rank > 6"))
                await eventually(partial(agree, tree.postgres, db, both))


def together(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return {table: f"{one[table]} UNION {other[table]}" for table in one}


async def test_what_a_device_wrote_while_it_was_away_comes_back_once(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, SQL, TABLES) as tree:
        path = tmp_path / "ann.db"
        async with device(path, tree.url) as db:
            await (await db.sync("issues", "this.rank > 0")).synced()
        async with device(path, tree.url, connected=False) as db:
            await db.execute("UPDATE issues SET title = 'mine' WHERE id = 'i3'")
            await db.execute("INSERT INTO issues (id, project, title, rank) VALUES ('new', 'p1', 'new', 1)")
        for rank in range(20, 40):
            await tree.postgres.execute("UPDATE issues SET rank = $1", rank)
        await packed(tree)
        async with device(path, tree.url) as db:
            await eventually(partial(agree, tree.postgres, db, issues_where("rank > 0")))

            async def nothing_pending() -> bool:
                return db.status.connected and db.status.pending_writes == 0

            await until(nothing_pending)
            await eventually(partial(agree, tree.postgres, db, issues_where("rank > 0")))
        rows = await tree.postgres.fetch("SELECT id, title, rank FROM issues WHERE id IN ('i3', 'new') ORDER BY id")
        assert [tuple(row) for row in rows] == [("i3", "mine", 39), ("new", "new", 1)]


async def test_the_npm_client_comes_back_through_a_packed_log(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, SQL, TABLES) as tree,
        devices(tmp_path, tree.url, "ann") as [ann],
    ):
        await ann.sync("projects", where=ANNS, include=NPM_INCLUDE)
        assert await npm_agree(tree.postgres, ann, TREE)
        for name in MOVES:
            await ann.disconnect()
            await move(tree.postgres, name)
            await tree.postgres.execute("UPDATE users SET name = name || '.'")
            await packed(tree)
            await ann.connect()
            await eventually(partial(npm_agree, tree.postgres, ann, TREE))
        assert (await expected(tree.postgres, TREE))["projects"] == {}


async def test_a_table_opened_while_a_device_was_away_is_there_before_what_is_final(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path, SQL, TABLES) as tree:
        path = tmp_path / "ann.db"
        async with device(path, tree.url) as db:
            await (await db.sync("issues", "this.rank > 0")).synced()
        async with tree.postgres.transaction():
            await tree.postgres.execute("UPDATE issues SET rank = 50")
            await tree.postgres.execute("CREATE TABLE notes (id text PRIMARY KEY)")
            await tree.postgres.execute("CALL electric.electrify('notes')")
        await tree.postgres.execute("UPDATE issues SET rank = 51")
        await packed(tree)
        async with device(path, tree.url) as db:
            await eventually(partial(agree, tree.postgres, db, issues_where("rank > 0")))
            assert await db.sql("SELECT * FROM notes") == []


async def test_packing_does_not_overtake_a_device_in_the_middle_of_its_first_rows(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    read = Images.read

    async def slowly(images: Images, shape: Ref, lsn: int, cursor: int, *, whole: bool = False) -> Answer:
        answer = await read(images, shape, lsn, cursor, whole=whole)
        begun.set()
        await go_on.wait()
        return answer

    tables = ("first", "second")
    sql = "".join(
        f"CREATE TABLE {table} (id int4 PRIMARY KEY, n int4); INSERT INTO {table} VALUES (1, 0);" for table in tables
    )
    async with (
        running(database, tmp_path, sql, tables) as tree,
        RawDevice.connected(tree.url) as other,  # for whose sake everything is there already
        RawDevice.connected(tree.url) as slow,
    ):
        await other.start()
        await other.subscribe(*tables)
        monkeypatch.setattr(Images, "read", slowly)
        await slow.start()
        subscribing = asyncio.create_task(slow.subscribe(*tables))
        await begun.wait()
        for _ in range(ROUNDS):
            for table in tables:
                await tree.postgres.execute(f"UPDATE {table} SET n = n + 1")

        async def folded() -> bool:
            return all(one.image_at(one.appended_lsn).lsn == one.appended_lsn for one in await stores(tree))

        await until(folded)
        go_on.set()
        await subscribing

        async def current() -> bool:
            return [list(rows.values()) for rows in slow.rows.values()] == [[(b"1", b"%d" % ROUNDS)]] * 2

        await until(current)
        for table in tables:
            await tree.postgres.execute(f"UPDATE {table} SET n = 0")
        await packed(tree)
