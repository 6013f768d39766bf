"""The rows a device is given back with its own transactions: read together, in the right place, never from before."""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.devices.outbound_world import FIRST_LSN, ME, SCHEMA, TABLES

from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.steps import (
    AnyHolds,
    CountRows,
    Current,
    Delivered,
    Delivery,
    Echo,
    Follow,
    Heal,
    Healed,
    OpenLog,
    Pin,
    ReadCurrent,
    ReadImage,
    ReadMore,
    Repair,
    RowKey,
    Send,
    Shows,
    Step,
    Wait,
    WrittenKeys,
)
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.proto import codec
from syncline.proto.events import WriteReceived
from syncline.proto.flow import Window
from syncline.proto.ops import Begin, Commit, Op
from syncline.proto.values import Delete, Gone, Insert, Update

TABLE, OTHER = TABLES["a"], TABLES["b"]
SUBSCRIPTIONS = {"s": {"a": (TABLE,)}}


class Stream:
    """A device's way out. Rows are flushed one position after the last, and named by the number of their reading.

    ``sent``: (commit ms, its rows) of what came, from ``origins``; ``healed``: (commit ms, the keys of those that
    heal). ``shown``: whether the snapshots show what was streamed. ``portion``: how many rows a reading brings at most.
    ``counted``: the times of the writes whose rows were asked for. ``carried_out``: what was told with each that came,
    and ``positions`` where it stood. ``followed``: what a bundle has released when it is asked for.
    """

    def __init__(
        self,
        selects: Collection[str] = (),
        *,
        extensions: bool = False,
        repair: Repair | None = None,
        followed: int = FIRST_LSN,
    ) -> None:
        self.outbound = Outbound(
            ME,
            FIRST_LSN,
            SCHEMA,
            {} if repair is not None else SUBSCRIPTIONS,
            Window(100),
            extensions=extensions,
            selects=lambda shape: shape in selects,
            repair=repair,
        )
        self._followed = followed
        self.carried_out: list[tuple[int, ...]] = []
        self.positions: list[int] = []
        self.readings: list[tuple[RowKey, ...]] = []
        self.asked: list[tuple[object, int]] = []
        self.sent: list[tuple[int, tuple[bytes | None, ...]]] = []
        self.healed: list[tuple[int, list[int]]] = []
        self.gone: list[RowKey] = []
        self.origins: list[str | None] = []
        self.tags: list[tuple[str, ...]] = []
        self.asked_held: list[int] = []
        self.shown = True
        self.portion: int | None = None
        self.counted: list[int] = []
        self._writes: dict[int, tuple[RowKey, ...]] = {}
        self._frames: list[Frame] = []
        self._log: tuple[Frame, ...] = ()
        self.flushed = FIRST_LSN
        self._steps = self.outbound.steps()
        self._step: Step = next(self._steps)
        self.run()

    def heal(self, ms: int, *keys: int) -> bool:
        if ms not in self._writes:
            self.wrote(ms, *keys)
        return self.outbound.heal(Heal(FIRST_LSN, ms, tuple(map(row_key, keys)), rejected=True))

    def wrote(self, ms: int, *keys: int) -> None:
        """The device has sent a transaction."""
        self._writes[ms] = tuple(map(row_key, keys))
        self.outbound.wrote(WriteReceived(ms, b"", ()), frozenset({TABLE.id}))

    def release(self, upto: int, *frames: Frame) -> None:
        self._frames += frames
        self.outbound.released(self.outbound.generation, frames, upto)

    def run(self) -> None:
        """Until it waits."""
        if isinstance(self._step, Wait):
            self._step = self._steps.send(None)
        while not isinstance(self._step, Wait):
            self._step = self._steps.send(self._answer(self._step))

    def until_sent(self, count: int) -> None:
        """Until that many transactions have been sent; the stream comes by every place."""
        for _ in range(2 * count):
            self.run()
            self.release(self.flushed)
        self.run()
        assert len(self.sent) == count

    def _answer(self, step: Step) -> object:
        match step:
            case Follow():
                return self._followed
            case CountRows():
                return 0
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
            case WrittenKeys(write):
                self.counted.append(write.commit_ms)
                return set(write.keys if isinstance(write, Heal) else self._writes[write.commit_ms])
            case ReadImage():
                return None, 0
            case OpenLog(_, after, upto):
                self._log = tuple(one for one in self._frames if after < one.lsn <= upto)
                return None
            case ReadMore():
                return self._log, True
            case AnyHolds(rows=rows):
                self.asked_held.append(len(rows))
                return [True] * len(rows)
            case Delivered() | Pin():
                return None
            case Send(messages):
                for message in messages:
                    self._take(message)
                return None
            case _:
                raise AssertionError(step)

    def _take(self, message: bytes) -> None:
        if message[:1] == b"\x09":
            changes: list[Op] = []
            for op in codec.decode_ops(message[1:]):
                changes.append(op)
                if isinstance(op, Commit):
                    self._take_transaction(*changes)
                    changes.clear()

    def _take_transaction(self, begin: Op, *changes: Op) -> None:
        self.gone += [(change.relation_id, change.row) for change in changes if isinstance(change, Gone)]
        assert isinstance(begin, Begin)
        self.origins.append(begin.origin)
        self.carried_out.append(begin.carried_out)
        self.positions.append(int(begin.lsn))
        self.tags += [tuple(change.tags) for change in changes if isinstance(change, Insert | Update)]
        rows = tuple(change.row[0] for change in changes if isinstance(change, Insert | Update))
        self.sent.append((begin.commit_ms, rows))
        healed = [int(change.row[1] or b"") for change in changes if isinstance(change, Update)]
        self.healed.append((begin.commit_ms, healed))


