"""A few simulated runs as part of the ordinary suite; ``make sim`` makes a thousand."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter

import pytest
from tests.sim.__main__ import main
from tests.sim.plan import FAULTS, draw
from tests.sim.world import Result, simulate

SEEDS = range(1, 41)
STEPS = 40


@pytest.fixture(scope="module")
def results() -> list[Result]:
    logging.disable(logging.CRITICAL)
    try:
        return [simulate(draw(seed, STEPS)) for seed in SEEDS]
    finally:
        logging.disable(logging.NOTSET)


def test_nothing_is_wrong_in_any_run(results: list[Result]) -> None:
    assert [(result.plan.seed, result.anomaly) for result in results if result.anomaly] == []


def test_every_kind_of_fault_has_happened(results: list[Result]) -> None:
    fired: Counter[str] = Counter()
    for result in results:
        fired.update(result.fired)
    assert [kind for kind in FAULTS if not fired[kind]] == []


def test_devices_have_written_the_same_rows_at_once_and_have_been_refused(results: list[Result]) -> None:
    assert sum(result.conflicts for result in results) > 0
    assert sum(result.rejections for result in results) > 0


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_always_makes_the_same_run(results: list[Result], seed: int) -> None:
    logging.disable(logging.CRITICAL)
    try:
        assert simulate(draw(seed, STEPS)) == results[SEEDS.index(seed)]
    finally:
        logging.disable(logging.NOTSET)


def test_a_seed_makes_the_same_run_whatever_python_hashes_texts_to() -> None:
    """Sets are in another order then. The runs of this seed went two ways."""
    command = [sys.executable, "-m", "tests.sim", "--seed", "84", "--runs", "1"]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False)
        for seed in ("0", "5")
    ]
    assert runs[0].stdout == runs[1].stdout


def test_the_command_sums_up_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(["--seed", "1", "--runs", "2", "--steps", "10", "--verbose"]) == 0
    finally:
        logging.disable(logging.NOTSET)
    printed = capsys.readouterr().out
    assert "seed 2:" in printed
    assert "2 runs, no anomaly: 20 steps" in printed
    assert "never happened:" in printed
