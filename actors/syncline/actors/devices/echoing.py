"""Which of a device's own transactions come back by their frame. Pure.

What a device has written is final there until it comes back, and what comes back has to say what became of each row. A
frame does so for the rows that the device's shapes have or had. Of a row that none of them has it says nothing, and
once the frame has passed for the echo, nobody would: the device would keep the row for ever.

So a frame, or an empty transaction in the place of none, passes for the echo only if the device has sent the
transaction on this stream, so that it is known of which tables its rows are, and it holds all of these whole, with all
their columns: of a row that it has with some of them it may have written others, which have to go again. Any other
is brought back by its rows (``healing``), in answer to the device, which sends again whatever has not come back. Its
frame is sent before that as if it were somebody else's, and the device is told what it is (``carriedout``).

A shape may end after a transaction was found to come back by its frame and before that frame. So the rows of shapes
leave only when the stream has come by all of those (``upto``), and what is applied from then on is judged by the shapes
that stay, too.

A frame says nothing either of a key that the device has spelled otherwise than Postgres prints it: the row is under
another key in it, and the device would have both. Such a transaction is brought back by its rows, too: there is none
under the key as it was spelled.

What a device sends before it is repaired may be carried out before the place of its repair: then it is in the rows that
come, but the device, which takes it for newer than they are, may show it in place of what followed it. No frame follows
that would set that right. So all that comes before the end of a repair is brought back by its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from syncline.actors.devices.steps import Shapes


class Echoing:
    """The transactions of one device during one stream, by their times. ``selects``: whether there may be rows of its
    tables that a shape does not hold. ``upto``: every transaction that has to come back by its frame lies below.
    ``repairing``: the device is going to be repaired."""

    def __init__(self, selects: Callable[[str], bool]) -> None:
        self._selects = selects
        self._whole: frozenset[int] = frozenset()
        self._sent: dict[int, frozenset[int]] = {}
        self._passed_over: set[int] = set()
        self.repairing = False
        self.upto = 0

    def holds(self, shapes: Shapes) -> None:
        """What the device has by now."""
        self._whole = self._whole_of(shapes)

    def wrote(self, commit_ms: int, tables: frozenset[int]) -> None:
        """The device has sent it; ``tables``: the relation ids of its rows."""
        self._sent[commit_ms] = tables
        if self.repairing:
            self._passed_over.add(commit_ms)

    def spelled_otherwise(self, commit_ms: int) -> None:
        """It names a row by a key that is not as Postgres prints it. To be told before Postgres gets it."""
        if commit_ms in self._sent:
            self._passed_over.add(commit_ms)

    def __contains__(self, commit_ms: object) -> bool:
        """Whether it has not come back."""
        return commit_ms in self._sent

    def passes(self, commit_ms: int) -> bool:
        """Whether its frame, or the empty transaction in its place, is its echo. Else it is to be brought back by its
        rows, once it is decided."""
        if commit_ms in self._passed_over:
            return False
        tables = self._sent.get(commit_ms)
        if tables is not None and tables <= self._whole:
            return True
        # Nor is it one that the device has still to send again: an earlier connection had sent it.
        self._passed_over.add(commit_ms)
        return False

    def applied(self, commit_ms: int, lsn: int, following: Iterable[Shapes]) -> bool:
        """Postgres has it, below ``lsn``: whether it comes back by its frame, or has. ``following``: what the device
        will hold, one after the other."""
        tables = self._sent.get(commit_ms)
        if tables is None:
            return True
        if commit_ms in self._passed_over or not tables <= self._whole.intersection(*map(self._whole_of, following)):
            return False
        self.upto = max(self.upto, lsn)
        return True

    def came_back(self, commit_ms: int) -> None:
        self._sent.pop(commit_ms, None)
        self._passed_over.discard(commit_ms)

    def _whole_of(self, shapes: Shapes) -> frozenset[int]:
        whole = (relations for shape, relations in shapes.items() if not self._selects(shape))
        every = (relation for relations in whole for relation in relations)
        return frozenset(relation.id for relation in every if relation is relation.whole)
