"""The subscriptions of a connected device: asked for, prepared until all shapes of one are ready, delivered, ended."""

from __future__ import annotations

from collections.abc import Callable

from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.reception import Socket
from syncline.actors.devices.starting import Places, plan_now
from syncline.actors.devices.steps import Delivery
from syncline.actors.devices.subscriptions import (
    Planned,
    SubscriptionRefused,
    check_ids,
    check_relations,
    check_room,
    relations_of,
)
from syncline.actors.postgres.database import Database
from syncline.cluster import Ref
from syncline.proto.events import SubscribeRequested, UnsubscribeRequested
from syncline.proto.session import ServerSession
from syncline.proto.values import Relation


class Subscribing:
    """Of ``device``, who is told which shapes are ready. ``changed``: there is more for its stream to do."""

    def __init__(
        self,
        device: Ref,
        connection: Socket,
        session: ServerSession,
        database: Database,
        places: Places,
        changed: Callable[[], object],
    ) -> None:
        self._device = device
        self._connection = connection
        self._session = session
        self._database = database
        self._places = places
        self._changed = changed
        self._client_id = ""
        self._outbound: Outbound | None = None
        self._subscriptions: dict[str, Planned] = {}
        self._relations: dict[int, Relation] = {}  # of these, by id
        # Subscriptions whose shapes are not all ready, with the hashes of those that are not.
        self._preparing: dict[str, set[str]] = {}

    def begin(self, client_id: str, outbound: Outbound, subscriptions: dict[str, Planned]) -> None:
        """The stream has begun, with these."""
        self._client_id, self._outbound, self._subscriptions = client_id, outbound, subscriptions
        self._relations = relations_of(subscriptions.values())

    def end(self) -> None:
        """The stream has."""
        self._outbound = None
        self._subscriptions.clear()
        self._relations.clear()
        self._preparing.clear()

    async def subscribe(self, event: SubscribeRequested) -> None:
        """Answered, and prepared. Raises what the database and calls raise."""
        try:
            if event.subscription_id in self._subscriptions:
                raise SubscriptionRefused(
                    "SUBSCRIPTION_ID_ALREADY_EXISTS", f"{event.subscription_id} is active already"
                )
            check_ids(event.subscription_id, event.shapes)
            check_room(self._subscriptions, event.shapes)
            planned = await plan_now(event.shapes, self._database)
            check_relations(self._relations, planned)
        except SubscriptionRefused as refused:
            self._connection.send(
                self._session.subscribe_refused(
                    event.request_id, event.subscription_id, refused.code, refused.message, refused.errors
                )
            )
            return
        await self._database.add_subscription(self._client_id, event.subscription_id, event.shapes)
        self._subscriptions[event.subscription_id] = planned
        self._relations.update(relations_of((planned,)))
        self._connection.send(self._session.subscribed(event.request_id, event.subscription_id))
        waiting = await self._places.prepare(planned, self._device)
        self._preparing[event.subscription_id] = waiting
        self._expect()
        self._deliver_ready()

    def shape_ready(self, shape: str) -> None:
        for waiting in self._preparing.values():
            waiting.discard(shape)
        self._deliver_ready()

    def _deliver_ready(self) -> None:
        if self._outbound is None:
            return
        ready = [id for id, waiting in self._preparing.items() if not waiting]
        for subscription_id in ready:
            del self._preparing[subscription_id]
            self._outbound.deliver(self._subscriptions[subscription_id].delivery(subscription_id))
        if ready:
            self._expect()

    def _expect(self) -> None:
        """Rows of which tables cannot be delivered yet."""
        if self._outbound is not None:
            planned = [self._subscriptions[subscription_id] for subscription_id in self._preparing]
            shapes = (relations for one in planned for relations in one.relations.values())
            self._outbound.expect({relation.table_id for relations in shapes for relation in relations})
            self._changed()

    async def unsubscribe(self, event: UnsubscribeRequested) -> None:
        """Answered; what has been delivered leaves. Raises what the database raises."""
        await self._database.cancel_subscriptions(self._client_id, event.subscription_ids)
        self._connection.send(self._session.unsubscribed(event.request_id))
        if self._outbound is None:
            return
        leaving: list[str] = []
        for subscription_id in event.subscription_ids:
            undelivered = self._preparing.pop(subscription_id, None) is not None
            known = self._subscriptions.pop(subscription_id, None) is not None
            if not undelivered and not (known and self._outbound.cancel(subscription_id)):
                leaving.append(subscription_id)
        self._relations = relations_of(self._subscriptions.values())
        self._expect()
        if not leaving:
            return
        self._outbound.deliver(Delivery(tuple(event.subscription_ids)))
        self._changed()
