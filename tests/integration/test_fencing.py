"""One owner per slot: whoever is frozen while another takes over writes nothing when it wakes up, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from tests.e2e.proxy import Proxy
from tests.integration.hosts_scene import Hosts, spread
from tests.integration.roles import set_another_role
from tests.integration.tree_scene import ITEMS, Stubborn, until
from tests.npm.service import ServiceProcess, cluster_processes
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.actors.datadir import FolderInUse, FolderLock
from syncline.actors.faults import Fault
from syncline.actors.hosts import ServiceHost
from syncline.actors.names import ORIGIN, edge_host
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.database import connect
from syncline.actors.postgres.ownership import UNSEEN_LOOKS, Ownership, Superseded, claim, take_over, watched
from syncline.client import open_db
from syncline.cluster import StartFailed

SLOT = "a_slot"
LOCAL = {"SYNCLINE_RUNTIME": "local"}
RAY = {"SYNCLINE_RUNTIME": "ray"}
ROW = "INSERT INTO items VALUES (?, 1, 'x')"


@pytest.fixture
async def admin(database: str) -> AsyncIterator[asyncpg.Connection]:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def admitted(dsn: str, owner: Ownership) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn, server_settings={"application_name": owner.application_name()})
    try:
        await owner.admit(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def lives(connection: asyncpg.Connection) -> bool:
    try:
        return bool(await connection.fetchval("SELECT true"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False


async def sessions(connection: asyncpg.Connection, below: int) -> int:
    """Of ours, with an epoch lower than that."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND substring(application_name FROM '^syncline ([0-9]+) ')::bigint < $1",
            below,
        )
    )


# --- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.every_major
async def test_whoever_takes_over_ends_all_sessions_of_the_earlier_owner_and_lets_no_new_one_in(
    database: str, admin: asyncpg.Connection
) -> None:
    first = await claim(admin, SLOT, await take_over(admin, SLOT), "origin")
    connections = [await admitted(database, first) for _ in range(3)]
    second = await take_over(admin, SLOT)
    assert second > first.epoch
    assert not any([await lives(connection) for connection in connections])
    with pytest.raises(Superseded) as refused:
        await admitted(database, first)
    assert refused.value.service
    with pytest.raises(Superseded):
        await claim(admin, SLOT, first.service, "origin")


async def test_a_host_that_starts_again_ends_the_sessions_of_its_predecessor_and_no_others(
    database: str, admin: asyncpg.Connection
) -> None:
    service = await take_over(admin, SLOT)
    origin, edge = [await claim(admin, SLOT, service, host) for host in ("origin", "edge-0")]
    of_origin, of_edge = await admitted(database, origin), await admitted(database, edge)
    again = await claim(admin, SLOT, service, "origin")
    assert again.epoch > origin.epoch
    assert not await lives(of_origin)
    assert await lives(of_edge)
    await edge.admit(of_edge)
    with pytest.raises(Superseded) as refused:
        await admitted(database, origin)
    assert not refused.value.service
    await of_edge.close()


async def test_sessions_that_others_have_in_the_same_database_are_left_alone(
    database: str, admin: asyncpg.Connection
) -> None:
    names = ("syncline", "syncline cli", "syncline-bootstrap", "somebody's 1 origin", "")
    theirs = [await asyncpg.connect(database, server_settings={"application_name": name}) for name in names]
    await claim(admin, SLOT, await take_over(admin, SLOT), "origin")
    assert all([await lives(connection) for connection in theirs])
    for connection in theirs:
        await connection.close()


@pytest.mark.every_major
async def test_sessions_are_ended_where_another_role_is_set_for_the_one_that_logs_in(database: str) -> None:
    await set_another_role(database)
    await bootstrap(database)
    admin = await asyncpg.connect(database)
    role = await admin.fetchval("SELECT current_user")
    session = await admitted(database, await claim(admin, SLOT, await take_over(admin, SLOT), "origin"))
    await take_over(admin, SLOT)
    assert not await lives(session)
    assert await admin.fetchval("SELECT current_user") == role
    assert await admin.fetchval("SELECT session_user") != role
    await admin.close()


