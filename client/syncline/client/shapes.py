"""Subscriptions of this device: which shapes it wants, and how far each has come. Pure.

A subscription is durable from the moment ``sync`` is called. Its states, and what a new connection does with it:

    REQUESTED    not delivered yet           subscribe again, under a fresh id: the server may have seen the old one
    DELIVERED    its rows are here           name its id when resuming; only what is missing follows
    CANCELLING   unsubscribed by the app     name its id too (the server still counts it), then unsubscribe again
    WITHDRAWN    unsubscribed undelivered    forget it: nothing of it has come, and the next connection will not ask

A CANCELLING one is forgotten when the server's batch of GONE rows has been applied. A WITHDRAWN one cannot be forgotten
at once, for its rows may be on their way: if they arrive, it is CANCELLING. After a reset nothing that was delivered is
here any more: DELIVERED turns into REQUESTED, and what was unsubscribed is forgotten.

A key names what the application shows under it, whose shape may change: a later subscription under the same key
replaces the earlier ones. Each step is one transaction, and what stands after it is what a new connection goes on from:

    asked for    REQUESTED, beside those it is to replace; of a key's undelivered ones only the newest is asked for
    accepted     those of the key that have not been delivered are WITHDRAWN
    refused      forgotten: the key is as it was, and the one before it, if undelivered, is asked for now
    delivered    in the transaction of its rows the others of the key are CANCELLING

So the rows that both hold are never gone in between, and only the difference travels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from syncline.client.shape_spec import ShapeSpec


class ShapeState(Enum):
    REQUESTED = "requested"
    DELIVERED = "delivered"
    CANCELLING = "cancelling"
    WITHDRAWN = "withdrawn"


ON_CANCEL = {ShapeState.REQUESTED: ShapeState.WITHDRAWN, ShapeState.DELIVERED: ShapeState.CANCELLING}
ON_DELIVERY = {ShapeState.REQUESTED: ShapeState.DELIVERED, ShapeState.WITHDRAWN: ShapeState.CANCELLING}

# What the application still wants.
WANTED = frozenset({ShapeState.REQUESTED, ShapeState.DELIVERED})
# What the server counts as ours.
HELD = frozenset({ShapeState.DELIVERED, ShapeState.CANCELLING})


@dataclass(frozen=True, slots=True)
class Subscription:
    """One row of the subscriptions table. ``position`` is its identity here; the wire id changes with each request."""

    position: int
    subscription_id: str
    spec: ShapeSpec
    state: ShapeState
    key: str | None = None


def wanted(subscriptions: Iterable[Subscription], key: str | None) -> list[Subscription]:
    """What is wanted under ``key``, oldest first; None: what has no key."""
    return sorted((s for s in subscriptions if s.key == key and s.state in WANTED), key=lambda s: s.position)


def find(subscriptions: Iterable[Subscription], spec: ShapeSpec, key: str | None = None) -> Subscription | None:
    """The subscription that is to stand for ``spec`` under ``key``, if there is one.

    One given up does not count: its rows are leaving. Under a key only the newest counts, or the one that is here and
    that the undelivered ones after it (``later``) were to replace.
    """
    candidates = wanted(subscriptions, key)
    if key is not None:
        here = [s for s in candidates if s.state is ShapeState.DELIVERED]
        candidates = [*candidates[-1:], *here[-1:]]
    return next((s for s in candidates if s.spec == spec), None)


def later(subscriptions: Iterable[Subscription], subscription: Subscription) -> list[Subscription]:
    """What was to replace ``subscription``, and is unwanted when that is asked for again."""
    return [] if subscription.key is None else _of_key(subscriptions, subscription, lambda p: p > subscription.position)


def earlier(subscriptions: Iterable[Subscription], subscription: Subscription) -> list[Subscription]:
    """What ``subscription`` is to replace."""
    return [] if subscription.key is None else _of_key(subscriptions, subscription, lambda p: p < subscription.position)


def _of_key(
    subscriptions: Iterable[Subscription], subscription: Subscription, there: Callable[[int], bool]
) -> list[Subscription]:
    return [s for s in wanted(subscriptions, subscription.key) if there(s.position)]


def resumable_ids(subscriptions: Iterable[Subscription]) -> tuple[str, ...]:
    """The ids a resuming device names."""
    return tuple(s.subscription_id for s in held(subscriptions))


def held(subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """Those whose rows are here, oldest first."""
    return sorted((s for s in subscriptions if s.state in HELD), key=lambda s: s.position)


def to_request(subscriptions: Iterable[Subscription], fresh_id: Callable[[], str]) -> list[Subscription]:
    """The undelivered subscriptions under fresh ids, to be stored before they are asked for on a new connection."""
    return [replace(s, subscription_id=fresh_id()) for s in subscriptions if s.state is ShapeState.REQUESTED]


def to_ask(subscriptions: Collection[Subscription]) -> list[Subscription]:
    """What to ask a server for that has just been connected to, or has just refused something."""
    newest = {s.key: s for s in sorted(subscriptions, key=lambda s: s.position) if s.state in WANTED}
    return [s for s in subscriptions if s.state is ShapeState.REQUESTED and (s.key is None or newest[s.key] == s)]


def to_cancel(subscriptions: Iterable[Subscription]) -> tuple[str, ...]:
    """The ids to unsubscribe on a new connection, once it has been asked for the others."""
    return tuple(s.subscription_id for s in subscriptions if s.state not in WANTED)


def after_reset(subscriptions: Iterable[Subscription], fresh_id: Callable[[], str]) -> list[Subscription]:
    """What is left once all synced rows have been given up."""
    return [
        replace(s, subscription_id=fresh_id(), state=ShapeState.REQUESTED) for s in subscriptions if s.state in WANTED
    ]


def undelivered_count(subscriptions: Iterable[Subscription]) -> int:
    """Of a key at most one: the others will not come."""
    return len(to_ask(tuple(subscriptions)))
