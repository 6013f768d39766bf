"""Which shard has a shape, and how far all of them have come."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.shapes.shards import AssignedShards, Least, Shards
from syncline.cluster import Ref

names = st.sets(st.text(min_size=1, max_size=4), min_size=1, max_size=5)
hashes = st.sets(st.text(min_size=1, max_size=8), max_size=20)


def shards_of(wanted: set[str]) -> Shards:
    return Shards({name: cast(Ref, name) for name in wanted})


@given(names, hashes)
def test_every_entry_goes_to_the_shard_that_has_its_shape(wanted: set[str], shapes: set[str]) -> None:
    shards = shards_of(wanted)
    parts = shards.split({shape: shape for shape in shapes})
    assert parts.keys() == wanted
    assert {shape: name for name, part in parts.items() for shape in part} == {
        shape: shards.home(shape) for shape in shapes
    }


@given(names, hashes)
def test_a_shard_that_leaves_moves_only_what_it_had(wanted: set[str], shapes: set[str]) -> None:
    left, *rest = sorted(wanted)
    if rest:
        before, after = shards_of(wanted), shards_of(set(rest))
        assert all(before.home(shape) in (left, after.home(shape)) for shape in shapes)


async def test_a_home_that_is_assigned_is_asked_for_once_and_again_when_it_was_wrong() -> None:
    asked: list[tuple[str, str | None]] = []

    async def assign(shape: str, prefers: str | None) -> str:
        asked.append((shape, prefers))
        return "b"

    shards = AssignedShards({name: cast(Ref, name) for name in "ab"}, assign)
    assert shards.home("shape") is None
    assert shards.split({"shape": 1}) == {"a": {}, "b": {}}
    assert [await shards.found("shape", "a"), await shards.found("shape")] == ["b", "b"]
    assert shards.split({"shape": 1}) == {"a": {}, "b": {"shape": 1}}
    shards.forget("shape")
    assert await shards.found("shape") == "b"
    shards.note("other", "a")
    assert (shards.home("other"), await shards.found("other")) == ("a", "a")
    assert asked == [("shape", "a"), ("shape", None)]


@given(names, st.data())
def test_the_least_is_known_when_all_have_spoken_and_never_falls(wanted: set[str], data: Any) -> None:
    least, told, before = Least(wanted), dict[str, int](), 0
    for name, lsn in data.draw(st.lists(st.tuples(st.sampled_from(sorted(wanted)), st.integers(0, 99)))):
        told[name] = max(told.get(name, 0), lsn)
        answer = least.reached(name, lsn)
        assert answer == (min(told.values()) if told.keys() == wanted else None)
        assert answer is None or answer >= before
        before = answer or before


async def test_a_shape_that_is_removed_has_no_home_any_more() -> None:
    given: dict[str, str] = {}

    async def assign(shape: str, prefers: str | None) -> str:
        return given.setdefault(shape, prefers or "a")

    async def unassign(shape: str) -> None:
        del given[shape]

    shards = AssignedShards({name: cast(Ref, name) for name in "ab"}, assign, unassign)
    assert await shards.found("shape", "b") == "b"
    await shards.release("shape")
    assert given == {}
    assert await shards.found("shape") == "a"
