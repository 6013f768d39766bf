"""Small decisions: what follows the end of a connection, which subscriptions a connection names, where it goes."""

from __future__ import annotations

import pytest

from syncline.client.connectivity import (
    ABSENT_FAILURES,
    ABSENT_MAX_S,
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    EXPIRED_CLOSE_REASON,
    Backoff,
    Next,
    after,
    backoff_s,
    return_s,
)
from syncline.client.errors import UsageError
from syncline.client.shape_spec import ShapeSpec, spec_from_json, spec_to_json
from syncline.client.shapes import (
    ShapeState,
    Subscription,
    after_reset,
    earlier,
    find,
    later,
    resumable_ids,
    to_ask,
    to_cancel,
    to_request,
    undelivered_count,
)
from syncline.client.transport import endpoint

ITEMS, USERS = ShapeSpec("items"), ShapeSpec("users", "this.\"name\" = 'ann'")
SUBSCRIPTIONS = [
    Subscription(1, "r", ITEMS, ShapeState.REQUESTED),
    Subscription(2, "d", USERS, ShapeState.DELIVERED),
    Subscription(3, "c", ShapeSpec("old"), ShapeState.CANCELLING),
    Subscription(4, "w", ShapeSpec("unwanted"), ShapeState.WITHDRAWN),
]


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (None, Next.RETRY),
        ("INTERNAL", Next.RETRY),
        ("REPLICATION_FAILED", Next.RETRY),
        ("INVALID_REQUEST", Next.RETRY),
        ("A_CODE_OF_TOMORROW", Next.RETRY),
        ("BEHIND_WINDOW", Next.RESET),
        ("INVALID_POSITION", Next.RESET),
        ("SUBSCRIPTION_NOT_FOUND", Next.RESET),
        ("AUTH_REQUIRED", Next.STOP_AUTH),
        (EXPIRED_CLOSE_REASON, Next.STOP_AUTH),
        ("UNKNOWN_SCHEMA_VSN", Next.STOP_REFUSED),
        ("INVALID_AUTH_REQUEST", Next.STOP_REFUSED),
    ],
)
def test_each_end_of_a_connection_has_its_next_step(code: str | None, step: Next) -> None:
    assert after(code, token_renewable=False, token_fresh=False) is step


def test_a_renewable_token_is_renewed_but_a_fresh_one_only_when_it_expires() -> None:
    assert after("AUTH_REQUIRED", token_renewable=True, token_fresh=False) is Next.RENEW_TOKEN
    assert after("AUTH_REQUIRED", token_renewable=True, token_fresh=True) is Next.STOP_AUTH
    assert after(EXPIRED_CLOSE_REASON, token_renewable=True, token_fresh=True) is Next.RENEW_TOKEN


def test_a_server_that_says_it_restarts_is_asked_again_at_once_unless_it_had_more_to_say() -> None:
    assert after(None, token_renewable=False, token_fresh=False, restarts=True) is Next.RETURN
    assert after("BEHIND_WINDOW", token_renewable=False, token_fresh=False, restarts=True) is Next.RESET
    assert 0.0 <= return_s(0.0) < return_s(1.0) < BACKOFF_FIRST_S


def test_backoff_doubles_up_to_its_limit_under_full_jitter() -> None:
    assert [backoff_s(n, 1.0) for n in (1, 2, 3)] == [BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S]
    assert backoff_s(10_000, 1.0) == BACKOFF_MAX_S
    assert backoff_s(5, 0.0) == 0.0


def test_where_nobody_is_there_it_is_asked_often_for_a_while_and_then_as_seldom_as_ever() -> None:
    assert backoff_s(1, 1.0, absent=True) == BACKOFF_FIRST_S
    assert backoff_s(ABSENT_FAILURES, 1.0, absent=True) == ABSENT_MAX_S
    assert backoff_s(ABSENT_FAILURES + 1, 1.0, absent=True) == BACKOFF_MAX_S


def test_a_server_that_is_killed_again_at_once_is_asked_soon_however_long_it_had_been_away() -> None:
    backoff = Backoff()
    assert backoff.after_s(1.0, absent=False, settled=True) == BACKOFF_FIRST_S
    absent = [backoff.after_s(1.0, absent=True, settled=False) for _ in range(9)]
    assert absent[:3] == [BACKOFF_FIRST_S, 2 * BACKOFF_FIRST_S, 4 * BACKOFF_FIRST_S]
    assert max(absent) == ABSENT_MAX_S
    assert backoff.after_s(1.0, absent=False, settled=False) == 2 * BACKOFF_FIRST_S
    assert backoff.after_s(1.0, absent=True, settled=False) == ABSENT_MAX_S


