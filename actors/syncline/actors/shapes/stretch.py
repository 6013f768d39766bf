"""Long computations for which nobody waits: generators that yield between their steps, run at a stretch. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


def at_a_stretch(steps: Generator[None, None, T]) -> T:
    """What ``steps`` return, with no pause between them; ``paced`` makes pauses."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: T = end.value
            return made
