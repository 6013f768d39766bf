"""Each device on a host of its own: what it sees is the same, and whatever goes and comes back, it is current again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.hosts_scene import Hosts, spread
from tests.integration.tree_scene import Stubborn, until
from tests.rawdevice import RawDevice
from tests.shapes_on_disk import shapes_in
from tests.tokens import insecure_token

from syncline.actors.devices.device import Device
from syncline.actors.devices.forwarder import Relay
from syncline.actors.devices.line import Line
from syncline.actors.devices.websocket import Limits
from syncline.actors.names import DEVICES, edge_host
from syncline.actors.shapes.shard import DIALECTS
from syncline.actors.status import ask
from syncline.client import open_db
from syncline.cluster import Actor
from syncline.cluster.supervisor import WhichChildren

NOTES = "CREATE TABLE notes (id uuid PRIMARY KEY, body text NOT NULL)"
MANY = "INSERT INTO notes SELECT gen_random_uuid(), repeat('x', $2::int) FROM generate_series(1, $1::int)"
LARGE_CHARS = 3 << 20


async def living(hosts: Hosts, host: str, kind: type[Actor]) -> list[Actor]:
    """The devices, lines or relays of ``host``."""
    devices = hosts.running[host]._host.context.registry.ref(DEVICES)
    children = (await devices.call(WhichChildren())).values()
    return [ref._cell.actor for ref in children if ref is not None and isinstance(ref._cell.actor, kind)]


async def test_rows_travel_both_ways_and_large_ones_do(database: str, tmp_path: Path) -> None:
    async with spread(database, tmp_path, NOTES, ("notes",), connections=2) as hosts:
        async with (
            open_db(tmp_path / "one.db", hosts.url.replace("http", "ws")) as one,
            open_db(tmp_path / "other.db", hosts.url.replace("http", "ws")) as other,
        ):
            for device in (one, other):
                await device.connect(insecure_token("user"))
                await (await device.sync("notes")).synced()
            await hosts.postgres.execute(MANY, 2_000, 100)
            await hosts.postgres.execute(MANY, 2, LARGE_CHARS)
            insert = "INSERT INTO notes (id, body) VALUES (?, ?)"
            await one.execute(insert, ("00000000-0000-0000-0000-000000000001", "y" * LARGE_CHARS))

            async def equal() -> bool:
                rows = await hosts.postgres.fetch("SELECT id::text, md5(body) FROM notes ORDER BY 1")
                held = [[row[0] for row in await db.sql("SELECT id FROM notes ORDER BY 1")] for db in (one, other)]
                return len(rows) == 2_003 and held == [[row[0] for row in rows]] * 2

            await until(equal)
            lengths = [await db.sql("SELECT sum(length(body)) AS n FROM notes") for db in (one, other)]
            assert [row[0]["n"] for row in lengths] == [2_000 * 100 + 3 * LARGE_CHARS] * 2
        assert await living(hosts, edge_host(0), Device) == []


async def test_a_device_that_does_not_read_fills_neither_its_host_nor_the_edge(database: str, tmp_path: Path) -> None:
    rows, chars = 400, 200_000
    async with (
        spread(database, tmp_path, NOTES, ("notes",), connections=2) as hosts,
        RawDevice.connected(hosts.url) as idle,
        RawDevice.connected(hosts.url) as lively,
    ):
        for device in (idle, lively):
            await device.start()
            await device.subscribe("notes")
        idle._reading.cancel()
        for _ in range(rows):
            await hosts.postgres.execute(MANY, 1, chars)

        async def has_all(device: RawDevice) -> bool:
            return sum(map(len, device.rows.values())) == rows

        await until(lambda: has_all(lively))
        lines = [line for host in ("connection-0", "connection-1") for line in await living(hosts, host, Line)]
        assert len(lines) == 2
        relays = await living(hosts, edge_host(0), Relay)
        # Far less than all of it waits, and what waits is the last that was sent before the socket was full.
        high_water = Limits().high_water_bytes
        for line in lines:
            assert isinstance(line, Line)
            assert line._unsent_bytes < high_water + 2 * chars + (4 << 20)
        assert len(relays) == 2
        idle._reading = asyncio.create_task(idle._read())
        await until(lambda: has_all(idle))


async def test_who_comes_when_every_connection_host_is_taken_is_turned_away_until_one_leaves(
    database: str, tmp_path: Path
) -> None:
    async with spread(database, tmp_path, connections=1) as hosts:
        async with RawDevice.connected(hosts.url) as first:
            await first.start()
            async with RawDevice.connected(hosts.url, token="") as second:
                code, reason = await second.closed()
            assert (code, reason) == (1013, "all connection hosts are taken, try again later")
        async with RawDevice.connected(hosts.url) as second:
            await second.start()


async def test_the_newest_connection_of_a_client_wins_on_whichever_host_it_is(database: str, tmp_path: Path) -> None:
    async with (
        spread(database, tmp_path, connections=2) as hosts,
        RawDevice.connected(hosts.url, client_id="me") as older,
    ):
        await older.start()
        async with RawDevice.connected(hosts.url, client_id="me") as newer:
            await newer.start()
            code, _ = await older.closed()
        assert code == 4001


@pytest.mark.parametrize("role", ["origin", "ingest", "shapes-0", "connection-0", "connection-1", "edge-0"])
async def test_a_host_goes_and_comes_back_and_nothing_is_missed_or_fetched_anew(
    database: str, tmp_path: Path, role: str
) -> None:
    async with spread(database, tmp_path, NOTES, ("notes",), connections=2) as hosts:
        devices = [Stubborn(hosts.url, "notes") for _ in range(2)]

        async def equal() -> bool:
            keys = {row[0].encode() for row in await hosts.postgres.fetch("SELECT id::text FROM notes")}
            return all(device.rows == keys for device in devices)

        try:
            await hosts.postgres.execute(MANY, 1, 10)
            await until(equal)
            (id,) = (id for id in hosts.roles if id.partition(":")[0] == role)
            for _ in range(2):
                await hosts.stop(id)
                await hosts.postgres.execute(MANY, 1, 10)
                await hosts.start(id)
                await hosts.postgres.execute(MANY, 1, 10)
                await until(equal)
            assert [device.afresh for device in devices] == [0, 0]
        finally:
            for device in devices:
                await device.close()


# --- shapes -----------------------------------------------------------------------------------------------------------

TABLES = tuple(f"t{number}" for number in range(4))
SQL = ";".join(f"CREATE TABLE {table} (id uuid PRIMARY KEY, n int4 NOT NULL)" for table in TABLES)
ALONE = {"SYNCLINE_RUNTIME": "ray", "SYNCLINE_SHAPES_PLACEMENT": "dedicated"}
SHAPES = len(TABLES) + len(DIALECTS)


def shapes_of(hosts: Hosts) -> dict[str, set[str]]:
    """Shard -> the shapes whose files it has."""
    settings = next(iter(hosts.roles.values())).settings
    return {name: shapes_in(folder) for name, folder in settings.shard_folders.items()}


async def current(hosts: Hosts, devices: list[Stubborn]) -> None:
    """Writes to every table; returns when all devices have everything, and none was told to start over."""
    for table in TABLES:
        await hosts.postgres.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), 1)")

    async def equal() -> bool:
        keys = [await hosts.postgres.fetch(f"SELECT id::text FROM {table}") for table in TABLES]
        return all(device.rows == {row[0].encode() for rows in keys for row in rows} for device in devices)

    await until(equal)
    assert [device.afresh for device in devices] == [0] * len(devices)


async def test_each_shape_has_a_host_of_its_own_and_has_it_again_after_any_host_was_gone(
    database: str, tmp_path: Path
) -> None:
    async with spread(database, tmp_path, SQL, TABLES, shards=SHAPES, environment=ALONE) as hosts:
        devices = [Stubborn(hosts.url, *TABLES) for _ in range(2)]
        try:
            await current(hosts, devices)
            homes = shapes_of(hosts)
            assert [len(shapes) for shapes in homes.values()] == [1] * SHAPES
            for id in hosts.roles:
                await hosts.stop(id)
                for table in TABLES:
                    await hosts.postgres.execute(f"INSERT INTO {table} VALUES (gen_random_uuid(), 1)")
                await hosts.start(id)
                await current(hosts, devices)
            await hosts.stop()
            await hosts.start()
            await current(hosts, devices)
            assert shapes_of(hosts) == homes
        finally:
            for device in devices:
                await device.close()


async def test_more_shapes_than_hosts_share_them(database: str, tmp_path: Path) -> None:
    async with spread(database, tmp_path, SQL, TABLES, shards=SHAPES - 2, environment=ALONE) as hosts:
        device = Stubborn(hosts.url, *TABLES)
        try:
            await current(hosts, [device])
            assert sorted(len(shapes) for shapes in shapes_of(hosts).values()) == [1, 1, 2, 2]
            facts = (await asyncio.to_thread(ask, hosts.url)).details
            assert (facts["shapes"], facts["shapes_sharing"], facts["devices_max"]) == (4, 4, None)
            await hosts.stop("shapes-0")
            await hosts.start("shapes-0")
            await current(hosts, [device])
        finally:
            await device.close()


async def test_from_packed_to_alone_and_back_nothing_is_fetched_anew(database: str, tmp_path: Path) -> None:
    placements = [(2, {}), (SHAPES, ALONE), (SHAPES + 1, ALONE), (SHAPES - 1, ALONE), (3, {}), (1, ALONE)]
    device: Stubborn | None = None
    try:
        for first, (shards, environment) in enumerate(placements):
            sql, tables = ("SELECT 1", ()) if first else (SQL, TABLES)
            async with spread(database, tmp_path, sql, tables, shards=shards, environment=environment) as hosts:
                device = device or Stubborn(hosts.url, *TABLES)
                device._url = hosts.url
                await current(hosts, [device])
                if environment:
                    most = max(map(len, shapes_of(hosts).values()))
                    assert most == -(-SHAPES // shards), "as alone as they can be"
    finally:
        if device is not None:
            await device.close()
