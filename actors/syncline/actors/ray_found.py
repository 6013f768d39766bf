"""What there is of a service in a Ray cluster, found by its folder or its name, and how it is ended from outside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from syncline.actors.config import embedded_dir
from syncline.actors.datadir import FolderInUse, FolderLock, is_worked_in
from syncline.actors.faults import Fault
from syncline.actors.front import ServiceGaveUp
from syncline.actors.hosts import Role
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.cluster.ray_cluster import ClusterUnavailable, RayCluster
from syncline.cluster.ray_host import HostEnded, RayHost
from syncline.cluster.ray_names import RayName

ARGUMENT_S: Final = 15.0  # a host that only starts has to import what it needs before it answers
NOTE: Final = "service.json"
VALUES: Final = "restart.json"
BRING_UP: Final = "bring-up"  # the lock of the command that brings up a tree in a folder
ENDED: Final = -1  # no epoch: of a host that is no more
STOPPED_IN_ORDER: Final = ("edge", "connection", "shapes", "ingest", "origin")
# What a running tree keeps: who has which place in it, and where devices and other hosts look for it.
KEPT: Final = (
    "DATABASE_URL",
    "HTTP_PORT",
    "SYNCLINE_HTTP_HOST",
    "SYNCLINE_DATA_DIR",
    "SYNCLINE_RUNTIME",
    "SYNCLINE_RAY_ADDRESS",
    "SYNCLINE_SHAPES_HOSTS",
    "SYNCLINE_EDGE_HOSTS",
    "SYNCLINE_SHAPES_PLACEMENT",
    "SYNCLINE_CONNECTIONS_PLACEMENT",
    "SYNCLINE_CONNECTION_HOSTS",
)


async def stop_service(data_dir: Path, ray_address: str | None, service: str | None = None) -> list[str]:
    """Ends ``service``, or else the one that works in ``data_dir``, the cluster if it is of its own and nobody else is
    in it, and an embedded Postgres of its own. What was ended, which may be what a dead cluster of its own has left.
    Raises Fault when there is no such service, saying which there are, and EmbeddedPostgresError."""
    cluster = await asyncio.to_thread(RayCluster.meet, data_dir, ray_address)
    note = read_note(data_dir)
    if cluster is None:
        return await _left_ended(data_dir, note, service)
    try:
        with cluster.connected():
            named = found_service(cluster, data_dir, service)
            ended = await stop_hosts(named)
            others = RayHost.names()
    except ClusterUnavailable as error:
        if cluster.ended:
            return await _left_ended(data_dir, note, service)
        raise Fault(str(error), "see that it runs, or correct --ray-address") from error
    if not others:
        await asyncio.to_thread(cluster.stop)
    if note is not None and note.service == named:
        ended += await _place_left(data_dir, note)
    return ended


async def _left_ended(data_dir: Path, note: Note | None, service: str | None) -> list[str]:
    """What a dead cluster noted in ``data_dir`` has left. Raises Fault when there is none, EmbeddedPostgresError."""
    if not RayCluster.is_noted(data_dir) or service not in (None, None if note is None else note.service):
        raise _none_there(data_dir)
    try:
        turn = FolderLock(data_dir / BRING_UP)
    except FolderInUse as error:
        why = f"a command (process {error.owner}) brings up the service in {data_dir} at this moment"
        raise Fault(why, "end that command, or try again when it is up") from error
    try:
        if not await asyncio.to_thread(RayCluster.clear, data_dir):
            raise _none_there(data_dir)
        ended = ["what its dead Ray cluster has left"]
        if note is not None and not await asyncio.to_thread(is_worked_in, data_dir):
            ended += await _place_left(data_dir, note)
        return ended
    finally:
        turn.release()


async def _place_left(data_dir: Path, note: Note) -> list[str]:
    """Nobody works in ``data_dir`` any more: what was ended there. Raises EmbeddedPostgresError."""
    shutil.rmtree(socket_folder(data_dir), ignore_errors=True)
    (data_dir / VALUES).unlink(missing_ok=True)
    stopped = note.embedded and await asyncio.to_thread(_postgres_stopped, data_dir)
    return ["the embedded Postgres"] if stopped else []


def _postgres_stopped(data_dir: Path) -> bool:
    """Ends the one in ``data_dir``; False when it does not run. Raises EmbeddedPostgresError."""
    server = EmbeddedPostgres(embedded_dir(data_dir))
    if not server.folder.exists() or server.running_port() is None:
        return False
    server.stop()
    return True


async def found_cluster(data_dir: Path, ray_address: str | None) -> RayCluster:
    """Raises Fault when there is none."""
    cluster = await asyncio.to_thread(RayCluster.meet, data_dir, ray_address)
    if cluster is None:
        raise _none_there(data_dir)
    return cluster


def _none_there(data_dir: Path) -> Fault:
    return Fault(f"no service of the runtime ray works in {data_dir}", "give the --data-dir of the one you mean")


def found_service(cluster: RayCluster, data_dir: Path, service: str | None) -> str:
    """``service``, or else the one that works in ``data_dir``, if it is in the connected ``cluster``. Raises Fault."""
    there = sorted({name.service for name in RayHost.names()})
    note = read_note(data_dir)
    named = service or (None if note is None else note.service)
    if named is None or named not in there:
        others = f"{cluster.address} has {', '.join(there) or 'none'}"
        what = f"service {service} runs there" if service else f"service of the runtime ray works in {data_dir}"
        raise Fault(f"no {what}; the cluster {others}", "name the one you mean by --service")
    return named


async def stop_hosts(service: str) -> list[str]:
    """Ends all hosts of ``service`` for good, edges first, the origin last, until there is none, as more may be brought
    up meanwhile; their names. In a connected cluster."""
    ended: dict[str, None] = {}
    while hosts := _hosts(service):
        ended |= await _stopped(hosts)
    return list(ended)


async def stop_tree(service: str, epoch: int, *, silent: bool) -> None:
    """The same for those of one ``epoch``: see ``hosts_of_epoch``. Raises ClusterUnavailable."""
    while hosts := await hosts_of_epoch(service, epoch, silent=silent):
        await _stopped(hosts)


async def _stopped(hosts: list[RayHost]) -> dict[str, None]:
    in_order = sorted(hosts, key=lambda host: _stopped_before(host.name))
    for host in in_order:
        await host.stop()
    return dict.fromkeys(host.name.host for host in in_order)


async def hosts_of_epoch(service: str, epoch: int, *, silent: bool) -> list[RayHost]:
    """The hosts of ``service`` that were brought up with ``epoch``: those of another tree have the same names.
    ``silent``: and those that do not say, where none says another. In a connected cluster. Raises ClusterUnavailable.
    """
    hosts = _hosts(service)
    said = await asyncio.gather(*map(_epoch, hosts))
    if any(each not in (epoch, None, ENDED) for each in said):
        silent = False
    return [host for host, each in zip(hosts, said, strict=True) if each == epoch or (silent and each is None)]


async def _epoch(host: RayHost) -> int | None:
    """None when it does not say in time."""
    try:
        return (await _role(host)).settings.epoch
    except HostEnded:
        return ENDED
    except TimeoutError:
        return None


async def _role(host: RayHost) -> Role:
    """What it was given. Raises HostEnded, TimeoutError, ClusterUnavailable."""
    async with asyncio.timeout(ARGUMENT_S):
        role = await host.argument()
    assert isinstance(role, Role), f"{host.name} is a host of ours"
    return role


def _hosts(service: str) -> list[RayHost]:
    names = [name for name in RayHost.names() if name.service == service]
    return [host for host in map(RayHost.find, names) if host is not None]


def _stopped_before(name: RayName) -> tuple[int, str, int]:
    """A successor before the one it follows, whose place it would take just then."""
    kinds = [kind for kind in STOPPED_IN_ORDER if name.host.startswith(kind)]
    return (STOPPED_IN_ORDER.index(kinds[0]) if kinds else -1, name.host, -name.generation)


@dataclass(frozen=True, slots=True)
class Note:
    """Of a data folder: the ``service`` that works in it, or did when it was last started, and whether an ``embedded``
    Postgres there is part of it."""

    service: str
    embedded: bool


def read_note(data_dir: Path) -> Note | None:
    """What is noted in ``data_dir``."""
    try:
        said = json.loads((data_dir / NOTE).read_text())
        return Note(str(said["service"]), bool(said.get("embedded")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_note(data_dir: Path, note: Note) -> None:
    """It holds from now on."""
    (data_dir / NOTE).write_text(json.dumps(asdict(note)))


def take_values(data_dir: Path, epoch: int | None) -> dict[str, str] | None:
    """The settings that ``restart`` has given the tree of ``epoch`` in ``data_dir``, kept no longer; None when
    it has given none."""
    path = data_dir / VALUES
    try:
        said = json.loads(path.read_text())
        path.unlink(missing_ok=True)
        return {str(name): str(value) for name, value in said["values"].items()} if said["epoch"] == epoch else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_values(data_dir: Path, epoch: int, values: Mapping[str, str]) -> None:
    """They hold for the next tree that the same command brings up. Our own user alone may read them: there are
    passwords and keys among them. In one step, as others look at it. Raises OSError."""
    written = (data_dir / VALUES).with_suffix(".new")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"epoch": epoch, "values": dict(values)}, file)
    written.replace(data_dir / VALUES)


def generations(service: str, host: str) -> list[RayHost]:
    """Of a host, the newest last; more than one while it is replaced."""
    names = [name for name in RayHost.names() if (name.service, name.host) == (service, host)]
    return [there for there in map(RayHost.find, names) if there is not None]


def newest(service: str, host: str) -> RayHost | None:
    there = generations(service, host)
    return there[-1] if there else None


async def running(service: str) -> Role | None:
    """What a host of its tree was given, the newest of them, if that is there already. Raises ServiceGaveUp when hosts
    are there and none says."""
    silent = []
    for host in sorted(_hosts(service), key=lambda host: host.name.generation, reverse=True):
        try:
            return await _role(host)
        except HostEnded:
            continue
        except TimeoutError:
            silent.append(str(host.name))
    if silent:
        raise ServiceGaveUp(f"none of the hosts of {service} answers: {', '.join(silent)}; syncline stop ends them")
    return None


def socket_folder(data_dir: Path) -> str:
    """The name, a short one, of a folder of our own, the same for every command that works in ``data_dir``."""
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir(), f"syncline-{os.getuid()}-{digest}"))
