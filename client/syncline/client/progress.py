"""What a connection reports to whoever outlives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from syncline.client.shapes import Subscription


class Progress(Protocol):
    """What a connection reports."""

    def started(self) -> None:
        """The stream is live."""

    def applied(self) -> None:
        """Something from the server has been committed."""

    def reach_awaited(self) -> bool:
        """Whether to ask if all others have what there is by now; it counts as asked then."""

    def reached(self) -> None:
        """They have."""

    def reach_unknown(self) -> None:
        """This server does not tell."""

    def accepted(self, subscription: Subscription) -> None: ...

    def receiving(self, subscription: Subscription, rows: int, rows_estimate: int | None) -> None:
        """``rows`` of its delivery are here so far."""

    def delivered(self, subscription: Subscription) -> None: ...

    def replaced(self, subscriptions: Sequence[Subscription]) -> None:
        """Another one has taken their place under their key."""

    def repairing(self, rows: int, rows_estimate: int | None) -> None:
        """What is here is compared with the server's; ``rows`` of what differs are here so far."""

    def repaired(self) -> None: ...

    def left(self, subscriptions: Sequence[Subscription]) -> None:
        """They were unwanted, and their rows are gone."""

    def refused(self, subscription: Subscription, code: str, message: str) -> None: ...
