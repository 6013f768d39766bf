"""The service as a tree of processes that Ray keeps: any of them is killed, commands come and go, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from tests.integration.tree_scene import ITEMS, Stubborn, until
from tests.npm.service import ServiceProcess, cluster_processes

from syncline.actors.datadir import FolderLock
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.ray_found import socket_folder
from syncline.cluster.ray_cluster import RayCluster

SYNCLINE = Path(sys.executable).with_name("syncline")
HOSTS = ("origin", "ingest", "shapes-0", "shapes-1", "edge-0", "edge-1")
RAY = {"SYNCLINE_RUNTIME": "ray", "SYNCLINE_SHAPES_HOSTS": "2", "SYNCLINE_EDGE_HOSTS": "2"}


class Spread:
    """A service of several processes, and who looks after it."""

    def __init__(self, dsn: str, folder: Path, postgres: asyncpg.Connection) -> None:
        self.folder = folder
        self.dsn = dsn
        self.postgres = postgres
        self.service = ServiceProcess(dsn, folder, RAY)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def process(self, host: str) -> psutil.Process:
        """The one that writes the log of ``host`` now. Raises KeyError."""
        return self.service.hosts()[host]

    async def killed(self, host: str) -> None:
        """kill -9, as soon as there is one."""
        found: list[psutil.Process] = []

        async def there() -> bool:
            try:
                found.append(self.process(host))
            except KeyError:
                return False
            return True

        await until(there)
        found[0].kill()

    async def insert(self, rows: int = 50) -> None:
        await self.postgres.execute(
            "INSERT INTO items SELECT gen_random_uuid(), n, 'x' FROM generate_series(1, $1::int) n", rows
        )

    async def equal(self, device: Stubborn) -> None:
        async def holds() -> bool:
            return device.rows == {row[0].encode() for row in await self.postgres.fetch("SELECT id::text FROM items")}

        await until(holds)


@pytest.fixture
async def spread(database: str, tmp_path: Path) -> AsyncIterator[Spread]:
    postgres = await asyncpg.connect(database)
    await postgres.execute(ITEMS)
    found = Spread(database, tmp_path, postgres)
    try:
        await found.service.start()
        await postgres.execute("CALL electric.electrify('items')")
        yield found
    finally:
        await asyncio.to_thread(command, "stop", "--data-dir", str(found.data_dir))
        await found.service.kill()
        await postgres.close()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SYNCLINE), *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


async def test_every_host_is_killed_and_devices_are_current_again_with_nothing_fetched_anew(spread: Spread) -> None:
    devices = [Stubborn(spread.service.url, "items") for _ in range(4)]
    try:
        await spread.insert()
        for device in devices:
            await spread.equal(device)
        for host in HOSTS:
            await spread.killed(host)
            await spread.insert()
            for device in devices:
                await spread.equal(device)
        assert [device.afresh for device in devices] == [0] * len(devices)
    finally:
        for device in devices:
            await device.close()


@pytest.mark.slow_on_ray
async def test_a_frozen_host_is_replaced_and_devices_are_current_again(spread: Spread) -> None:
    devices = [Stubborn(spread.service.url, "items") for _ in range(4)]
    try:
        for host in ("origin", "ingest", "shapes-0", "edge-0"):
            await spread.insert()
            for device in devices:
                await spread.equal(device)
            frozen = spread.process(host)
            frozen.suspend()
            await spread.insert()
            for device in devices:
                await spread.equal(device)

            async def replaced(host: str = host, frozen: psutil.Process = frozen) -> bool:
                with contextlib.suppress(LookupError):
                    return spread.process(host).pid != frozen.pid
                return False

            await until(replaced)
        assert [device.afresh for device in devices] == [0] * len(devices)
    finally:
        for device in devices:
            await device.close()


async def test_every_process_is_followed_by_a_new_one_while_devices_go_on(spread: Spread) -> None:
    devices = [Stubborn(spread.service.url, "items") for _ in range(4)]
    try:
        await spread.insert()
        for device in devices:
            await spread.equal(device)
        before = {spread.process(host).pid for host in HOSTS}
        for _ in range(2):
            restarting = asyncio.create_task(asyncio.to_thread(command, "restart", "--data-dir", str(spread.data_dir)))
            while not restarting.done():
                await spread.insert(5)
                await asyncio.sleep(0.1)  # the load's pace: the processes that start need the processor too
            assert restarting.result().returncode == 0, restarting.result().stderr
            for device in devices:
                await spread.equal(device)
        assert not before & {spread.process(host).pid for host in HOSTS}
        assert [device.afresh for device in devices] == [0] * len(devices)
        second = ServiceProcess(spread.dsn, spread.folder, RAY)
        await second.start()
        assert second.port == spread.service.port
        assert await second.stop() == 0
    finally:
        for device in devices:
            await device.close()


@pytest.mark.slow_on_ray
async def test_a_stop_during_a_restart_ends_all_and_the_restart_says_so(spread: Spread) -> None:
    processes = cluster_processes(spread.data_dir)
    restarting = await asyncio.create_subprocess_exec(
        str(SYNCLINE),
        *("restart", "--data-dir", str(spread.data_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert restarting.stdout is not None
    assert (await restarting.stdout.readline()).startswith(b"origin: process ")
    ended = await asyncio.to_thread(command, "stop", "--data-dir", str(spread.data_dir))
    assert ended.returncode == 0, ended.stderr
    _, said = await restarting.communicate()
    assert restarting.returncode == 1
    assert b"error: the service has been stopped meanwhile" in said
    assert b"Traceback" not in said

    async def gone() -> bool:
        return not any(psutil.pid_exists(pid) for pid in processes) and not spread.service.is_running

    await until(gone)
    assert cluster_processes(spread.data_dir) == []
    with pytest.raises(KeyError):
        spread.process("origin")


@pytest.mark.slow_on_ray
async def test_a_restart_that_cannot_begin_says_why(spread: Spread) -> None:
    wrong = await asyncio.to_thread(command, "restart", "--data-dir", str(spread.data_dir), AUTH_MODE="none")
    assert wrong.returncode == 2
    assert "AUTH_MODE" in wrong.stderr
    frozen = [spread.process(host) for host in HOSTS]
    for process in frozen:
        process.suspend()
    try:
        silent = await asyncio.to_thread(command, "restart", "--data-dir", str(spread.data_dir))
    finally:
        for process in frozen:
            process.resume()
    assert silent.returncode == 1
    assert "none of the hosts" in silent.stderr
    assert "Traceback" not in wrong.stderr + silent.stderr


async def test_a_host_that_gets_sigterm_ends_in_order_and_the_next_one_takes_its_place(spread: Spread) -> None:
    device = Stubborn(spread.service.url, "items")
    try:
        await spread.insert()
        await spread.equal(device)
        for host in HOSTS:
            was = spread.process(host)
            was.terminate()
            await asyncio.to_thread(was.wait)
            await spread.insert()
            await spread.equal(device)
        assert device.afresh == 0
        logs = [(spread.data_dir / "logs" / f"{edge}.log").read_text() for edge in ("edge-0", "edge-1")]
        assert all("sent away in turns" in said for said in logs)
    finally:
        await device.close()


@pytest.mark.slow_on_ray
async def test_the_command_starts_another_cluster_when_its_own_ends(spread: Spread) -> None:
    device = Stubborn(spread.service.url, "items")
    try:
        for part in ("raylet", "gcs_server", "head"):
            await spread.insert()
            await spread.equal(device)
            head, *others = map(psutil.Process, cluster_processes(spread.data_dir))
            victims = [head] if part == "head" else [process for process in others if process.name() == part]
            assert victims
            for victim in victims:
                victim.kill()

            ups = spread.service.log.read_text().count("the tree is up")

            async def another(ups: int = ups) -> bool:
                return spread.service.log.read_text().count("the tree is up") > ups

            await until(another)
            assert head.pid not in cluster_processes(spread.data_dir)
            await spread.insert()
            await spread.equal(device)
        assert device.afresh == 0
        assert spread.service.is_running
    finally:
        await device.close()
    await asyncio.to_thread(command, "stop", "--data-dir", str(spread.data_dir))

    async def ended() -> bool:
        return not spread.service.is_running

    await until(ended)
    assert await spread.service.stop() == 0
    assert cluster_processes(spread.data_dir) == []


async def test_a_command_finds_the_tree_another_left_and_stop_leaves_nothing(spread: Spread) -> None:
    hosts = {host: spread.process(host).pid for host in HOSTS}
    cluster = cluster_processes(spread.data_dir)
    second = ServiceProcess(spread.dsn, spread.folder, RAY)
    await second.start()
    assert second.port == spread.service.port
    assert await second.stop() == 0
    await spread.service.kill_command()
    assert {host: spread.process(host).pid for host in HOSTS} == hosts
    third = ServiceProcess(spread.dsn, spread.folder, RAY)
    await third.start()
    assert {host: spread.process(host).pid for host in HOSTS} == hosts
    assert await third.stop() == 0
    ended = await asyncio.to_thread(command, "stop", "--data-dir", str(spread.data_dir))
    assert ended.returncode == 0, ended.stderr
    assert all(host in ended.stdout for host in HOSTS)

    async def gone() -> bool:
        return not any(psutil.pid_exists(pid) for pid in {*hosts.values(), *cluster})

    await until(gone)
    again = await asyncio.to_thread(command, "stop", "--data-dir", str(spread.data_dir))
    assert again.returncode == 1
    assert "no service of the runtime ray" in again.stderr


@pytest.mark.slow_on_ray
async def test_hosts_get_as_many_turns_of_the_processor_as_the_command_that_brought_them_up(spread: Spread) -> None:
    assert {host: spread.process(host).nice() for host in HOSTS} == dict.fromkeys(HOSTS, os.nice(0))


@pytest.mark.slow_on_ray
async def test_two_services_share_a_cluster_and_each_ends_alone(
    spread: Spread, another_database: str, tmp_path: Path
) -> None:
    head = json.loads((spread.data_dir / "ray.json").read_text())
    shared = {"SYNCLINE_RAY_ADDRESS": head["address"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head["token"]}
    postgres = await asyncpg.connect(another_database)
    await postgres.execute(ITEMS)
    folder = tmp_path / "other"
    folder.mkdir()
    other = Spread(another_database, folder, postgres)
    other.service = ServiceProcess(another_database, folder, {**RAY, **shared, "SYNCLINE_EDGE_HOSTS": "1"})
    devices: list[Stubborn] = []
    try:
        await other.service.start()
        await postgres.execute("CALL electric.electrify('items')")
        for each in (spread, other):
            devices.append(Stubborn(each.service.url, "items"))
            await each.insert(10)
        for each, device in zip((spread, other), devices, strict=True):
            await each.equal(device)
        lost = await asyncio.to_thread(command, "stop", "--data-dir", str(tmp_path / "nowhere"), **shared)
        assert lost.returncode == 1
        names = [json.loads((each.data_dir / "service.json").read_text())["service"] for each in (spread, other)]
        assert all(name in lost.stderr for name in names)
        ended = await asyncio.to_thread(command, "stop", "--service", names[1], **shared)
        assert ended.returncode == 0, ended.stderr
        with pytest.raises(LookupError):
            other.process("origin")

        async def noticed() -> bool:
            return not other.service.is_running

        await until(noticed)
        assert await other.service.stop() == 0
        assert "it was ended by syncline stop" in other.service.log.read_text()
        await spread.insert(10)
        await spread.equal(devices[0])
    finally:
        for device in devices:
            await device.close()
        await other.service.kill_command()
        await postgres.close()


@pytest.mark.slow_on_ray
@pytest.mark.parametrize("embedded", [False, True])
async def test_a_command_that_learns_late_that_it_is_superseded_leaves_its_successor_alone(
    database: str, tmp_path: Path, *, embedded: bool
) -> None:
    """Ended by ``stop`` while it was frozen, and followed by another in the same cluster and folder."""
    cluster = await asyncio.to_thread(RayCluster.open, tmp_path / "cluster")
    assert cluster.head is not None
    shared = {"SYNCLINE_RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.head.token}
    dsn = "" if embedded else database
    first, second = [ServiceProcess(dsn, tmp_path, {"SYNCLINE_RUNTIME": "ray", **shared}) for _ in range(2)]
    server = EmbeddedPostgres(first.data_dir / "postgres")
    try:
        await first.start()
        os.kill(first.pid, signal.SIGSTOP)
        ended = await asyncio.to_thread(command, "stop", "--data-dir", str(first.data_dir), **shared)
        assert ended.returncode == 0, ended.stderr
        await second.start()
        hosts = {host: process.pid for host, process in second.hosts().items()}
        os.kill(first.pid, signal.SIGCONT)

        async def noticed() -> bool:
            return not first.is_running

        await until(noticed)
        assert await first.stop() == 1
        assert {host: process.pid for host, process in second.hosts().items()} == hosts
        assert Path(socket_folder(second.data_dir)).exists()  # noqa: ASYNC240 - a look
        assert (server.running_port() is not None) == embedded
    finally:
        for service in (first, second):
            if service.is_running:
                os.kill(service.pid, signal.SIGCONT)
                await service.kill_command()
        await asyncio.to_thread(cluster.stop)
        server.stop("immediate")


@pytest.mark.slow_on_ray
@pytest.mark.parametrize("process", ["ray::RuntimeEnvAgent", "ray::HostProcess"])
async def test_a_cluster_that_ends_during_the_bring_up_is_followed_by_another_and_a_stop_leaves_nothing(
    database: str, tmp_path: Path, process: str
) -> None:
    """It has got as far as to have such a ``process``: it is entered at that moment, or hosts are waited for."""
    service = ServiceProcess(database, tmp_path, RAY)
    starting = asyncio.create_task(service.start())
    heads: list[psutil.Process] = []

    async def another_head() -> bool:
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            note = json.loads((service.data_dir / "ray.json").read_text())
            head = psutil.Process(note["pid"])
            names = [each.name() for each in head.children(recursive=True)]
            if note["address"] and head not in heads and any(name.startswith(process[:15]) for name in names):
                heads.append(head)
                return True
        return False

    try:
        await until(another_head)
        everything = [*heads[0].children(recursive=True)]
        heads[0].kill()
        await until(another_head)
        everything += [heads[1], *heads[1].children(recursive=True)]
        assert await service.stop() == 0
        assert "another one is started" in service.log.read_text()
        await asyncio.gather(starting, return_exceptions=True)

        async def gone() -> bool:
            return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in everything)

        await until(gone)
        assert not (service.data_dir / "ray.json").exists()
    finally:
        starting.cancel()
        await service.kill()


@pytest.mark.slow_on_ray
async def test_a_second_command_says_that_it_waits_for_the_first(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    first = FolderLock(folder / "bring-up")
    second = ServiceProcess(database, tmp_path, RAY)
    starting = asyncio.create_task(second.start())

    async def said() -> bool:
        return second.log.exists() and f"another command (process {os.getpid()})" in second.log.read_text()

    try:
        await until(said)
        first.release()
        await starting
    finally:
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.to_thread(command, "stop", "--data-dir", str(folder))
        await second.kill()


@pytest.mark.slow_on_ray
async def test_stop_ends_an_embedded_postgres_whose_command_was_killed(tmp_path: Path) -> None:
    service = ServiceProcess("", tmp_path, RAY)
    server = EmbeddedPostgres(service.data_dir / "postgres")
    try:
        await service.start()
        await service.kill_command()
        assert server.running_port() is not None
        ended = await asyncio.to_thread(command, "stop", "--data-dir", str(service.data_dir))
        assert ended.returncode == 0, ended.stderr
        assert "the embedded Postgres" in ended.stdout
        assert server.running_port() is None
    finally:
        await service.kill()
        server.stop("immediate")


@pytest.mark.slow_on_ray
async def test_stop_ends_what_a_dead_cluster_has_left_and_spares_what_another_service_works_with(
    tmp_path: Path,
) -> None:
    settings = {"SYNCLINE_RUNTIME": "ray", "SYNCLINE_SHAPES_HOSTS": "2"}
    service = ServiceProcess("", tmp_path, settings)
    server = EmbeddedPostgres(service.data_dir / "postgres")

    async def killed() -> list[psutil.Process]:
        await service.start()
        everything = [psutil.Process(pid) for pid in await asyncio.to_thread(cluster_processes, service.data_dir)]
        await service.kill_command()
        everything[0].kill()
        return everything

    async def gone() -> bool:
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in left)

    async def stopped() -> str:
        ended = await asyncio.to_thread(command, "stop", "--data-dir", str(service.data_dir))
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    try:
        left = await killed()
        assert "the embedded Postgres" in await stopped()
        assert server.running_port() is None
        await until(gone)
        assert not Path(socket_folder(service.data_dir)).exists()  # noqa: ASYNC240 - a look
        again = await asyncio.to_thread(command, "stop", "--data-dir", str(service.data_dir))
        assert again.returncode == 1
        assert "no service of the runtime ray" in again.stderr

        left = await killed()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        local = ServiceProcess("", tmp_path, {"SYNCLINE_RUNTIME": "local"})
        await local.start()
        assert "the embedded Postgres" not in await stopped()
        assert local.is_running
        assert server.running_port() is not None
        assert await local.stop() == 0
    finally:
        await service.kill()
        server.stop("immediate")


@pytest.mark.slow_on_ray
async def test_what_a_restart_has_set_outlives_the_cluster(database: str, tmp_path: Path) -> None:
    service = ServiceProcess(database, tmp_path, {"SYNCLINE_RUNTIME": "ray"})
    kept = service.data_dir / "restart.json"

    def hosts_said() -> str:
        return "".join(log.read_text() for log in sorted((service.data_dir / "logs").glob("*.log")))

    async def up_again() -> bool:
        return service.log.read_text().count("the tree is up") == 2

    try:
        await service.start()
        assert "level=info" in hosts_said()
        done = await asyncio.to_thread(command, "restart", "--data-dir", str(service.data_dir), LOG_LEVEL="error")
        assert done.returncode == 0, done.stderr
        assert kept.stat().st_mode & 0o077 == 0
        before = hosts_said().count("level=info")
        psutil.Process(cluster_processes(service.data_dir)[0]).kill()
        await until(up_again)
        assert hosts_said().count("level=info") == before
        assert not kept.exists()
    finally:
        await service.kill()


@pytest.mark.slow_on_ray
async def test_hosts_are_left_alone_however_full_the_memory_of_the_machine(database: str, tmp_path: Path) -> None:
    """Ray ends the processes of batches where memory runs short: here it would end each host before it is ready."""
    service = ServiceProcess(database, tmp_path, {"SYNCLINE_RUNTIME": "ray", "RAY_memory_usage_threshold": "0.01"})
    try:
        await service.start()
    finally:
        await service.kill()


async def test_whoever_has_no_token_is_told_nothing(spread: Spread) -> None:
    """Ray runs code for whoever may talk to it."""
    address = json.loads((spread.data_dir / "ray.json").read_text())["address"]
    program = f"import ray; ray.init(address={address!r}, _node_ip_address={address.split(':')[0]!r})"
    stranger = await asyncio.create_subprocess_exec(
        str(SYNCLINE.with_name("python")),
        *("-c", program),
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await stranger.communicate()
    assert stranger.returncode != 0
    assert b"InvalidAuthToken" in output
    assert (spread.data_dir / "ray.json").stat().st_mode & 0o077 == 0
