"""The way out of one device, step by step, against every interleaving of what may happen meanwhile."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.outgoing_rules import OutgoingRules
from tests.unit.devices.outbound_world import FIRST_LSN, ME, SCHEMA, TABLES, Device, World

from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.steps import (
    AnyHolds,
    CountRows,
    Delivered,
    Delivery,
    Echo,
    Follow,
    Healed,
    OpenLog,
    Pin,
    ReadImage,
    ReadMore,
    Send,
    Step,
    Wait,
)
from syncline.actors.shapes.frames import Frame
from syncline.actors.shapes.projection import projection
from syncline.proto import codec
from syncline.proto.calls import start_body
from syncline.proto.events import WriteReceived
from syncline.proto.flow import Window
from syncline.proto.ops import Begin, Commit
from syncline.proto.session import ClientSession
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import Column, Gone, Relation, ShapeRequest, Update

WINDOW = 3
SMALL = {"LIVE_BYTES_MAX": 400}
SMALL_MESSAGE_BYTES = 150

tables = st.sets(st.sampled_from(sorted(TABLES)), min_size=1)
touched = st.sets(st.sampled_from([*sorted(TABLES), SCHEMA]), min_size=1)


def streaming_rules(subscriptions: Iterable[str], protocol: str = OLD[0]) -> OutgoingRules:
    """The rules of a connection on which a device resumes with ``subscriptions``."""
    rules, device = OutgoingRules(protocol), ClientSession()
    rules.heard(device.authenticate(ME, "token"))
    rules.check(codec.rpc_response("authenticate", 1, b""))
    rules.heard(codec.rpc_request("startReplication", 2, start_body(b"1", list(subscriptions), None, "sqlite", ())))
    rules.check(codec.rpc_response("startReplication", 2, b""))
    return rules


class Play:
    """``Outbound``, the bundle it follows, the log it reads and the device it serves."""

    def __init__(
        self,
        world: World,
        position: int = FIRST_LSN,
        subscribed: tuple[str, ...] = (),
        *,
        extensions: bool = False,
    ) -> None:
        self.world = world
        subscriptions = {f"old {name}": {name: (TABLES[name],)} for name in subscribed}
        self.window = Window(WINDOW)
        self.outbound = Outbound(ME, position, SCHEMA, subscriptions, self.window, extensions=extensions)
        self.device = Device(world, position, subscriptions, WINDOW)
        self.rules = streaming_rules(subscriptions, OWN if extensions else OLD[0])
        self.start = position
        self.following: tuple[int, frozenset[str]] | None = None
        self.mail: deque[Callable[[], None]] = deque()
        self.answer: object = None
        self.pinned: int | None = None
        self.log: deque[object] = deque()
        self.steps = self.outbound.steps()
        self.step: Step = next(self.steps)
        self.numbers = itertools.count(1)
        self.roomy = True  # the socket takes what is sent beside the steps

    # --- the world's side ---------------------------------------------------------------------------------------------

    def release(self, count: int) -> None:
        """The watermark passes ``count`` more transactions."""
        passed = self.world.between(self.world.released, 1 << 62)[:count]
        before = self._upto()
        self.world.released = passed[-1].lsn if passed else self.world.released
        for tx in passed:
            if tx.mine:
                self.mail.append(lambda tx=tx: self._own(tx.lsn, tx.commit_ms))  # type: ignore[misc]
        self._release_since(before)

    def rest(self, table: str, lsn: int | None) -> None:
        """A shape stays where it is, whatever the watermark says, and then has caught up (None)."""
        before = self._upto()
        if lsn is None:
            self.world.resting.pop(table, None)
            self._release_since(before)
        else:
            self.world.resting.setdefault(table, lsn)

    def _upto(self) -> int:
        return self.world.upto(self.following[1] if self.following is not None else ())

    def _release_since(self, before: int) -> None:
        upto = self._upto()
        if self.following is not None and upto > before:
            generation, shapes = self.following
            frames = self.world.live(shapes, before, upto)
            self.mail.append(lambda: self._released(generation, frames, upto))

    def _released(self, generation: int, frames: tuple[Frame, ...], upto: int) -> None:
        self.outbound.released(generation, frames, upto)
        if self.roomy:
            self._send(self.outbound.at_once())

    def _send(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            self.rules.check(message)
            if message == codec.ack_request():
                assert self.outbound.reach is not None
                self.has_all_up_to(self.outbound.reach)
            else:
                self.device.receive(message)

    def has_all_up_to(self, lsn: int) -> None:
        for table in self.device.stays:
            assert self.world.rows(table, lsn) <= self.device.rows[table], f"{table} up to {lsn}"

    def _own(self, lsn: int, ms: int) -> None:
        if lsn > self.start:
            self.device.expected_echoes.append((lsn, ms))
            self.outbound.wrote(WriteReceived(ms, b"", ()), frozenset())
            self.outbound.note_echo(Echo(lsn, ms))

    def read_mail(self) -> None:
        if self.mail:
            self.mail.popleft()()

    # --- the device's side --------------------------------------------------------------------------------------------

    def subscribe(self, names: set[str]) -> str:
        id = f"subscription {next(self.numbers)}"
        requests = tuple((f"{id} {name}", (name,)) for name in sorted(names))
        self.device.requests[id] = dict(requests)
        shapes = [ShapeRequest(request_id, name) for request_id, (name,) in requests]
        self.rules.heard(codec.rpc_request("subscribe", 9, codec.subscribe_body(id, shapes)))
        self.rules.check(codec.rpc_response("subscribe", 9, b""))
        self.outbound.deliver(Delivery((id,), requests, {name: (TABLES[name],) for name in sorted(names)}))
        return id

    def unsubscribe(self, id: str) -> None:
        if self.outbound.cancel(id):
            del self.device.requests[id]
            return
        self.device.unsubscribed.append((id,))
        self.outbound.deliver(Delivery((id,)))

    def ack(self, index: int) -> None:
        unacked = self.device.unacked
        if unacked:
            index %= len(unacked)
            assert self.window.acked(unacked[index])
            del unacked[: index + 1]

    # --- the steps ----------------------------------------------------------------------------------------------------

    def advance(self) -> bool:
        """Carries out one step; False when it can only wait."""
        answer: object = None
        match self.step:
            case Send(messages):
                self._send(messages)
            case Follow(shapes, generation):
                if self.following is None or self.following[0] != generation:
                    self.following = generation, shapes
                    released = self.world.upto(shapes)
                    self.mail.append(lambda: setattr(self, "answer", released))
                if self.answer is None:
                    return False
                answer, self.answer = self.answer, None
                self.pinned = answer  # as the bundler has it
            case Pin(lsn):
                self.pinned = lsn
            case OpenLog(shapes, after, upto):
                assert (self.pinned or after + 1) <= after, "packing might overtake it"
                self.log = deque(self.world.logged(frozenset(shapes), after, upto))
            case ReadMore():
                page = tuple(self.log.popleft() for _ in range(min(2, len(self.log))))
                answer = page, not self.log
            case ReadImage(shape, lsn, cursor):
                assert lsn <= self.world.upto({shape}), "an image of what has not been appended yet"
                assert (self.pinned or lsn + 1) <= lsn, "packing might overtake it"
                answer = self.world.image(shape, lsn, cursor)
            case AnyHolds(rows=rows):
                answer = [True] * len(rows)
            case CountRows():
                answer = 1
            case Wait() | Delivered():
                pass
        waited = isinstance(self.step, Wait)
        self.step = self.steps.send(answer)
        return not (waited and isinstance(self.step, Wait))

    def settle(self) -> None:
        """Everything released, every mail read, every ack given: to the end."""
        for table in list(self.world.resting):
            self.rest(table, None)
        self.release(1 << 30)
        for _ in range(10_000):
            self.ack(-1)
            moved = self.advance()
            if self.mail:
                self.read_mail()
            elif not moved:
                assert self.pinned is None, "who rests reads nothing"
                return
        raise AssertionError("it never comes to rest")


class Outward(RuleBasedStateMachine):
    """Every frame of the shapes held, exactly once and in order; deliveries undisturbed; echoes in their place."""

    def __init__(self) -> None:
        super().__init__()
        self._patches = [
            mock.patch.multiple("syncline.actors.devices.outbound", **SMALL),
            mock.patch("syncline.actors.devices.delivering.MESSAGE_BYTES", SMALL_MESSAGE_BYTES),
            mock.patch("syncline.actors.devices.sending.MESSAGE_BYTES", SMALL_MESSAGE_BYTES),
        ]
        for patch in self._patches:
            patch.start()
        self.active: list[str] = []
        self.late = itertools.count(1)

    @initialize(
        before=st.lists(st.tuples(touched, st.booleans()), max_size=6),
        released=st.integers(0, 6),
        position=st.integers(0, 6),
        subscribed=st.sets(st.sampled_from(sorted(TABLES))),
        extensions=st.booleans(),
    )
    def begin(
        self,
        before: list[tuple[set[str], bool]],
        released: int,
        position: int,
        subscribed: set[str],
        extensions: bool,
    ) -> None:
        world = World()
        for names, large in before:
            world.commit(names, large=large)
        lsns = [FIRST_LSN, *(tx.lsn for tx in world.transactions)]
        world.released = lsns[min(released, len(lsns) - 1)]
        start = lsns[min(position, len(lsns) - 1)]
        self.play = Play(world, start, tuple(sorted(subscribed)), extensions=extensions)
        self.active = list(self.play.device.subscriptions)

    @rule(names=touched, mine=st.booleans(), large=st.booleans())
    def commit(self, names: set[str], mine: bool, large: bool) -> None:
        self.play.world.commit(names, mine=mine, large=large)

    @rule(mine=st.booleans())
    def commit_elsewhere(self, mine: bool) -> None:
        self.play.world.commit((), mine=mine)

    @rule(count=st.integers(1, 8))
    def release(self, count: int) -> None:
        self.play.release(count)

    @rule(table=st.sampled_from(sorted(TABLES)))
    def a_shape_rests(self, table: str) -> None:
        self.play.rest(table, self.play.world.released)

    @rule(table=st.sampled_from(sorted(TABLES)))
    def a_shape_catches_up(self, table: str) -> None:
        self.play.rest(table, None)

    @rule(count=st.integers(1, 4))
    def read_mail(self, count: int) -> None:
        for _ in range(count):
            self.play.read_mail()

    @rule(roomy=st.booleans())
    def the_socket(self, roomy: bool) -> None:
        self.play.roomy = roomy

    @rule(count=st.integers(1, 12))
    def advance(self, count: int) -> None:
        for _ in range(count):
            self.play.advance()

    @rule(index=st.integers(0, WINDOW))
    def ack(self, index: int) -> None:
        self.play.ack(index)

    @rule(names=tables)
    def subscribe(self, names: set[str]) -> None:
        self.active.append(self.play.subscribe(names))

    @precondition(lambda self: self.active)
    @rule(index=st.integers(0, 100))
    def unsubscribe(self, index: int) -> None:
        self.play.unsubscribe(self.active.pop(index % len(self.active)))

    @rule(back=st.integers(0, 30))
    def a_duplicate_is_answered(self, back: int) -> None:
        ms = next(self.late)
        self.play.device.expected_echoes.append((1 << 62, ms))  # at no particular place, but it must come
        self.play.outbound.wrote(WriteReceived(ms, b"", ()), frozenset())
        self.play.outbound.note_echo(Echo(self.play.world.released - back, ms))

    @rule(ahead=st.integers(-3, 3))
    def somebody_waits_for_it(self, ahead: int) -> None:
        if self.play.outbound.reach is None:
            self.play.outbound.reach = self.play.world.released + 10 * ahead

    @invariant()
    def it_has_reached_what_it_has(self) -> None:
        play = getattr(self, "play", None)
        if play is not None and play.outbound.reach is not None and play.outbound.has_reached(play.outbound.reach):
            play.has_all_up_to(play.outbound.reach)
            play.outbound.reach = None

    @invariant()
    def the_window_is_kept(self) -> None:
        if hasattr(self, "play"):
            assert self.play.window.unacked <= WINDOW

    def teardown(self) -> None:
        try:
            if hasattr(self, "play"):
                self.play.settle()
                device, world = self.play.device, self.play.world
                assert not device.requests, "every subscription is delivered"
                assert not device.unsubscribed, "every unsubscription is answered"
                assert sorted(device.subscriptions) == sorted(self.active)
                for table in device.held:
                    assert device.rows[table] == world.rows(table, world.released)
                assert {ms for _, ms in device.expected_echoes} <= set(device.echoed)
                reach = self.play.outbound.reach
                assert reach is None or reach > world.released or self.play.outbound.has_reached(reach)
        finally:
            for patch in self._patches:
                patch.stop()


Outward.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOutward = Outward.TestCase


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[None]:
    with (
        mock.patch.multiple("syncline.actors.devices.outbound", **SMALL),
        mock.patch("syncline.actors.devices.sending.MESSAGE_BYTES", SMALL_MESSAGE_BYTES),
    ):
        yield


def resting(position: int = FIRST_LSN, *subscribed: str) -> Play:
    """A device that has caught up with a world."""
    play = Play(World(), position, subscribed)
    play.settle()
    return play


def test_what_is_released_before_the_answer_to_a_follow_is_carried_out_is_not_sent_twice() -> None:
    play = resting()
    play.subscribe({"a"})
    while not isinstance(play.step, Follow):
        play.advance()
    play.advance()  # asks
    play.world.commit({"a"})
    play.release(1)
    play.read_mail()
    play.read_mail()  # both before the answer is taken
    play.settle()
    assert play.device.rows["a"] == play.world.rows("a", play.world.released)


def test_a_subscription_called_off_before_its_turn_leaves_nothing_behind_in_the_next() -> None:
    play = resting()
    first, _ = play.subscribe({"a"}), play.subscribe({"b"})
    play.unsubscribe(first)
    play.settle()
    assert set(play.outbound.shapes) == {SCHEMA, "b"}
    play.subscribe({"a"})
    play.world.commit({"a"})
    play.settle()
    assert set(play.device.rows) == {"a", "b"}


def test_subscriptions_that_wait_together_follow_one_bundle_and_are_delivered_one_by_one() -> None:
    play = resting()
    followed: list[frozenset[str]] = []
    delivered: list[str] = []
    for names in ({"a"}, {"b"}, {"a", "c"}):
        play.subscribe(names)
    while len(delivered) < 3:
        if isinstance(play.step, Follow) and play.step.shapes not in followed:
            followed.append(play.step.shapes)
        if isinstance(play.step, Delivered):
            delivered += play.step.delivery.subscription_ids
            play.world.commit({"a", "b", "c"})
            play.release(1)
        play.advance()
        play.read_mail()
    play.settle()
    assert followed == [{SCHEMA, "a", "b", "c"}]
    assert delivered == ["subscription 1", "subscription 2", "subscription 3"]
    assert all(play.device.rows[name] == play.world.rows(name, play.world.released) for name in "abc")


def test_a_subscription_whose_bundle_is_followed_already_is_not_called_off_but_leaves() -> None:
    play = resting()
    play.world.commit({"a", "b"})
    play.release(1)
    _, second = play.subscribe({"a"}), play.subscribe({"b"})
    while not isinstance(play.step, ReadImage):
        play.advance()
        play.read_mail()
    assert not play.outbound.cancel(second)
    play.unsubscribe(second)
    play.settle()
    assert set(play.device.rows) == {"a"}


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("ended", [[0], [1], [0, 1]])
def test_those_for_which_a_bundle_is_asked_are_not_called_off(ended: list[int], third: bool) -> None:
    """Whoever waits for the bundle's answer has counted them, and follows what they have."""
    play = resting()
    play.world.commit({"a", "b", "c"})
    play.release(1)
    asked = [play.subscribe({"a"}), play.subscribe({"b"})]
    while not isinstance(play.step, Follow):
        play.advance()
        play.read_mail()
    for number in ended:
        play.unsubscribe(asked[number])
    if third:
        play.subscribe({"c"})
    play.settle()
    play.world.commit({"a", "b", "c"})
    play.settle()
    left = {name for number, name in enumerate("ab") if number not in ended} | ({"c"} if third else set())
    assert set(play.device.rows) == left
    assert all(play.device.rows[name] == play.world.rows(name, play.world.released) for name in left)


