"""The service spread over processes that Ray places, starts and restarts: brought up, or found running."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from syncline.actors.config import Config
from syncline.actors.datadir import FolderInUse, FolderLock, open_data_dir
from syncline.actors.faults import Fault, in_folder, port_fault
from syncline.actors.front import ServiceGaveUp
from syncline.actors.hosts import Role
from syncline.actors.layout import Layout
from syncline.actors.names import ORIGIN, edge_host
from syncline.actors.postgres.ownership import superseded
from syncline.actors.postgres.slot import service_name
from syncline.actors.preparing import PostgresSource, owning, prepare, settle_for_hosts
from syncline.actors.tree import Settings
from syncline.cluster import Exit
from syncline.cluster.ray_cluster import ClusterUnavailable, RayCluster
from syncline.cluster.ray_host import HostEnded, HostSpec, RayHost
from syncline.cluster.ray_names import RayName
from syncline.cluster.spec import ExitKind

log = logging.getLogger(__name__)

WATCH_S = 1.0
GONE_S = 30.0
SAY_EVERY_S = 15.0
TURN_S = 0.2
ARGUMENT_S = 15.0  # a host that only starts has to import what it needs before it answers
PROGRAM = "syncline.actors.hosts:run"
LOOP = "uvloop:new_event_loop"
NOTE = "service.json"
STOPPED_IN_ORDER = ("edge", "connection", "shapes", "ingest", "origin")


class RayService:
    """``start``, then the tree of hosts is up, and goes on by itself. ``stop`` ends it, unless it was found running:
    then it goes on.

    Raises Fault, FolderInUse, ServiceGaveUp, Superseded, and what Postgres' preparation raises.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._postgres = PostgresSource(config)
        self._cluster: RayCluster | None = None
        self._settings: Settings | None = None
        self._name = ""
        self.found = False
        self.port = 0
        self.dsn = ""

    async def start(self) -> None:
        """Returns when devices may connect."""
        config = self._config
        with in_folder(config.data_dir):
            open_data_dir(config.data_dir)
            self.dsn = await self._postgres.start()
        await self._start_tree()

    async def _start_tree(self) -> None:
        config = self._config
        identity, settings = await prepare(config, self.dsn, config.shapes_hosts)
        self._name = service_name(settings.slot, identity.server_id)
        turn = await _turn(config.data_dir)
        try:
            self._cluster = await asyncio.to_thread(RayCluster.open, config.data_dir, config.ray_address)
            with self._cluster.connected():
                role = await running(self._name) or await self._new_role(settings)
                self._settings = role.settings
                await self._bring_up([replace(role, id=id) for id in role.layout.hosts])
        except ClusterUnavailable as error:
            raise ServiceGaveUp(str(error)) from error
        finally:
            turn.release()

    async def _new_role(self, settings: Settings) -> Role:
        """There is no such tree yet: what it works with is ours from now on."""
        settings = await owning(self._config, settings)
        await settle_for_hosts(self._config, settings)
        return self._role(settings)

    def _role(self, settings: Settings) -> Role:
        """Of the origin of a new tree; those of the other hosts differ in their ids only."""
        config = self._config
        sockets = _sockets(config.data_dir)
        several = config.ray_address is not None  # a cluster of our own has one node, somebody's may get more
        layout = Layout(
            settings.slot, config.shapes_hosts, config.edge_hosts, sockets, config.connection_hosts, several
        )
        port = str(_free_port(config.http_hosts, self.port or config.http_port))
        given = config.values.get("SYNCLINE_DATA_DIR", "")
        data_dir = given if given.startswith("~") else str(config.data_dir)  # a home is each machine's own
        values = {**config.values, "SYNCLINE_DATA_DIR": data_dir, "HTTP_PORT": port}
        if config.database_url is None:
            values |= {"DATABASE_URL": self.dsn, "AUTH_MODE": config.auth_mode}
            values |= {"SYNCLINE_HTTP_HOST": ",".join(config.http_hosts)}
        return Role(ORIGIN, layout, settings, values, secrets.token_hex(32))

    async def _bring_up(self, roles: list[Role]) -> None:
        self._take_folder()
        places = roles[0].layout.spread(RayCluster.nodes())
        hosts = [_newest(self._name, role.id) or RayHost.bring_up(self._spec(role), places[role.id]) for role in roles]
        self.found = all(host.found for host in hosts)
        facts = dict(zip([role.id for role in roles], await _ready(hosts), strict=True))
        self.port = _port_of(facts[edge_host(0)])
        pids = ", ".join(f"{id} {said['pid']}" for id, said in facts.items())
        log.info("%s: %s", "the tree was running already" if self.found else "the tree is up", pids)

    def _spec(self, role: Role) -> HostSpec:
        return HostSpec(RayName(self._name, role.id), PROGRAM, role, LOOP)

    def _take_folder(self) -> None:
        """Notes that this service works in its folder. Raises ServiceGaveUp when another one does."""
        folder = self._config.data_dir
        other = read_note(folder)
        if other is not None and other != self._name and any(name.service == other for name in RayHost.names()):
            raise ServiceGaveUp(f"the service {other} works in {folder}: give this one a SYNCLINE_DATA_DIR of its own")
        (folder / NOTE).write_text(json.dumps({"service": self._name}))

    async def stop(self) -> None:
        """Ends the hosts in order, and the cluster if it is our own. Leaves alone what was found running."""
        cluster = self._cluster
        if self.found:
            log.info("the tree goes on, and so does an embedded Postgres: it was running before this command")
            return
        if cluster is not None:
            others = False
            if cluster.alive:
                with cluster.connected():
                    await stop_hosts(self._name)
                    others = bool(RayHost.names())
                shutil.rmtree(_sockets(self._config.data_dir), ignore_errors=True)
            if cluster.started and not others:
                await asyncio.to_thread(cluster.stop)
        await self._postgres.stop()

    async def ended(self) -> Exit:
        """Waits until the cluster has been gone for a while (whoever runs it may be restarting it), or another service
        has taken over, on which our hosts end by themselves. A cluster of our own that ends is followed by another."""
        while (end := await self._end_of_cluster()) is None:
            log.error("the Ray cluster of this service has ended, and its hosts with it: another one is started")
            await self._start_tree()
        return end

    async def _end_of_cluster(self) -> Exit | None:
        """None for one of our own that has ended by itself."""
        cluster, settings = self._cluster, self._settings
        assert cluster is not None, "it has been started"
        assert settings is not None, "it has been started"
        losing = asyncio.create_task(superseded(settings.dsn, settings.slot, settings.epoch))
        gone_s = 0.0
        try:
            while gone_s < GONE_S and not cluster.ended and not losing.done():
                await asyncio.sleep(WATCH_S)
                gone_s = 0.0 if await asyncio.to_thread(lambda: cluster.alive) else gone_s + WATCH_S
        finally:
            losing.cancel()
        if losing.done() and not losing.cancelled():
            return Exit(ExitKind.KILLED, losing.result())
        if cluster.ended:
            return None if cluster.noted else Exit(ExitKind.SHUTDOWN, detail="it was ended by syncline stop")
        return Exit(ExitKind.UNREACHABLE, detail=f"the Ray cluster at {cluster.address} is gone")


