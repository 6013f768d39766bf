"""A link over the worst stream: exactly once, in order, and nothing of an old session in a new one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syncline.cluster.link import (
    Broken,
    Delivered,
    Established,
    Event,
    Hello,
    Limits,
    Link,
    LinkError,
    LinkFull,
    PeerLeft,
    PeerRefused,
    Superseded,
    opening_hello,
)

LIMITS = Limits(resend_bytes_max=400, resend_frames_max=20, ack_bytes=100, ack_frames=4)


def sound(events: list[Event]) -> list[Event]:
    """The events, or the error that broke the stream."""
    if events and isinstance(events[-1], Broken):
        raise events[-1].error
    return events


@dataclass
class End:
    """A link, what it got, and what it has on the wire."""

    link: Link
    got: list[int] = field(default_factory=list)
    sent: int = 0
    begun: bytes = b""  # the rest of a frame whose beginning the peer has: nothing may come in between
    frames: list[bytes] = field(default_factory=list)
    established: list[Established] = field(default_factory=list)

    def send(self) -> bool:
        try:
            self.link.send(str(self.sent).encode())
        except LinkFull:
            return False
        self.sent += 1
        return True

    def flush(self) -> None:
        while data := self.link.take():
            self.frames += whole_frames(data)

    def drop(self) -> None:
        self.begun = b""
        self.frames.clear()

    def on_the_way(self, size: int | None) -> bytes:
        """Takes all, or the next ``size`` bytes, off the wire."""
        wire = self.begun + b"".join(self.frames)
        size = len(wire) if size is None else min(size, len(wire))
        end = len(self.begun)
        while end < size:
            end += len(self.frames.pop(0))
        self.begun = wire[size:end]
        return wire[:size]

    def receive(self, data: bytes) -> list[Event]:
        events = self.link.receive(data)
        self.got += [int(event.payload) for event in events if isinstance(event, Delivered)]
        self.established += [event for event in events if isinstance(event, Established)]
        return sound(events)


@dataclass
class Pair:
    """Two ends and the wire between them."""

    a: End = field(default_factory=lambda: End(Link("a", "a1", limits=LIMITS)))
    b: End = field(default_factory=lambda: End(Link("b", "b1", limits=LIMITS)))

    def connect(self) -> None:
        for end in (self.a, self.b):
            end.link.connected()
            end.drop()

    def cut(self) -> None:
        for end in (self.a, self.b):
            end.link.disconnected()
            end.drop()

    def carry(self, source: End, size: int | None = None) -> list[Event]:
        """Moves bytes of ``source``; a link that finds the stream broken cuts it, as its shell would."""
        source.flush()
        target = self.b if source is self.a else self.a
        try:
            return target.receive(source.on_the_way(size))
        except LinkError:
            self.cut()
            self.connect()
            return []

    def settle(self) -> None:
        """A good connection, for long enough."""
        self.cut()
        self.connect()
        for _ in range(60):
            for end in (self.a, self.b):
                end.link.heartbeat()
                self.carry(end)


class LossyLink(RuleBasedStateMachine):
    """Two ends over a stream that keeps order, and otherwise loses, repeats and cuts as it likes."""

    @initialize()
    def begin(self) -> None:
        self.pair = Pair()
        self.pair.connect()

    def end(self, first: bool) -> End:
        return self.pair.a if first else self.pair.b

    @rule(first=st.booleans(), count=st.integers(1, 30))
    def send(self, first: bool, count: int) -> None:
        end = self.end(first)
        for _ in range(count):
            if not end.send():
                assert not end.link.room
                break

    @rule(first=st.booleans(), size=st.one_of(st.none(), st.integers(0, 200)))
    def carry(self, first: bool, size: int | None) -> None:
        self.pair.carry(self.end(first), size)

    @rule(first=st.booleans())
    def heartbeat(self, first: bool) -> None:
        self.end(first).link.heartbeat()

    @rule(first=st.booleans(), index=st.integers(0, 20))
    def lose_a_frame(self, first: bool, index: int) -> None:
        end = self.end(first)
        end.flush()
        del end.frames[index : index + 1]

    @rule(first=st.booleans(), index=st.integers(0, 20))
    def repeat_a_frame(self, first: bool, index: int) -> None:
        end = self.end(first)
        end.flush()
        end.frames[index:index] = end.frames[index : index + 1]

    @rule()
    def cut(self) -> None:
        self.pair.cut()
        self.pair.connect()

    @invariant()
    def what_arrived_is_a_prefix_of_what_was_sent(self) -> None:
        if hasattr(self, "pair"):
            for source, target in ((self.pair.a, self.pair.b), (self.pair.b, self.pair.a)):
                assert target.got == list(range(len(target.got)))
                assert len(target.got) <= source.sent

    @invariant()
    def the_resend_buffer_is_bounded(self) -> None:
        if hasattr(self, "pair"):
            assert self.pair.a.link.unacked <= LIMITS.resend_frames_max
            assert self.pair.b.link.unacked <= LIMITS.resend_frames_max

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.settle()
            assert self.pair.b.got == list(range(self.pair.a.sent))
            assert self.pair.a.got == list(range(self.pair.b.sent))
            assert self.pair.a.link.unacked == self.pair.b.link.unacked == 0
            assert not any(event.replaced for end in (self.pair.a, self.pair.b) for event in end.established)


LossyLink.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLossyLink = LossyLink.TestCase


def whole_frames(wire: bytes) -> list[bytes]:
    """The frames in ``wire``, which ends with the last of them."""
    frames = []
    while wire:
        size = 4 + int.from_bytes(wire[:4], "big")
        frames.append(wire[:size])
        wire = wire[size:]
    return frames


@given(st.lists(st.binary(max_size=60), max_size=30))
def test_fed_byte_by_byte_or_at_once_the_same_arrives(payloads: list[bytes]) -> None:
    source, slow, quick = (Link(name, name, limits=Limits()) for name in ("source", "slow", "quick"))
    source.connected()
    for link in (slow, quick):
        link.connected()
    hello = slow.take()
    wire = source.take()
    source.receive(hello)
    for payload in payloads:
        source.send(payload)
    wire += source.take()
    at_once = quick.receive(wire)
    one_by_one = [event for index in range(len(wire)) for event in slow.receive(wire[index : index + 1])]
    assert at_once == one_by_one
    assert [event.payload for event in at_once if isinstance(event, Delivered)] == payloads


@given(st.binary(max_size=200))
def test_whatever_a_stranger_sends_ends_in_link_error_or_nothing(data: bytes) -> None:
    link = Link("a", "a1", limits=Limits(frame_bytes_max=1000))
    link.connected()
    with suppress(LinkError, Superseded):
        assert sound(link.receive(data)) == []
    with suppress(LinkError):
        assert opening_hello(data) is None


def established(pair: Pair) -> Pair:
    pair.connect()
    pair.carry(pair.a)
    pair.carry(pair.b)
    return pair


def test_what_arrived_before_the_stream_broke_is_not_lost() -> None:
    pair = established(Pair())
    for _ in range(3):
        pair.a.send()
    pair.a.flush()
    first, _, third = pair.a.frames
    with pytest.raises(LinkError, match="arrived after"):
        pair.b.receive(first + third)
    assert pair.b.got == [0]
    pair.settle()
    assert pair.b.got == [0, 1, 2]


def test_a_repeated_frame_is_dropped_and_breaks_nothing() -> None:
    pair = established(Pair())
    pair.a.send()
    pair.a.flush()
    assert pair.b.receive(pair.a.on_the_way(None) * 2) == [Delivered(b"0")]
    assert pair.b.link.duplicates == 1


def test_the_loss_of_the_last_frame_is_noticed_at_the_next_heartbeat() -> None:
    pair = established(Pair())
    pair.a.send()
    pair.a.flush()
    pair.a.drop()
    pair.a.link.heartbeat()
    pair.a.flush()
    with pytest.raises(LinkError, match="up to 1 were sent, received 0"):
        pair.b.receive(pair.a.on_the_way(None))


def test_after_a_reconnect_only_what_was_not_received_is_sent_again() -> None:
    pair = established(Pair())
    pair.a.send()
    pair.carry(pair.a)
    pair.a.send()
    pair.cut()
    established(pair)
    pair.carry(pair.a)
    assert pair.b.got == [0, 1]
    assert pair.b.link.duplicates == 0


def test_a_restarted_peer_counts_from_the_beginning() -> None:
    pair = established(Pair())
    pair.b.send()
    pair.carry(pair.b)
    pair.b = End(Link("b", "b2", limits=LIMITS))
    established(pair)
    pair.b.send()
    pair.carry(pair.b)
    assert pair.a.got == [0, 0]


def test_a_restarted_peer_is_a_new_session_and_gets_nothing_of_the_old() -> None:
    pair = established(Pair())
    pair.a.send()
    pair.carry(pair.a)
    pair.a.send()  # meant for the old one
    pair.b = End(Link("b", "b2", limits=LIMITS))
    pair.settle()
    assert pair.b.got == []
    assert [event.replaced for event in pair.a.established] == [False, True]
    pair.a.send()
    pair.settle()
    assert pair.b.got == [2]


def test_an_end_that_gave_up_makes_the_other_forget_as_well() -> None:
    pair = established(Pair())
    pair.b.send()
    pair.carry(pair.b)
    pair.b.send()
    pair.a = End(Link("a", "a1.2", limits=LIMITS))
    pair.settle()
    assert pair.b.established[-1].replaced
    pair.b.send()
    pair.settle()
    assert pair.a.got == [2]


def test_what_is_sent_before_the_first_contact_waits_for_it() -> None:
    pair = Pair()
    pair.a.send()
    pair.settle()
    assert pair.b.got == [0]


def test_a_connection_cut_between_the_hellos_loses_nothing() -> None:
    pair = Pair()
    pair.connect()
    pair.carry(pair.b)  # a knows b, b does not know a
    pair.a.send()
    pair.a.flush()
    pair.settle()
    assert pair.b.got == [0]
    assert not pair.a.established[-1].replaced


def test_a_lower_epoch_is_refused_and_told_who_came_after_it() -> None:
    edge = End(Link("edge", "e1", fence=7))
    zombie = End(Link("origin", "o1", epoch=6))
    for end in (edge, zombie):
        end.link.connected()
    zombie.flush()
    assert edge.receive(zombie.on_the_way(None)) == [PeerRefused(6)]
    with pytest.raises(Superseded) as caught:
        zombie.receive(edge.link.take())
    assert caught.value.epoch == 7


def test_payloads_of_a_lower_epoch_are_dropped_and_acknowledged() -> None:
    pair = established(Pair())
    pair.a.link.raise_epoch(2)
    pair.a.send()
    pair.carry(pair.a)
    assert pair.b.link.fence == 2
    pair.a.link.epoch = 1  # as a process would that does not know better
    pair.a.send()
    pair.carry(pair.a)
    assert pair.b.got == [0]
    assert pair.b.link.dropped_epoch == 1
    pair.b.link.heartbeat()
    pair.carry(pair.b)
    assert pair.a.link.unacked == 0


def test_an_epoch_never_goes_down() -> None:
    link = Link("a", "a1", epoch=3)
    with pytest.raises(ValueError, match="below 3"):
        link.raise_epoch(2)


def test_without_the_token_nobody_gets_in() -> None:
    inside, outside = Link("a", "a1", token="secret"), Link("b", "b1", token="guess")
    inside.connected()
    outside.connected()
    with pytest.raises(LinkError, match="token"):
        sound(inside.receive(outside.take()))


def test_a_peer_that_leaves_in_order_says_so() -> None:
    pair = established(Pair())
    pair.a.link.goodbye()
    assert pair.carry(pair.a) == [PeerLeft()]


def test_a_full_buffer_refuses_and_has_room_again_after_an_acknowledgement() -> None:
    pair = established(Pair())
    while pair.a.send():
        pass
    assert not pair.a.link.room
    pair.carry(pair.a)
    pair.carry(pair.b)
    assert pair.a.link.room


def test_the_opening_hello_says_who_calls() -> None:
    link = Link("edge-0", "e1", epoch=4)
    link.connected()
    wire = link.take()
    assert opening_hello(wire[:-1]) is None
    assert opening_hello(wire) == Hello("edge-0", "e1", 4)