def test_rows_two_subscriptions_hold_stay_when_one_of_them_ends() -> None:
    play = resting()
    play.world.commit({"a"})
    first, second = play.subscribe({"a"}), play.subscribe({"a"})
    play.settle()
    play.unsubscribe(first)
    play.settle()
    assert play.device.rows["a"]
    play.unsubscribe(second)
    play.settle()
    assert play.device.rows == {}


def test_a_table_given_up_during_its_delivery_and_wanted_again_arrives_whole() -> None:
    play = resting()
    for _ in range(5):
        play.world.commit({"a"})
    play.release(5)
    first = play.subscribe({"a"})
    while not isinstance(play.step, ReadImage):
        play.advance()
        play.read_mail()
    play.unsubscribe(first)
    play.subscribe({"a"})
    play.settle()
    assert play.device.rows["a"] == play.world.rows("a", play.world.released)


def test_rows_of_a_shape_that_lags_behind_leave_where_it_is() -> None:
    play = resting(FIRST_LSN, "a", "b")
    play.world.commit({"a", "b"})
    play.rest("b", FIRST_LSN)
    play.release(1)
    play.unsubscribe("old b")
    for _ in range(20):
        play.advance()
        play.read_mail()
    assert play.device.rows["a"] == play.world.rows("a", play.world.released)
    assert "b" not in play.device.rows


