"""Topics: one publisher, any number of subscribers, one payload for all.

The payload is handed over as it is, the same object to every subscriber: what is to be encoded is encoded once, by the
publisher. A subscriber whose mailbox does not take it is reported back to the publisher, who knows what a missed
payload means; nobody waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Callable

from syncline.cluster.ref import Ref


class PubSub:
    """The topics of one host."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[Ref, Callable[[], None]]] = {}

    def subscribe(self, topic: str, ref: Ref) -> None:
        """``ref`` gets a cast of each payload published from now on, until it unsubscribes or ends. Idempotent."""
        subscribers = self._topics.setdefault(topic, {})
        if ref not in subscribers:
            subscribers[ref] = lambda: None
            subscribers[ref] = ref.on_end(lambda _: self._forget(topic, ref))
            if not ref.alive:
                self._forget(topic, ref)

    def unsubscribe(self, topic: str, ref: Ref) -> None:
        """Nothing more for ``ref``. Idempotent."""
        cancel = self._topics.get(topic, {}).get(ref)
        if cancel is not None:
            cancel()
            self._forget(topic, ref)

    def publish(self, topic: str, payload: object) -> list[Ref]:
        """Casts ``payload`` to all; returns those whose mailbox did not take it."""
        return [ref for ref in tuple(self._topics.get(topic, ())) if not ref.cast(payload)]

    def subscribers(self, topic: str) -> tuple[Ref, ...]:
        """In order of subscription."""
        return tuple(self._topics.get(topic, ()))

    def _forget(self, topic: str, ref: Ref) -> None:
        subscribers = self._topics.get(topic)
        if subscribers is not None:
            subscribers.pop(ref, None)
            if not subscribers:
                del self._topics[topic]
