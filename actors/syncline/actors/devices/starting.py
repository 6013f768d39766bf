"""How a device's stream begins: afresh, or where an earlier connection ended.

Both find the shapes a device holds, started if need be, and the position from which it has to be served. What cannot
be served any more is refused by a code that makes the device drop its rows and start over; its own writes stay. Our own
library asks again then, and says by digests what it holds: it gets what differs (``repairing``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from syncline.actors.devices.layers import Named, named_by
from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.devices.steps import Delivery, Repair
from syncline.actors.devices.subscriptions import Planned, SubscriptionRefused, check_ids, check_room, planning
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.history import UnknownVersion
from syncline.actors.postgres.subscription import Subscription
from syncline.actors.shapes.clauses import check_clauses
from syncline.actors.shapes.frames import LSN_CHARS_MAX
from syncline.actors.shapes.messages import EnsureShape, NotifyReady, ReadWatermark, ShapePlace
from syncline.actors.shapes.paced import paced
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shards import Shards
from syncline.actors.shapes.where import WhereRefused
from syncline.cluster import Ref, Refusal
from syncline.proto.digest import Holdings
from syncline.proto.events import StartRequested
from syncline.proto.flow import OWN_WINDOW_TRANSACTIONS, WINDOW_TRANSACTIONS, Window
from syncline.proto.values import Relation, ShapeRequest

# As long as a device waits for its stream. Whoever asks hears at once of a shard that ends.
PLACE_TIMEOUT_S = 30.0
ENSURED_AT_ONCE = 100


class StartRefused(Exception):
    """``code``: a ReplicationError.Code name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Places:
    """Where the shapes of one device live. A shape's actor ends with its shard, and devices with them, or is removed
    when nobody needs it: so what was found once stays true for as long as a device has it. ``asked``: what all devices
    of a host ask."""

    def __init__(self, shards: Shards, asked: SharedAnswers[ShapePlace]) -> None:
        self._shards = shards
        self._asked = asked
        self._refs: dict[str, Ref] = {}
        self._selecting: set[str] = set()
        self._named: dict[str, Named] = {}

    async def ensure(self, shape: Shape, relations: tuple[Relation, ...]) -> ShapePlace:
        """``shape``'s place; it is started if it lives nowhere yet. Raises what a call raises."""
        place = await self._asked.answer((shape.hash, relations), lambda: self._ask(shape, relations))
        self._refs[shape.hash] = place.ref
        if shape.selects:
            self._selecting.add(shape.hash)
        named = named_by(shape)
        if named is not None:
            self._named[shape.hash] = named
        return place

    def selects(self, shape: str) -> bool:
        """Whether a shape that was ensured before may not hold some rows of its tables."""
        return shape in self._selecting

    def named(self, shape: str) -> Named | None:
        """By what its rows are known; None if by nothing."""
        return self._named.get(shape)

    async def _ask(self, shape: Shape, relations: tuple[Relation, ...]) -> ShapePlace:
        shard = self._shards.refs[await self._shards.found(shape.hash)]
        try:
            whole = tuple(relation.whole for relation in relations)
            place = await shard.call(EnsureShape(shape, whole), PLACE_TIMEOUT_S)
        except Refusal:
            self._shards.forget(shape.hash)
            raise
        assert isinstance(place, ShapePlace)
        return place

    async def prepare(self, planned: Planned, device: Ref) -> set[str]:
        """The hashes of those shapes that are still being read; ``device`` will be told of each. Raises what a call
        raises."""
        waiting: set[str] = set()
        shapes = list(planned.shapes.values())
        for at in range(0, len(shapes), ENSURED_AT_ONCE):  # together, so that they are read together
            part = shapes[at : at + ENSURED_AT_ONCE]
            places = await asyncio.gather(*[self.ensure(shape, planned.relations[shape.hash]) for shape in part])
            for shape, place in zip(part, places, strict=True):
                if place.ready_lsn is None:
                    waiting.add(shape.hash)
                    place.ref.inform(NotifyReady(device))
        return waiting

    async def watermark(self) -> int:
        """Everything up to here has reached the shapes. Raises what a call raises."""
        positions: list[int] = [
            await shard.call(ReadWatermark(), PLACE_TIMEOUT_S) for shard in self._shards.refs.values()
        ]
        return min(positions)

    def refs(self, shapes: Iterable[str]) -> dict[str, Ref]:
        """The actors of shapes that were ensured before, always in the same order."""
        return {shape: self._refs[shape] for shape in sorted(shapes)}


