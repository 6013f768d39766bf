"""When two are said to have one client id: each time the one that gave way was alive, and it happened often."""

from __future__ import annotations

import pytest

from syncline.actors.devices.contests import (
    DISPLACED_MAX,
    REFUSED_S,
    SHOWN_S,
    WITHIN_S,
    Contests,
    Displaced,
)

A, B = "192.0.2.1:1", "192.0.2.2:2"


def fought(contests: Contests, *times_s: float) -> None:
    for at_s in times_s:
        assert contests.claimed("me", A, B, at_s) == (None, False)
        contests.displaced(Displaced("me", A, B), at_s)


@pytest.fixture
def contests() -> Contests:
    return Contests()


OFTEN = tuple(float(number) for number in range(DISPLACED_MAX - 1))


def test_both_are_told_where_the_other_is_and_it_is_news_once(contests: Contests) -> None:
    fought(contests, *OFTEN)
    told, is_news = contests.claimed("me", A, B, 2.0)
    assert told is not None
    assert all(word in told for word in ("me", A, B))
    assert is_news
    assert contests.claimed("me", None, A, 3.0) == (told, False)
    assert contests.claimed("another", A, B, 3.0) == (None, False)
    assert contests.shown(3.0) == ("me",)


def test_an_older_connection_that_was_dead_does_not_count(contests: Contests) -> None:
    for at_s in range(10):
        assert contests.claimed("me", A, B, float(at_s)) == (None, False)


def test_what_happens_seldom_does_not_count(contests: Contests) -> None:
    fought(contests, *(WITHIN_S * number for number in range(5)))


def test_who_comes_when_nobody_is_there_is_welcome(contests: Contests) -> None:
    fought(contests, *OFTEN)
    assert contests.claimed("me", None, B, 2.0) == (None, False)


def test_it_passes(contests: Contests) -> None:
    fought(contests, *OFTEN)
    contests.claimed("me", A, B, 2.0)
    assert contests.claimed("me", None, B, 2.0 + REFUSED_S) == (None, False)
    assert contests.shown(2.0 + SHOWN_S) == ()


def test_it_is_no_news_when_they_go_on(contests: Contests) -> None:
    fought(contests, *OFTEN)
    contests.claimed("me", A, B, 2.0)
    again_s = 2.0 + REFUSED_S
    fought(contests, *(again_s + at_s for at_s in OFTEN))
    told, is_news = contests.claimed("me", A, B, again_s + 2.0)
    assert (told is None, is_news) == (False, False)
