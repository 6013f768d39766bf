"""What a host offers to every actor in it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from syncline.cluster.clock import Clock, SystemClock
from syncline.cluster.pubsub import PubSub
from syncline.cluster.registry import Registry


@dataclass(slots=True, eq=False)
class Context:
    """One per host. A bare ``Context()`` will do for a tree without links, as in most tests."""

    host_id: str = "local"
    clock: Clock = field(default_factory=SystemClock)
    registry: Registry = field(default_factory=Registry)
    pubsub: PubSub = field(default_factory=PubSub)
    _serials: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def next_serial(self) -> int:
        """A number no other actor of this host has or had."""
        return next(self._serials)
