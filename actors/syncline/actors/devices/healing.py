"""The rows that go along with a device's own transactions where no frame brings them: when they are read, and where in
the stream they belong. Pure.

They belong where they are: not older than their place, for the frames up to there would be undone, and not newer, for
what came with them in one transaction would be missing. But a snapshot is of no place in the stream. Others commit
while it is taken, and a commit is in the WAL, and streamed, before a snapshot sees it, by as much as a synchronous
standby takes. So:

1. the rows of many transactions are read at once, in one snapshot, while the device's stream rests for the moment that
   takes;
2. it is asked whether the snapshot shows everything that the stream had brought the device by then. Else the rows are
   thrown away and read again, after a pause; frames go on meanwhile;
3. their place is the end of the WAL after the reading: all that the snapshot shows lies before it. What it does not
   show of what lies before comes by frames on the way there, and what a frame brings of a row takes the place of what
   was read. So does what a delivery brings: after one the rows are read again.

One reading is under way at a time. So of all that waits only the keys are held.

A transaction is read in one snapshot, so that its rows are all of one place. Only what would be too many bytes at once
is read later, while its echo is sent, and may be ahead of that place for as long as the frames behind it take. Rows of
tables that the device does not hold are not read: they go away, whatever they are like. While the device waits for rows
of such a table, its transactions there wait, too, and what it shows stays until these rows are there; but for those
that were rejected.

A row that several transactions name comes with one of them only: see ``unechoed``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import replace

from syncline.actors.devices.layers import Layers
from syncline.actors.devices.overlaps import holding
from syncline.actors.devices.steps import (
    ECHO_BYTES_MAX,
    Current,
    Echo,
    Heal,
    Healed,
    ReadCurrent,
    RowKey,
    Shapes,
    Shows,
    Step,
    Wait,
)
from syncline.proto import codec
from syncline.proto.values import Delete, Gone, Insert, Relation, Update

# Of one reading; a transaction that names more is read by itself.
KEYS_MAX = 1_000
# Beyond it nothing waits for rows that the device has asked for.
POSTPONED_BYTES_MAX = ECHO_BYTES_MAX // 4


class Healing:
    """What waits to be read, and what has been read and not sent yet. ``waiting_bytes``: of the former. ``watching``:
    frames have to be shown to it."""

    def __init__(self) -> None:
        self._waiting: deque[Heal] = deque()
        self._postponed: list[Heal] = []
        self._expected: Collection[int] = ()
        self._unsent = 0
        self._resting = False
        self._current: Current | None = None  # the newest reading
        self._relations: dict[int, Relation] = {}  # of its rows
        self._brought: dict[RowKey, Healed] = {}  # by frames since then
        self._holders: dict[RowKey, tuple[Relation, ...]] | None = None  # of its rows at their place
        self.waiting_bytes = 0

    def add(self, heal: Heal) -> None:
        self.waiting_bytes += heal.size_bytes
        if self._waits(heal):
            self._postponed.append(heal)
        else:
            self._waiting.append(heal)

    def expect(self, relation_ids: Collection[int]) -> None:
        """The device has asked for rows of these tables, which are not on their way yet."""
        self._expected = relation_ids
        postponed, self._postponed = self._postponed, []
        for heal in postponed:
            (self._postponed if self._waits(heal) else self._waiting).append(heal)

    def _waits(self, heal: Heal) -> bool:
        if heal.rejected or not self._expected or self.waiting_bytes > POSTPONED_BYTES_MAX:
            return False
        return not heal.relations.keys().isdisjoint(self._expected)

    @property
    def due(self) -> bool:
        """Whether it is time for the next reading."""
        return bool(self._waiting) and not self._unsent and not self._resting

    @property
    def watching(self) -> bool:
        return self._unsent > 0

    def read(self, position: int, held: Collection[int]) -> Generator[Step, object, list[Echo]]:
        """Reads for as many as make one reading; their echoes, none if they have to be read again. ``position``: where
        the device stands. ``held``: the relation ids it is subscribed to."""
        heals: list[Heal] = []
        keys = 0
        while self._waiting and (not heals or keys + len(self._waiting[0].keys) <= KEYS_MAX):
            heal = self._waiting.popleft()
            self.waiting_bytes -= heal.size_bytes
            keys += len(heal.keys)
            heals.append(heal)
        current = yield from _read((key for heal in heals for key in heal.keys), held)
        if not (yield Shows(current.snapshot, position)):
            self._resting = True
            for heal in heals:
                self.add(heal)
            return []
        at = max(position, current.position - 1, *(heal.lsn - 1 for heal in heals))
        self._current, self._brought, self._holders, self._unsent = current, {}, None, len(heals)
        self._relations = {row.relation.id: row.relation for row in current.rows.values()}
        return [
            Echo(
                at,
                heal.commit_ms,
                tuple(_healed(heal, heal.keys, current, held)),
                heal,
                current,
                _rest(heal.keys, current),
            )
            for heal in heals
        ]

    def passed(self, body: bytes, projections: Mapping[int, Relation]) -> None:
        """A frame has been sent behind the newest reading, or a part of one. ``projections``: by id, those by which the
        device has rows."""
        if self._current is None:
            return
        relations = {**self._relations, **projections} if projections else self._relations
        for change in codec.decode_ops(body):
            if not isinstance(change, Insert | Update | Delete | Gone) or change.relation_id not in relations:
                continue
            relation = relations[change.relation_id]
            key = relation.key_of(change.old_row if isinstance(change, Delete) else change.row)
            if (relation.table_id, key) not in self._current.rows:
                continue
            self._holders = None
            if relation is not relation.whole:
                self._current = None  # it says a part of what the row is like by now
                return
            if isinstance(change, Insert | Update):
                self._brought[relation.id, key] = Healed(relation, key, change.row, change.tags)
            else:
                self._brought[relation.id, key] = Healed(relation, key, None)

    def delivered(self) -> None:
        """The device holds other shapes now: what has been read before and is not sent yet has to be read again."""
        self._current = None

    def come(self, echo: Echo, heal: Heal) -> Echo | None:
        """``echo``, whose place the stream has come to, as it is to be sent. None: ``heal`` waits to be read again."""
        self._unsent -= 1
        if echo.current is not self._current:
            self.add(heal)
            return None
        if not self._brought:
            return echo
        healed = tuple(self._brought.get((row.relation.id, row.key), row) for row in echo.healed)
        return replace(echo, healed=healed)

    def holders(
        self, echo: Echo, held: Collection[int], shapes: Shapes
    ) -> Generator[Step, object, Mapping[RowKey, tuple[Relation, ...]]]:
        """``holders_of`` the rows with which ``echo`` has ``come``. They are asked for once for all of a reading, whose
        place is the same."""
        if echo.current is None or echo.current is not self._current:
            return (yield from holders_of(echo.healed, held, shapes, echo.lsn))
        if self._holders is None:
            rows = (self._brought.get(key, row) for key, row in echo.current.rows.items())
            self._holders = yield from holders_of(rows, held, shapes, echo.lsn)
        return self._holders

    def read_rest(self, echo: Echo, heal: Heal, held: Collection[int]) -> Generator[Step, object, Echo]:
        """``echo`` with the next of its rows, now that those before are sent."""
        while True:
            current = yield from _read(echo.rest, held)
            if (yield Shows(current.snapshot, echo.lsn)):
                break
            self._resting = True
            while self._resting:
                yield Wait()
        healed = tuple(_healed(heal, echo.rest, current, held))
        return replace(echo, healed=healed, current=None, rest=_rest(echo.rest, current))

    def rested(self) -> None:
        """The pause after a reading that had to be thrown away is over."""
        self._resting = False


def holders_of(
    healed: Iterable[Healed], held: Collection[int], shapes: Shapes, lsn: int
) -> Generator[Step, object, dict[RowKey, tuple[Relation, ...]]]:
    """Of those of the rows, which are as of ``lsn``, that any of ``shapes`` holds, the relations by which a device has
    them. ``held``: the tables of ``shapes``."""
    there = [row for row in healed if row.row is not None and row.relation.id in held]
    if not there:
        return {}
    rows = [(row.relation.id, row.row) for row in there if row.row is not None]
    relations = yield from holding(Layers(shapes), lsn, rows)
    return {(row.relation.id, row.key): by for row, by in zip(there, relations, strict=True) if by}


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
