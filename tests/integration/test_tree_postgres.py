"""Postgres goes away, and tables go away, while devices sync: the tree stays as it is and devices come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
from tests.integration.tree_scene import Stubborn, Tree, running, until
from tests.rawdevice import RawDevice

from syncline.actors.names import BUNDLER, GATEWAY, REPLICATOR, ROUTER, SHARD, WRITER
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.proto import events
from syncline.proto.values import ShapeRequest

STAYING = (WRITER, SHARD, ROUTER, REPLICATOR, BUNDLER, GATEWAY)
SUBSCRIPTION = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a001"
REQUEST = "0b5c8f1e-9d43-4d5e-8a8e-52a4a3e0a002"


async def equal(tree: Tree, device: Stubborn) -> None:
    async def holds() -> bool:
        return device.rows == await tree.held()

    await until(holds)


async def test_postgres_away_costs_nobody_his_life_and_devices_what_they_wait(
    database: str, tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    async with running(database, tmp_path) as tree:
        await tree.insert(50)
        device = Stubborn(tree.url, "items")
        await device.resumed.wait()
        before = {name: tree.actor(name) for name in STAYING}
        async with RawDevice.connected(tree.url) as connected:
            await connected.start()
            await asyncio.to_thread(postgres.stop, "immediate")
            await connected.socket.send(connected.session.subscribe(SUBSCRIPTION, [ShapeRequest(REQUEST, "items")]))
            assert (await connected.closed())[0] == 1013
        await asyncio.to_thread(postgres.start)
        await tree.postgres.close()
        tree.postgres = await asyncpg.connect(database)
        await tree.insert(50, start=50)
        await equal(tree, device)
        later = Stubborn(tree.url, "items")
        await later.resumed.wait()
        await equal(tree, later)
        assert {name: tree.actor(name) for name in STAYING} == before
        assert device.afresh == 0
        await device.close()
        await later.close()


async def test_a_table_dropped_while_it_is_synced_harms_no_other(database: str, tmp_path: Path) -> None:
    sql = "CREATE TABLE items (id uuid PRIMARY KEY, n int4 NOT NULL, body text); CREATE TABLE old (id int4 PRIMARY KEY)"
    async with running(database, tmp_path, sql, ("items", "old")) as tree:
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            await device.subscribe("old")
            items = Stubborn(tree.url, "items")
            await items.resumed.wait()
            before = {name: tree.actor(name) for name in STAYING}
            await tree.postgres.execute("INSERT INTO old VALUES (1)")
            await tree.postgres.execute("DROP TABLE old")
            await tree.insert(10)
            await equal(tree, items)
            assert {name: tree.actor(name) for name in STAYING} == before
        await items.close()


async def test_a_table_dropped_before_anybody_asked_is_refused_by_name_and_the_connection_goes_on(
    database: str, tmp_path: Path
) -> None:
    sql = "CREATE TABLE items (id uuid PRIMARY KEY, n int4 NOT NULL, body text); CREATE TABLE old (id int4 PRIMARY KEY)"
    async with running(database, tmp_path, sql, ("items", "old")) as tree:
        await tree.insert(10)
        before = {name: tree.actor(name) for name in STAYING}
        await tree.postgres.execute("DROP TABLE old")
        for _ in range(3):
            async with RawDevice.connected(tree.url) as device:
                await device.start()
                await device.socket.send(device.session.subscribe(SUBSCRIPTION, [ShapeRequest(REQUEST, "old")]))
                answer = await device.expect(events.Subscribed | events.SubscribeRefused)  # type: ignore[arg-type]
                if isinstance(answer, events.SubscribeRefused):
                    break
                assert (await device.closed())[0] == 1013, "accepted before the drop was known: it has to ask again"
        assert isinstance(answer, events.SubscribeRefused)
        assert answer.code == "SHAPE_REQUEST_ERROR"
        items = Stubborn(tree.url, "items")
        await items.resumed.wait()
        await equal(tree, items)
        assert {name: tree.actor(name) for name in STAYING} == before
        await items.close()
