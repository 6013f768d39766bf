"""What is asked for on one connection: shapes that are wanted, and the end of those that are not wanted any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncline.client.replica import Replica
from syncline.client.shapes import Subscription, resumable_ids, to_ask, to_cancel
from syncline.client.transport import Transport
from syncline.proto.session import ClientSession


class Asking:
    """Nothing is asked for twice. All methods raise TransportClosed."""

    def __init__(self, transport: Transport, session: ClientSession, replica: Replica) -> None:
        self._transport = transport
        self._session = session
        self._replica = replica
        self._requested: set[str] = set()  # subscription ids
        self._given_up: set[str] = set()

    async def everything(self) -> None:
        """Request every shape that is wanted and not here, give up every one that is not wanted any more."""
        await self.wanted()
        await self.give_up(to_cancel(self._replica.subscriptions.values()))

    async def wanted(self) -> None:
        """Request every shape that is wanted and not here."""
        for subscription in to_ask(self._replica.subscriptions.values()):
            await self.request(subscription)

    async def request(self, subscription: Subscription) -> None:
        if subscription.subscription_id in self._requested:
            return
        self._requested.add(subscription.subscription_id)
        request = subscription.spec.request(subscription.subscription_id)
        await self._transport.send(self._session.subscribe(subscription.subscription_id, [request]))

    async def give_up(self, subscription_ids: Sequence[str]) -> None:
        new = [subscription_id for subscription_id in subscription_ids if subscription_id not in self._given_up]
        if new:
            self._given_up.update(new)
            await self._transport.send(self._session.unsubscribe(new))

    async def give_up_replaced(self, replaced: Iterable[Subscription]) -> None:
        """What was delivered is the server's to take back; what was not, only if it was asked for here."""
        ids = [s.subscription_id for s in replaced]
        here = resumable_ids(self._replica.subscriptions.values())
        await self.give_up([id for id in ids if id in here or id in self._requested])
