"""What there is of a service in a Ray cluster, found by its folder or its name, and how it is ended from outside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from syncline.actors.config import embedded_dir
from syncline.actors.faults import Fault
from syncline.actors.front import ServiceGaveUp
from syncline.actors.hosts import Role
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.cluster.ray_cluster import ClusterUnavailable, RayCluster
from syncline.cluster.ray_host import HostEnded, RayHost
from syncline.cluster.ray_names import RayName

ARGUMENT_S: Final = 15.0  # a host that only starts has to import what it needs before it answers
NOTE: Final = "service.json"
STOPPED_IN_ORDER: Final = ("edge", "connection", "shapes", "ingest", "origin")


async def stop_service(data_dir: Path, ray_address: str | None, service: str | None = None) -> list[str]:
    """Ends ``service``, or else the one that works in ``data_dir``, the cluster if it is of its own and nobody else is
    in it, and an embedded Postgres of its own. What was ended. Raises Fault when there is no such service, saying which
    there are, and EmbeddedPostgresError."""
    cluster = await found_cluster(data_dir, ray_address)
    note = read_note(data_dir)
    try:
        with cluster.connected():
            named = found_service(cluster, data_dir, service)
            ended = await stop_hosts(named)
            others = RayHost.names()
    except ClusterUnavailable as error:
        raise Fault(str(error), "see that it runs, or correct --ray-address") from error
    if not others:
        await asyncio.to_thread(cluster.stop)
    if note is not None and note.service == named:
        shutil.rmtree(socket_folder(data_dir), ignore_errors=True)
        if note.embedded and await asyncio.to_thread(_postgres_stopped, data_dir):
            ended.append("the embedded Postgres")
    return ended


def _postgres_stopped(data_dir: Path) -> bool:
    """Ends the one in ``data_dir``; False when it does not run. Raises EmbeddedPostgresError."""
    server = EmbeddedPostgres(embedded_dir(data_dir))
    if not server.folder.exists() or server.running_port() is None:
        return False
    server.stop()
    return True


async def found_cluster(data_dir: Path, ray_address: str | None) -> RayCluster:
    """Raises Fault when there is none."""
    cluster = await asyncio.to_thread(RayCluster.find, data_dir, ray_address)
    if cluster is None:
        raise Fault(f"no service of the runtime ray works in {data_dir}", "give the --data-dir of the one you mean")
    return cluster


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
    while names := sorted((name for name in RayHost.names() if name.service == service), key=_stopped_before):
        for host in [host for host in map(RayHost.find, names) if host is not None]:
            await host.stop()
            ended[host.name.host] = None
    return list(ended)


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


def socket_folder(data_dir: Path) -> str:
    """The name, a short one, of a folder of our own, the same for every command that works in ``data_dir``."""
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir(), f"syncline-{os.getuid()}-{digest}"))
