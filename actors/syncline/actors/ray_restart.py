"""A rolling restart: every host of a running tree is followed by a new process, with today's code and settings.

The successor is started beside the one it follows and gets as far as it can without taking anything from it. Only then
does that one end, in order. Edges are there twice for a while: the new one serves before the old one sends its devices
away, a few at a time, so that each moves once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from syncline.actors.config import load
from syncline.actors.datadir import FolderInUse, FolderLock
from syncline.actors.faults import Fault, in_folder
from syncline.actors.front import ServiceGaveUp
from syncline.actors.hosts import Role
from syncline.actors.ray_found import (
    KEPT,
    found_cluster,
    found_service,
    generations,
    read_note,
    running,
    write_values,
)
from syncline.cluster.ray_cluster import ClusterUnavailable, still_there
from syncline.cluster.ray_host import HostEnded, RayHost

SUCCESSION_S: Final = 180.0
SETTLE_S: Final = 2.0  # devices come back meanwhile: the start of the next process would take the processor from them


async def restart_service(
    data_dir: Path,
    ray_address: str | None,
    service: str | None,
    given: Mapping[str, str],
    say: Callable[[str], object],
) -> None:
    """Restarts the hosts of ``service``, or else of the one that works in ``data_dir``, one after the other. ``given``:
    settings that differ from those it runs with. ``say`` is told of each host.

    Raises Fault; then the hosts that have not been followed go on as they are, and the same command can be given again.
    Raises ConfigError.
    """
    cluster = await found_cluster(data_dir, ray_address)
    try:
        with _alone(data_dir), cluster.connected():
            named = found_service(cluster, data_dir, service)
            role = await running(named)
            if role is None:
                raise Fault(f"the service {named} ends at this moment", "start it by syncline serve")
            values = {**role.values, **{name: value for name, value in given.items() if name not in KEPT}}
            load({}, values)
            for number, id in enumerate(role.layout.hosts):
                await asyncio.sleep(SETTLE_S if number else 0.0)
                await asyncio.to_thread(still_there)
                await _follow(named, replace(role, id=id, values=values), say)
                if number == 0:
                    _keep(data_dir, named, role.settings.epoch, values)
    except ServiceGaveUp as error:
        raise Fault(str(error), "see the folder logs for what they wait for") from error
    except ClusterUnavailable as error:
        if cluster.head is not None and not cluster.noted:
            raise _stopped("and its cluster with it") from error
        raise Fault(str(error), "see that it runs, or correct --ray-address") from error


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Raises Fault when another command is at it."""
    try:
        lock = FolderLock(data_dir / "restart")
    except FolderInUse as error:
        raise Fault("another restart of this service is under way", "wait for its end") from error
    try:
        yield
    finally:
        lock.release()


def _keep(data_dir: Path, service: str, epoch: int, values: Mapping[str, str]) -> None:
    """Ray has the settings, and forgets them with the cluster: they are kept for the next one. Raises Fault."""
    note = read_note(data_dir)
    if note is not None and note.service == service:  # in somebody's cluster it may work in another folder
        with in_folder(data_dir):
            write_values(data_dir, epoch, values)


async def _follow(service: str, role: Role, say: Callable[[str], object]) -> None:
    """The host of ``role`` gets a new process. Raises Fault."""
    earlier = generations(service, role.id)
    if not earlier:
        raise _stopped(f"{role.id} is no more")
    generation = earlier[-1].name.generation + 1
    began_s = time.monotonic()
    try:
        node = await earlier[-1].node()  # there its files are
    except HostEnded:
        node = None
    host = _brought_up(service, role, generation, node)
    try:
        async with asyncio.timeout(SUCCESSION_S):
            facts = await host.ready()
    except HostEnded as error:
        raise _stopped(f"the new process of {role.id} is no more") from error
    except TimeoutError:
        what = f"a new process of {role.id} was not ready within {SUCCESSION_S:.0f} s"
        became = "the old one goes on" if await _given_up(host, role, node) else "Ray goes on trying"
        raise Fault(what, f"see logs/{role.id.partition(':')[0]}.log: {became}") from None
    say(f"{role.id}: process {facts['pid']}, after {time.monotonic() - began_s:.1f} s")


async def _given_up(host: RayHost, role: Role, node: str | None) -> bool:
    """Ends ``host``, which did not come to serve, if the one before it is still there: whether that one serves. It may
    have been asked to stop already, and comes back then."""
    service, generation = host.name.service, host.name.generation
    earlier = [there for there in generations(service, role.id) if there.name.generation < generation]
    if not earlier:
        return False
    host.end()
    try:
        async with asyncio.timeout(SUCCESSION_S):
            await earlier[-1].ready()
    except HostEnded:  # by the one that was given up, in its last moment
        _brought_up(service, role, generation + 1, node)
        return False
    except TimeoutError:
        return False
    return True


def _brought_up(service: str, role: Role, generation: int, node: str | None) -> RayHost:
    """Raises Fault when there is no other host of the service: whoever has stopped it looked for the last one before
    this one could be seen."""
    host = RayHost.bring_up(role.spec(service, generation), node)
    if not any(name.service == service and name != host.name for name in RayHost.names()):
        host.end()
        raise _stopped("no host of it is left")
    return host


def _stopped(seen: str) -> Fault:
    what = f"the service has been stopped meanwhile, or another one has taken over: {seen}"
    return Fault(what, "start it by syncline serve, which restarts all of it")