def row_key(number: int) -> RowKey:
    return TABLE.id, (b"%d" % number,)


def frame(lsn: int, ms: int | None = None, origin: str = "postgres_1") -> Frame:
    """A transaction; without ``ms`` its time is its LSN."""
    ms = lsn if ms is None else ms
    body = begin_of(lsn, ms, origin) + codec.encode_ops((Insert(TABLE.id, (b"frame",), ()),))
    return Frame(lsn, ms, origin, body + codec.encode_commit(ms, lsn_bytes(lsn)))


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
    assert stream.asked_held == [4], "who holds them is asked once"
    assert stream.asked == [(1, FIRST_LSN)], "once a reading, whether it shows what has been sent"


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
    stream.wrote(2)
    stream.outbound.heal(Heal(FIRST_LSN, 2, named, rejected=True, named_only=frozenset(named)))
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert stream.healed == [(1, [7]), (2, [7])]


def test_a_row_waits_for_a_transaction_that_is_to_be_healed_by_a_later_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.healing.KEYS_MAX", 2)
    stream = Stream()
    stream.heal(1, 1, 7)
    stream.heal(2, 2)
    stream.heal(3, 7)
    stream.until_sent(3)
    assert stream.healed == [(1, [1]), (2, [2]), (3, [7])]


def test_a_row_waits_for_a_transaction_that_is_not_decided() -> None:
    """Its answer is on the way, and a frame may have brought already what came of it and of what followed it."""
    stream = Stream()
    stream.wrote(1, 1, 7)
    stream.wrote(2, 7)
    stream.heal(1, 1, 7)
    stream.until_sent(1)
    assert stream.healed == [(1, [1])]
    stream.heal(2, 7)
    stream.until_sent(2)
    assert stream.healed == [(1, [1]), (2, [7])]


@pytest.mark.parametrize("counted_max", [1, 2])
def test_rows_wait_for_a_large_transaction_too(monkeypatch: pytest.MonkeyPatch, counted_max: int) -> None:
    monkeypatch.setattr("syncline.actors.devices.unechoed.COUNTED_MAX", counted_max)
    stream = Stream()
    stream.heal(1, 1, 7)
    stream.heal(2, 2, 7)
    stream.heal(3, 2, 1)
    stream.until_sent(3)
    assert stream.healed == [(1, []), (2, [7]), (3, [2, 1])]


def test_a_row_does_not_wait_for_a_transaction_whose_frame_was_sent_before_it_counts_as_decided() -> None:
    stream = Stream()
    stream.wrote(1, 1, 7)
    stream.wrote(2, 7)
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 2, ME))
    stream.heal(1, 1, 7)
    stream.until_sent(2)
    assert stream.healed[1:] == [(1, [1, 7])]


def test_a_row_waits_for_a_transaction_whose_frame_was_sent_before_the_device_had_sent_it_again() -> None:
    """Of which tables its rows are was not known then: it comes back by its rows."""
    stream = Stream()
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 2, ME))
    stream.wrote(1, 7)
    stream.run()
    assert stream.origins == ["postgres_1"]
    stream.wrote(2, 7)
    stream.heal(1, 7)
    stream.heal(2, 7)
    stream.until_sent(3)
    assert stream.healed[1:] == [(1, []), (2, [7])]


def test_a_row_does_not_wait_for_a_transaction_that_was_applied_by_now() -> None:
    stream = Stream()
    stream.wrote(1, 7)
    stream.wrote(2, 7)
    assert stream.outbound.applied(2, FIRST_LSN)
    stream.heal(1, 7)
    stream.until_sent(1)
    assert stream.healed == [(1, [7])]


