"""Which rows a device still holds writes of its own to, as far as that is known here. Pure.

A row that heals a device goes with the last of the device's writes to it that come back. Such a row has in it what is
in Postgres, other writes of the device among it, but it comes under the time of the transaction that it heals. A device
that still holds a later write to the row takes that write for newer than the row, although the row is what came out of
it and of what followed: it would show its old value again until that write comes back too. Nothing is lost if the row
waits. Whatever is counted here has not come back: be it applied, be it not, the frame or the echo that brings it back
comes later and brings the row. If the connection ends before, the device has the write still, and sends it again.

Known are the writes that the device has sent and nobody has decided, and those that are to be healed. One that has been
applied and that its frame brings back is not waited for: that may have been sent before the answer came.

Nothing is done with a write until there is a row to be healed; then the rows are counted that each of them writes.
"""

from __future__ import annotations

from syncline.actors.devices.steps import Heal, RowKey
from syncline.proto.events import WriteReceived

# The rows of a larger transaction are not counted one by one: they are a set of its own, which is made in slices and
# dropped at once, so nobody else in this process waits for it.
COUNTED_MAX = 1_000


class Unechoed:
    """The writes of one device during one stream, by their times, which name them in frames and echoes."""

    def __init__(self) -> None:
        self._uncounted: dict[int, WriteReceived | Heal] = {}
        self._counted: dict[int, tuple[RowKey, ...]] = {}
        self._writers: dict[RowKey, int] = {}  # how many of these write a row
        self._large: dict[int, set[RowKey]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether one of those that are counted writes this row."""
        return key in self._writers or any(key in keys for keys in self._large.values())

    def wrote(self, write: WriteReceived) -> None:
        """The device has sent it."""
        self._hold(write)

    def applied(self, commit_ms: int) -> None:
        """Postgres has it, and a frame brings it back."""
        self._drop(commit_ms)

    def heal(self, heal: Heal) -> None:
        """No frame brings it back."""
        self._hold(heal)

    def came_back(self, commit_ms: int) -> None:
        """Its frame, or its echo, is sent."""
        self._drop(commit_ms)

    def uncounted(self) -> WriteReceived | Heal | None:
        """A write for which ``count`` has to be called before all are counted."""
        while self._uncounted:
            commit_ms, held = self._uncounted.popitem()
            self._uncounted[commit_ms] = held
            if isinstance(held, WriteReceived) or len(held.keys) > COUNTED_MAX:
                return held
            self.count(commit_ms, set(held.written(0, COUNTED_MAX)))
        return None

    def count(self, commit_ms: int, keys: set[RowKey]) -> None:
        """The transaction writes these rows. Nothing happens if it has come back meanwhile."""
        if self._uncounted.pop(commit_ms, None) is None:
            return
        if len(keys) > COUNTED_MAX:
            self._large[commit_ms] = keys
        else:
            self._counted[commit_ms] = tuple(keys)
            for key in keys:
                self._writers[key] = self._writers.get(key, 0) + 1

    def _hold(self, held: WriteReceived | Heal) -> None:
        self._drop(held.commit_ms)
        self._uncounted[held.commit_ms] = held

    def _drop(self, commit_ms: int) -> None:
        if self._uncounted.pop(commit_ms, None) is None and self._large.pop(commit_ms, None) is None:
            for key in self._counted.pop(commit_ms, ()):
                left = self._writers[key] - 1
                if left:
                    self._writers[key] = left
                else:
                    del self._writers[key]
