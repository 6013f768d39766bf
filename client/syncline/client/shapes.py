"""Subscriptions of this device: which shapes it wants, and how far each has come. Pure.

A subscription is durable from the moment ``sync`` is called. Its states, and what a new connection does with it:

    REQUESTED    not delivered yet           subscribe again, under a fresh id: the server may have seen the old one
    DELIVERED    its rows are here           name its id when resuming; only what is missing follows
    CANCELLING   unsubscribed by the app     name its id too (the server still counts it), then unsubscribe again
    WITHDRAWN    unsubscribed undelivered    forget it: nothing of it has come, and the next connection will not ask

A CANCELLING one is forgotten when the server's batch of GONE rows has been applied. A WITHDRAWN one cannot be forgotten
at once, for its rows may be on their way: if they arrive, it is CANCELLING. After a reset nothing that was delivered is
here any more: DELIVERED turns into REQUESTED, and what was unsubscribed is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from syncline.proto.values import ShapeRequest


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
class ShapeSpec:
    """What the application asked for; two equal specs are one subscription. ``where`` is SQL text, empty for all."""

    table: str
    where: str = ""

    def request(self, request_id: str) -> ShapeRequest:
        return ShapeRequest(request_id, self.table, self.where)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One row of the subscriptions table. ``position`` is its identity here; the wire id changes with each request."""

    position: int
    subscription_id: str
    spec: ShapeSpec
    state: ShapeState


def spec_to_json(spec: ShapeSpec) -> str:
    return json.dumps({"table": spec.table, "where": spec.where})


def spec_from_json(text: str) -> ShapeSpec:
    described = json.loads(text)
    return ShapeSpec(described["table"], described["where"])


def find(subscriptions: Iterable[Subscription], spec: ShapeSpec) -> Subscription | None:
    """The subscription that already covers ``spec``. One given up does not count: its rows are leaving."""
    return next((s for s in subscriptions if s.spec == spec and s.state in WANTED), None)


def resumable_ids(subscriptions: Iterable[Subscription]) -> tuple[str, ...]:
    """The ids a resuming device names."""
    return tuple(s.subscription_id for s in subscriptions if s.state in HELD)


def to_request(subscriptions: Iterable[Subscription], fresh_id: Callable[[], str]) -> list[Subscription]:
    """The undelivered subscriptions under fresh ids, to be stored and then requested on a new connection."""
    return [replace(s, subscription_id=fresh_id()) for s in subscriptions if s.state is ShapeState.REQUESTED]


def to_cancel(subscriptions: Iterable[Subscription]) -> tuple[str, ...]:
    """The ids to unsubscribe on a new connection, once it has been asked for the others."""
    return tuple(s.subscription_id for s in subscriptions if s.state not in WANTED)


def after_reset(subscriptions: Iterable[Subscription], fresh_id: Callable[[], str]) -> list[Subscription]:
    """What is left once all synced rows have been given up."""
    return [
        replace(s, subscription_id=fresh_id(), state=ShapeState.REQUESTED) for s in subscriptions if s.state in WANTED
    ]


def undelivered_count(subscriptions: Iterable[Subscription]) -> int:
    return sum(s.state is ShapeState.REQUESTED for s in subscriptions)
