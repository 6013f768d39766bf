"""The shards of a service: which of them has which shape.

A shape lives in one shard, the one that rendezvous hashing gives its hash to: everybody who knows the same shards
agrees without asking. Where shapes are to be alone, as far as there are shards, that is decided once a shape
(``AssignedShards``): whoever deals with it asks, and remembers. What goes to shapes goes to their shards; what holds of
all shapes is the least of what the shards say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from syncline.cluster import ActorDown, Ref
from syncline.cluster.placement import place

T = TypeVar("T")


class Shards:
    """``refs``: shard name -> its address; at least one. The names are the same in every process of the service."""

    def __init__(self, refs: Mapping[str, Ref]) -> None:
        self.refs = dict(refs)
        self._homes: dict[str, str] = {}

    def home(self, shape: str) -> str | None:
        """The name of the shard that has ``shape`` (a hash); None when that is not known here, which is only where
        homes are ``found`` or ``noted``."""
        home = self._homes.get(shape)
        if home is None:
            home = self._homes[shape] = place(shape, self.refs)
        return home

    async def found(self, shape: str, prefers: str | None = None) -> str:
        """The name of the shard that has ``shape``, or has it from now on. ``prefers``: the one that has its files."""
        return self._homes.get(shape) or self._homes.setdefault(shape, place(shape, self.refs))

    def note(self, shape: str, home: str) -> None:
        """That is where ``shape`` is, as whoever has it says."""

    def forget(self, shape: str) -> None:
        """It was not where it was found."""

    async def release(self, shape: str) -> None:
        """It lives nowhere any more: its shard has removed it. Raises what keeping homes raises."""

    def split(self, entries: Mapping[str, T]) -> dict[str, dict[str, T]]:
        """``entries`` by shape hash, for each shard its own; every shard is there. A shape of which nobody knows where
        it is has nobody who waits for it."""
        parts: dict[str, dict[str, T]] = {name: {} for name in self.refs}
        for shape, entry in entries.items():
            home = self.home(shape)
            if home is not None:
                parts[home][shape] = entry
        return parts


class AssignedShards(Shards):
    """``assign``: gives the home of a shape, or decides it for everybody; ``unassign``: it has none (see
    ``postgres.homes``)."""

    def __init__(
        self,
        refs: Mapping[str, Ref],
        assign: Callable[[str, str | None], Awaitable[str]],
        unassign: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(refs)
        self._assign = assign
        self._unassign = unassign

    def home(self, shape: str) -> str | None:
        return self._homes.get(shape)

    async def found(self, shape: str, prefers: str | None = None) -> str:
        """Raises what ``assign`` raises."""
        if shape not in self._homes:
            self._homes[shape] = await self._assign(shape, prefers)
        return self._homes[shape]

    def note(self, shape: str, home: str) -> None:
        self._homes[shape] = home

    def forget(self, shape: str) -> None:
        self._homes.pop(shape, None)

    async def release(self, shape: str) -> None:
        self.forget(shape)
        if self._unassign is not None:
            await self._unassign(shape)


async def tell(edges: dict[Ref, None], message: object) -> None:
    """Sends ``message`` to all; returns when each has it. Those who have ended are left out from then on."""

    async def sent(edge: Ref) -> None:
        try:
            await edge.send(message)
        except ActorDown:
            edges.pop(edge, None)

    sending = [sent(edge) for edge in edges]
    if len(sending) > 1:  # one after the other would take as long as all of them together
        await asyncio.gather(*sending)
    elif sending:
        await sending[0]


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