async def stop_service(data_dir: Path, ray_address: str | None, service: str | None = None) -> list[str]:
    """Ends ``service``, or else the one that works in ``data_dir``, and the cluster if it is of its own and nobody else
    is in it. The names of its hosts. Raises Fault when there is no such service, saying which there are."""
    cluster = await found_cluster(data_dir, ray_address)
    try:
        with cluster.connected():
            ended = await stop_hosts(found_service(cluster, data_dir, service))
            others = RayHost.names()
    except ClusterUnavailable as error:
        raise Fault(str(error), "correct --ray-address") from error
    if not others:
        await asyncio.to_thread(cluster.stop)
    shutil.rmtree(_sockets(data_dir), ignore_errors=True)
    return ended


async def found_cluster(data_dir: Path, ray_address: str | None) -> RayCluster:
    """Raises Fault when there is none."""
    cluster = await asyncio.to_thread(RayCluster.find, data_dir, ray_address)
    if cluster is None:
        raise Fault(f"no service of the runtime ray works in {data_dir}", "give the --data-dir of the one you mean")
    return cluster


def found_service(cluster: RayCluster, data_dir: Path, service: str | None) -> str:
    """``service``, or else the one that works in ``data_dir``, if it is in the connected ``cluster``. Raises Fault."""
    there = sorted({name.service for name in RayHost.names()})
    named = service or read_note(data_dir)
    if named is None or named not in there:
        others = f"{cluster.address} has {', '.join(there) or 'none'}"
        what = f"service {service} runs there" if service else f"service of the runtime ray works in {data_dir}"
        raise Fault(f"no {what}; the cluster {others}", "name the one you mean by --service")
    return named