def test_a_device_has_reached_what_it_has_while_rows_leave_it() -> None:
    play = resting(FIRST_LSN, "a", "b")
    for _ in range(3):
        play.world.commit({"a", "b"})
    play.settle()
    play.unsubscribe("old a")
    left = 0
    while play.device.unsubscribed:
        play.advance()
        play.read_mail()
        left += "old a" in play.device.subscriptions and len(play.device.rows["a"]) < 3
        assert play.outbound.has_reached(play.world.released)
        play.has_all_up_to(play.world.released)
    assert left, "it was looked at while they left"


def test_what_an_earlier_stream_of_the_connection_was_sent_is_ignored() -> None:
    play = resting(FIRST_LSN, "a")
    old = play.outbound
    play.world.commit({"a"})
    again = Outbound(ME, FIRST_LSN, SCHEMA, {}, Window(WINDOW), generation=old.generation)
    step = next(again.steps())
    assert isinstance(step, Send)
    again.released(old.generation, play.world.live(frozenset({"a"}), 0, 1 << 62), 1 << 62)
    assert again.awaited_lsn is None
    assert again.generation == old.generation


def test_an_image_waits_until_the_stream_has_come_to_where_the_device_stands() -> None:
    world = World()
    for _ in range(3):
        world.commit({"a", "b"})
    world.released = world.transactions[0].lsn
    play = Play(world, world.transactions[2].lsn, ("a",))
    play.subscribe({"b"})
    for _ in range(20):
        play.advance()
        play.read_mail()
    assert isinstance(play.step, Wait)
    assert play.outbound.awaited_lsn == world.transactions[2].lsn
    play.settle()
    assert play.device.rows["b"] == world.rows("b", world.released)


