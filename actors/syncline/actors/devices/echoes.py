"""A device's own transactions that have not come back: where in its stream each does, and with what. Pure.

Usually the frame itself is the echo; one of which no row is in the device's shapes has no frame, so it is noted by its
LSN, and an empty transaction is sent at its place. One that was rejected, or applied before the device's position, or
whose rows may be in none of the device's shapes (``echoing``), comes back with its rows as they are (``healing``).

So does one that lies within what one frame stands for, with what others did before and after it: the rows that the
frame brings are not older than the transaction, but the device, which still held it, may show it in their place.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import TypeAlias

from syncline.actors.devices.carriedout import CarriedOut
from syncline.actors.devices.echoing import Echoing
from syncline.actors.devices.healing import Healing
from syncline.actors.devices.held import HeldShapes
from syncline.actors.devices.steps import (
    ECHO_BYTES,
    ECHO_BYTES_MAX,
    Echo,
    Forget,
    Heal,
    HealOf,
    Send,
    Shapes,
    StartOver,
    Step,
    Steps,
    WrittenKeys,
)
from syncline.actors.devices.unechoed import Unechoed
from syncline.actors.shapes.frames import Frame
from syncline.proto import codec
from syncline.proto.events import WriteReceived
from syncline.proto.values import Change

More: TypeAlias = Callable[[], Generator[Step, object, tuple[Change, ...] | None]]
"""What follows in a transaction; None at its end."""
SendTransaction: TypeAlias = Callable[[Echo, tuple[Change, ...], More], Steps]
"""Sends a transaction of the device itself: the changes it begins with, and more of them."""


# Of the transactions of a device that have not come back as they were sent. One beyond that is brought back by its rows
# only by reading all rows of the device anew.
WRITTEN_BYTES_MAX = 4 << 20


class Echoes:
    """Of a device during one stream. ``selects``: see ``Echoing``. ``held``: what it has. ``telling``: it takes
    extensions."""

    def __init__(self, selects: Callable[[str], bool], held: HeldShapes, *, telling: bool = False) -> None:
        self._held = held
        self._waiting: list[Echo] = []
        self._echoing = Echoing(selects)
        self._unechoed = Unechoed()
        self._written: dict[int, WriteReceived] = {}  # and not come back, as many as there is room for
        self._written_bytes = 0
        self._folded_upto = 0  # the end of the latest frame that stood for several transactions
        self.healing = Healing()
        self.carried_out = CarriedOut(telling=telling)
        self.holds(held.shapes)

    # --- what happens -------------------------------------------------------------------------------------------------

    def holds(self, shapes: Shapes) -> None:
        """What the device has by now."""
        self._echoing.holds(shapes)

    def repairing(self, shapes: Shapes) -> None:
        """It has the rows of ``shapes``, such as they are, and is going to be repaired."""
        self._echoing.holds(shapes)
        self._echoing.repairing = True

    def repaired(self) -> None:
        self._echoing.repairing = False

    def note(self, echo: Echo) -> bool:
        """A transaction has, or passes for, ``echo.lsn``. False: too many wait."""
        bisect.insort(self._waiting, echo, key=lambda other: other.lsn)
        return self.bounded

    def wrote(self, write: WriteReceived, tables: frozenset[int]) -> None:
        """The device has sent a transaction, of rows of ``tables`` (relation ids)."""
        size = _size(write)
        if write.commit_ms not in self._written and self._written_bytes + size <= WRITTEN_BYTES_MAX:
            self._written[write.commit_ms] = write
            self._written_bytes += size
        self._unechoed.wrote(write)
        self._echoing.wrote(write.commit_ms, tables)

    def spelled_otherwise(self, commit_ms: int) -> None:
        """See ``Echoing``."""
        self._echoing.spelled_otherwise(commit_ms)

    def applied(self, commit_ms: int, lsn: int, following: Iterable[Shapes]) -> bool:
        """Postgres has it, below ``lsn``: whether the stream brings it back. ``following``: see ``Echoing``."""
        comes_back = self._echoing.applied(commit_ms, lsn, following)
        if comes_back:
            self._unechoed.applied(commit_ms)
        return comes_back

    def heal(self, heal: Heal) -> bool:
        """It comes back by itself, with its rows, if nothing has brought it back. False: too many wait."""
        if heal.commit_ms in self._echoing:
            self._unechoed.heal(heal)
            self.healing.add(heal)
        return self.bounded

    @property
    def bounded(self) -> bool:
        """Whether those that wait do not take too much."""
        # Not the rows: they are those of one reading.
        return ECHO_BYTES * len(self._waiting) + self.healing.waiting_bytes <= ECHO_BYTES_MAX

    # --- the stream ---------------------------------------------------------------------------------------------------

    @property
    def next_lsn(self) -> int | None:
        """The first place of one that waits."""
        return self._waiting[0].lsn if self._waiting else None

    @property
    def upto(self) -> int:
        """Every transaction that has to come back by its frame lies below."""
        return self._echoing.upto

    def due(self, upto: int) -> bool:
        return bool(self._waiting) and self._waiting[0].lsn <= upto

    def passes(self, commit_ms: int) -> bool:
        """Whether the frame of the transaction is its echo."""
        return self._echoing.passes(commit_ms)

    def pass_by(self, upto: int) -> None:
        """What the device is sent next is as of ``upto``. Those before that have not come back are in it."""
        for echo in self._waiting:
            if echo.lsn > upto:
                break
            if _is_plain(echo):
                self.carried_out.passed(echo.commit_ms)

    def passed(self, frame: Frame, *, is_own: bool, is_echo: bool) -> None:
        """``frame`` has been sent to its end. ``is_own``: it is of the device; ``is_echo``: and brings it back."""
        if frame.since is not None:
            self._folded_upto = frame.lsn
            self._postpone(frame.lsn)
        if is_own:
            if is_echo:
                self._came_back(frame.commit_ms)
            self._drop(Echo(frame.lsn, frame.commit_ms))

    def _came_back(self, commit_ms: int) -> None:
        write = self._written.pop(commit_ms, None)
        if write is not None:
            self._written_bytes -= _size(write)
        self._unechoed.came_back(commit_ms)
        self._echoing.came_back(commit_ms)
        self.carried_out.came_back(commit_ms)

    def _postpone(self, lsn: int) -> None:
        """Echoes whose place lies within what one frame stood for come behind it: what they bring must not be older."""
        for place, echo in enumerate(self._waiting):
            if echo.lsn >= lsn:
                break
            self._waiting[place] = replace(echo, lsn=lsn)

    def _drop(self, itself: Echo) -> None:
        """Of the frame at its place. It lies in front: a device with a backlog has thousands behind it."""
        place = 0
        while place < len(self._waiting) and self._waiting[place].lsn <= itself.lsn:
            if self._waiting[place] == itself:
                self._waiting.pop(place)
            else:
                place += 1

    # --- sending ------------------------------------------------------------------------------------------------------

    def sending(self, upto: int, window: Callable[[], Steps], send: SendTransaction) -> Steps:
        """Those whose place is at or before ``upto``. ``window``: waits until it is open."""
        while self.due(upto):
            yield from window()
            echo = self._waiting.pop(0)
            if _is_plain(echo):
                if not self._echoing.passes(echo.commit_ms):
                    self.carried_out.passed(echo.commit_ms)
                    continue
                if echo.lsn <= self._folded_upto and echo.commit_ms in self._echoing:
                    self.carried_out.passed(echo.commit_ms)
                    yield from self._by_rows(echo.commit_ms, echo.lsn)
                    continue
            if echo.heal is not None:
                come = self.healing.come(echo, echo.heal)
                if come is None:
                    continue
                echo = come
            starts_over = echo.heal is not None and echo.heal.starts_over
            if starts_over:
                # First: the echo takes from the device what would have it come back for more.
                yield Forget()
            yield from self._send_relations(echo)
            self._came_back(echo.commit_ms)
            if echo.healed or echo.rest:
                yield from self._count_unechoed()
            changes = yield from self._changes(echo)
            yield from send(echo, changes, self._rest(echo))
            if starts_over:
                yield StartOver()

    def _by_rows(self, commit_ms: int, lsn: int) -> Steps:
        write = self._written.get(commit_ms)
        if write is None:
            self.heal(Heal(lsn + 1, commit_ms, (), rejected=False, starts_over=True))
            return
        heal = yield HealOf(write, lsn + 1)
        assert isinstance(heal, Heal)
        self.heal(heal)

    def _send_relations(self, echo: Echo) -> Steps:
        """Its tables may be some that the device was never told of."""
        relations = {healed.relation.id: healed.relation for healed in echo.healed}
        if echo.rest and echo.heal is not None:
            relations.update(echo.heal.relations)
        for table_id in self._held.tables.keys() & relations.keys():
            del relations[table_id]
        if relations:
            yield Send(tuple(map(codec.relation_message, relations.values())))

    def _changes(self, echo: Echo) -> Generator[Step, object, tuple[Change, ...]]:
        tables = self._held.tables
        holders = yield from self.healing.holders(echo, tables, self._held.shapes)
        less = {relation.id: relation for row in echo.healed if (relation := row.without(holders)) is not None}
        if less:
            yield Send(tuple(map(codec.relation_message, less.values())))
        return echo.changes(tables, self._unechoed, holders)

    def _rest(self, echo: Echo) -> More:
        """What is left of ``echo`` is read once what comes before has gone."""
        left = echo

        def more() -> Generator[Step, object, tuple[Change, ...] | None]:
            nonlocal left
            if left.heal is None or not left.rest:
                return None
            left = yield from self.healing.read_rest(left, left.heal, self._held.tables)
            return (yield from self._changes(left))

        return more

    def _count_unechoed(self) -> Steps:
        while (write := self._unechoed.uncounted()) is not None:
            keys = yield WrittenKeys(write)
            assert isinstance(keys, set)
            self._unechoed.count(write.commit_ms, keys)


def _is_plain(echo: Echo) -> bool:
    """Whether it stands for a transaction that the stream has come by."""
    return echo.heal is None and not echo.healed


def _size(write: WriteReceived) -> int:
    return ECHO_BYTES + max(write.octets, write.memory)
