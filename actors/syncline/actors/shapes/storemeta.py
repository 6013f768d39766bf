"""What ``shape.json`` says of the files of a shape. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from syncline.actors.shapes.shape import Shape

FORMAT = 3
# Before that: no image but the snapshot was named first, and no log was packed.
FORMAT_UNPACKED = 2
# How long one position stands for those before it.
AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Packed:
    """The beginning of a log that has only final operations.

    ``number``: 0 as long as there is none; each one has a higher number than the one before. ``lsn``: it ends there,
    with a whole transaction. ``ms``: the latest commit time of what went into it. ``following``: the number of the
    segment that comes after it. ``segments``: how many it has itself.
    """

    number: int = 0
    lsn: int = 0
    ms: int = 0
    following: int = 0
    segments: int = 0

    @property
    def fields(self) -> tuple[int, ...]:
        """What it is made of again."""
        return self.number, self.lsn, self.ms, self.following, self.segments


@dataclass(frozen=True, slots=True)
class Meta:
    """``ready_lsn``: see ``ShapeStore``. ``images``: number, LSN and rows of each. ``packed``: how the log
    begins. ``ages``: LSNs that the log has reached, ascending, and when it had, in seconds since the epoch. ``torn``:
    see ``ShapeStore.tear``."""

    shape: Shape
    ready_lsn: int = 0
    images: tuple[tuple[int, int, int], ...] = ()
    packed: Packed = field(default_factory=Packed)
    ages: tuple[tuple[int, float], ...] = ()
    torn: tuple[int, int] = (0, 0)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "shape": self.shape.to_json(),
                "ready_lsn": self.ready_lsn,
                "images": self.images,
                "packed": self.packed.fields,
                "ages": self.ages,
                "torn": self.torn,
            }
        )

    @staticmethod
    def from_json(text: str) -> Meta:
        """The inverse. Raises ValueError, KeyError and TypeError for what is not ours to read."""
        meta = json.loads(text)
        shape = Shape.from_json(meta["shape"])
        if meta["format"] == FORMAT_UNPACKED:
            images = [(0, meta["ready_lsn"], meta["image_rows"]), *map(tuple, meta.get("folds", ()))]
            return Meta(shape, meta["ready_lsn"], tuple(images))
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']} is not ours")
        images = [(number, lsn, rows) for number, lsn, rows in meta["images"]]
        ages = tuple((lsn, at_s) for lsn, at_s in meta["ages"])
        torn_from, torn_upto = meta.get("torn", (0, 0))
        return Meta(shape, meta["ready_lsn"], tuple(images), Packed(*meta["packed"]), ages, (torn_from, torn_upto))


def aged(
    ages: tuple[tuple[int, float], ...], lsn: int, now_s: float, forgotten_upto: int
) -> tuple[tuple[int, float], ...]:
    """``ages``, now that the log has reached ``lsn``; what is ``forgotten`` needs no age."""
    kept = tuple(age for age in ages if age[0] > forgotten_upto)
    return kept if kept and now_s - kept[-1][1] < AGE_S else (*kept, (lsn, now_s))