def test_a_row_that_was_read_again_comes_with_what_is_sent_last() -> None:
    """What has to be read again is read behind what has come meanwhile."""
    stream = Stream()
    stream.heal(1, 7)
    stream.run()
    stream.heal(2, 7)
    stream.outbound.deliver(Delivery(("t",), (("r", ("b",)),), {"b": (OTHER,)}))
    stream.until_sent(2)
    assert stream.healed == [(2, []), (1, [7])]


def test_what_a_frame_brings_on_the_way_to_the_place_of_a_reading_is_newer_than_what_was_read() -> None:
    stream = Stream()
    stream.heal(1, 1, 2, 3, 4)
    stream.run()
    changes = (
        Update(TABLE.id, (b"1", b"1"), None, ("postgres_1@7",)),
        Delete(TABLE.id, (b"2",), ()),
        Gone(TABLE.id, (b"3",)),
        Insert(TABLE.id, (b"5",), ()),
    )
    between = begin_of(FIRST_LSN + 5, 5, "postgres_1") + codec.encode_ops(changes)
    body = between + codec.encode_commit(5, lsn_bytes(FIRST_LSN + 5))
    behind = FIRST_LSN + 15
    stream.release(behind, Frame(FIRST_LSN + 5, 5, "postgres_1", body), frame(behind))
    stream.run()
    assert [ms for ms, _ in stream.sent] == [5, 1, behind]
    assert stream.gone == [(TABLE.id, (b"3",)), (TABLE.id, (b"2",)), (TABLE.id, (b"3",))]
    assert stream.sent[1][1] == (b"1", b"1"), "the one of the frame, and the one that was read"
    assert stream.tags == [("postgres_1@7",), (), ("postgres_1@7",), (), ()]


def test_a_transaction_of_rows_that_its_shapes_may_not_hold_comes_back_by_its_rows() -> None:
    stream = Stream(selects={"a"})
    stream.wrote(1, 1)
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 1, ME))
    stream.run()
    stream.outbound.note_echo(Echo(FIRST_LSN + 6, 2))
    stream.wrote(2, 2)
    stream.release(FIRST_LSN + 7)
    stream.run()
    assert stream.origins == ["postgres_1"], "its frame is somebody else's, and nothing is there in the place of none"
    for ms in (1, 2):
        assert not stream.outbound.applied(ms, FIRST_LSN + 10)
        stream.heal(ms, ms)
    stream.until_sent(3)
    assert (stream.origins[1:], stream.healed[1:]) == ([ME, ME], [(1, [1]), (2, [2])])


def test_rows_of_a_shape_leave_when_what_was_to_come_back_by_its_frame_has() -> None:
    stream = Stream()
    stream.wrote(1, 1)
    assert stream.outbound.applied(1, FIRST_LSN + 6)
    stream.outbound.deliver(Delivery(("s",)))
    stream.run()
    assert (stream.outbound.shapes.keys(), stream.outbound.awaited_lsn) == ({SCHEMA, "a"}, FIRST_LSN + 5)
    stream.wrote(2, 2)
    assert not stream.outbound.applied(2, FIRST_LSN + 7), "its frame may come when the shape has gone"
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 1, ME))
    stream.run()
    assert stream.origins == [ME]
    assert stream.outbound.shapes.keys() == {SCHEMA}


def test_a_transaction_waits_for_rows_of_its_tables_that_the_device_has_asked_for() -> None:
    stream = Stream()
    first, second, relations = (OTHER.id, (b"5",)), (OTHER.id, (b"6",)), {OTHER.id: OTHER}
    stream.outbound.expect({OTHER.id})
    for ms, key in (1, first), (2, second):
        stream.wrote(ms)
        heal = Heal(FIRST_LSN, ms, (key,), rejected=key == second, relations=relations)
        assert stream.outbound.heal(heal)
    stream.until_sent(1)
    assert stream.gone == [second]
    stream.outbound.deliver(Delivery(("t",), (("r", ("b",)),), {"b": (OTHER,)}))
    stream.outbound.expect(frozenset())
    stream.until_sent(2)
    assert (stream.healed[1], stream.gone) == ((1, [5]), [second])


