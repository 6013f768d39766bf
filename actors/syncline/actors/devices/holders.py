"""Asks shapes which rows they hold, and no shape about rows that cannot be its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from syncline.actors.devices.layers import Knowing, Layer
from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.messages import AskHeld
from syncline.cluster import Ref

HELD_TIMEOUT_S = 60.0


class Holders(Knowing, Protocol):
    """Where shapes are, and what is known of them."""

    def refs(self, shapes: Iterable[str]) -> Mapping[str, Ref]: ...


async def any_holds(holders: Holders, shapes: Shapes, lsn: int, rows: Sequence[HeldRow], but: str = "") -> list[bool]:
    """Which of ``rows``, as of ``lsn``, any of ``shapes``, ``but`` for one, holds there. Raises what a call raises."""
    layer = shapes if isinstance(shapes, Layer) else Layer(shapes)
    held = [False] * len(rows)
    asked: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        candidates = layer.asked(row, but, holders)
        if candidates is None:
            held[place] = True
        else:
            for shape in candidates:
                asked.setdefault(shape, []).append(place)

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
