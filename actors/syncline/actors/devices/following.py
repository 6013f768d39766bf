"""What is said to the bundler of an edge, and what it says: which shapes a device follows, and what they release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from syncline.actors.shapes.frames import Frame
from syncline.cluster import Ref
from syncline.proto.values import Relation


@dataclass(frozen=True, slots=True)
class Author:
    """``device`` is connected as ``client_id``: it is told when one of its transactions has passed (``OwnPassed``)."""

    device: Ref
    client_id: str


@dataclass(frozen=True, slots=True)
class FollowSet:
    """``device`` wants the releases of ``shapes`` (hash -> actor) instead of those it followed before.
    ``relations``: of those that may have rows in common. Answered with
    ``Followed`` when the bundle is open, then with a ``Released`` for each release that has frames, or that passes
    ``AwaitLsn``."""

    device: Ref
    generation: int
    shapes: Mapping[str, Ref]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfollow:
    device: Ref


@dataclass(frozen=True, slots=True)
class Pinned:
    """``device`` reads at ``lsn`` or later, and none of it may be packed away; None: it reads nothing any more. To be
    said again while it reads: it counts for ``bundler.PINNED_S``."""

    device: Ref
    lsn: int | None


@dataclass(frozen=True, slots=True)
class AwaitLsn:
    """Tell ``device`` when its bundle has released ``lsn``, whether or not there is anything for it."""

    device: Ref
    lsn: int


@dataclass(frozen=True, slots=True)
class Followed:
    generation: int
    released: int


@dataclass(frozen=True, slots=True)
class Released:
    generation: int
    frames: tuple[Frame, ...]
    upto: int


@dataclass(frozen=True, slots=True)
class OwnPassed:
    """A transaction of this device itself is at ``lsn`` of the stream."""

    lsn: int
    commit_ms: int


@dataclass(frozen=True, slots=True)
class AwaitShards:
    """Call. Answered (None) once all shards are followed: before that no device gets anywhere."""
