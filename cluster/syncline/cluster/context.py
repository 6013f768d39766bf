"""What a host offers to every actor in it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from syncline.cluster.clock import Clock, SystemClock
from syncline.cluster.pubsub import PubSub
from syncline.cluster.registry import Registry


@dataclass(slots=True, eq=False)
class Context:
    """One per host. A bare ``Context()`` will do for a tree without links, as in most tests.

    ``first_serial``: where numbering actors begins. A host that others can reach picks one at random, so that a ref
    from before its restart never means an actor of after it.
    """

    host_id: str = "local"
    clock: Clock = field(default_factory=SystemClock)
    registry: Registry = field(default_factory=Registry)
    pubsub: PubSub = field(default_factory=PubSub)
    first_serial: int = 1
    _serials: itertools.count[int] = field(init=False)

    def __post_init__(self) -> None:
        self._serials = itertools.count(self.first_serial)

    def next_serial(self) -> int:
        """A number no other actor of this host has or had."""
        return next(self._serials)
