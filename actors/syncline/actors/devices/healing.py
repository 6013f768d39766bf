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

A transaction is read in one snapshot, so that its rows are all of one place. Only what would be too many bytes at once
is read later, while its echo is sent, and may be ahead of that place for as long as the frames behind it take; what the
later snapshots show is asked of the first alone, for they show no less. Rows of tables that the device does not hold
are not read: they go away, whatever they are like.

A row that several transactions name comes with one of them only: see ``unechoed``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import replace

from syncline.actors.devices.steps import (
    AnyHolds,
    Current,
    Echo,
    Heal,
    Healed,
    HeldRow,
    ReadCurrent,
    RowKey,
    Shapes,
    Shows,
    Step,
)

# Of one reading; a transaction that names more is read by itself.
KEYS_MAX = 1_000


class Healing:
    """What waits to be read, and what has been read and not sent yet. ``waiting_bytes``: of the former."""

    def __init__(self) -> None:
        self._waiting: deque[Heal] = deque()
        self._unsent = 0
        self._resting = False
        self._shown: tuple[Current, bool] | None = None  # the newest reading that was asked about
        self._passed_over: frozenset[int] = frozenset()  # relation ids of which it read no rows
        self.waiting_bytes = 0

    def add(self, heal: Heal) -> None:
        self._waiting.append(heal)
        self.waiting_bytes += heal.size_bytes

    @property
    def due(self) -> bool:
        """Whether it is time for the next reading."""
        return bool(self._waiting) and not self._unsent and not self._resting

    def read(self, position: int, held: Collection[int]) -> Generator[Step, object, list[Echo]]:
        """Reads for as many as make one reading; their echoes. ``position``: where the device stands. ``held``: the
        relation ids it is subscribed to."""
        heals: list[Heal] = []
        keys = 0
        while self._waiting and (not heals or keys + len(self._waiting[0].keys) <= KEYS_MAX):
            heal = self._waiting.popleft()
            self.waiting_bytes -= heal.size_bytes
            keys += len(heal.keys)
            heals.append(heal)
        named = {relation_id for heal in heals for relation_id, _ in heal.keys}
        self._passed_over = frozenset(named.difference(held))
        current = yield from _read((key for heal in heals for key in heal.keys), held)
        # What committed before a position in the WAL lies below it.
        at = max(position, current.position - 1, *(heal.lsn - 1 for heal in heals))
        self._unsent = len(heals)
        return [
            Echo(
                at,
                heal.commit_ms,
                tuple(_healed(heal, heal.keys, current, held)),
                heal.rejected,
                heal,
                current,
                _rest(heal.keys, current),
            )
            for heal in heals
        ]

    def read_rest(self, echo: Echo, heal: Heal, held: Collection[int]) -> Generator[Step, object, Echo]:
        """``echo`` with the next of its rows, now that those before are sent."""
        current = yield from _read(echo.rest, held)
        return replace(echo, healed=tuple(_healed(heal, echo.rest, current, held)), rest=_rest(echo.rest, current))

    def shown(self, echo: Echo, heal: Heal, held: Collection[int]) -> Generator[Step, object, bool]:
        """Whether ``echo``, whose place the stream has come to, may be sent. Else ``heal`` waits to be read again."""
        current = echo.current
        assert current is not None
        if self._shown is not None and self._shown[0] is current:
            pass
        elif not self._passed_over.isdisjoint(held):
            self._shown = current, False  # the device has come to hold a table since
        else:
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


def strays_of(rows: tuple[HeldRow, ...], shapes: Shapes, lsn: int) -> Generator[Step, object, set[RowKey]]:
    """Which of ``rows``, as of ``lsn``, none of ``shapes`` holds."""
    if not rows:
        return set()
    answer = yield AnyHolds(shapes, lsn, rows)
    assert isinstance(answer, list)
    relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
    away = (row for row, holds in zip(rows, answer, strict=True) if not holds)
    return {(relation_id, relations[relation_id].key_of(row)) for relation_id, row in away}


def _read(keys: Iterable[RowKey], held: Collection[int]) -> Generator[Step, object, Current]:
    # Nothing to read is asked for too: whoever heals a hundred thousand rows lets others have their turn.
    current = yield ReadCurrent(tuple(dict.fromkeys(key for key in keys if key[0] in held)))
    assert isinstance(current, Current)
    return current


def _rest(keys: tuple[RowKey, ...], current: Current) -> tuple[RowKey, ...]:
    """Of ``keys``, which were asked for, those that are still to be read."""
    return tuple(key for key in keys if key in current.left)


def _healed(heal: Heal, keys: Iterable[RowKey], current: Current, held: Collection[int]) -> Iterator[Healed]:
    for key in keys:
        if key in current.rows:
            yield current.rows[key]
        elif key[0] not in held and key[0] in heal.relations:
            yield Healed(heal.relations[key[0]], key[1], None)
