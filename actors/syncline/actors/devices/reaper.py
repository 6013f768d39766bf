"""Removes what nobody needs any more: shapes that no device's subscription names, and subscriptions of devices that do
not come back.

A device subscribes in Postgres before it asks for the shape. So whoever asks for a shape after the subscriptions have
been read is noticed by the shard, which then keeps it; whoever asked before is found among the subscriptions. What is
due is looked up twice, for what a shard answers may be older than the newest subscription.

A shape is removed by its shard, then its route by the router, which leaves that of a new shape of the same kind alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from syncline.actors.devices.claims import ReadClients
from syncline.actors.devices.subscriptions import SubscriptionRefused, plan
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.pruning import note_removed
from syncline.actors.shapes.reaping import Idle, IdleShape, Policy, ReadIdle, RemoveShape, due
from syncline.actors.shapes.router import DropRoutes, ReadRoutes
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Actor, ActorDown, CallTimeout, Ref, Refusal
from syncline.proto.values import ShapeRequest

log = logging.getLogger(__name__)

EVERY_S = 60.0
EXPIRE_EVERY_S = 3600.0
ASK_TIMEOUT_S = 60.0  # a shard may have a long transaction to hand on first
PLANNED_AT_ONCE = 50
# What passes by itself: there is another round.
PASSING: Final = (*AWAY, ActorDown, CallTimeout, Refusal)


class _Round:
    """It is time."""


class Reaper(Actor):
    """Works by itself; nothing depends on it. ``clients``: who knows which devices are connected."""

    def __init__(self, policy: Policy, database: Database, shards: Shards, router: Ref, clients: Ref) -> None:
        self._policy = policy
        self._database = database
        self._shards = shards
        self._router = router
        self._clients = clients
        self._idle_since_s: dict[str, float] = {}  # by the hash of the shape
        self._expired_at_s: float | None = None
        self._planned: dict[str, frozenset[str]] = {}  # by the text of a request, of one catalogue
        self._catalog: Catalog | None = None
        self._too_large = False
        # Shapes that are removed, and what the router is to be told; until it has been.
        self._routes: list[tuple[Shape, str]] = []

    async def init(self) -> None:
        self.send_after(EVERY_S, _Round())

    async def handle_info(self, message: object) -> None:
        if isinstance(message, _Round):
            self.background(self._work())

    async def _work(self) -> None:
        try:
            await self._drop_routes()
            await self._expire()
            await self._reap()
        except PASSING as error:
            log.info("what nobody needs is looked for again in %.0f s: %s", EVERY_S, error)
        self.send_after(EVERY_S, _Round())

    async def _expire(self) -> None:
        now_s = self.clock.monotonic_s()
        if self._expired_at_s is not None and now_s - self._expired_at_s < EXPIRE_EVERY_S:
            return
        connected = await self._clients.call(ReadClients(), ASK_TIMEOUT_S)
        assert isinstance(connected, tuple)
        await self._database.seen(connected)
        forgotten = await self._database.forget_unseen(self._policy.devices_kept_s)
        if forgotten:
            log.info("what %d devices hold that were not here for long is forgotten", forgotten)
            await note_removed(self._database.pool, "devices", forgotten)
        self._expired_at_s = now_s

    async def _reap(self) -> None:
        known = await self._router.call(ReadRoutes(), ASK_TIMEOUT_S)
        assert isinstance(known, str)
        idle, size = await self._idle(await self._needed())
        now_s = self.clock.monotonic_s()
        self._idle_since_s = {
            hash: self._idle_since_s.get(hash, now_s) for hash in (one.shape.hash for one in idle.values())
        }
        most = self._policy.disk_max_bytes
        over = 0 if most is None else size - most
        chosen = due(idle.values(), self._idle_since_s, now_s, self._policy.idle_s, over)
        if chosen:
            await self._database.read()  # a table may have been opened, or dropped
            needed = await self._needed()
            chosen = [one for one in chosen if one.shape.hash not in needed]
        for one in chosen:
            if await self._remove(one):
                self._routes.append((one.shape, known))
                over -= one.size_bytes
        await self._drop_routes()
        self._warn(over)

    async def _needed(self) -> frozenset[str]:
        """The hashes of all shapes that subscriptions name."""
        catalog = self._database.catalog
        if catalog is not self._catalog:
            self._catalog, self._planned = catalog, {}
        planned = self._planned
        self._planned = {}
        for number, (text, request) in enumerate(await self._database.requests()):
            self._planned[text] = planned[text] if text in planned else _hashes(request, catalog)
            if number % PLANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return frozenset(hash for hashes in self._planned.values() for hash in hashes)

    async def _idle(self, needed: frozenset[str]) -> tuple[dict[str, IdleShape], int]:
        """The shapes that are not needed, and the bytes of all."""
        idle: dict[str, IdleShape] = {}
        size = 0
        for name, shard in self._shards.refs.items():
            answer = await shard.call(ReadIdle(needed), ASK_TIMEOUT_S)
            assert isinstance(answer, Idle)
            size += answer.size_bytes
            for one in answer.shapes:
                self._shards.note(one.shape.hash, name)
                idle[one.shape.hash] = one
        return idle, size

    async def _remove(self, one: IdleShape) -> bool:
        hash = one.shape.hash
        shard = self._shards.refs[await self._shards.found(hash)]
        removed = await shard.call(RemoveShape(hash, one.asked), ASK_TIMEOUT_S)
        if removed:
            self._shards.forget(hash)
            self._idle_since_s.pop(hash, None)
            table = f"{one.shape.schema}.{one.shape.table}"
            log.info("shape %s is not needed any more: removed, %d bytes", table, one.size_bytes)
        return bool(removed)

    async def _drop_routes(self) -> None:
        """Of the shapes that have been removed."""
        for known in {known for _, known in self._routes}:
            shapes = tuple(shape for shape, at in self._routes if at == known)
            await self._router.call(DropRoutes(shapes, known), ASK_TIMEOUT_S)
            self._routes = [(shape, at) for shape, at in self._routes if at != known]

    def _warn(self, over_bytes: int) -> None:
        if over_bytes > 0 and not self._too_large:
            log.warning("shapes that are needed take %d bytes more of the disk than they should", over_bytes)
        self._too_large = over_bytes > 0


def _hashes(request: ShapeRequest, catalog: Catalog) -> frozenset[str]:
    try:
        return frozenset(plan((request,), catalog, held=True).shapes)
    except SubscriptionRefused:  # nor will the device be given it
        return frozenset()
