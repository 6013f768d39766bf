"""A fixed small share of the runs; ``make consistency`` makes them as long as wanted, with any fault."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from tests.consistency.__main__ import ANOMALY, VOID, explain, reachable_folder, worst
from tests.consistency.faults import FAULTS, Scene, clock_skew, owed
from tests.consistency.recording import HEAD, line, told
from tests.consistency.run import Result, Wanted, run
from tests.patience import PATIENCE_S


@pytest.mark.parametrize(("fault", "seconds"), [("none", 10.0), ("all", 30.0)])
async def test_all_promises_hold_for_processes(fault: str, seconds: float) -> None:
    folder = reachable_folder()
    wanted = Wanted(fault, seconds, devices=3, npm=1, writers=1, rate=25.0, drained_within_s=PATIENCE_S)
    result = await run(wanted, folder)
    print(explain(result))
    assert result.anomalies == [], explain(result)
    assert result.void == []
    shutil.rmtree(folder)


class OnlyAClock:
    """What ``clock_skew`` knows of a device."""

    is_device = True

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.skew_ms = 0
        self.jumps = 0

    async def skew(self, ms: int) -> None:
        self.jumps += ms != self.skew_ms
        self.skew_ms = ms


async def test_a_skew_that_changes_no_clock_is_not_counted() -> None:
    clocks = [OnlyAClock(kind) for kind in ("python", "npm", "npm")]
    nothing = cast(Any, None)
    scene = Scene(cast(Any, clocks), nothing, nothing, nothing, "", random.Random(1))
    for _ in range(50):
        await clock_skew(scene)
    assert scene.fired["clock-skew"] == sum(clock.jumps for clock in clocks)


def test_what_a_run_owes_is_each_fault_that_has_not_met_all_that_it_is_to_break() -> None:
    fired = Counter({**dict.fromkeys(FAULTS, 1), "cut to Postgres": 1, "half-open to Postgres": 1, "kill": 0})
    assert owed("all", fired) == ["kill", "kill-device", "black-hole", "duplicate"]
    assert owed("duplicate", Counter({"duplicate": 1})) == ["duplicate"]
    assert owed("kill", Counter({"kill": 1})) == owed("none", Counter()) == []


def test_of_several_runs_what_did_not_hold_counts_before_what_shows_nothing() -> None:
    assert [worst(codes) for codes in ([0, 0], [0, VOID], [VOID, ANOMALY, 0])] == [0, VOID, ANOMALY]


def test_a_line_of_the_results_has_a_cell_for_each_column() -> None:
    result = Result(Wanted(), reachable_folder())
    for void in ([], ["kill never happened"]):
        result.void = void
        assert line(result, "2026-01-01", "0.1.0 `abc`").count("|") == HEAD.splitlines()[-1].count("|")
    shutil.rmtree(result.folder)


def test_the_goals_are_told_as_met_or_by_what_they_are_missed() -> None:
    result = Result(Wanted(), Path(), transactions=700, of_devices=500, seconds=10.0, drain_s=5.0)
    assert told(result.missed) == "met"
    result.of_devices, result.drain_s = 498, 5.1
    assert told(result.missed) == "missed: 49.8 a second of devices, not 50; drained in 5.1 s, not in 5 s"
    result.of_devices, result.drain_s, result.void = 500, None, ["kill never happened"]
    assert told(result.missed) == "missed: drained never, not in 5 s; void"