async def test_a_service_is_seen_at_work_where_another_role_is_set_for_the_one_that_logs_in(database: str) -> None:
    await set_another_role(database)
    await bootstrap(database)
    admin = await asyncpg.connect(database)
    service = await take_over(admin, SLOT)
    session = await admitted(database, await claim(admin, SLOT, service, "origin"))
    port = urlsplit(database).port
    assert port is not None
    proxy = Proxy(port)
    await proxy.start()
    watching = asyncio.create_task(watched(proxy.leads_to(database), SLOT, service))

    async def would_be_over() -> bool:
        return watching.done() or proxy.connections > UNSEEN_LOOKS

    await until(would_be_over)
    assert not watching.done()
    await take_over(admin, SLOT)
    assert await watching is not None
    assert not await lives(session)
    await proxy.stop()
    await admin.close()


async def test_between_the_check_and_the_end_no_session_slips_through(database: str, admin: asyncpg.Connection) -> None:
    """Sessions of the old owner begin all the time while another takes over: none of them works after that."""
    owner = await claim(admin, SLOT, await take_over(admin, SLOT), "origin")
    survivors: list[asyncpg.Connection] = []

    async def keep_connecting() -> None:
        while True:
            survivors.append(await admitted(database, owner))

    tasks = [asyncio.create_task(keep_connecting()) for _ in range(4)]

    async def many() -> bool:
        return len(survivors) >= 8

    await until(many)
    await take_over(admin, SLOT)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, Superseded | asyncpg.PostgresError | OSError) for error in done)
    assert not any([await lives(connection) for connection in survivors])


async def test_a_session_that_does_not_end_is_named_with_the_remedy_and_waited_for(
    database: str, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = await admitted(database, await claim(admin, SLOT, await take_over(admin, SLOT), "origin"))
    pid = stuck.get_server_pid()
    os.kill(pid, signal.SIGSTOP)  # as one that the kernel does not let go of
    try:
        taking = asyncio.create_task(take_over(admin, SLOT))

        async def said() -> bool:
            return any(f"process {pid}: " in line and "pg_stat_activity" in line for line in caplog.messages)

        await until(said)
        assert not taking.done()
    finally:
        os.kill(pid, signal.SIGCONT)
    await taking
    assert not await lives(stuck)


async def test_a_pool_tells_its_owner_that_the_claim_is_over(database: str, admin: asyncpg.Connection) -> None:
    owner = await claim(admin, SLOT, await take_over(admin, SLOT), "edge-0")
    pools = await connect(database, owner)
    assert await pools.pool.fetchval("SELECT current_setting('application_name')") == owner.application_name()
    await take_over(admin, SLOT)
    assert (await owner.lost(pools.pool)).service
    with pytest.raises(Superseded):
        await pools.pool.fetchval("SELECT true")
    pools.terminate()


# --- hosts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [ORIGIN, "ingest", "shapes-0", edge_host(0)])
async def test_a_host_whose_place_is_taken_ends_and_devices_go_on(database: str, tmp_path: Path, role: str) -> None:
    async with spread(database, tmp_path) as hosts:
        device = Stubborn(hosts.url, "items")
        try:
            await insert(hosts)
            await until(lambda: equal(hosts, device))
            (id,) = (id for id in hosts.roles if id.partition(":")[0] == role)
            zombie = hosts.running.pop(id)
            successor = asyncio.create_task(start(hosts, id))
            async with asyncio.timeout(PATIENCE_S):
                exit = await zombie.ended()
                await zombie.stop()
                await successor
            assert "superseded" in str(exit).lower()  # by Postgres or by the other hosts, whoever is met first
            await insert(hosts)
            await until(lambda: equal(hosts, device))
            assert device.afresh == 0
        finally:
            await device.close()


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_shard_waits_for_a_process_before_it_that_still_has_its_folder(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, shards: int
) -> None:
    """Frozen, and superseded meanwhile, it would write on there when it wakes up."""
    async with spread(database, tmp_path, shards=shards) as hosts:
        settings = hosts.roles["shapes-0"].settings
        folders = settings.shard_folders
        for folder in folders.values():
            with pytest.raises(FolderInUse):
                FolderLock(folder)
        frozen = hosts.running.pop("shapes-0")
        successor = ServiceHost(hosts.roles["shapes-0"])
        starting = asyncio.create_task(successor.start())

        async def waits() -> bool:
            return any("this waits for another process to end" in line for line in caplog.messages)

        await until(waits)
        assert not starting.done()
        await frozen.stop()
        await starting
        hosts.running["shapes-0"] = successor


async def start(hosts: Hosts, id: str) -> None:
    """As Ray would: again until it succeeds. What its predecessor holds, such as a folder, it gives up only then."""
    while True:
        host = ServiceHost(hosts.roles[id])
        try:
            await host.start()
        except (FolderInUse, Fault, StartFailed):  # the folder, the port, the name: held until it ends
            await host.stop()
            await asyncio.sleep(0.1)  # Ray takes longer to start the next one
        else:
            hosts.running[id] = host
            return


async def insert(hosts: Hosts) -> None:
    await hosts.postgres.execute("INSERT INTO items SELECT gen_random_uuid(), n, 'x' FROM generate_series(1, 50) n")


async def equal(hosts: Hosts, device: Stubborn) -> bool:
    return device.rows == {row[0].encode() for row in await hosts.postgres.fetch("SELECT id::text FROM items")}


# --- services -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def two(
    request: pytest.FixtureRequest, database: str, tmp_path: Path
) -> AsyncIterator[tuple[ServiceProcess, ServiceProcess]]:
    """Services of one database, each with a folder of its own; the first one runs. Of the runtime local unless the
    test asks for another."""
    services = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        services.append(ServiceProcess(database, tmp_path / name, getattr(request, "param", LOCAL)))
    connection = await asyncpg.connect(database)
    await connection.execute(ITEMS)
    await services[0].start()
    await connection.execute("CALL electric.electrify('items')")
    await connection.close()
    yield services[0], services[1]
    for service in services:
        if service.is_running:
            tell(processes(service), signal.SIGCONT)
            await service.kill()


