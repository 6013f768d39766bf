"""A fixed small share of the runs; ``make consistency`` makes them as long as wanted, with any fault."""

from __future__ import annotations

import shutil

import pytest
from tests.consistency.__main__ import ANOMALY, VOID, explain, reachable_folder, worst
from tests.consistency.recording import HEAD, line
from tests.consistency.run import Result, Wanted, run
from tests.patience import PATIENCE_S


@pytest.mark.parametrize("fault", ["none", "kill"])
async def test_all_promises_hold_for_processes(fault: str) -> None:
    folder = reachable_folder()
    wanted = Wanted(fault, seconds=15.0, devices=3, npm=1, writers=1, rate=25.0, drained_within_s=PATIENCE_S)
    result = await run(wanted, folder)
    print(explain(result))
    assert result.anomalies == [], explain(result)
    assert result.void == []
    shutil.rmtree(folder)


def test_of_several_runs_what_did_not_hold_counts_before_what_shows_nothing() -> None:
    assert [worst(codes) for codes in ([0, 0], [0, VOID], [VOID, ANOMALY, 0])] == [0, VOID, ANOMALY]


def test_a_line_of_the_results_has_a_cell_for_each_column() -> None:
    result = Result(Wanted(), reachable_folder())
    for void in ([], ["kill never happened"]):
        result.void = void
        assert line(result, "2026-01-01", "0.1.0 `abc`").count("|") == HEAD.splitlines()[-1].count("|")
    shutil.rmtree(result.folder)
