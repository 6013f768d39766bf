"""What happens in a run, drawn from its seed beforehand: who writes what when, and what goes wrong.

Every item carries a number of its own from which its details are drawn, so one can be left out without changing the
others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ACTIONS = {
    "device writes": 40,
    "direct SQL": 22,
    "large direct SQL": 3,
    "truncate": 1,
    "subscribe": 7,
    "unsubscribe": 3,
    "replace": 4,
    "poison": 2,
}
FAULTS = {
    "cut": 8,
    "half open": 6,
    "late bytes": 5,
    "deaf": 4,
    "stall": 6,
    "device crash": 5,
    "device crash in commit": 5,
    "offline": 9,
    "clock jump": 5,
    "service kill": 5,
    "machine loss": 3,
    "empty disk": 2,
    "postgres crash": 4,
}
STEP_US = 40_000


@dataclass(frozen=True, slots=True)
class Item:
    """``number`` decides the details."""

    at_us: int
    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    actions: tuple[Item, ...]
    faults: tuple[Item, ...]

    def describe(self) -> str:
        return ", ".join(f"{fault.kind} at {fault.at_us // 1000} ms" for fault in self.faults) or "no faults"


def draw(seed: int, steps: int) -> Plan:
    """``steps``: the number of actions; there is a fault to about four of them, in some runs none."""
    rng = random.Random(f"plan {seed}")
    span_us = steps * STEP_US

    def items(kinds: dict[str, int], count: int) -> tuple[Item, ...]:
        chosen = rng.choices(list(kinds), list(kinds.values()), k=count)
        return tuple(
            sorted(
                (Item(rng.randrange(span_us), kind, rng.randrange(1 << 30)) for kind in chosen),
                key=lambda item: (item.at_us, item.number),
            )
        )

    actions = items(ACTIONS, steps)
    return Plan(seed, actions, items(FAULTS, rng.choice((0, steps // 8, steps // 4, steps // 3))))
