"""Which hosts a service has, which of them holds which name, and how they reach each other. Pure.

    origin  <-  ingest:<slot>  <-  shapes-0, shapes-1, ...  <-  connection-0, ...  <-  edge-0, edge-1, ...

Of two hosts the one further right dials the other, so that each pair has one link. A host that starts again listens at
the same address as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.actors.names import (
    ABSORBER,
    CLAIMS,
    ORIGIN,
    PRUNER,
    REAPER,
    REPLICATOR,
    ROUTER,
    WATERMARKS,
    WRITER,
    connection_host,
    edge_host,
    ingest_host,
    shapes_host,
    shard_names,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """``folder``: of the sockets by which hosts of this machine talk; short, as the names of sockets have to be.
    ``connections``: how many hosts have a device each; none when devices are with the edges. ``several_machines``:
    hosts may be on different ones, so that they are asked where they are."""

    slot: str
    shards: int
    edges: int
    folder: str
    connections: int = 0
    several_machines: bool = False

    @property
    def ranks(self) -> tuple[tuple[str, ...], ...]:
        """The hosts, those who are dialled before those who dial them."""
        return (
            (ORIGIN,),
            (ingest_host(self.slot),),
            tuple(shapes_host(number) for number in range(self.shards)),
            self.connection_hosts,
            tuple(edge_host(number) for number in range(self.edges)),
        )

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(host for rank in self.ranks for host in rank)

    @property
    def connection_hosts(self) -> tuple[str, ...]:
        """Those with a device each."""
        return tuple(connection_host(number) for number in range(self.connections))

    @property
    def shard_hosts(self) -> dict[str, str]:
        """Shard name -> the host it lives on."""
        return {name: shapes_host(number) for number, name in enumerate(shard_names(self.shards))}

    @property
    def homes(self) -> dict[str, str]:
        """Name -> the one host it is held on. A name that every edge has of its own is not among them."""
        return {
            WRITER: ORIGIN,
            CLAIMS: ORIGIN,
            ROUTER: ORIGIN,
            ABSORBER: ORIGIN,
            WATERMARKS: ORIGIN,
            PRUNER: ORIGIN,
            REAPER: ORIGIN,
            REPLICATOR: ingest_host(self.slot),
            **self.shard_hosts,
        }

    def spread(self, nodes: Sequence[str]) -> dict[str, str]:
        """Host -> the node it is best on: what there is once together, of the others each kind over all ``nodes``."""
        return {host: nodes[number % len(nodes)] for rank in self.ranks for number, host in enumerate(rank)}

    def keeper_of(self, host: str) -> str:
        """The host that has ``host`` replaced when it is frozen: the origin, and of the origin the ingest host."""
        return ingest_host(self.slot) if host == ORIGIN else ORIGIN

    def dialled_by(self, host: str) -> tuple[str, ...]:
        """The hosts that ``host`` connects to. Raises ValueError for one that is none of ours."""
        before: tuple[str, ...] = ()
        for rank in self.ranks:
            if host in rank:
                return before
            before += rank
        raise ValueError(f"{host} is no host of this service: it has {', '.join(self.hosts)}")

    def address(self, host: str) -> str:
        """Where ``host`` listens."""
        return f"unix:{self.folder}/{host.partition(':')[0]}"
