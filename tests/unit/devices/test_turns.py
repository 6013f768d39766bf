"""Some are inside, the others wait in order; a turn is lost by nobody who gives up."""

from __future__ import annotations

import asyncio

from syncline.actors.devices.turns import Turns


async def settled() -> None:
    """Whoever can go on has gone on: turns of the loop, no time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_as_many_as_may_are_inside_and_the_others_follow_in_order() -> None:
    turns, go_on, inside = Turns(2), asyncio.Event(), []

    async def come(who: int) -> None:
        async with turns:
            inside.append(who)
            await go_on.wait()

    coming = [asyncio.create_task(come(who)) for who in range(5)]
    await settled()
    assert inside == [0, 1]
    go_on.set()
    await asyncio.gather(*coming)
    assert inside == [0, 1, 2, 3, 4]


async def test_whoever_gives_up_waiting_or_inside_leaves_the_turn_to_the_next() -> None:
    turns = Turns(1)
    entered, stay = asyncio.Event(), asyncio.Event()

    async def come() -> None:
        async with turns:
            entered.set()
            await stay.wait()

    async with turns:
        waiting, called, last = (asyncio.create_task(come()) for _ in range(3))
        await settled()
        waiting.cancel()
        await settled()
    called.cancel()  # it has its turn already, and has not noticed yet
    async with asyncio.timeout(5):
        await entered.wait()
    last.cancel()
    await asyncio.gather(waiting, called, last, return_exceptions=True)
    async with asyncio.timeout(5), turns:
        pass
