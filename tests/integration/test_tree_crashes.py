"""Any actor of the tree crashes while a device is syncing: the device goes on from where it was, nothing is lost, and
the tree is whole again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.tree_scene import Stubborn, Tree, running, until
from tests.patience import PATIENCE_S

from syncline.actors.names import ABSORBER, BUNDLER, CONSUMERS, DEVICES, GATEWAY, REPLICATOR, ROUTER, SHARD, WRITER
from syncline.cluster.testing import crash, kill

ACTORS = (WRITER, CONSUMERS, "consumer", SHARD, ABSORBER, ROUTER, REPLICATOR, BUNDLER, DEVICES, GATEWAY, "device")
NAMED = (WRITER, CONSUMERS, SHARD, ABSORBER, ROUTER, REPLICATOR, BUNDLER, DEVICES, GATEWAY)
ROUNDS = 2


async def equal(tree: Tree, device: Stubborn) -> None:
    async def holds() -> bool:
        return device.rows == await tree.held()

    await until(holds)


async def whole(tree: Tree) -> None:
    """Every named actor lives, and the service has not given up."""

    async def holds() -> bool:
        registry = tree.service._host.context.registry
        return all((ref := registry.lookup(name)) is not None and ref.alive for name in NAMED)

    await until(holds)
    assert not tree.service._host.ended.done()


@pytest.mark.parametrize("name", ACTORS)
async def test_a_crash_costs_a_device_a_reconnect_at_most(database: str, tmp_path: Path, name: str) -> None:
    async with running(database, tmp_path) as tree:
        await tree.insert(200)
        device = Stubborn(tree.url, "items")
        try:
            await device.resumed.wait()
            for number in range(ROUNDS):
                writing = asyncio.create_task(write(tree, number))
                crash(await tree.victim(name))
                await writing
                await tree.insert(20, start=10_000 + number * 20)
                await equal(tree, device)
            await whole(tree)
            assert device.afresh == 0, "nothing is fetched again"
            later = Stubborn(tree.url, "items")
            await later.resumed.wait()
            await equal(tree, later)
            await later.close()
        finally:
            await device.close()


EDGE = (BUNDLER, DEVICES, GATEWAY)
TAKES_DOWN = {
    WRITER: NAMED,
    CONSUMERS: (CONSUMERS, SHARD, ABSORBER, ROUTER, REPLICATOR, *EDGE),
    SHARD: (SHARD, ABSORBER, ROUTER, REPLICATOR, *EDGE),
    "consumer": (SHARD, ABSORBER, ROUTER, REPLICATOR, *EDGE),
    ABSORBER: (ABSORBER, ROUTER, REPLICATOR),
    ROUTER: (ROUTER, REPLICATOR),
    REPLICATOR: (REPLICATOR,),
    BUNDLER: EDGE,
    DEVICES: (DEVICES, GATEWAY),
    GATEWAY: (GATEWAY,),
    "device": (),
}


@pytest.mark.parametrize("name", ACTORS)
async def test_a_crash_takes_down_those_who_need_the_crashed_and_nobody_else(
    database: str, tmp_path: Path, name: str
) -> None:
    async with running(database, tmp_path) as tree:
        await tree.insert(10)
        device = Stubborn(tree.url, "items")
        try:
            await device.resumed.wait()
            before = {other: tree.actor(other) for other in NAMED}
            crash(await tree.victim(name))
            for start in range(10, 100, 10):
                await tree.insert(10, start)  # whoever still speaks to the dead finds out now
            await equal(tree, device)
            await whole(tree)
            changed = {other for other in NAMED if tree.actor(other) is not before[other]}
            assert changed == set(TAKES_DOWN[name])
        finally:
            await device.close()


async def write(tree: Tree, number: int) -> None:
    """Many small transactions, some rows gone again."""
    for step in range(40):
        await tree.insert(5, start=1_000 + (number * 40 + step) * 5)
    await tree.postgres.execute("DELETE FROM items WHERE n % 7 = 3")


@pytest.mark.parametrize("name", [SHARD, ROUTER, REPLICATOR, "consumer"])
async def test_a_large_transaction_passes_whole_through_a_crash(database: str, tmp_path: Path, name: str) -> None:
    async with running(database, tmp_path) as tree:
        device = Stubborn(tree.url, "items")
        try:
            await device.resumed.wait()
            inserting = asyncio.create_task(tree.insert(40_000))
            store = (await tree.consumer("items"))._cell.actor._store  # type: ignore[attr-defined]

            async def begun() -> bool:
                return store.log_bytes > 0

            await until(begun)
            crash(await tree.victim(name))
            await inserting
            await equal(tree, device)
            assert len(device.rows) == 40_000
            assert device.afresh == 0
        finally:
            await device.close()


@pytest.mark.parametrize("name", [SHARD, ROUTER, REPLICATOR, "consumer", BUNDLER])
async def test_a_table_being_read_when_something_crashes_still_arrives(
    database: str, tmp_path: Path, name: str
) -> None:
    async with running(database, tmp_path) as tree:
        await tree.insert(30_000)
        device = Stubborn(tree.url, "items")
        try:
            await tree.victim("consumer")
            crash(await tree.victim(name))
            await device.resumed.wait()
            await equal(tree, device)
            await whole(tree)
        finally:
            await device.close()


async def test_a_killed_shard_leaves_no_shape_behind_that_keeps_the_next_one_from_starting(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path) as tree:
        await tree.insert(100)
        device = Stubborn(tree.url, "items")
        try:
            await device.resumed.wait()
            kill(tree.actor(SHARD))
            await tree.insert(100, start=100)
            await equal(tree, device)
            await whole(tree)
        finally:
            await device.close()


async def test_many_tables_asked_for_at_once_all_arrive(database: str, tmp_path: Path) -> None:
    names = tuple(f"t{number}" for number in range(20))
    sql = "; ".join(f"CREATE TABLE {name} (id int4 PRIMARY KEY); INSERT INTO {name} VALUES (1)" for name in names)
    async with running(database, tmp_path, sql, names) as tree:
        device = Stubborn(tree.url, *names)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await device.resumed.wait()
            assert device._device is not None
            assert len(device._device.rows) == len(names)
        finally:
            await device.close()
