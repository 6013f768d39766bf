"""What can be asked of an actor, and what is told of it, is the same whoever keeps its host and wherever that is."""

from __future__ import annotations

import asyncio

import pytest
from tests.conformance.actors import HERE, Note, book, root
from tests.conformance.conftest import Hosted
from tests.patience import PATIENCE_S, until

from syncline.cluster import (
    ActorDown,
    CallTimeout,
    ChildSpec,
    Down,
    ExitKind,
    Factory,
    MailboxFull,
    Overflow,
    Ref,
    Refusal,
    Restart,
    StartFailed,
)
from syncline.cluster.testing import Probe, probe


async def end_of(ref: Ref) -> ExitKind:
    async with asyncio.timeout(PATIENCE_S):
        return (await ref.join()).kind


async def behind_the_gate(hosted: Hosted, overflow: Overflow) -> tuple[Ref, Probe]:
    """A book that has room for two notes and is held up with the first, 0; and its reader."""
    reader = await probe(hosted.here.context)
    small = book("small", reader.ref, mailbox_capacity=2, overflow=overflow, restart=Restart.TEMPORARY)
    await hosted.there.start(root(book("book"), small))
    held_up = await hosted.there.lookup("small")
    assert held_up is not None
    await hosted.there.ref("book").call("shut the gate")
    await held_up.send(Note(0))
    assert await reader.next(PATIENCE_S) == Note(0)
    return held_up, reader


async def open_the_gate(hosted: Hosted) -> None:
    await hosted.there.ref("book").call("open the gate")


async def test_messages_of_one_sender_arrive_in_order_and_keep_their_types(hosted: Hosted) -> None:
    await hosted.there.start(root(book("book")))
    ref = hosted.there.ref("book")
    for number in range(0, 30, 3):
        assert ref.cast(Note(number))
        await ref.send(Note(number + 1, ("a", "b")))
        assert ref.cast(Note(number + 2))
    assert await ref.call("numbers") == list(range(30))
    assert await ref.call(Note(3, ("x",))) == Note(3, ("x",))


async def test_a_call_ends_in_an_answer_a_refusal_a_timeout_or_the_actors_end(hosted: Hosted) -> None:
    await hosted.there.start(root(book("book")))
    ref = hosted.there.ref("book")
    with pytest.raises(Refusal, match="not today"):
        await ref.call("refuse")
    with pytest.raises(CallTimeout):
        await ref.call("hang", timeout_s=0.05)
    hanging = asyncio.ensure_future(ref.call("hang", PATIENCE_S))
    assert await ref.call("here") == "here"
    with pytest.raises(ActorDown, match="ZeroDivisionError") as caught:
        await ref.call("crash")
    assert caught.value.exit.kind is ExitKind.CRASHED
    with pytest.raises(ActorDown):
        await hanging

    async def restarted() -> bool:
        return await hosted.there.lookup("book") is not None

    await until(restarted)
    assert await ref.call("numbers") == []


async def test_an_actor_is_found_by_its_name_as_long_as_it_lives(hosted: Hosted) -> None:
    there = hosted.there
    assert await there.lookup("mine") is None
    with pytest.raises(ActorDown) as caught:
        await there.ref("mine").call("here")
    assert caught.value.exit.kind is ExitKind.NOT_FOUND
    assert await end_of(there.ref("mine")) is ExitKind.NOT_FOUND
    mine = await there.spawn(book("mine", restart=Restart.TEMPORARY))
    assert await there.lookup("mine") == mine
    with pytest.raises(StartFailed, match="belongs to"):
        await there.spawn(ChildSpec("another", Factory(f"{HERE}:Book"), name="mine"))
    mine.stop()
    assert await end_of(mine) is ExitKind.SHUTDOWN
    assert await there.lookup("mine") is None
    other = await there.spawn(book("mine", restart=Restart.TEMPORARY))
    assert other != mine
    assert await there.ref("mine").call("here") == "here"
    with pytest.raises(ActorDown):
        await mine.call("here")  # who has ended never means a later one
    assert not (mine.cast(Note(1)) and await other.call("numbers"))
    other.stop()
    await end_of(other)


async def test_a_ref_in_a_message_is_an_address_to_answer_to(hosted: Hosted) -> None:
    reader = await probe(hosted.here.context)
    writes = await hosted.there.spawn(book("writes", reader.ref, restart=Restart.TEMPORARY))
    await writes.send(Note(7))
    assert await reader.next(PATIENCE_S) == Note(7)
    writes.stop()
    await end_of(writes)