async def plan_now(requests: tuple[ShapeRequest, ...], database: Database) -> Planned:
    """``planning`` with the newest catalogue if need be: a table opened a moment ago may not have passed the stream.

    Raises SubscriptionRefused, and what the database raises.
    """
    try:
        planned = await paced(planning(requests, database.catalog))
    except SubscriptionRefused:
        await database.read()
        planned = await paced(planning(requests, database.catalog))
    await _check(planned, database)
    return planned


async def _check(planned: Planned, database: Database) -> None:
    """Clauses that Python cannot evaluate are for Postgres to accept. Raises SubscriptionRefused."""
    errors: list[tuple[str, str, str]] = []
    tables = database.catalog.tables  # of a table that has gone since the shape's actor hears
    for number, (request_id, hashes) in enumerate(planned.requests, 1):
        if number % ENSURED_AT_ONCE == 0:
            await asyncio.sleep(0)
        for shape in (planned.shapes[hash] for hash in hashes):
            if not shape.has_clauses or not shape.tables.keys() <= tables.keys():
                continue
            try:
                await check_clauses(database.pool, shape, tables)
            except WhereRefused as refused:
                errors.append((request_id, "INVALID_WHERE_CLAUSE", str(refused)))
    if errors:
        raise SubscriptionRefused("SHAPE_REQUEST_ERROR", errors[0][2], tuple(errors))


async def plan_held_now(requests: tuple[ShapeRequest, ...], database: Database) -> Planned:
    """The shapes of a subscription that a device has already, and nothing is taken for gone by an old catalogue. Raises
    what the database raises."""
    planned = await paced(planning(requests, database.catalog, held=True))
    if len(planned.requests) < len(requests):
        await database.read()
        planned = await paced(planning(requests, database.catalog, held=True))
    return planned


@dataclass(frozen=True, slots=True)
class Started:
    """``subscriptions``: those that the device has already. ``loading``: their shapes of which the rows are still being
    read, and whose end, should their table be dropped, has to be heard of. ``joins``: what it holds is of another
    history until it has been repaired."""

    outbound: Outbound
    subscriptions: dict[str, Planned]
    loading: tuple[Ref, ...] = ()
    joins: bool = False


async def start(
    client_id: str,
    event: StartRequested,
    database: Database,
    places: Places,
    generation: int = 0,
    *,
    extensions: bool = False,
) -> Started:
    """The stream that a device asked for. ``generation``: the last one followed on this connection. ``extensions``:
    whether it takes them.

    Raises StartRefused, and what the database and calls raise.
    """
    starting = _Starting(client_id, event, database, places, generation, extensions)
    schema = await places.ensure(starting.schema, ())
    if event.lsn and event.holdings is not None:
        return await starting.repaired(event.holdings)
    return await starting.resumed(schema) if event.lsn else await starting.fresh()


def window_transactions(*, extensions: bool) -> int:
    """How many may be unacknowledged, by whether the device speaks our own protocol."""
    return OWN_WINDOW_TRANSACTIONS if extensions else WINDOW_TRANSACTIONS


