"""The rows that go along with a device's own transactions where no frame brings them: when they are read, and where in
the stream they belong. Pure.

They must not be older than their place: the frames up to there have been sent, and would be undone. Two clocks stand in
the way. A commit is in the WAL, and streamed, before a snapshot sees it, by as much as a synchronous standby takes; and
what a snapshot sees may be ahead of the device's stream. So:

1. the rows of many transactions are read at once, in one snapshot, while the device's stream rests for the moment that
   takes. Their place is the position that was flushed just before: the stream has not come by it yet;
2. there it is asked whether the snapshot shows everything that the stream has brought. Else the rows are thrown away
   and read again, after a pause; frames go on meanwhile.

One reading is under way at a time. So of all that waits only the keys are held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from syncline.actors.devices.steps import Current, Echo, Heal, ReadCurrent, Shows, Step

# Of one reading; a transaction that names more is read by itself.
KEYS_MAX = 1_000


class Healing:
    """What waits to be read, and what has been read and not sent yet. ``waiting_bytes``: of the former."""

    def __init__(self) -> None:
        self._waiting: deque[Heal] = deque()
        self._unsent = 0
        self._resting = False
        self._shown: tuple[Current, bool] | None = None  # the newest reading that was asked about
        self.waiting_bytes = 0

    def add(self, heal: Heal) -> None:
        self._waiting.append(heal)
        self.waiting_bytes += heal.size_bytes

    @property
    def due(self) -> bool:
        """Whether it is time for the next reading."""
        return bool(self._waiting) and not self._unsent and not self._resting

    def read(self, position: int) -> Generator[Step, object, list[Echo]]:
        """Reads for as many as make one reading; their echoes. ``position``: where the device stands."""
        heals: list[Heal] = []
        keys = 0
        while self._waiting and (not heals or keys + len(self._waiting[0].keys) <= KEYS_MAX):
            heal = self._waiting.popleft()
            self.waiting_bytes -= heal.size_bytes
            keys += len(heal.keys)
            heals.append(heal)
        current = yield ReadCurrent(tuple(dict.fromkeys(key for heal in heals for key in heal.keys)))
        assert isinstance(current, Current)
        # What committed before a position in the WAL lies below it.
        at = max(position, current.position - 1, *(heal.lsn - 1 for heal in heals))
        self._unsent = len(heals)
        last = {key: number for number, heal in enumerate(heals) for key in heal.keys if key not in heal.named_only}
        return [
            Echo(
                at,
                heal.commit_ms,
                tuple(current.rows[key] for key in heal.keys if key in current.rows),
                heal.rejected,
                heal,
                current,
                frozenset(key for key in heal.keys if last.get(key, -1) > number),
            )
            for number, heal in enumerate(heals)
        ]

    def shown(self, echo: Echo, heal: Heal) -> Generator[Step, object, bool]:
        """Whether ``echo``, whose place the stream has come to, may be sent. Else ``heal`` waits to be read again."""
        current = echo.current
        assert current is not None
        if self._shown is None or self._shown[0] is not current:
            answer = yield Shows(current.snapshot, echo.lsn)
            self._shown = current, answer is True
            self._resting = answer is not True
        self._unsent -= 1
        if not self._shown[1]:
            self.add(heal)
        return self._shown[1]

    def rested(self) -> None:
        """The pause after a reading that had to be thrown away is over."""
        self._resting = False