def processes(service: ServiceProcess) -> list[int]:
    """All of it, Ray's own too."""
    return [service.pid, *cluster_processes(service.data_dir)]


def tell(pids: list[int], what: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


async def epoch(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT epoch FROM electric.owner"))


async def ends(service: ServiceProcess) -> None:
    """By itself, and with an error."""

    async def ended() -> bool:
        return not service.is_running

    await until(ended)
    assert await service.stop() == 1


@pytest.mark.parametrize(
    "two",
    [
        pytest.param(LOCAL, id="local", marks=pytest.mark.every_major),
        pytest.param(RAY, id="ray", marks=pytest.mark.slow_on_ray),
    ],
    indirect=True,
)
async def test_a_frozen_service_that_wakes_up_after_another_took_over_writes_nothing_and_ends(
    database: str, tmp_path: Path, two: tuple[ServiceProcess, ServiceProcess]
) -> None:
    frozen, successor = two
    postgres = await asyncpg.connect(database)
    async with open_db(tmp_path / "device.db", url=frozen.url) as device:
        await device.connect(insecure_token("me"))
        await (await device.sync("items")).synced()
        pids = await asyncio.to_thread(processes, frozen)
        tell(pids, signal.SIGSTOP)
        await device.execute(ROW, ["00000000-0000-4000-8000-000000000001"])  # it is in the frozen service's socket
        await successor.start()
        assert await sessions(postgres, await epoch(postgres)) == 0
        rows_before = await postgres.fetch("SELECT * FROM electric.clients")
        tell(pids, signal.SIGCONT)
        await ends(frozen)

        async def gone() -> bool:
            return not any(map(psutil.pid_exists, pids))

        await until(gone)
    assert "another service has taken it over" in frozen.said()
    assert await postgres.fetchval("SELECT count(*) FROM items") == 0
    assert await postgres.fetch("SELECT * FROM electric.clients") == rows_before
    assert await sessions(postgres, await epoch(postgres)) == 0

    async def written() -> bool:
        return bool(await postgres.fetchval("SELECT count(*) = 1 FROM items"))

    async with open_db(tmp_path / "device.db", url=successor.url) as device:
        await device.connect(insecure_token("me"))
        await until(written)
    await postgres.close()


async def test_a_second_service_waits_for_the_first_to_end_and_takes_over(
    database: str, two: tuple[ServiceProcess, ServiceProcess]
) -> None:
    first, second = two
    starting = asyncio.create_task(second.start())

    async def waits() -> bool:
        return second.log.exists() and "another Syncline serves this database" in second.log.read_text()

    await until(waits)
    postgres = await asyncpg.connect(database)
    before = await epoch(postgres)
    assert await first.stop() == 0
    await starting
    assert await epoch(postgres) == before + 2  # the first service's process has had one as well
    await postgres.close()


async def test_a_service_that_is_told_to_takes_over_at_once(
    database: str, two: tuple[ServiceProcess, ServiceProcess], tmp_path: Path
) -> None:
    first, _ = two
    eager = ServiceProcess(database, tmp_path / "second", {**LOCAL, "SYNCLINE_TAKE_OVER": "true"})
    await eager.start()
    await ends(first)
    await eager.kill()
