"""The order of a server's deliveries: one at a time, and in each a begin and an end for every shape that was asked for.

A device throws its data away when a delivery lacks one of its shapes, and takes whatever comes in the middle for rows
of it. So the session asks here before each of these messages, and a mistake of ours stays on our side.
"""

from __future__ import annotations

from typing import Final

from syncline.proto.errors import misuse

# Subscriptions whose delivery is still owed. One more, and the oldest loses the check that its delivery is whole.
EXPECTED_MAX: Final = 1024


class Deliveries:
    """Every method raises ProtocolError (INTERNAL) for a step out of order."""

    def __init__(self) -> None:
        self._expected: dict[str, set[str]] = {}
        # Request ids of the open delivery that have had no begin yet; None while none is open.
        self._missing: set[str] | None = None
        self._shape_open = False

    @property
    def open(self) -> bool:
        return self._missing is not None

    def expect(self, subscription_id: str, request_ids: set[str]) -> None:
        """A subscription was asked for. Of a repeated id the first counts: the second will be refused."""
        self._expected.setdefault(subscription_id, request_ids)
        if len(self._expected) > EXPECTED_MAX:
            del self._expected[next(iter(self._expected))]

    def forget(self, subscription_id: str) -> None:
        """It was refused, or ended before its delivery."""
        self._expected.pop(subscription_id, None)

    def require_none(self) -> None:
        if self._missing is not None:
            raise misuse("one delivery at a time")

    def begin(self, subscription_id: str) -> None:
        self.require_none()
        self._missing = self._expected.pop(subscription_id, set())

    def begin_shape(self, request_id: str) -> None:
        missing = self._require_between_shapes()
        missing.discard(request_id)
        self._shape_open = True

    def require_shape(self) -> None:
        self._require_open()
        if not self._shape_open:
            raise misuse("rows outside a shape")

    def end_shape(self) -> None:
        self._require_open()
        if not self._shape_open:
            raise misuse("no shape has begun")
        self._shape_open = False

    def end(self) -> None:
        missing = self._require_between_shapes()
        if missing:
            raise misuse(f"shapes asked for and left out: {', '.join(sorted(missing))}")
        self._missing = None

    def _require_open(self) -> set[str]:
        if self._missing is None:
            raise misuse("no delivery is open")
        return self._missing

    def _require_between_shapes(self) -> set[str]:
        missing = self._require_open()
        if self._shape_open:
            raise misuse("the last shape has not ended")
        return missing
