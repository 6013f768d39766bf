"""The service spread over processes that Ray places, starts and restarts: brought up, or found running."""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
import shutil
import socket
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from syncline.actors.config import Config
from syncline.actors.datadir import FolderInUse, FolderLock, open_data_dir
from syncline.actors.faults import in_folder, port_fault
from syncline.actors.front import ServiceGaveUp
from syncline.actors.hosts import Role
from syncline.actors.layout import Layout
from syncline.actors.names import ORIGIN, edge_host
from syncline.actors.postgres.ownership import Superseded, owner_of, watched
from syncline.actors.postgres.slot import service_name
from syncline.actors.preparing import PostgresSource, owning, prepare, settle_for_hosts
from syncline.actors.ray_found import (
    BRING_UP,
    KEPT,
    Note,
    hosts_of_epoch,
    newest,
    read_note,
    running,
    socket_folder,
    stop_tree,
    take_values,
    write_note,
)
from syncline.actors.tree import Settings
from syncline.cluster import Exit
from syncline.cluster.ray_cluster import ClusterUnavailable, RayCluster
from syncline.cluster.ray_host import HostEnded, RayHost
from syncline.cluster.spec import ExitKind

log = logging.getLogger(__name__)

WATCH_S: Final = 1.0
GONE_S: Final = 30.0  # after a minute without its cluster Ray ends a process that is connected to it
ENDING_LOOKS: Final = 10
HOSTS_SEEN_S: Final = 60.0  # Ray is asked no more often where Postgres shows nobody at work
SAY_EVERY_S: Final = 15.0
SAY_TURN_S: Final = 3.0
TURN_S: Final = 0.2
TRIES: Final = 5
STOPPED: Final = Exit(ExitKind.SHUTDOWN, detail="it was ended by syncline stop")


class Tree(enum.Enum):
    """What the tree of hosts is to a command, which may end what is its own alone."""

    UNKNOWN = "not met or made yet"
    FOUND = "others have brought it up: it goes on without the command"
    OURS = "this command has begun to bring it up"
    ENDED = "it is no more: syncline stop has ended it, or somebody's cluster is gone"
    SUPERSEDED = "its hosts end by themselves; what has their names now, and the folder, may be its successor's"