def test_an_own_transaction_outside_the_shapes_comes_back_empty_and_in_its_place() -> None:
    play = resting(FIRST_LSN, "a")
    play.world.commit({"b"}, mine=True)
    play.world.commit({"a"})
    play.settle()
    assert play.device.echoed == [play.world.transactions[0].commit_ms]


def test_a_rejected_transaction_comes_back_with_what_heals_the_device_and_its_relation_before() -> None:
    play = resting()
    table = TABLES["a"]
    play.outbound.note_echo(Echo(play.world.released, 5, (Healed(table, (b"1",), None),)))
    sent: list[bytes] = []
    play.device.receive = sent.append  # type: ignore[method-assign,assignment]
    play.settle()
    relation, echo = sent
    assert relation == codec.relation_message(table)
    begin, gone, _ = codec.decode_ops(echo[1:])
    assert isinstance(begin, Begin)
    assert (begin.origin, begin.commit_ms) == (ME, 5)
    assert gone == Gone(table.id, (b"1",))


def test_many_rows_that_heal_a_device_come_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.sending.MESSAGE_BYTES", 200)
    play = resting()
    healed = tuple(Healed(TABLES["a"], (b"%d" % number,), None) for number in range(50))
    play.outbound.note_echo(Echo(play.world.released, 5, healed))
    sent: list[bytes] = []
    play.device.receive = sent.append  # type: ignore[method-assign,assignment]
    play.settle()
    _, *logs = sent
    assert len(logs) > 2
    begin, *gone, commit = codec.decode_ops(b"".join(log[1:] for log in logs))
    assert (isinstance(begin, Begin), isinstance(commit, Commit)) == (True, True)
    assert gone == [Gone(TABLES["a"].id, (b"%d" % number,)) for number in range(50)]