def test_nothing_is_asked_of_a_write_while_no_row_has_to_be_healed() -> None:
    stream = Stream()
    stream.wrote(1, 1)
    stream.wrote(2, 7)
    stream.release(FIRST_LSN + 5, frame(FIRST_LSN + 5, 1, ME))
    stream.until_sent(1)
    assert stream.counted == []
    stream.wrote(3, 8)
    stream.heal(3, 8)
    stream.until_sent(2)
    assert stream.counted == [2]


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
    stream.heal(2, 9)
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
    stream.wrote(1)
    stream.outbound.heal(Heal(FIRST_LSN, 1, keys, rejected=True, relations={OTHER.id: OTHER}))
    stream.run()
    stream.release(stream.flushed)
    stream.run()
    assert set(stream.readings) == {()}
    assert stream.gone == list(keys)


def test_rows_of_a_table_that_the_device_has_come_to_hold_meanwhile_are_read_after_all() -> None:
    stream = Stream()
    key = (OTHER.id, (b"5",))
    stream.wrote(1)
    stream.outbound.heal(Heal(FIRST_LSN, 1, (key,), rejected=True, relations={OTHER.id: OTHER}))
    stream.run()
    stream.outbound.deliver(Delivery(("t",), (("r", ("b",)),), {"b": (OTHER,)}))
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
    monkeypatch.setattr("syncline.actors.devices.echoes.ECHO_BYTES_MAX", 2_000)
    stream = Stream()
    within: Sequence[bool] = [stream.heal(ms, 1) for ms in range(1, 12)]
    assert within[0]
    assert not within[-1]


class Fate(enum.IntEnum):
    """What becomes of a write: in this order, but for those that are rejected."""

    BELOW = 1  # a duplicate; its frame lies below the device's position
    BEFORE = 2  # a duplicate; its frame is sent, before it comes or after
    APPLIED = 3
    REJECTED = 4


def possible(writes: list[tuple[set[int], Fate]]) -> list[tuple[set[int], Fate]]:
    order = iter(sorted(fate for _, fate in writes if fate is not Fate.REJECTED))
    return [(keys, fate if fate is Fate.REJECTED else next(order)) for keys, fate in writes]


@given(
    writes=st.lists(st.tuples(st.sets(st.integers(1, 3), min_size=1), st.sampled_from(Fate)), min_size=1, max_size=6),
    order=st.integers(0, 1 << 32),
)
def test_each_row_comes_with_the_last_of_the_writes_to_it_that_comes_back(
    writes: list[tuple[set[int], Fate]], order: int
) -> None:
    writes, rng = possible(writes), random.Random(order)
    streamed = [number for number, (_, fate) in enumerate(writes) if fate in (Fate.BEFORE, Fate.APPLIED)]
    stream, lsn = Stream(), FIRST_LSN
    sending, deciding, frames = deque(range(len(writes))), deque[int](), deque(streamed)
    waiting: set[int] = set()  # sent, and neither applied nor come back
    healed = 0
    back: list[tuple[int, set[int] | None]] = []  # what came back, with its rows
    while sending or deciding or frames or len(back) < len(streamed) + healed:
        moves = ["pass", *["send"] * bool(sending), *["decide"] * bool(deciding)]
        if frames and (writes[frames[0]][1] is Fate.BEFORE or frames[0] not in sending):
            moves.append("frame")
        match rng.choice(moves):
            case "send":
                deciding.append(sending.popleft())
                stream.wrote(deciding[-1], *writes[deciding[-1]][0])
                waiting |= {deciding[-1]} - {number for number, keys in back if keys is not None}
            case "decide" if writes[deciding[0]][1] is Fate.APPLIED:
                assert stream.outbound.applied(deciding[0], FIRST_LSN)
                waiting.discard(deciding.popleft())
            case "decide":
                healed += all(number != deciding[0] or keys is None for number, keys in back)
                stream.heal(deciding[0], *writes[deciding.popleft()][0])
            case "frame":
                lsn = max(lsn, stream.outbound.position) + 1
                stream.release(lsn, frame(lsn, frames.popleft(), ME))
            case _:
                stream.release(max(stream.flushed, lsn))
        stream.run()
        came = zip(stream.sent[len(back) :], stream.healed[len(back) :], stream.origins[len(back) :], strict=True)
        for (number, rows), (_, keys), origin in came:
            if origin != ME:  # its frame, before it was sent again
                back.append((number, None))
                continue
            waiting.discard(number)
            if rows == (b"frame",):
                back.append((number, writes[number][0]))
            else:
                wait = {key for other in waiting for key in writes[other][0]}
                assert set(keys) == writes[number][0] - wait
                back.append((number, set(keys)))
    first: dict[int, set[int]] = {}
    for number, keys in back:
        if keys is not None:
            first.setdefault(number, keys)
    for key in (1, 2, 3):
        brought = [keys for number, keys in first.items() if key in writes[number][0]]
        assert not brought or key in brought[-1], "nothing is left that could bring it"


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
