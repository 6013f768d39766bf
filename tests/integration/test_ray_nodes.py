"""A service spread over two nodes of somebody's Ray cluster, one of which is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.integration.test_ray_service import command
from tests.integration.tree_scene import ITEMS, Stubborn
from tests.npm.service import ServiceProcess
from tests.patience import until

pytestmark = pytest.mark.slow_on_ray

HEAD, SECOND = "127.0.0.2", "127.0.0.3"
RAY = [
    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus", "1"),
    *("--include-log-monitor", "false", "--object-store-memory", str(80 << 20)),
]


class Nodes:
    """A cluster of two nodes on this machine, each with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temp_dir = tempfile.mkdtemp(prefix="syncline-ray-")
        self.address = ""
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
        }
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def home(self, ip: str) -> Path:
        return self.folder / ip

    async def start(self) -> None:
        with socket.socket() as taken:
            taken.bind((HEAD, 0))
            port = taken.getsockname()[1]
        self.address = f"{HEAD}:{port}"
        alone = ("--include-dashboard", "false", "--no-monitor")
        await self._node(HEAD, "--head", "--port", str(port), "--temp-dir", self.temp_dir, *alone)
        await self._node(SECOND, "--address", self.address)

    async def _node(self, ip: str, *options: str) -> None:
        """Ray gives up its own start after half a minute, which is not enough on a busy machine."""
        self.home(ip).mkdir()

        async def started() -> bool:
            if ip not in self._started or self._started[ip].poll() is not None:
                self._start(ip, *options)
            return "Ray runtime started" in (self.home(ip) / "ray.log").read_text()

        await until(started)

    def _start(self, ip: str, *options: str) -> None:
        with (self.home(ip) / "ray.log").open("wb") as output:
            self._started[ip] = subprocess.Popen(
                [*RAY, "--node-ip-address", ip, *options],
                env={**os.environ, **self.environment, "HOME": str(self.home(ip))},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def hosts(self, ip: str) -> set[str]:
        """Those that write their log on that node now."""
        logs = self.home(ip) / "data" / "logs"
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::"):
                    found |= {Path(file.path).stem for file in process.open_files() if Path(file.path).parent == logs}
        return found

    def lose(self, ip: str) -> None:
        """All its processes are killed at once."""
        for process in self._processes(ip):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._started.pop(ip).wait()

    def stop(self) -> None:
        for ip in tuple(self._started):
            self.lose(ip)
        shutil.rmtree(self.temp_dir, ignore_errors=True)

    def _processes(self, ip: str) -> list[psutil.Process]:
        start = psutil.Process(self._started[ip].pid)
        return [start, *start.children(recursive=True)]


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    there = Nodes(tmp_path)
    try:
        await there.start()
        yield there
    finally:
        await asyncio.to_thread(there.stop)


async def test_a_node_is_lost_and_its_hosts_go_on_at_the_other_one(database: str, nodes: Nodes, tmp_path: Path) -> None:
    postgres = await asyncpg.connect(database)
    await postgres.execute(ITEMS)
    settings = {
        **nodes.environment,
        "SYNCLINE_RUNTIME": "ray",
        "SYNCLINE_RAY_ADDRESS": nodes.address,
        "SYNCLINE_SHAPES_HOSTS": "2",
        "SYNCLINE_EDGE_HOSTS": "2",
        "SYNCLINE_DATA_DIR": "~/data",
        "SYNCLINE_HTTP_HOST": f"{HEAD},{SECOND}",
        "HOME": str(nodes.home(HEAD)),
    }
    service = ServiceProcess(database, tmp_path, settings)
    devices: list[Stubborn] = []

    async def current(rows: int) -> None:
        await postgres.execute(
            "INSERT INTO items SELECT gen_random_uuid(), n, 'x' FROM generate_series(1, $1::int) n", rows
        )
        for device in devices:

            async def equal(device: Stubborn = device) -> bool:
                return device.rows == {row[0].encode() for row in await postgres.fetch("SELECT id::text FROM items")}

            await until(equal)

    try:
        await service.start()
        await postgres.execute("CALL electric.electrify('items')")
        assert {"shapes-0", "edge-0"} <= nodes.hosts(HEAD)
        assert {"shapes-1", "edge-1"} <= nodes.hosts(SECOND)
        devices += [Stubborn(f"http://{ip}:{service.port}", "items") for ip in (HEAD, SECOND)]
        await current(50)
        await asyncio.to_thread(nodes.lose, SECOND)
        devices[1]._url = devices[0]._url  # as the balancer in front of the edges would have it
        await current(50)

        async def all_here() -> bool:
            return nodes.hosts(HEAD) >= {"shapes-0", "shapes-1", "edge-0", "edge-1"}

        await until(all_here)
        await current(50)
    finally:
        for device in devices:
            await device.close()
        await service.stop()
        await asyncio.to_thread(command, "stop", **{**settings, "SYNCLINE_DATA_DIR": str(nodes.home(HEAD) / "data")})
        await service.kill_command()
        await postgres.close()