def test_what_heals_a_device_is_decided_by_the_shapes_it_holds_when_it_is_sent() -> None:
    table = TABLES["a"]
    healed = Healed(table, (b"1",), (b"1",), ("postgres_1@7",))
    key = (table.id, (b"1",))
    assert healed.changes({table.id: table}, {key: (table,)}) == (Update(table.id, (b"1",), None, ("postgres_1@7",)),)
    assert healed.changes({table.id: table}, {}) == (Gone(table.id, (b"1",)),)
    assert healed.changes({}, {}) == (Gone(table.id, (b"1",)),)


def test_what_heals_a_device_comes_by_every_relation_by_which_it_has_the_row() -> None:
    columns = (Column("id", "int4", primary_key=True), *(Column(name, "text") for name in "abc"))
    table = Relation(70, "public", "t", columns)
    left, right = projection(table, frozenset("a")), projection(table, frozenset("bc"))
    healed = Healed(table, (b"1",), (b"1", b"x", b"y", b"z"), ("postgres_1@7",))
    held = {table.id: left}
    assert healed.changes(held, {(table.id, (b"1",)): (left, right)}) == (
        Update(left.id, (b"1", b"x"), None, ("postgres_1@7",)),
        Update(right.id, (b"1", b"y", b"z"), None, ("postgres_1@7",)),
    )
    assert healed.changes(held, {}) == (Gone(left.id, (b"1", None)),)
    partly = {(table.id, (b"1",)): (left,)}
    other = healed.without(partly)
    assert other is not None
    assert other.names == ("id", "b", "c")
    assert healed.changes(held, partly) == (
        Update(left.id, (b"1", b"x"), None, ("postgres_1@7",)),
        Update(other.id, (b"1", None, None), None),  # what it may have written there
    )


