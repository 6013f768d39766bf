"""Shapes that are to be alone are, as far as there are shards, and none moves without need."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.shapes.homes import freest, settled

SHARDS = tuple(f"shard-{number}" for number in range(6))
shards = st.integers(1, 6).map(lambda count: SHARDS[:count])
# Whatever was assigned before, to more shards perhaps.
held = st.lists(st.sampled_from(SHARDS), max_size=10).map(
    lambda homes: {shard: [f"s{n}" for n, home in enumerate(homes) if home == shard] for shard in homes}
)


@given(held, shards)
def test_every_shape_has_a_home_and_is_alone_while_there_are_free_ones(
    before: dict[str, list[str]], present: tuple[str, ...]
) -> None:
    after = settled(before, present)
    assert after.keys() == {shape for shapes in before.values() for shape in shapes}
    assert set(after.values()) <= set(present)
    counts = Counter(after.values())
    assert max(counts.values(), default=0) <= 1 or len(counts) == len(present)


@given(held, shards)
def test_who_is_alone_stays_and_what_is_settled_stays_settled(
    before: dict[str, list[str]], present: tuple[str, ...]
) -> None:
    after = settled(before, present)
    for shard, shapes in before.items():
        if shard in present:
            assert shard in {after[shape] for shape in shapes}, "one of them stays"
    again = {shard: [shape for shape, home in after.items() if home == shard] for shard in present}
    assert settled(again, present) == after


@given(st.lists(st.sampled_from(SHARDS), max_size=20), shards)
def test_a_new_shape_goes_where_there_are_the_fewest(taken: list[str], present: tuple[str, ...]) -> None:
    counts = Counter(taken)
    assert counts[freest(taken, present)] == min(counts[shard] for shard in present)
