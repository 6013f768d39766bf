"""Rendezvous placement moves as little as possible, and heartbeats decide who is there."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.cluster.placement import HostState, Membership, place, ranked

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
host_sets = st.sets(names, min_size=1, max_size=8)
keys = st.lists(names, max_size=40)


@given(host_sets, keys)
def test_the_order_in_which_hosts_are_known_does_not_matter(hosts: set[str], keys: list[str]) -> None:
    for key in keys:
        assert place(key, sorted(hosts)) == place(key, sorted(hosts, reverse=True)) == ranked(key, hosts)[0]


@given(host_sets, names, keys)
def test_a_host_that_joins_takes_keys_only_to_itself(hosts: set[str], new: str, keys: list[str]) -> None:
    for key in keys:
        assert place(key, hosts | {new}) in (place(key, hosts), new)


@given(host_sets, keys, st.data())
def test_a_host_that_leaves_moves_only_its_own_keys_to_their_next(
    hosts: set[str], keys: list[str], data: st.DataObject
) -> None:
    leaver = data.draw(st.sampled_from(sorted(hosts)))
    for key in keys:
        order = ranked(key, hosts)
        remaining = hosts - {leaver}
        if remaining:
            assert place(key, remaining) == (order[1] if order[0] == leaver else order[0])


def test_keys_spread_evenly() -> None:
    hosts = [f"shapes-{index}" for index in range(4)]
    counts = dict.fromkeys(hosts, 0)
    for index in range(4000):
        counts[place(f"shape:{index}", hosts)] += 1
    assert all(850 < count < 1150 for count in counts.values())


def test_without_hosts_there_is_no_place() -> None:
    with pytest.raises(ValueError, match="no host"):
        place("key", [])


def test_a_silent_host_is_down_then_permanently_down_and_back_with_a_heartbeat() -> None:
    members = Membership(down_after_s=3, permdown_after_s=60).heartbeat("edge-0", 10)
    assert [members.state("edge-0", now) for now in (10, 12.9, 13, 69, 70)] == [
        HostState.UP,
        HostState.UP,
        HostState.DOWN,
        HostState.DOWN,
        HostState.PERMDOWN,
    ]
    assert members.heartbeat("edge-0", 71).state("edge-0", 72) is HostState.UP
    assert members.left("edge-0").state("edge-0", 10) is HostState.PERMDOWN


@given(host_sets, keys, st.data())
def test_a_pause_moves_no_home_and_a_permanent_absence_moves_only_its_own(
    hosts: set[str], keys: list[str], data: st.DataObject
) -> None:
    silent = data.draw(st.sampled_from(sorted(hosts)))
    members = Membership(down_after_s=3, permdown_after_s=60)
    for host in hosts:
        members = members.heartbeat(host, 0)
    for host, now in itertools.product(hosts - {silent}, (10, 69)):
        members = members.heartbeat(host, now)
    for key in keys:
        home = place(key, hosts)
        assert members.home(key, 10) == home
        if home != silent:
            assert members.home(key, 70) == home


def test_an_old_heartbeat_changes_nothing() -> None:
    members = Membership().heartbeat("a", 5).heartbeat("a", 4)
    assert members.heard == {"a": 5}
