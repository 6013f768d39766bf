"""A simulator that finds nothing proves nothing: every rule broken on purpose has to be noticed, and soon."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.sim.direct_mutants import DIRECT_MUTANTS, EVERY_MUTANT
from tests.sim.merging_mutants import MERGING_MUTANTS
from tests.sim.plan import Plan, draw
from tests.sim.shrink import shrink
from tests.sim.world import Result, simulate

RUNS_MAX = 400
STEPS = 40
# Those that need more than a dozen runs, tens of seconds each.
RARE = {
    "a delete removes what it had not observed",
    "an incoming delete removes a row with a write on its way",
    "a device's own delete does not count until it has come back",
    "a tie is won by the smaller device in Postgres",
    "a tie is won by the smaller device on devices",
    "what was beaten on a device is shown again when its row comes once more",
    "columns that a constraint ties together go apart",
    "a device's clock does not follow the rows of a shape",
    "a compensation on its way keeps nothing on the device",
    "a row comes back without the values it had",
    "a row that a device brings back has nothing of the old image of the delete",
    "rows that heal a device may be older than their place",
    "a bundle opens before its shapes' snapshots have passed in the stream",
    "logs are taken for durable without having been synced",
    "a child does not keep its parent",
    "what direct SQL deletes is not remembered",
    "a row that is fetched says that it was written later than it was read",
    "the marks of snapshots begin anew when the service starts",
    "a device is not told what has been carried out",
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_anomaly(name: str) -> Result | None:
    results = (simulate(draw(seed, STEPS), EVERY_MUTANT[name]) for seed in range(1, RUNS_MAX + 1))
    return next((result for result in results if result.anomaly is not None), None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in RARE else name for name in EVERY_MUTANT]
)
def test_a_broken_rule_is_noticed(name: str) -> None:
    found = first_anomaly(name)
    assert found is not None, f"{RUNS_MAX} runs and nobody noticed that {name}"
    assert "TypeError" not in str(found.anomaly), "it does not fit what it replaces any more, and breaks no rule"


def test_there_are_enough_of_them() -> None:
    assert len(MERGING_MUTANTS) >= 25
    assert len(DIRECT_MUTANTS) >= 12
    assert len(EVERY_MUTANT) >= 75
    assert EVERY_MUTANT.keys() >= RARE


def test_a_failing_run_is_made_smaller() -> None:
    name = "a transaction loses the part of one of its shapes"
    found = first_anomaly(name)
    assert found is not None

    def again(plan: Plan) -> Result:
        return simulate(plan, EVERY_MUTANT[name])

    small = shrink(found, again)
    assert small.anomaly is not None
    assert len(small.plan.actions) < len(found.plan.actions)
    assert len(small.plan.faults) <= len(found.plan.faults)
    assert again(small.plan).anomaly == small.anomaly
