"""Everything has a process of its own, and each process is killed, some are frozen and all are restarted while devices
write: every write is executed once, everyone is current again, and nobody fetches anything anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.e2e.journal import Scene, journal_scene
from tests.integration.tree_scene import Stubborn, until
from tests.npm.service import ServiceProcess

DIALECTS = 2  # each has a shape of the schema itself
JOURNALED = 2  # the tables of the scene
# Some forty processes start and restart on two processors.
PATIENCE_S = 600.0


class Tables:
    """Tables beside those of the scene, which direct SQL writes to, and who has to hold what is in them."""

    def __init__(self, scene: Scene, postgres: asyncpg.Connection, names: Sequence[str]) -> None:
        self.scene = scene
        self.postgres = postgres
        self.names = names
        self.devices: list[Stubborn] = []

    async def open(self) -> None:
        for name in self.names:
            await self.postgres.execute(f"CREATE TABLE {name} (id uuid PRIMARY KEY, n int4 NOT NULL)")
            await self.postgres.execute(f"CALL electric.electrify('{name}')")
        for writer in self.scene.writers:
            for name in self.names:
                await (await writer.db.sync(name)).synced()

    async def arrived(self) -> None:
        """Writes a row to each table, all in one transaction; returns when every device has them."""
        row = uuid.uuid4()
        async with self.postgres.transaction():
            for name in self.names:
                await self.postgres.execute(f"INSERT INTO {name} VALUES ($1, 1)", row)

        async def held() -> bool:
            for writer in self.scene.writers:
                for name in self.names:
                    if not await writer.db.sql(f"SELECT 1 FROM {name} WHERE id = ?", (str(row),)):
                        return False
            return all(str(row).encode() in device.rows for device in self.devices)

        await until(held, PATIENCE_S)

    async def equal(self) -> None:
        """Returns when devices that only read have exactly what is in Postgres."""

        async def same() -> bool:
            keys: set[bytes] = set()
            for name in (*self.names, "journal", "contested"):
                keys |= {row[0].encode() for row in await self.postgres.fetch(f"SELECT id::text FROM {name}")}
            return all(device.rows == keys for device in self.devices)

        await until(same, PATIENCE_S)


async def process_of(service: ServiceProcess, host: str, other_than: int = 0) -> psutil.Process:
    """As soon as there is one, of another id than that."""
    found: list[psutil.Process] = []

    async def there() -> bool:
        process = (await asyncio.to_thread(service.hosts)).get(host)
        found.extend([process] if process is not None and process.pid != other_than else [])
        return bool(found)

    await until(there, PATIENCE_S)
    return found[0]


async def killed(service: ServiceProcess, host: str) -> int:
    """kill -9, as soon as there is a process; its id."""
    process = await process_of(service, host)
    process.kill()
    return process.pid


async def restarted(service: ServiceProcess) -> None:
    """``syncline restart``: every process is followed by another."""
    command = Path(sys.executable).with_name("syncline")
    restarting = await asyncio.create_subprocess_exec(str(command), "restart", "--data-dir", str(service.data_dir))
    assert await restarting.wait() == 0


def ready_positions(data_dir: Path) -> dict[str, int]:
    """Of each shape on the disk: from which position on it is whole, which tells its snapshot from any other."""
    return {
        str(path.parent.relative_to(data_dir)): json.loads(path.read_text())["ready_lsn"]
        for path in data_dir.glob("shapes/*/shard-*/*/shape.json")
    }


@pytest.mark.parametrize(
    ("shapes", "connections"),
    [
        pytest.param(3, 3, id="few", marks=pytest.mark.slow_on_ray),
        pytest.param(10, 20, id="many", marks=[pytest.mark.long, pytest.mark.timeout(3 * 3600)]),
    ],
)
async def test_each_process_is_killed_and_restarted_while_devices_write(
    database: str, tmp_path: Path, shapes: int, connections: int
) -> None:
    settings = {
        "SYNCLINE_RUNTIME": "ray",
        "SYNCLINE_SHAPES_PLACEMENT": "dedicated",
        "SYNCLINE_SHAPES_HOSTS": str(shapes + DIALECTS),
        "SYNCLINE_CONNECTIONS_PLACEMENT": "dedicated",
        "SYNCLINE_CONNECTION_HOSTS": str(connections),
    }
    writers = min(4, connections - 1)
    data_dir = tmp_path / "data"
    shapes_hosts = [f"shapes-{number}" for number in range(shapes + DIALECTS)]
    connection_hosts = [f"connection-{number}" for number in range(connections)]
    async with contextlib.AsyncExitStack() as stack:
        scene = await stack.enter_async_context(
            journal_scene(database, tmp_path, writers, settings, pause_s=0.05 * connections, ready_within_s=PATIENCE_S)
        )
        postgres = await asyncpg.connect(database)
        stack.push_async_callback(postgres.close)
        tables = Tables(scene, postgres, [f"t{number}" for number in range(shapes - JOURNALED)])
        await tables.open()
        for _ in range(connections - writers):
            device = Stubborn(scene.service.url, *tables.names, "journal", "contested")
            tables.devices.append(device)
            stack.push_async_callback(device.close)
        await tables.arrived()
        positions = ready_positions(data_dir)
        assert len(positions) == shapes + DIALECTS
        assert len({path.split("/")[2] for path in positions}) == len(positions), "each is alone"
        began: dict[str, int] = {}
        for host in (*shapes_hosts, *connection_hosts, "ingest", "origin", "edge-0"):
            await scene.carried_out(5)
            began[host] = await killed(scene.service, host)
            started_s = time.monotonic()
            await tables.arrived()
            print(f"{host}: current again after {time.monotonic() - started_s:.1f} s")
        for host in (shapes_hosts[0], connection_hosts[0], "edge-0"):
            frozen = await process_of(scene.service, host)
            frozen.suspend()
            started_s = time.monotonic()
            await tables.arrived()
            print(f"{host} frozen: current again after {time.monotonic() - started_s:.1f} s")
            await process_of(scene.service, host, other_than=frozen.pid)
        before = {host: process.pid for host, process in (await asyncio.to_thread(scene.service.hosts)).items()}
        started_s = time.monotonic()
        await restarted(scene.service)
        print(f"{len(before)} processes restarted in {time.monotonic() - started_s:.1f} s")
        await tables.arrived()
        began |= before
        await scene.carried_out(5)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        await tables.equal()
        assert await scene.check_journal() > 5 * len(began)
        assert [device.afresh for device in tables.devices] == [0] * len(tables.devices)
        assert ready_positions(data_dir) == positions, "no shape was read anew"
        now = await asyncio.to_thread(scene.service.hosts)
        for host, pid in began.items():
            assert now[host].pid != pid, host