def test_a_server_that_comes_back_only_to_be_killed_again_is_asked_ever_more_seldom_too() -> None:
    backoff = Backoff()
    for _ in range(ABSENT_FAILURES // 3):
        assert backoff.after_s(1.0, absent=False, settled=False) > 0.0
        waits_s = [backoff.after_s(1.0, absent=True, settled=False) for _ in range(3)]
        assert max(waits_s) <= ABSENT_MAX_S
    assert backoff.after_s(1.0, absent=True, settled=False) == BACKOFF_MAX_S
    assert backoff.after_s(1.0, absent=False, settled=True) == BACKOFF_FIRST_S
    assert backoff.after_s(1.0, absent=True, settled=False) == BACKOFF_FIRST_S


def test_a_server_that_ends_each_connection_before_it_comes_to_anything_is_asked_ever_more_seldom() -> None:
    backoff = Backoff()
    waits_s = [backoff.after_s(1.0, absent=False, settled=False) for _ in range(8)]
    assert waits_s == [backoff_s(failures, 1.0) for failures in range(1, 9)]
    backoff.reset()
    assert backoff.after_s(1.0, absent=False, settled=False) == BACKOFF_FIRST_S


def test_a_resuming_device_names_what_the_server_has_delivered() -> None:
    assert resumable_ids(SUBSCRIPTIONS) == ("d", "c")
    assert to_cancel(SUBSCRIPTIONS) == ("c", "w")
    assert undelivered_count(SUBSCRIPTIONS) == 1


def test_undelivered_subscriptions_are_requested_under_fresh_ids() -> None:
    assert to_request(SUBSCRIPTIONS, lambda: "fresh") == [Subscription(1, "fresh", ITEMS, ShapeState.REQUESTED)]


def test_after_a_reset_everything_wanted_is_requested_again() -> None:
    assert after_reset(SUBSCRIPTIONS, lambda: "fresh") == [
        Subscription(1, "fresh", ITEMS, ShapeState.REQUESTED),
        Subscription(2, "fresh", USERS, ShapeState.REQUESTED),
    ]


def test_a_shape_being_cancelled_does_not_serve_a_new_wish_for_it() -> None:
    assert find(SUBSCRIPTIONS, USERS) == SUBSCRIPTIONS[1]
    assert find(SUBSCRIPTIONS, ShapeSpec("old")) is None


KEYED = [
    Subscription(1, "1", ITEMS, ShapeState.CANCELLING, "k"),
    Subscription(2, "2", ITEMS, ShapeState.DELIVERED, "k"),
    Subscription(3, "3", USERS, ShapeState.REQUESTED, "k"),
    Subscription(4, "4", ShapeSpec("old"), ShapeState.REQUESTED, "k"),
    Subscription(5, "5", ITEMS, ShapeState.REQUESTED, "l"),
    Subscription(6, "6", ITEMS, ShapeState.REQUESTED),
    Subscription(7, "7", USERS, ShapeState.REQUESTED),
]


def test_under_a_key_the_newest_counts_and_what_is_here() -> None:
    assert find(KEYED, ITEMS, "k") == KEYED[1]
    assert find(KEYED, USERS, "k") is None
    assert find(KEYED, ShapeSpec("old"), "k") == KEYED[3]
    assert find(KEYED, ITEMS) == KEYED[5]
    assert find(KEYED, ITEMS, "m") is None


def test_a_key_knows_what_replaces_what() -> None:
    assert earlier(KEYED, KEYED[3]) == KEYED[1:3]
    assert later(KEYED, KEYED[1]) == KEYED[2:4]
    assert earlier(KEYED, KEYED[6]) == later(KEYED, KEYED[5]) == []


def test_of_a_key_only_the_newest_is_asked_for() -> None:
    assert to_ask(KEYED) == KEYED[3:]


def test_a_shape_is_stored_and_read_back() -> None:
    assert spec_from_json(spec_to_json(USERS)) == USERS


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ws://host:5133", "ws://host:5133/ws"),
        ("http://host:5133/anything?x=1", "ws://host:5133/ws"),
        ("https://sync.example.com", "wss://sync.example.com/ws"),
        ("wss://sync.example.com/ws", "wss://sync.example.com/ws"),
    ],
)
def test_every_spelling_of_the_server_leads_to_its_websocket(url: str, address: str) -> None:
    assert endpoint(url) == address


@pytest.mark.parametrize("url", ["localhost", "localhost:5133", "ftp://host", "ws://", ""])
def test_what_is_no_server_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        endpoint(url)