async def stop_hosts(service: str) -> list[str]:
    """Ends all hosts of ``service`` for good, edges first, the origin last; their names. In a connected cluster."""
    names = sorted((name for name in RayHost.names() if name.service == service), key=_stopped_before)
    for host in [host for host in map(RayHost.find, names) if host is not None]:
        await host.stop()
    return [name.host for name in names]


def _stopped_before(name: RayName) -> tuple[int, RayName]:
    kinds = [kind for kind in STOPPED_IN_ORDER if name.host.startswith(kind)]
    return (STOPPED_IN_ORDER.index(kinds[0]) if kinds else -1, name)


def read_note(data_dir: Path) -> str | None:
    """The service that works in ``data_dir``, or did when it was last started."""
    try:
        return str(json.loads((data_dir / NOTE).read_text())["service"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def generations(service: str, host: str) -> list[RayHost]:
    """Of a host, the newest last; more than one while it is replaced."""
    names = [name for name in RayHost.names() if (name.service, name.host) == (service, host)]
    return [there for there in map(RayHost.find, names) if there is not None]


def _newest(service: str, host: str) -> RayHost | None:
    there = generations(service, host)
    return there[-1] if there else None


async def running(service: str) -> Role | None:
    """What a host of its tree was given, the newest of them, if that is there already. Raises ServiceGaveUp when hosts
    are there and none says."""
    names = [name for name in RayHost.names() if name.service == service]
    silent = []
    for host in filter(None, map(RayHost.find, sorted(names, key=lambda name: name.generation, reverse=True))):
        try:
            async with asyncio.timeout(ARGUMENT_S):
                role = await host.argument()
        except HostEnded:
            continue
        except TimeoutError:
            silent.append(str(host.name))
            continue
        assert isinstance(role, Role), f"{host.name} is a host of ours"
        return role
    if silent:
        raise ServiceGaveUp(f"none of the hosts of {service} answers: {', '.join(silent)}; syncline stop ends them")
    return None


async def _ready(hosts: list[RayHost]) -> list[Mapping[str, object]]:
    """Waits for all of them, and says now and then for whom."""
    waits = {asyncio.create_task(host.ready(), name=str(host.name)) for host in hosts}
    pending = waits
    try:
        while pending:
            _, pending = await asyncio.wait(pending, timeout=SAY_EVERY_S)
            if pending:
                names = ", ".join(sorted(task.get_name() for task in pending))
                log.warning("not ready yet: %s; what they say is in the folder logs", names)
    finally:
        for task in waits:
            task.cancel()
    by_name = {task.get_name(): task.result() for task in waits}
    return [by_name[str(host.name)] for host in hosts]


async def _turn(data_dir: Path) -> FolderLock:
    """Commands that bring up a tree in the same folder do so one after the other."""
    while True:
        with contextlib.suppress(FolderInUse):
            return FolderLock(data_dir / "bring-up")
        await asyncio.sleep(TURN_S)


def _sockets(data_dir: Path) -> str:
    """The name, a short one, of a folder of our own, the same for every command that works in ``data_dir``."""
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir(), f"syncline-{os.getuid()}-{digest}"))


def _free_port(hosts: tuple[str, ...], port: int) -> int:
    """``port``, or any for 0, if it is free now: edges share one, so that they would not notice a stranger on it.

    Raises Fault.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in hosts[0] else socket.AF_INET) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not matter
            taken.bind((hosts[0], port))
            return int(taken.getsockname()[1])
    except OSError as error:
        raise port_fault(error, hosts, port) from error


def _port_of(facts: Mapping[str, object]) -> int:
    port = facts["port"]
    assert isinstance(port, int)
    return port
