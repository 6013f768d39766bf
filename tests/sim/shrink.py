"""A failing run made smaller: fewer faults, then fewer actions, as long as something still goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim.plan import Plan
from tests.sim.world import Result

ATTEMPTS_MAX = 60


def shrink(failed: Result, simulate: Callable[[Plan], Result]) -> Result:
    """The smallest failing run found. It need not fail in the same way: what is smaller is easier to understand."""
    best = failed
    left = ATTEMPTS_MAX

    def attempt(plan: Plan) -> bool:
        nonlocal best, left
        left -= 1
        result = simulate(plan)
        if result.anomaly is not None:
            best = result
        return result.anomaly is not None

    for part in ("faults", "actions"):
        size = max(1, len(getattr(best.plan, part)) // 2)
        while left > 0 and getattr(best.plan, part):
            items = getattr(best.plan, part)
            # Later ones first: what happens after the anomaly cannot matter.
            for start in range(len(items) - size, -size, -size):
                kept = items[: max(0, start)] + items[start + size :]
                if left > 0 and len(kept) < len(items) and attempt(replace(best.plan, **{part: kept})):
                    break
            else:
                if size == 1:
                    break
                size //= 2
    return best
