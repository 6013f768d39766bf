"""The device simulator of the benchmarks runs in every mode, and its exit code says whether the devices were right."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.figures import Figure
from benchmarks.program import Program, ViolatedError, run

ROOT = Path(__file__).parents[2]
MODES = {
    "steady": ["--rate", "20", "--seconds", "0.5", "--writes", "10"],
    "storm": ["--missed", "4"],
    "slow": ["--slow", "0.3", "--rate", "20", "--seconds", "0.5"],
    "fanout": ["--changes", "2", "--burst", "4", "--repeats", "1"],
}


def test_ten_devices_end_with_what_postgres_has_in_every_mode() -> None:
    runs = {
        mode: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.devices", mode, "--json", "--devices", "10", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mode, options in MODES.items()
    }
    said = {mode: running.communicate() for mode, running in runs.items()}
    for mode, running in runs.items():
        figures, progress = said[mode]
        assert running.returncode == 0, progress
        assert "every device holds what Postgres has" in progress
        assert {Figure.from_json(fields).program for fields in json.loads(figures)} == {mode}


def test_a_violated_check_is_told_beside_the_figures_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
        raise ViolatedError([Figure("a figure", (1.0,), "ms")], ["a device has a row too many"])

    monkeypatch.setattr(sys, "argv", ["a program"])
    with pytest.raises(SystemExit) as ended:
        run(Program("a program", "What it is.", lambda parser: None, measure, serves=False))
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert "a figure" in told.out
    assert "VIOLATED: a device has a row too many" in told.err
