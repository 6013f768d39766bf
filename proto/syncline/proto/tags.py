"""Tags: who wrote what when, and which of it has been seen.

Every write leaves a tag, ``origin@ms``, on the row it touches, and carries the tags it had observed there. A row's tags
are then the writes that nobody has overwritten knowingly; a row without any is deleted. So a delete removes only what
it had seen, and whatever was written beside it keeps the row alive (observed-remove, add wins).

Three conventions of ours make this exact:

* one origin's writes are seen in their order, so who has observed ``o@t`` has observed every ``o@s`` with s <= t, and
  nobody needs to say that he has observed his own;
* a row without any record stands for ``postgres_1@0``, and whoever has observed anything of the row has observed that:
  records are kept for longer than a device may be away. Who fetches such a row gets it with the time at which it was
  read: when Postgres wrote it last is not known, and it was not later;
* tags are ordered by time, and at the same millisecond Postgres wins over every device, and the larger id over the
  smaller. The order decides columns; every replica uses the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from typing import Final

from syncline.proto.errors import invalid
from syncline.proto.values import POSTGRES_ORIGIN

# A bigint of Postgres holds it.
_MS_DIGITS_MAX: Final = 18


@total_ordering
@dataclass(frozen=True, slots=True)
class Tag:
    """A write: by ``origin`` (a device's id or the Postgres origin) at ``ms``, milliseconds since the epoch.

    ``written_ms``: when it was written, where it counts as of a later time (``merge.apply_direct``). Whoever has seen
    Postgres' writes up to then has seen it.
    """

    origin: str
    ms: int
    written_ms: int | None = None

    @property
    def seen_ms(self) -> int:
        """What one has to have seen of ``origin`` to have seen it."""
        return self.ms if self.written_ms is None else self.written_ms

    def __lt__(self, other: Tag) -> bool:
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[int, bool, str]:
        return self.ms, self.origin == POSTGRES_ORIGIN, self.origin


# What a row carries that was there before anything was recorded about it; the smallest tag of Postgres.
UNRECORDED: Final = Tag(POSTGRES_ORIGIN, 0)


def parse_tag(text: str) -> Tag:
    """``origin@ms``; the origin may hold an ``@`` itself. Raises ProtocolError for anything else."""
    origin, at, ms = text.rpartition("@")
    if not at or not origin or not (ms.isascii() and ms.isdigit()) or len(ms) > _MS_DIGITS_MAX:
        raise invalid(f"not a tag: {text[:100]!r}")
    return Tag(origin, int(ms))


def format_tag(tag: Tag) -> str:
    return f"{tag.origin}@{tag.ms}"


def parse_tags(texts: Iterable[str]) -> frozenset[Tag]:
    """Raises ProtocolError if one of them is not a tag."""
    return frozenset(map(parse_tag, texts))


def format_tags(tags: Iterable[Tag]) -> tuple[str, ...]:
    """Newest first, so that the same set always has the same text."""
    return tuple(format_tag(tag) for tag in sorted(tags, reverse=True))


class Seen:
    """What a write by ``origin`` had ``observed``."""

    def __init__(self, observed: Iterable[Tag], origin: str) -> None:
        self._upto: dict[str, int] = {}
        for tag in observed:
            if tag.ms > self._upto.get(tag.origin, -1):
                self._upto[tag.origin] = tag.ms
        self._anything = any(seen != origin for seen in self._upto)
        self._origin = origin

    def covers(self, tag: Tag) -> bool:
        """Whether the writer knew of ``tag``."""
        if tag.origin == self._origin or tag.seen_ms <= self._upto.get(tag.origin, -1):
            return True
        return self._anything and (tag.origin, tag.seen_ms) == (UNRECORDED.origin, UNRECORDED.ms)


def observe(tags: frozenset[Tag], seen: Seen, new: Tag | None) -> frozenset[Tag]:
    """The tags of a row after a write that had ``seen`` some and leaves ``new`` (None: a delete)."""
    kept = frozenset(tag for tag in tags if not seen.covers(tag))
    return kept if new is None else kept | {new}


def stamp(tag: Tag, seen: Seen, known: Iterable[Tag], *, anew: bool = False) -> Tag:
    """``tag`` as it counts among those ``known`` of a row: later than every one that its author had ``seen``, whatever
    the clocks said. Otherwise a device whose clock is behind would lose to what it has knowingly overwritten, and two
    transactions of one whose clock was set back would have the same tag, of which who has seen the first has not seen
    the second. ``anew``: none of his tags is of the same transaction."""
    ms = tag.ms
    for other in known:
        if seen.covers(other):
            ms = max(ms, other.ms + (anew or other.origin != tag.origin))
    return tag if ms == tag.ms else Tag(tag.origin, ms)
