"""Which shapes are removed because nobody needs them. Pure.

A shape is needed as long as a device's subscription names it. One that is not needed stays for a while, for somebody
may come and ask for it: it is a query, and a log that has to be begun anew. Where there is a bound on the disk, those
that nobody has asked for longest go earlier, as many as it takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from syncline.actors.shapes.shape import Shape

IDLE_S = 3600.0
DEVICES_KEPT_S = 90 * 24 * 3600.0
DELETED_KEPT_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """``idle_s``: as long a shape stays that no subscription names. ``devices_kept_s``: as long as what is
    remembered of a device that does not come. ``disk_max_bytes``: of all shapes together; None: as it comes.
    ``deleted_kept_s``: as long as what a deleted row held."""

    idle_s: float = IDLE_S
    devices_kept_s: float = DEVICES_KEPT_S
    disk_max_bytes: int | None = None
    deleted_kept_s: float = DELETED_KEPT_S


@dataclass(frozen=True, slots=True)
class ReadIdle:
    """Call to a shard. Answer: ``Idle``, of the shapes that are not ``needed`` (hashes)."""

    needed: frozenset[str]


@dataclass(frozen=True, slots=True)
class IdleShape:
    """``size_bytes``: on the disk. ``asked``: what tells whether somebody asks for it from now on. ``unasked_s``: for
    how long nobody has."""

    shape: Shape
    size_bytes: int
    asked: str
    unasked_s: float


@dataclass(frozen=True, slots=True)
class Idle:
    """``shapes``: those that are not needed. ``size_bytes``: of all shapes of the shard."""

    shapes: tuple[IdleShape, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemoveShape:
    """Call to a shard. Remove the shape of that hash, unless somebody has asked for it since ``asked`` was told, or
    follows it. Answer: whether it was removed."""

    shape: str
    asked: str


@dataclass(frozen=True, slots=True)
class ReadFollowed:
    """Call to a shape. Answer: whether an edge follows it, or a device waits for it (bool)."""


def due(
    idle: Collection[IdleShape],
    idle_since_s: Mapping[str, float],
    now_s: float,
    kept_s: float,
    over_bytes: int,
) -> list[IdleShape]:
    """Those of ``idle`` that are to be removed now, by hash ``idle_since_s``. ``kept_s``: as long they stay, unless the
    disk has ``over_bytes`` too many in use."""
    chosen: list[IdleShape] = []
    for one in sorted(idle, key=lambda one: -one.unasked_s):
        if now_s - idle_since_s[one.shape.hash] >= kept_s or over_bytes > 0:
            chosen.append(one)
            over_bytes -= one.size_bytes
    return chosen
