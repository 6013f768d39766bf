"""How far each shape has come that the application has in its hands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from syncline.client.live import Watched
from syncline.client.shapes import ShapeState, Subscription

Stage: TypeAlias = Literal["requested", "receiving", "delivered", "repairing", "cancelling", "unsubscribed", "refused"]

_STAGES: Final[Mapping[ShapeState, Stage]] = {
    ShapeState.REQUESTED: "requested",
    ShapeState.DELIVERED: "delivered",
    ShapeState.CANCELLING: "cancelling",
    ShapeState.WITHDRAWN: "cancelling",
}


@dataclass(frozen=True, slots=True)
class ShapeStatus:
    """What an application can show its user about one shape.

    ``state``:

    * ``"requested"``: its rows are not here yet; also while offline;
    * ``"receiving"``: they are on their way;
    * ``"delivered"``: all of them are here, and what changes follows;
    * ``"repairing"``: they are here as they were; the service has lost track of what changed since, so all shapes are
      compared with it, and those rows that differ come (``rows`` of ``rows_estimate``, of all shapes together);
    * ``"cancelling"``: unsubscribed or replaced; when the server has said which rows no other shape holds, these leave;
    * ``"unsubscribed"``: that is done;
    * ``"refused"``: the server does not deliver it, for ``reason``; nothing was changed, and it is not asked again.

    ``rows``: received of the delivery under way, or of the last one since the database was opened. ``rows_estimate``:
    about how many there will be, None if the server does not say.
    """

    state: Stage
    rows: int = 0
    rows_estimate: int | None = None
    reason: str | None = None


class ShapeStatuses:
    """By the position of the subscription. ``subscriptions``: those of the replica, as they are when asked."""

    def __init__(self, subscriptions: Callable[[], Mapping[int, Subscription]]) -> None:
        self._subscriptions = subscriptions
        self._watched: dict[int, Watched[ShapeStatus]] = {}

    def watch(self, subscription: Subscription) -> Watched[ShapeStatus]:
        position = subscription.position
        if position not in self._watched:
            self._watched[position] = Watched(ShapeStatus(_STAGES[subscription.state]))
        return self._watched[position]

    def follow(self, subscriptions: Iterable[Subscription]) -> None:
        """These have moved, or have been forgotten."""
        for subscription in subscriptions:
            self._follow(subscription.position)

    def follow_all(self) -> None:
        """Any may have moved, and nothing is being received any more."""
        for position in list(self._watched):
            self._follow(position)

    def _follow(self, position: int) -> None:
        watched = self._watched.get(position)
        if watched is None:
            return
        subscription = self._subscriptions().get(position)
        if subscription is None:
            watched.set(replace(watched.value, state="unsubscribed"))
            del self._watched[position]
        elif subscription.state is ShapeState.REQUESTED:
            watched.set(ShapeStatus("requested"))
        else:
            watched.set(replace(watched.value, state=_STAGES[subscription.state]))

    def received(self, subscription: Subscription, rows: int, rows_estimate: int | None) -> None:
        watched = self._watched.get(subscription.position)
        if watched is not None and subscription.state is ShapeState.REQUESTED:
            watched.set(ShapeStatus("receiving", rows, rows_estimate))

    def repairing(self, rows: int, rows_estimate: int | None) -> None:
        """All that is here is compared with the server's."""
        for position, watched in self._watched.items():
            subscription = self._subscriptions().get(position)
            if subscription is not None and subscription.state is ShapeState.DELIVERED:
                watched.set(ShapeStatus("repairing", rows, rows_estimate))

    def refused(self, subscription: Subscription, reason: str) -> None:
        watched = self._watched.pop(subscription.position, None)
        if watched is not None:
            watched.set(ShapeStatus("refused", reason=reason))
