"""The shapes of a service spread over several shards: what a device sees is the same, and any of them may crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.tree_scene import Stubborn, Tree, running, until
from tests.rawdevice import RawDevice
from tests.shapes_on_disk import shapes_in

from syncline.actors.names import REPLICATOR, ROUTER
from syncline.actors.postgres.slot import slot_name, slot_state
from syncline.actors.shapes.shard import DIALECTS
from syncline.cluster.placement import place
from syncline.cluster.testing import crash
from syncline.proto.values import Insert, Update

TABLES = tuple(f"t{number}" for number in range(6))
SQL = ";".join(f"CREATE TABLE {table} (id uuid PRIMARY KEY, n int4 NOT NULL)" for table in TABLES)
SHARDS = 3
NAMES = tuple(f"shard-{number}" for number in range(SHARDS))


def written(device: RawDevice) -> list[list[bytes | None]]:
    """What each transaction that has rows wrote, in the order of its rows."""
    rows = ([c.row[1] for c in t.changes if isinstance(c, Insert | Update)] for t in device.transactions)
    return [numbers for numbers in rows if numbers]


async def write(tree: Tree, number: int) -> None:
    """One transaction that writes ``number`` to every table."""
    async with tree.postgres.transaction():
        for table in TABLES:
            await tree.postgres.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), $1)", number)


async def equal(tree: Tree, device: Stubborn) -> None:
    async def holds() -> bool:
        return device.rows == {key for table in TABLES for key in await tree.held(table)}

    await until(holds)


async def test_the_tables_are_spread_and_a_transaction_over_all_of_them_arrives_whole(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path, SQL, TABLES, shards=SHARDS) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        await device.subscribe(*TABLES)
        for number in range(20):
            await write(tree, number)

        async def arrived() -> bool:
            return len(written(device)) == 20

        await until(arrived)
        assert written(device) == [[b"%d" % number] * len(TABLES) for number in range(20)]
        folders = [folder for folder in (tmp_path / "data").rglob("shard-*") if folder.is_dir()]
        assert sorted(folder.name for folder in folders) == list(NAMES)
        places = {shape: folder.name for folder in folders for shape in shapes_in(folder)}
        assert len(places) == len(TABLES) + len(DIALECTS)
        assert places == {shape: place(shape, NAMES) for shape in places}, "each lives where everybody looks for it"


@pytest.mark.parametrize("name", [*NAMES, ROUTER, REPLICATOR])
async def test_a_crash_costs_a_device_a_reconnect_at_most(database: str, tmp_path: Path, name: str) -> None:
    async with running(database, tmp_path, SQL, TABLES, shards=SHARDS) as tree:
        await write(tree, 0)
        device = Stubborn(tree.url, *TABLES)
        try:
            await device.resumed.wait()
            for number in range(20):
                await write(tree, number)
                if number == 10:
                    crash(await tree.victim(name))
            await equal(tree, device)
            assert device.afresh == 0, "nothing is fetched again"
            later = Stubborn(tree.url, *TABLES)
            await later.resumed.wait()
            await equal(tree, later)
            await later.close()
        finally:
            await device.close()


async def test_the_slot_is_confirmed_when_every_shard_has_it_on_disk(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, SQL, TABLES, shards=SHARDS) as tree:
        name = slot_name(database.rpartition("/")[2])
        await write(tree, 1)
        written = await tree.postgres.fetchval("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8")

        async def confirmed() -> bool:
            state = await slot_state(tree.postgres, name)
            return state is not None and int(state.done) >= written

        await until(confirmed)


async def test_it_goes_on_where_it_was_after_a_restart(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, SQL, TABLES, shards=SHARDS) as tree, RawDevice.connected(tree.url) as device:
        await device.start()
        subscription = await device.subscribe(*TABLES)
        await write(tree, 1)

        async def arrived() -> bool:
            return len(written(device)) == 1

        await until(arrived)
        position = device.lsn
    async with running(database, tmp_path, "SELECT", (), shards=SHARDS) as tree:
        await write(tree, 2)
        async with RawDevice.connected(tree.url, client_id=device.client_id) as again:
            await again.start(position, (subscription,))

            async def caught_up() -> bool:
                return bool(written(again))

            await until(caught_up)
            assert written(again) == [[b"2"] * len(TABLES)]
