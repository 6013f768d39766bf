"""Which of a device's own transactions are carried out, and it does not know yet. Pure.

A device shows its own writes on top of what comes, until they come back. But others may have seen a write that has been
carried out, and what they do then comes as soon as it is there, while the write may still have to wait for what brings
it back (see ``echoes``): its rows have to be read, or the device has to send it again first. A device that took it for
one on its way would put it on top of what followed it: it would undo a part of what another has done in one
transaction.

So it is told. The stream knows better than anybody else: what passes in it of this device's own has been applied, and
not rejected, at just this place. Every begin from there on may say so: what a transaction at that place or behind it
brings, and what any later one does, has the write in it. It is told with the first of them, if that is the write's own
frame, too. A device that has it remembers that together with its position: so it need be told once only, however often
its connection breaks. Before rows come that are as of a place of their own an empty transaction tells.

This says nothing of the rows of the write itself. Of those that no frame names, the device knows no more than before,
and shows its own: they are set right by what brings the write back.
"""

from __future__ import annotations

from syncline.proto.codec import CARRIED_OUT_MAX


class CarriedOut:
    """During one stream, by their times. ``telling``: the device takes extensions."""

    def __init__(self, *, telling: bool) -> None:
        self._telling = telling
        self._untold: dict[int, None] = {}

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._untold)

    def passed(self, commit_ms: int) -> None:
        """The place of the transaction has come, and it does not come back there."""
        if self._telling and len(self._untold) < CARRIED_OUT_MAX:  # beyond: it learns by what brings them back
            self._untold[commit_ms] = None

    def came_back(self, commit_ms: int) -> None:
        self._untold.pop(commit_ms, None)

    def take(self) -> tuple[int, ...]:
        """What the transaction that is sent now has to tell."""
        told = tuple(self._untold)
        self._untold.clear()
        return told