@pytest.mark.parametrize(
    ("order", "kind"), [("crash", ExitKind.CRASHED), ("end", ExitKind.NORMAL), ("", ExitKind.SHUTDOWN)]
)
async def test_an_end_is_told_once_to_each_who_watches_after_the_last_words(
    hosted: Hosted, order: str, kind: ExitKind
) -> None:
    watchers = [await probe(hosted.here.context) for _ in range(3)]
    watched = await hosted.there.spawn(book("watched", watchers[0].ref, restart=Restart.TEMPORARY))
    monitors = [watcher.ref.monitor(watched) for watcher in watchers]
    monitors[2].cancel()
    await watched.send(Note(1))
    if not order:
        await watched.call("here")  # a stop overtakes what waits
        watched.stop()
    elif order == "crash":
        with pytest.raises(ActorDown):
            await watched.call(order)
    else:
        await watched.call(order)
    assert await watchers[0].next(PATIENCE_S) == Note(1)
    for watcher, monitor in zip(watchers[:2], monitors, strict=False):
        down = await watcher.next(PATIENCE_S)
        assert isinstance(down, Down)
        assert (down.ref, down.monitor, down.exit.kind) == (watched, monitor, kind)
    with pytest.raises(ActorDown):
        await watched.call("here")
    assert not any(watcher.received for watcher in watchers)
    late = watchers[1].ref.monitor(watched)
    assert (await watchers[1].next(PATIENCE_S)).monitor is late  # at once, of one who ended long ago


async def test_who_does_not_stop_in_time_is_killed(hosted: Hosted) -> None:
    await hosted.there.start(root(ChildSpec("deaf", Factory(f"{HERE}:Deaf"), shutdown_s=0.05, name="deaf")))
    deaf = await hosted.there.lookup("deaf")
    assert deaf is not None
    await deaf.send(Note(1))
    ended = asyncio.ensure_future(end_of(deaf))
    await hosted.there.stop()
    assert await ended is ExitKind.KILLED


async def test_who_sends_waits_for_room_and_holds_up_nobody_else(hosted: Hosted) -> None:
    small, _ = await behind_the_gate(hosted, Overflow.BLOCK)
    sends = [asyncio.ensure_future(small.send(Note(number))) for number in range(1, 6)]
    await asyncio.gather(*sends[:2])
    await hosted.there.ref("book").call("pid")
    assert not any(send.done() for send in sends[2:])
    await open_the_gate(hosted)
    await asyncio.gather(*sends)
    assert await small.call("numbers") == [0, 1, 2, 3, 4, 5]


async def test_a_full_mailbox_refuses(hosted: Hosted) -> None:
    small, _ = await behind_the_gate(hosted, Overflow.REFUSE)
    await small.send(Note(1))
    await small.send(Note(2))
    with pytest.raises(MailboxFull):
        await small.send(Note(3))
    with pytest.raises(MailboxFull):
        await small.call("numbers")
    await open_the_gate(hosted)


async def test_a_full_mailbox_drops_what_is_oldest(hosted: Hosted) -> None:
    small, reader = await behind_the_gate(hosted, Overflow.DROP_OLDEST)
    for number in range(1, 6):
        await small.send(Note(number))
    await open_the_gate(hosted)
    assert [await reader.next(PATIENCE_S) for _ in range(2)] == [Note(4), Note(5)]
    assert await small.call("numbers") == [0, 4, 5]


async def test_a_full_mailbox_crashes_who_fell_behind(hosted: Hosted) -> None:
    small, reader = await behind_the_gate(hosted, Overflow.CRASH)
    reader.ref.monitor(small)
    await small.send(Note(1))
    await small.send(Note(2))
    with pytest.raises(ActorDown, match="MailboxOverflow"):
        await small.send(Note(3))
    assert (await reader.next(PATIENCE_S)).exit.kind is ExitKind.CRASHED
    await open_the_gate(hosted)


async def test_facts_enter_a_full_mailbox(hosted: Hosted) -> None:
    small, reader = await behind_the_gate(hosted, Overflow.REFUSE)
    for number in range(1, 10):
        small.inform(Note(number))
    await open_the_gate(hosted)
    assert [(await reader.next(PATIENCE_S)).number for _ in range(1, 10)] == list(range(1, 10))
