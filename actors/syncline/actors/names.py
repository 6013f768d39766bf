"""The names under which the actors of one host find each other in its registry."""

from __future__ import annotations

from typing import Final

WRITER: Final = "writer"
CONSUMERS: Final = "consumers"
SHARD: Final = "shard"  # of a service with one; several are numbered
ROUTER: Final = "router"
REPLICATOR: Final = "replicator"
PRUNER: Final = "pruner"
BUNDLER: Final = "bundler"
GATEWAY: Final = "gateway"
DEVICES: Final = "devices"
