"""The names under which actors find each other, in the registry of each host, and those of the hosts."""

from __future__ import annotations

from typing import Final

WRITER: Final = "writer"
CONSUMERS: Final = "consumers"
SHARD: Final = "shard"  # of a service with one; several are numbered
ROUTER: Final = "router"
ABSORBER: Final = "absorber"
REPLICATOR: Final = "replicator"
PRUNER: Final = "pruner"
REAPER: Final = "reaper"
REREADER: Final = "rereader"
BUNDLER: Final = "bundler"
GATEWAY: Final = "gateway"
CLAIMS: Final = "claims"  # of several edges
DEVICES: Final = "devices"
WATERMARKS: Final = "watermarks"  # of all shards, for hosts with a device each

ORIGIN: Final = "origin"


def ingest_host(slot: str) -> str:
    """Of the host with the replicator of ``slot``."""
    return f"ingest:{slot}"


def shapes_host(number: int) -> str:
    """Of the host with the shard of that number."""
    return f"shapes-{number}"


def connection_host(number: int) -> str:
    """Of one of the hosts with a device each."""
    return f"connection-{number}"


def edge_host(number: int) -> str:
    """Of one of the hosts with devices."""
    return f"edge-{number}"


def shard_names(count: int) -> tuple[str, ...]:
    """Of that many shards."""
    return (SHARD,) if count == 1 else tuple(f"{SHARD}-{number}" for number in range(count))
