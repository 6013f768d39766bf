"""Copies of one device file, and how they are told apart. Pure.

A file that was copied, or restored from a backup, has the client id, the numbers and the times of another: what the two
write would be taken for one another's repetitions. So each opening of a file gets an id that nobody else has, and the
number of the first entry that is made since. A device says when it connects which openings its file has seen, and the
service keeps them. A file is the one that the service knows if it has seen the newest of them; then what it has seen
since is added. Else the two have parted: what they have in common ends where either was opened next.

An older state of the same file, after a power failure say, has no opening that is not known; but the service has
decided entries with numbers that it is to give away again. So it counts as parted there, too.

A file that has parted takes a client id that is made of the old one and of where they have parted (``Parting.name``). A
copy that it has had since, before anybody told it, comes to the same id. It is found to have parted once more then,
and what the two had in common is not taken for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# Sent when a device connects: the newest, and the one that the service knows.
OPENINGS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Opening:
    """A device's file was opened. ``first``: the number of the first entry of its oplog that is made since."""

    id: str
    first: int


@dataclass(frozen=True, slots=True)
class Parted:
    """The file is another one than that which the service knows under its client id. ``openings``: the last that both
    have seen, and the one that followed it there; none if there is no such."""

    openings: tuple[Opening, ...]


def joined(known: Sequence[Opening], decided: int, mine: Sequence[Opening]) -> tuple[Opening, ...] | None:
    """What a file that has seen ``mine`` adds to those that are ``known``; None if the two have parted.

    ``decided``: the number of the last entry that was decided under the client id.
    """
    new = tuple(mine)
    if known:
        place = next((place for place, opening in enumerate(mine) if opening.id == known[-1].id), None)
        if place is None:
            return None
        new = new[place + 1 :]
    return None if new and new[0].first <= decided else new


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a file has parted from the one that is known. ``first``: the number of the first entry that is its own, and
    not common to both; 0 where nothing tells, for they have parted longer ago than is known. ``name``: whatever parted
    with this file there has the same, and nobody else has it; None where nothing tells."""

    first: int
    name: str | None


def parting(theirs: Sequence[Opening], mine: Sequence[Opening]) -> Parting:
    """``theirs``: as a service tells (``Parted``), ``mine``: those of the file, in their order."""
    places = {opening.id: place for place, opening in enumerate(theirs)}
    common = max((place for place, opening in enumerate(mine) if opening.id in places), default=None)
    if common is None:
        return Parting(0, None)
    following = mine[common + 1 :][:1]
    others = theirs[places[mine[common].id] + 1 :][:1]
    first = min((opening.first for opening in (*following, *others)), default=0)
    # It may have gone on from there without being opened, and so have what was copied from it after that.
    opened_there = following and following[0].first == first
    return Parting(first, following[0].id if opened_there else f"{mine[common].id} from {first}")
