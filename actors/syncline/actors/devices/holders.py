"""Asks shapes which rows they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.messages import AskHeld
from syncline.cluster import Ref

HELD_TIMEOUT_S = 60.0


async def any_holds(refs: Mapping[str, Ref], shapes: Shapes, lsn: int, rows: Sequence[HeldRow]) -> list[bool]:
    """Which of ``rows``, as of ``lsn``, any of ``shapes`` holds there. ``refs``: theirs. Raises what a call raises."""
    held = [False] * len(rows)

    async def ask(shape: str) -> None:
        ids = {relation.id for relation in shapes[shape]}
        places = [place for place, (relation_id, _) in enumerate(rows) if relation_id in ids]
        if places:
            answer = await refs[shape].call(AskHeld(lsn, tuple(rows[place] for place in places)), HELD_TIMEOUT_S)
            assert isinstance(answer, tuple)
            for place, holds in zip(places, answer, strict=True):
                held[place] = held[place] or bool(holds)

    await asyncio.gather(*map(ask, shapes))
    return held
