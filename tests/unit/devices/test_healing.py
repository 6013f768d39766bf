"""The rows a device is given back with its own transactions: read together, in the right place, never from before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.devices.outbound_world import FIRST_LSN, ME, SCHEMA, TABLES

from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.steps import (
    Current,
    Delivered,
    Delivery,
    Follow,
    Heal,
    Healed,
    ReadCurrent,
    ReadImage,
    RowKey,
    Send,
    Shows,
    Step,
    Wait,
)
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.proto import codec
from syncline.proto.flow import Window
from syncline.proto.ops import Begin
from syncline.proto.values import Gone, Insert, Update

TABLE, OTHER = TABLES["a"], TABLES["b"]


class Stream:
    """A device's way out. Rows are flushed one position after the last, and named by the number of their reading.

    ``sent``: (commit ms, its rows) of what came; ``healed``: (commit ms, the keys of those that heal). ``shown``:
    whether the snapshots show what was streamed. ``portion``: how many rows a reading brings at most.
    """

    def __init__(self) -> None:
        self.outbound = Outbound(ME, FIRST_LSN, SCHEMA, {"s": {"a": TABLE}}, Window(100))
        self.readings: list[tuple[RowKey, ...]] = []
        self.asked: list[tuple[object, int]] = []
        self.sent: list[tuple[int, tuple[bytes | None, ...]]] = []
        self.healed: list[tuple[int, list[int]]] = []
        self.gone: list[RowKey] = []
        self.shown = True
        self.portion: int | None = None
        self.flushed = FIRST_LSN
        self._steps = self.outbound.steps()
        self._step: Step = next(self._steps)
        self.run()

    def heal(self, ms: int, *keys: int) -> bool:
        return self.outbound.heal(Heal(FIRST_LSN, ms, tuple(map(row_key, keys)), rejected=True))

    def release(self, upto: int, *frames: Frame) -> None:
        self.outbound.released(self.outbound.generation, frames, upto)

    def run(self) -> None:
        """Until it waits."""
        if isinstance(self._step, Wait):
            self._step = self._steps.send(None)
        while not isinstance(self._step, Wait):
            self._step = self._steps.send(self._answer(self._step))

    def _answer(self, step: Step) -> object:
        match step:
            case Follow():
                return FIRST_LSN
            case ReadCurrent(keys):
                self.readings.append(keys)
                self.flushed += 10
                number = len(self.readings)
                rows = {key: Healed(TABLE, key[1], (b"%d" % number, *key[1])) for key in keys}
                left = frozenset(keys[self.portion :] if self.portion is not None else ())
                rows = {key: row for key, row in rows.items() if key not in left}
                return Current(rows, self.flushed, number, left)
            case Shows(snapshot, lsn):
                self.asked.append((snapshot, lsn))
                return self.shown
            case ReadImage():
                return None, 0
            case Delivered():
                return None
            case Send(messages):
                for message in messages:
                    self._take(message)
                return None
            case _:
                raise AssertionError(step)

    def _take(self, message: bytes) -> None:
        if message[:1] == b"\x09":
            begin, *changes, _ = codec.decode_ops(message[1:])
            self.gone += [(change.relation_id, change.row) for change in changes if isinstance(change, Gone)]
            assert isinstance(begin, Begin)
            rows = tuple(change.row[0] for change in changes if isinstance(change, Insert | Update))
            self.sent.append((begin.commit_ms, rows))
            healed = [int(change.row[1] or b"") for change in changes if isinstance(change, Update)]
            self.healed.append((begin.commit_ms, healed))


def row_key(number: int) -> RowKey:
    return TABLE.id, (b"%d" % number,)


def frame(lsn: int) -> Frame:
    body = begin_of(lsn, lsn, "postgres_1") + codec.encode_ops((Insert(TABLE.id, (b"frame",), ()),))
    return Frame(lsn, lsn, "postgres_1", body + codec.encode_commit(lsn, lsn_bytes(lsn)))


def test_the_rows_of_many_transactions_are_one_reading_and_come_at_its_place() -> None:
    stream = Stream()
    for ms in (1, 2, 3):
        stream.heal(ms, ms, 7)
    stream.run()
    assert stream.readings == [tuple(map(row_key, (1, 7, 2, 3)))]
    before, after = frame(FIRST_LSN + 5), frame(FIRST_LSN + 10)
    stream.release(FIRST_LSN + 10, before, after)
    stream.run()
    assert [ms for ms, _ in stream.sent] == [before.lsn, 1, 2, 3, after.lsn]
    assert stream.asked == [(1, FIRST_LSN + 9)], "once a reading"


def test_a_row_that_several_transactions_name_comes_with_the_last_of_them() -> None:
    """With an earlier one it would meet the later ones' writes, which it has in it already, and go back behind them."""
    stream = Stream()
    stream.heal(1, 1, 7)
    stream.heal(2, 7, 2)
    stream.heal(3, 2, 3)
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert stream.healed == [(1, [1]), (2, [7]), (3, [2, 3])]


