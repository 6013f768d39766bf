"""A simulator that finds nothing proves nothing: every rule broken on purpose has to be noticed, and soon."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.mutation import Misfit, in_place_of
from tests.sim.direct_mutants import DIRECT_MUTANTS, EVERY_MUTANT
from tests.sim.merging_mutants import MERGING_MUTANTS
from tests.sim.plan import Plan, draw
from tests.sim.shrink import shrink
from tests.sim.world import Result, simulate

from syncline.actors.devices.rowreader import RowReader

RUNS_MAX = 400
STEPS = 40
SEEDS = range(1, RUNS_MAX + 1)
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
    "a device is not told what has been carried out",
}
# Also where the product fails for what a mutant has made.
MISFITS = ("TypeError", "AttributeError", "NameError")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_anomaly(name: str) -> Result | None:
    results = (simulate(draw(seed, STEPS), EVERY_MUTANT[name]) for seed in SEEDS)
    return next((result for result in results if result.anomaly is not None), None)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in RARE else name for name in EVERY_MUTANT]
)
def test_a_broken_rule_is_noticed(name: str) -> None:
    found = first_anomaly(name)
    assert found is not None, f"{RUNS_MAX} runs and nobody noticed that {name}"
    assert not any(error in str(found.anomaly) for error in MISFITS), "it breaks what it replaces, not its rule"


def broken_by_name(original: Any, self: RowReader, snapshot: object, lsn: int) -> Any:
    return missing  # type: ignore[name-defined]  # noqa: F821


async def broken_later(original: Any, self: RowReader, snapshot: object, lsn: int) -> Any:
    return {}[await original(self, snapshot, lsn)]


@pytest.mark.parametrize("change", [lambda original, self: True, broken_by_name, broken_later])
def test_a_mutant_that_crashes_itself_breaks_no_rule(change: Callable[..., Any]) -> None:
    runs = (simulate(draw(seed, STEPS), lambda stack: in_place_of(stack, RowReader, "shows", change)) for seed in SEEDS)
    with pytest.raises(Misfit):
        all(runs)


def test_an_error_of_what_a_mutant_calls_is_not_its_own() -> None:
    with ExitStack() as stack:
        in_place_of(stack, UserDict, "__getitem__", lambda original, self, key: original(self, key))
        rows = UserDict[str, str]()
        with pytest.raises(KeyError):
            rows["a row"]


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
