"""The window of transactions that a device has been sent and has not acknowledged.

A server sends at most ``size`` of them, then rests until an ack comes. An ack names one transaction and covers every
one sent before it. Devices in the field name transactions twice, ask about id 0 before they have seen any, and list ids
of an earlier connection: none of that is an error, it just moves nothing.

The device's half is ``AckPolicy``: it acks when 70 % of the window is used, when it is asked to (a delivery has been
applied, a timer has run out), and never the same transaction twice.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_TRANSACTIONS: Final = 30
# For our own client, which acks when it is asked to: what it lacks after a while away comes in fewer round trips.
OWN_WINDOW_TRANSACTIONS: Final = 300
ACK_SHARE: Final = 0.7


class Window:
    """The server's half. ``size``: how many transactions may be unacknowledged, at least 1."""

    def __init__(self, size: int = WINDOW_TRANSACTIONS) -> None:
        if size < 1:
            raise ValueError(f"a window of {size} transactions would never open")
        self.size = size
        self.acked_lsn = 0
        self._sent: deque[tuple[int, int]] = deque()

    def sent(self, transaction_id: int, lsn: int) -> None:
        """A transaction left for the device. Its id need only be unique among those that are unacknowledged."""
        self._sent.append((transaction_id, lsn))

    def acked(self, transaction_id: int) -> bool:
        """The device has applied this transaction and all before it. False: an id we do not wait for, nothing moves."""
        if not any(sent_id == transaction_id for sent_id, _ in self._sent):
            return False
        while True:
            sent_id, self.acked_lsn = self._sent.popleft()
            if sent_id == transaction_id:
                return True

    def acked_upto(self, lsn: int) -> bool:
        """Whether none of those that were sent for ``lsn`` and before waits for its ack."""
        return not self._sent or all(sent_lsn > lsn for _, sent_lsn in self._sent)

    @property
    def open(self) -> bool:
        """Whether another transaction may be sent."""
        return len(self._sent) < self.size

    @property
    def unacked(self) -> int:
        return len(self._sent)


class AckPolicy:
    """The device's half: which transaction to ack, and when. One per connection."""

    def __init__(self, size: int = WINDOW_TRANSACTIONS) -> None:
        self._threshold = max(1, int(size * ACK_SHARE))
        self._applied = 0
        self._last_id: int | None = None

    def applied(self, transaction_id: int) -> bool:
        """A transaction is in the local database. True: it is time to ack."""
        self._applied += 1
        self._last_id = transaction_id
        return self._applied >= self._threshold

    @property
    def due(self) -> bool:
        """Whether there is anything to ack."""
        return self._last_id is not None

    def take(self) -> int | None:
        """The id to ack now, or None when there is nothing to ack that has not been acked already."""
        last_id, self._last_id = self._last_id, None
        self._applied = 0
        return last_id
