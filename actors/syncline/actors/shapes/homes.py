"""Which shard a shape is given where each has a host of its own. Pure.

A shard has one shape at most while there are free ones; when there are none, the one with the fewest has another. What
has been given stays: a shape is its files, and they are where its shard is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def freest(given: Iterable[str], shards: Sequence[str]) -> str:
    """The one of ``shards`` for a new shape; the first of several. ``given``: the shard of each shape there is."""
    counts = Counter(given)
    return min(shards, key=lambda shard: counts[shard])


def settled(held: Mapping[str, Iterable[str]], shards: Sequence[str]) -> dict[str, str]:
    """A shard for every shape. ``held``: who has which now, maybe shards that are no more. A shape moves if its shard
    is no more, or has another and some shard has none."""
    homes: dict[str, str] = {}
    others: list[tuple[str, str | None]] = []  # and where they may stay
    for shard in sorted(held):
        shapes = sorted(held[shard])
        if shard in shards:
            homes.update(dict.fromkeys(shapes[:1], shard))
            others += [(shape, shard) for shape in shapes[1:]]
        else:
            others += [(shape, None) for shape in shapes]
    for shape, stay in others:
        shard = freest(homes.values(), shards)
        homes[shape] = stay if stay is not None and shard in homes.values() else shard
    return homes
