"""The shards of a service: which of them has which shape.

A shape lives in one shard, the one that rendezvous hashing gives its hash to: everybody who knows the same shards
agrees without asking. What goes to shapes goes to their shards; what holds of all shapes is the least of what the
shards say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from syncline.cluster import Ref
from syncline.cluster.placement import place

T = TypeVar("T")


class Shards:
    """``refs``: shard name -> its address; at least one. The names are the same in every process of the service."""

    def __init__(self, refs: Mapping[str, Ref]) -> None:
        self.refs = dict(refs)
        self._homes: dict[str, str] = {}

    def home(self, shape: str) -> str:
        """The name of the shard that has ``shape`` (a hash)."""
        home = self._homes.get(shape)
        if home is None:
            home = self._homes[shape] = place(shape, self.refs)
        return home

    def of(self, shape: str) -> Ref:
        """The shard that has ``shape``."""
        return self.refs[self.home(shape)]

    def split(self, entries: Mapping[str, T]) -> dict[str, dict[str, T]]:
        """``entries`` by shape hash, for each shard its own; every shard is there."""
        parts: dict[str, dict[str, T]] = {name: {} for name in self.refs}
        for shape, entry in entries.items():
            parts[self.home(shape)][shape] = entry
        return parts


class Least:
    """How far all of ``names`` have come, each saying how far it has: None until every one has spoken."""

    def __init__(self, names: Iterable[str]) -> None:
        self._missing = set(names)
        self._reached: dict[str, int] = {}

    def reached(self, name: str, lsn: int) -> int | None:
        """``name`` has come to ``lsn``; it never goes back. The least of all now."""
        self._missing.discard(name)
        self._reached[name] = max(lsn, self._reached.get(name, 0))
        return None if self._missing else min(self._reached.values())