@dataclass(frozen=True, slots=True)
class _Starting:
    """See ``start``."""

    client_id: str
    event: StartRequested
    database: Database
    places: Places
    generation: int
    extensions: bool

    @property
    def schema(self) -> Shape:
        return schema_shape(self.event.dialect)

    async def fresh(self) -> Started:
        """A device that has nothing, or starts over: it gets the migrations it lacks and waits for subscriptions."""
        if self.event.subscription_ids:
            raise StartRefused("INVALID_POSITION", "subscriptions without a position")
        await self.database.begin_history(self.client_id)
        return Started(await self._migrated(None), {})

    async def _migrated(self, repair: Repair | None) -> Outbound:
        """The stream from now on, for a device that does not have all migrations before."""
        position = await self.places.watermark()
        # Read after the position: whatever migration the stream has passed by then is in the history.
        await self.database.read()
        try:
            lacking = self.database.history.after(self.event.schema_version)
        except UnknownVersion as unknown:
            raise StartRefused("UNKNOWN_SCHEMA_VSN", str(unknown)) from unknown
        steps = [(migration.created_ms, migration.steps[self.event.dialect]) for migration in lacking]
        relations = {relation.id: relation for migration in lacking for relation in migration.relations}
        return Outbound(
            self.client_id,
            max(1, position),
            self.schema.hash,
            {},
            Window(window_transactions(extensions=self.extensions)),
            [(created_ms, its) for created_ms, its in steps if its],
            tuple(relations.values()),
            self.generation,
            extensions=self.extensions,
            selects=self.places.selects,
            named=self.places.named,
            repair=repair,
        )

    async def resumed(self, schema: ShapePlace) -> Started:
        """A device that gets what followed its position."""
        event, database = self.event, self.database
        if len(event.lsn) > LSN_CHARS_MAX or not event.lsn.isdigit():
            raise StartRefused("BEHIND_WINDOW", "not a position of this server")
        if not await database.of_this_history(self.client_id):
            raise StartRefused("BEHIND_WINDOW", "another history has begun")
        position = int(event.lsn)
        known, held_there = await self._held()
        if position > await database.wal_position():
            raise StartRefused("BEHIND_WINDOW", f"position {position} lies ahead of this database")
        held = [schema, *await self._places_of(held_there)]
        if any(place.ready_lsn is None or place.ready_lsn > position for place in held):
            raise StartRefused("BEHIND_WINDOW", f"what changed since {position} is no longer known")
        await self._forget_others(known, held_there)
        outbound = Outbound(
            self.client_id,
            position,
            self.schema.hash,
            {id: planned.relations for id, planned in held_there.items()},
            Window(window_transactions(extensions=self.extensions)),
            generation=self.generation,
            extensions=self.extensions,
            selects=self.places.selects,
            named=self.places.named,
        )
        return Started(outbound, self._going_on(outbound, known, held_there))

    async def repaired(self, holdings: Holdings) -> Started:
        """A device that was refused to resume, and gets what differs from ``holdings``."""
        known, held_there = await self._held()
        places = await self._places_of(held_there)
        await self._forget_others(known, held_there)
        repair = Repair({id: planned.relations for id, planned in held_there.items()}, holdings)
        outbound = await self._migrated(repair)
        loading = tuple(place.ref for place in places if place.ready_lsn is None)
        joins = not await self.database.of_this_history(self.client_id)
        return Started(outbound, self._going_on(outbound, known, held_there), loading, joins)

    async def _held(self) -> tuple[dict[str, Subscription], dict[str, Planned]]:
        """The subscriptions of the device, and of those it lists what there is to them."""
        known = await self.database.subscriptions(self.client_id)
        held_there: dict[str, Planned] = {}
        for subscription_id in self.event.subscription_ids:
            try:
                if subscription_id not in known:
                    known[subscription_id] = await self._described(subscription_id, held_there)
                held_there[subscription_id] = await plan_held_now(known[subscription_id].shapes, self.database)
            except SubscriptionRefused as refused:
                # It asks anew then, and is told why.
                raise StartRefused("SUBSCRIPTION_NOT_FOUND", f"{subscription_id}: {refused}") from refused
        return known, held_there

    async def _described(self, subscription_id: str, held_there: Mapping[str, Planned]) -> Subscription:
        """A subscription that Postgres does not have, or has no more, as the device describes it. Raises StartRefused,
        SubscriptionRefused, and what the database raises."""
        shapes = self.event.described.get(subscription_id)
        if shapes is None:
            raise StartRefused("SUBSCRIPTION_NOT_FOUND", f"no subscription {subscription_id}")
        check_ids(subscription_id, shapes)
        check_room(held_there, shapes)
        await _check(await plan_held_now(shapes, self.database), self.database)
        await self.database.add_subscription(self.client_id, subscription_id, shapes)
        return Subscription(subscription_id, shapes, cancelled=False)

    async def _places_of(self, held_there: Mapping[str, Planned]) -> list[ShapePlace]:
        shapes = {hash: (shape, p.relations[hash]) for p in held_there.values() for hash, shape in p.shapes.items()}
        return [await self.places.ensure(shape, relations) for shape, relations in shapes.values()]

    async def _forget_others(self, known: Mapping[str, Subscription], held_there: Mapping[str, Planned]) -> None:
        if known.keys() - held_there.keys():
            await self.database.forget_others(self.client_id, held_there)

    def _going_on(
        self, outbound: Outbound, known: Mapping[str, Subscription], held_there: Mapping[str, Planned]
    ) -> dict[str, Planned]:
        """Of what it holds the subscriptions that have not been cancelled."""
        cancelled = tuple(id for id in held_there if known[id].cancelled)
        if cancelled:
            # It lists what it still has the rows of: the connection broke before they had left.
            outbound.deliver(Delivery(cancelled))
        return {id: planned for id, planned in held_there.items() if not known[id].cancelled}
