"""Asks shapes which rows they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.messages import AskHeld
from syncline.cluster import Ref

HELD_TIMEOUT_S = 60.0


class Holders(Protocol):
    """Where shapes are, and whether there may be rows of their tables that they do not hold."""

    def refs(self, shapes: Iterable[str]) -> Mapping[str, Ref]: ...

    def selects(self, shape: str) -> bool: ...


async def any_holds(holders: Holders, shapes: Shapes, lsn: int, rows: Sequence[HeldRow]) -> list[bool]:
    """Which of ``rows``, as of ``lsn``, any of ``shapes`` holds there. Raises what a call raises."""
    held = [False] * len(rows)
    asked: dict[str, list[int]] = {}
    for shape, relations in shapes.items():
        ids = {relation.id for relation in relations}
        places = [place for place, (relation_id, _) in enumerate(rows) if relation_id in ids]
        if not holders.selects(shape):
            for place in places:
                held[place] = True
        elif places:
            asked[shape] = places

    async def ask(shape: str, ref: Ref) -> None:
        places = [place for place in asked[shape] if not held[place]]
        if places:
            answer = await ref.call(AskHeld(lsn, tuple(rows[place] for place in places)), HELD_TIMEOUT_S)
            assert isinstance(answer, tuple)
            for place, holds in zip(places, answer, strict=True):
                held[place] = held[place] or bool(holds)

    if asked:
        await asyncio.gather(*(ask(shape, ref) for shape, ref in holders.refs(asked).items()))
    return held
