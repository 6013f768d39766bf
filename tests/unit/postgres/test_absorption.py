"""When transactions of direct SQL committed, by the xids of their rows."""

from __future__ import annotations

from syncline.actors.postgres.absorption import Commits


def test_a_commit_is_found_by_its_own_xid() -> None:
    commits = Commits()
    commits.note(1_000, 2_000)
    commits.note(1_001, 1_500)
    assert commits.ms_of(1_001) == 1_500
    assert commits.ms_of(999) == 0


def test_a_savepoint_of_which_nobody_says_whose_it_is_counts_as_of_the_latest_that_it_may_be_of() -> None:
    commits = Commits()
    commits.note(1_010, 1_500)
    commits.note(1_000, 2_000)
    assert commits.ms_of(1_011) == 2_000
