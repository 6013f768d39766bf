"""A mailbox at its limit, by policy."""

from __future__ import annotations

import asyncio

import pytest

from syncline.cluster import Actor, ActorDown, CallTimeout, Exit, ExitKind, MailboxFull, MailboxOverflow, Overflow
from syncline.cluster.clock import VirtualClock
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import run_virtual, spawn


class Gate(Actor):
    """Keeps what it gets, once its gate is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.got: list[object] = []

    async def handle_cast(self, message: object) -> None:
        await self.open.wait()
        self.got.append(message)

    async def handle_call(self, message: object) -> object:
        return self.got

    async def handle_info(self, message: object) -> None:
        self.got.append(message)


async def full(overflow: Overflow) -> tuple[Gate, LocalRef]:
    """A gate that is at message 0, with 1 and 2 in a mailbox for two."""
    gate = Gate()
    ref = await spawn(gate, mailbox_capacity=2, overflow=overflow)
    ref.cast(0)
    await asyncio.sleep(0)
    assert ref.cast(1)
    assert ref.cast(2)
    return gate, ref


async def test_block_refuses_casts_and_lets_sends_wait_in_order() -> None:
    gate, ref = await full(Overflow.BLOCK)
    assert not ref.cast("refused")
    sends = [asyncio.ensure_future(ref.send(number)) for number in (3, 4, 5)]
    await asyncio.sleep(0)
    assert not any(send.done() for send in sends)
    gate.open.set()
    await asyncio.gather(*sends)
    assert await ref.call("all") == [0, 1, 2, 3, 4, 5]


async def test_a_cancelled_send_gives_its_turn_to_the_next() -> None:
    gate, ref = await full(Overflow.BLOCK)
    first, second = asyncio.ensure_future(ref.send(3)), asyncio.ensure_future(ref.send(4))
    await asyncio.sleep(0)
    first.cancel()
    gate.open.set()
    await second
    assert await ref.call("all") == [0, 1, 2, 4]


def test_a_call_waits_for_room_no_longer_than_its_timeout() -> None:
    async def main(clock: VirtualClock) -> None:
        _, ref = await full(Overflow.BLOCK)
        with pytest.raises(CallTimeout):
            await ref.call("all", timeout_s=3)
        assert clock.monotonic_s() == 3

    run_virtual(main)


async def test_waiting_senders_learn_of_the_end() -> None:
    _, ref = await full(Overflow.BLOCK)
    waiting = [asyncio.ensure_future(ref.send(3)), asyncio.ensure_future(ref.call("all"))]
    await asyncio.sleep(0)
    ref.interrupt(Exit(ExitKind.KILLED))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ActorDown, ActorDown]


async def test_refuse_tells_the_sender() -> None:
    gate, ref = await full(Overflow.REFUSE)
    assert not ref.cast(3)
    with pytest.raises(MailboxFull):
        await ref.send(3)
    with pytest.raises(MailboxFull):
        await ref.call("all")
    gate.open.set()


async def test_drop_oldest_keeps_the_newest_and_tells_a_dropped_caller() -> None:
    gate, ref = await full(Overflow.DROP_OLDEST)
    assert ref.cast(3)  # drops 1
    call = asyncio.ensure_future(ref.call("all"))  # drops 2
    await asyncio.sleep(0)
    assert ref.cast(4)  # drops 3
    assert ref.cast(5)  # drops the call
    with pytest.raises(MailboxFull):
        await call
    gate.open.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gate.got == [0, 4, 5]


async def test_crash_ends_an_actor_that_falls_behind() -> None:
    _, ref = await full(Overflow.CRASH)
    assert not ref.cast(3)
    exit = await ref.join()
    assert exit.kind is ExitKind.CRASHED
    assert isinstance(exit.cause, MailboxOverflow)


async def test_infos_enter_a_full_mailbox_in_their_place_and_a_stop_overtakes_all() -> None:
    gate, ref = await full(Overflow.BLOCK)
    ref.inform("a fact")
    gate.open.set()
    await asyncio.sleep(0)
    assert await ref.call("all") == [0, 1, 2, "a fact"]
    gate.open.clear()
    ref.cast(6)
    await asyncio.sleep(0)
    ref.cast(7)
    ref.stop()
    gate.open.set()
    await ref.join()
    assert gate.got == [0, 1, 2, "a fact", 6]
