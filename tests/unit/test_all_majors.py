"""What a run on one major and one runtime is counted as."""

from __future__ import annotations

from pathlib import Path

from tests.all_majors import read_report

REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


def test_what_is_neither_failed_nor_skipped_has_passed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(10, 2, 1, 3))
    outcome = read_report(14, "local", report, 1, 12.4)
    assert (outcome.passed, outcome.failed, outcome.skipped, outcome.good) == (4, 3, 3, False)
    assert outcome.line() == "   14  local         4       3        3       12"


def test_a_run_without_a_failure_is_good(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(7, 0, 0, 0))
    assert read_report(15, "local", report, 0, 1).good


def test_a_run_that_ended_before_its_tests_did_is_not_good(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    missing = read_report(16, "local", report, 4, 1)
    assert (missing.good, missing.note) == (False, "pytest ended with 4")
    report.write_text("<testsuites><testsui")
    assert (read_report(16, "local", report, 1, 1).good, read_report(16, "local", report, 1, 1).note) == (
        False,
        "pytest left no report",
    )
    report.write_text(REPORT.format(7, 0, 0, 0))
    assert (read_report(16, "local", report, 2, 1).good, read_report(16, "local", report, 2, 1).note) == (
        False,
        "pytest ended with 2",
    )