def test_of_rows_that_heal_a_device_those_of_tables_it_does_not_hold_go_away() -> None:
    held, other = TABLES["a"], TABLES["b"]
    rows = (Healed(held, (b"1",), (b"1",)), Healed(held, (b"2",), None), Healed(other, (b"1",), (b"1",)))
    assert Echo(9, 5, rows).changes({held.id: held}, (), {(held.id, (b"1",)): (held,)}) == (
        Update(held.id, (b"1",), None, ()),
        Gone(held.id, (b"2",)),
        Gone(other.id, (b"1",)),
    )


def test_a_device_that_rests_is_sent_a_change_without_a_step_until_its_window_is_shut() -> None:
    play = resting(FIRST_LSN, "a")
    for _ in range(WINDOW + 1):
        play.world.commit("a")
        play.release(1)
        play.read_mail()
    assert len(play.device.rows["a"]) == WINDOW
    assert play.outbound.due
    play.ack(-1)
    play.settle()
    assert len(play.device.rows["a"]) == WINDOW + 1


def test_a_change_is_sent_by_the_steps_where_an_echo_comes_before_it_or_a_delivery_is_being_made() -> None:
    play = resting(FIRST_LSN, "a")
    play.world.commit((), mine=True)
    play.world.commit("a")
    play.release(2)
    while play.mail:
        play.read_mail()
    assert not play.device.rows["a"]
    play.settle()
    assert play.device.rows["a"]
    play.subscribe({"b"})
    play.world.commit("a")
    play.release(1)
    play.read_mail()
    assert len(play.device.rows["a"]) == 1
    play.settle()
    assert len(play.device.rows["a"]) == 2


@pytest.mark.usefixtures("small")
def test_a_device_that_does_not_ack_is_read_to_from_the_logs_afterwards() -> None:
    play = resting(FIRST_LSN, "a")
    for _ in range(50):
        play.world.commit({"a"})
        play.release(1)
        play.read_mail()
        play.advance()
    assert len(play.device.unacked) == WINDOW
    assert len(play.outbound._live) * 50 <= SMALL["LIVE_BYTES_MAX"]
    play.settle()
    assert play.device.rows["a"] == play.world.rows("a", play.world.released)
