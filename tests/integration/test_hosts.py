"""The service spread over hosts: what a device sees is the same, and any host may go and come back."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from tests.integration.hosts_scene import Hosts, spread
from tests.integration.tree_scene import Stubborn, running, until
from tests.rawdevice import RawDevice

from syncline.actors.postgres.slot import slot_state
from syncline.proto.values import Insert, Migrate

TABLES = tuple(f"t{number}" for number in range(4))
SQL = ";".join(f"CREATE TABLE {table} (id uuid PRIMARY KEY, n int4 NOT NULL)" for table in TABLES)


async def write(hosts: Hosts, number: int) -> None:
    """One transaction that writes ``number`` to every table."""
    async with hosts.postgres.transaction():
        for table in TABLES:
            await hosts.postgres.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), $1)", number)


async def test_a_transaction_over_all_hosts_arrives_whole(database: str, tmp_path: Path) -> None:
    async with spread(database, tmp_path, SQL, TABLES) as hosts, RawDevice.connected(hosts.url) as device:
        await device.start()
        await device.subscribe(*TABLES)
        for number in range(20):
            await write(hosts, number)

        def written() -> list[list[bytes | None]]:
            rows = ([c.row[1] for c in t.changes if isinstance(c, Insert)] for t in device.transactions)
            return [numbers for numbers in rows if numbers]

        async def arrived() -> bool:
            return len(written()) == 20

        await until(arrived)
        assert written() == [[b"%d" % number] * len(TABLES) for number in range(20)]


async def test_a_new_device_is_told_of_tables_that_were_opened_while_its_edge_was_running(
    database: str, tmp_path: Path
) -> None:
    async with spread(database, tmp_path, SQL, TABLES) as hosts:
        for opened in range(1, len(TABLES)):
            await hosts.postgres.execute(f"CREATE TABLE new{opened} (id uuid PRIMARY KEY)")
            await hosts.postgres.execute(f"CALL electric.electrify('new{opened}')")
            position = await hosts.postgres.fetchval("SELECT pg_current_wal_lsn() - '0/0'")

            async def passed(position: int = position) -> bool:
                slot = await slot_state(hosts.postgres, hosts.slot)
                return slot is not None and slot.confirmed is not None and slot.confirmed >= position

            await until(passed)
            async with RawDevice.connected(hosts.url) as device:
                await device.start()

                async def told(device: RawDevice = device, opened: int = opened) -> bool:
                    changes = [change for tx in device.transactions for change in tx.changes]
                    return f"new{opened}" in repr([change for change in changes if isinstance(change, Migrate)])

                await until(told)


@pytest.mark.parametrize("role", ["origin", "ingest", "shapes-0", "shapes-1", "edge-0"])
async def test_a_host_goes_and_comes_back_and_nothing_is_missed_or_fetched_anew(
    database: str, tmp_path: Path, role: str
) -> None:
    async with spread(database, tmp_path, SQL, TABLES) as hosts:
        stubborn = Stubborn(hosts.url, *TABLES)

        async def equal() -> bool:
            keys = [await hosts.postgres.fetch(f"SELECT id::text FROM {table}") for table in TABLES]
            return stubborn.rows == {row[0].encode() for rows in keys for row in rows}

        try:
            await write(hosts, 0)
            await until(equal)
            (id,) = (id for id in hosts.roles if id.partition(":")[0] == role)
            for number in range(1, 4):
                await hosts.stop(id)
                await write(hosts, number)
                await hosts.start(id)
                await write(hosts, 10 * number)
                await until(equal)
            assert stubborn.afresh == 0
        finally:
            await stubborn.close()


async def test_with_more_shards_or_fewer_nothing_is_fetched_anew(database: str, tmp_path: Path) -> None:
    """From one process to several, and back."""
    number, stubborn = 0, None

    async def current(postgres: asyncpg.Connection, url: str) -> None:
        nonlocal number, stubborn
        if stubborn is None:
            stubborn = Stubborn(url, *TABLES)
        device, device._url = stubborn, url
        number += 1
        for table in TABLES:
            await postgres.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), $1)", number)

        async def equal() -> bool:
            keys = [await postgres.fetch(f"SELECT id::text FROM {table}") for table in TABLES]
            return device.rows == {row[0].encode() for rows in keys for row in rows}

        await until(equal)
        assert device.afresh == 0

    try:
        async with running(database, tmp_path, SQL, TABLES) as tree:
            await current(tree.postgres, tree.url)
        for shards in (2, 3):
            async with spread(database, tmp_path, "SELECT 1", (), shards=shards) as hosts:
                await current(hosts.postgres, hosts.url)
        async with running(database, tmp_path, "SELECT 1", ()) as tree:
            await current(tree.postgres, tree.url)
    finally:
        if stubborn is not None:
            await stubborn.close()