def test_a_row_that_a_later_transaction_only_compensates_does_not_wait_for_it() -> None:
    stream = Stream()
    stream.heal(1, 7)
    named = (row_key(7),)
    stream.outbound.heal(Heal(FIRST_LSN, 2, named, rejected=True, named_only=frozenset(named)))
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert stream.healed == [(1, [7]), (2, [7])]


def test_of_what_waits_only_one_reading_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.healing.KEYS_MAX", 3)
    stream = Stream()
    for ms, keys in enumerate([(1, 2), (3,), (4, 5, 6, 7), (8,)], 1):
        stream.heal(ms, *keys)
    while len(stream.sent) < 4:
        stream.run()
        stream.release(stream.flushed)
        stream.run()
    assert [len(keys) for keys in stream.readings] == [3, 4, 1]
    assert [ms for ms, _ in stream.sent] == [1, 2, 3, 4]


def test_a_transaction_of_any_size_is_healed_by_the_rows_of_one_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.healing.KEYS_MAX", 3)
    stream = Stream()
    stream.heal(1, *range(8))
    stream.heal(2, 3)
    stream.run()
    stream.release(FIRST_LSN + 100, frame(FIRST_LSN + 100))
    stream.run()
    assert stream.healed[:1] == [(1, list(range(8)))]
    assert [len(keys) for keys in stream.readings] == [8, 1]
    assert [ms for ms, _ in stream.sent] == [1, FIRST_LSN + 100, 2]
    assert [snapshot for snapshot, _ in stream.asked] == [1, 2]


def test_rows_that_are_too_much_for_one_reading_come_with_their_transactions_all_the_same() -> None:
    stream = Stream()
    stream.portion = 2
    stream.heal(1, 1, 2, 3)
    stream.heal(2, 4, 5, 1)
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert stream.healed == [(1, [2, 3]), (2, [1, 4, 5])]


def test_rows_of_a_table_that_the_device_does_not_hold_go_away_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.healing.KEYS_MAX", 2)
    stream = Stream()
    keys = tuple((OTHER.id, (b"%d" % number,)) for number in range(5))
    stream.outbound.heal(Heal(FIRST_LSN, 1, keys, rejected=True, relations={OTHER.id: OTHER}))
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert set(stream.readings) == {()}
    assert stream.gone == list(keys)


def test_rows_of_a_table_that_the_device_has_come_to_hold_meanwhile_are_read_after_all() -> None:
    stream = Stream()
    key = (OTHER.id, (b"5",))
    stream.outbound.heal(Heal(FIRST_LSN, 1, (key,), rejected=True, relations={OTHER.id: OTHER}))
    stream.run()
    stream.outbound.deliver(Delivery(("t",), (("r", ("b",)),), {"b": OTHER}))
    stream.run()
    for _ in range(2):
        stream.release(stream.flushed)
        stream.run()
    assert stream.readings == [(), (key,)]
    assert (stream.healed, stream.gone) == ([(1, [5])], [])


def test_rows_from_before_their_place_are_read_again_after_a_rest_and_frames_go_on() -> None:
    stream = Stream()
    stream.shown = False
    stream.heal(1, 1)
    stream.heal(2, 2)
    stream.run()
    later = frame(FIRST_LSN + 20)
    stream.release(later.lsn, later)
    stream.run()
    assert stream.sent == [(later.lsn, (b"frame",))]
    stream.release(later.lsn + 100)
    stream.run()
    assert len(stream.readings) == 1, "it rests"
    stream.shown, stream.flushed = True, later.lsn + 100
    stream.outbound.heal_again()
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert stream.sent[1:] == [(1, (b"2",)), (2, (b"2",))]


def test_what_is_to_be_healed_and_never_acknowledged_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.outbound.ECHO_BYTES_MAX", 2_000)
    stream = Stream()
    within: Sequence[bool] = [stream.heal(ms, 1) for ms in range(1, 12)]
    assert within[0]
    assert not within[-1]


@given(
    xmax=st.integers(10, 1 << 40),
    running=st.sets(st.integers(1, 50)),
    back=st.lists(st.integers(-50, 100), max_size=5),
)
def test_thousands_of_transactions_are_seen_as_each_alone(xmax: int, running: set[int], back: list[int]) -> None:
    among = frozenset(xmax - step for step in running if step < xmax)
    visibility = Visibility(min(among, default=xmax), xmax, among)
    xids = [(xmax - step) & 0xFFFFFFFF for step in back]
    assert visibility.sees_all(xids) == all(map(visibility.visible, xids))