class RayService:
    """``start``, then the tree of hosts is up, and goes on by itself. ``stop`` ends it, unless it was found running:
    then it goes on.

    Raises Fault, FolderInUse, ServiceGaveUp, Superseded, and what Postgres' preparation raises.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._postgres = PostgresSource(config)
        self._cluster: RayCluster | None = None
        self._opening: asyncio.Task[RayCluster] | None = None
        self._settings: Settings | None = None
        self._values: Mapping[str, str] | None = None  # of the tree, as far as this command has heard
        self._name = ""
        self._tree = Tree.UNKNOWN
        self.port = 0
        self.dsn = ""

    async def start(self) -> None:
        """Returns when devices may connect."""
        config = self._config
        with in_folder(config.data_dir):
            open_data_dir(config.data_dir)
            self.dsn = await self._postgres.start()
        await self._start_tree()

    async def _start_tree(self) -> bool:
        """False when syncline stop has meanwhile ended what an earlier cluster of our own has left."""
        self._tree = Tree.UNKNOWN
        turn = await _turn(self._config.data_dir)
        try:
            if self._cluster is not None and not self._cluster.noted:
                return False
            identity, settings = await prepare(self._config, self.dsn, self._config.shapes_hosts)
            self._name = service_name(settings.slot, identity.server_id)
            for _ in range(TRIES):
                if await self._brought_up(settings):
                    return True
                log.error("the Ray cluster of this service has ended while it was brought up: another one is started")
        finally:
            turn.release()
        raise ServiceGaveUp(f"the Ray cluster of this service has ended {TRIES} times while it was brought up")

    async def _brought_up(self, settings: Settings) -> bool:
        """False when a cluster of our own has ended meanwhile. Raises ServiceGaveUp when it is somebody's."""
        cluster = None
        try:
            self._opening = asyncio.create_task(
                asyncio.to_thread(RayCluster.open, self._config.data_dir, self._config.ray_address)
            )
            self._cluster = cluster = await asyncio.shield(self._opening)
            with cluster.connected():
                await _unless_gone(cluster, self._bring_up(settings))
        except ClusterUnavailable as error:
            if cluster is None or cluster.head is None or not await _ending(cluster):
                raise ServiceGaveUp(str(error)) from error
            return False
        except HostEnded as error:
            why = f"{error} while it was brought up: by syncline stop, or because another service has taken over"
            raise ServiceGaveUp(why) from error
        return True

    async def _bring_up(self, settings: Settings) -> None:
        """In a connected cluster."""
        self._take_folder()
        role = await running(self._name) or await self._new_role(settings)
        self._settings, self._values = role.settings, role.values
        roles = [replace(role, id=id) for id in role.layout.hosts]
        places = role.layout.spread(RayCluster.nodes())
        name = self._name
        hosts = [newest(name, role.id) or RayHost.bring_up(role.spec(name), places[role.id]) for role in roles]
        self._tree = Tree.FOUND if all(host.found for host in hosts) else Tree.OURS
        facts = dict(zip([role.id for role in roles], await _ready(hosts), strict=True))
        self.port = _port_of(facts[edge_host(0)])
        pids = ", ".join(f"{id} {said['pid']}" for id, said in facts.items())
        log.info("%s: %s", "the tree was running already" if self._tree is Tree.FOUND else "the tree is up", pids)

    async def _new_role(self, settings: Settings) -> Role:
        """There is no such tree yet: what it works with is ours from now on."""
        earlier = self._settings
        self._settings = settings = await owning(self._config, settings)
        self._tree = Tree.OURS
        await settle_for_hosts(self._config, settings)
        set_since = take_values(self._config.data_dir, None if earlier is None else earlier.epoch)
        self._values = set_since or self._values
        return self._role(settings)

    def _role(self, settings: Settings) -> Role:
        """Of the origin of a new tree; those of the other hosts differ in their ids only."""
        config = self._config
        sockets = socket_folder(config.data_dir)
        several = config.ray_address is not None  # a cluster of our own has one node, somebody's may get more
        layout = Layout(
            settings.slot, config.shapes_hosts, config.edge_hosts, sockets, config.connection_hosts, several
        )
        port = str(_free_port(config.http_hosts, self.port or config.http_port))
        given = config.values.get("SYNCLINE_DATA_DIR", "")
        data_dir = given if given.startswith("~") else str(config.data_dir)  # a home is each machine's own
        # What syncline restart has set outlives the cluster that knew it; places and numbers are this command's.
        last = config.values if self._values is None else self._values
        values = {name: value for name, value in last.items() if name not in KEPT}
        values |= {name: value for name, value in config.values.items() if name in KEPT}
        if config.database_url is None:
            values |= {"DATABASE_URL": self.dsn, "SYNCLINE_HTTP_HOST": ",".join(config.http_hosts)}
            values["AUTH_MODE"] = values.get("AUTH_MODE") or config.auth_mode
        values |= {"SYNCLINE_DATA_DIR": data_dir, "HTTP_PORT": port}
        return Role(ORIGIN, layout, settings, values, secrets.token_hex(32))

    def _take_folder(self) -> None:
        """Notes that this service works in its folder. Raises ServiceGaveUp when another one does."""
        folder = self._config.data_dir
        other = read_note(folder)
        if other is not None and other.service != self._name:
            if any(name.service == other.service for name in RayHost.names()):
                why = f"the service {other.service} works in {folder}: give this one a SYNCLINE_DATA_DIR of its own"
                raise ServiceGaveUp(why)
            other = None
        embedded = self._config.database_url is None or (other is not None and other.embedded)
        write_note(folder, Note(self._name, embedded))

    async def stop(self) -> None:
        """Ends the hosts in order, and the cluster if it is our own. Leaves alone what was found running."""
        if self._opening is not None:
            # One that was cut short goes on in its thread: waited for, or it would leave a cluster behind.
            (opened,) = await asyncio.gather(self._opening, return_exceptions=True)
            self._cluster = opened if isinstance(opened, RayCluster) else self._cluster
        if self._tree is Tree.FOUND:
            log.info("the tree goes on, and so does an embedded Postgres: it was running before this command")
            return
        if self._tree is Tree.OURS and await self._taken_over():
            self._tree = Tree.SUPERSEDED
        try:
            await self._end_tree()
        except ClusterUnavailable as error:
            log.warning("the hosts were not ended in order: %s", error)
        if self._tree is Tree.SUPERSEDED:
            log.info("another service has taken over: its hosts go on, and so does an embedded Postgres")
            return
        if self._tree is Tree.OURS:
            shutil.rmtree(socket_folder(self._config.data_dir), ignore_errors=True)
        await self._postgres.stop(spare_found=self._tree is Tree.UNKNOWN)

    async def _taken_over(self) -> bool:
        """By another service, which this one may not have heard of yet."""
        settings = self._settings
        assert settings is not None, "the tree is ours"
        return await owner_of(settings.dsn, settings.slot) not in (settings.epoch, None)

    async def _end_tree(self) -> None:
        """As far as it is ours; and the cluster, if it is our own and nobody is in it."""
        cluster, others = self._cluster, False
        if cluster is None:
            return
        if cluster.alive:
            with cluster.connected():
                if self._settings is not None and self._tree in (Tree.OURS, Tree.SUPERSEDED):
                    await stop_tree(self._name, self._settings.epoch, silent=self._tree is Tree.OURS)
                there = RayHost.names()
            others = bool(there)
            if self._tree is Tree.OURS and any(name.service == self._name for name in there):
                self._tree = Tree.SUPERSEDED
        if not others:
            await asyncio.to_thread(cluster.stop)

    async def ended(self) -> Exit:
        """Waits until the cluster has been gone for a while (whoever runs it may be restarting it), another service has
        taken over, on which our hosts end by themselves, or they are no more. A cluster of our own that ends is
        followed by another."""
        while (end := await self._end()) is None:
            log.error("the Ray cluster of this service has ended, and its hosts with it: another one is started")
            if not await self._start_tree():
                end = STOPPED
                break
        self._tree = Tree.SUPERSEDED if isinstance(end.cause, Superseded) else Tree.ENDED
        return end

    async def _end(self) -> Exit | None:
        """None for a cluster of our own that has ended by itself."""
        cluster, settings = self._cluster, self._settings
        assert cluster is not None, "it has been started"
        assert settings is not None, "it has been started"
        gone = asyncio.create_task(_gone(cluster))
        try:
            while True:
                watching = asyncio.create_task(watched(settings.dsn, settings.slot, settings.epoch))
                try:
                    await asyncio.wait({gone, watching}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    watching.cancel()
                if gone.done():
                    break
                superseded = watching.result()
                if superseded is not None:
                    return Exit(ExitKind.KILLED, superseded)
                without = await self._without_hosts(cluster, settings)
                if without is not None:
                    return without
                await asyncio.wait({gone}, timeout=HOSTS_SEEN_S)
        finally:
            gone.cancel()
        if cluster.ended:
            return None if cluster.noted else STOPPED
        return Exit(ExitKind.UNREACHABLE, detail=f"the Ray cluster at {cluster.address} is gone")

    async def _without_hosts(self, cluster: RayCluster, settings: Settings) -> Exit | None:
        """Why there is none of our tree, as far as Ray says; None when there is: they may just start again."""
        try:
            with cluster.connected():
                if not any(name.service == self._name for name in RayHost.names()):
                    return STOPPED
                if await hosts_of_epoch(self._name, settings.epoch, silent=True):
                    return None
        except ClusterUnavailable:
            return None
        why = f"others have the names of the hosts of {self._name}, whose epoch {settings.epoch} is over"
        return Exit(ExitKind.KILLED, Superseded(why, service=True))


async def _gone(cluster: RayCluster) -> None:
    """Returns when it is over with ``cluster``: the head of our own has ended, or somebody's has not answered for a
    while, as whoever runs it may be restarting it."""
    gone_s = 0.0
    while gone_s < GONE_S and not cluster.ended:
        await asyncio.sleep(WATCH_S)
        gone_s = 0.0 if await asyncio.to_thread(lambda: cluster.alive) else gone_s + WATCH_S


async def _unless_gone(cluster: RayCluster, work: Coroutine[Any, Any, None]) -> None:
    """Does ``work``, and raises ClusterUnavailable when ``cluster`` is gone before it is done."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(cluster))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClusterUnavailable(f"the Ray cluster at {cluster.address} is gone")
        await working
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _ending(cluster: RayCluster) -> bool:
    """Whether it ends, which takes a moment once a part of it has."""
    for _ in range(ENDING_LOOKS):
        if cluster.ended:
            return True
        await asyncio.sleep(WATCH_S)
    return False


async def _ready(hosts: list[RayHost]) -> list[Mapping[str, object]]:
    """Waits for all of them, and says now and then for whom. Raises HostEnded, ClusterUnavailable."""
    waits = {asyncio.create_task(host.ready(), name=str(host.name)) for host in hosts}
    pending = waits
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=SAY_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if pending:
                names = ", ".join(sorted(task.get_name() for task in pending))
                log.warning("not ready yet: %s; what they say is in the folder logs", names)
    finally:
        for task in waits:
            task.cancel()
    by_name = {task.get_name(): task.result() for task in waits}
    return [by_name[str(host.name)] for host in hosts]


async def _turn(data_dir: Path) -> FolderLock:
    """Commands that bring up a tree in the same folder do so one after the other; says for whom this one waits."""
    began_s, said = time.monotonic(), False
    while True:
        try:
            return FolderLock(data_dir / BRING_UP)
        except FolderInUse as error:
            if not said and time.monotonic() - began_s > SAY_TURN_S:
                said = True
                log.warning(
                    "not ready yet: another command (process %s) brings up a service in %s, and says what it waits for "
                    "itself; this one goes on after it",
                    error.owner,
                    data_dir,
                )
        await asyncio.sleep(TURN_S)


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
