"""What the stream brings while a tree is filled: one transaction, of what the snapshot does not show. Pure.

Nobody follows the shape yet, so nobody asks what it was on the way. However often a row changes meanwhile, it is kept
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from syncline.actors.postgres.streamed import StreamChange
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.tree import RowId, Tree
from syncline.proto.values import Row

if TYPE_CHECKING:
    from syncline.actors.postgres.snapshot import Visibility


class Backlog:
    """Of ``tree``. ``upto``: the newest transaction that was added."""

    def __init__(self, tree: Tree) -> None:
        self.upto = 0
        self._netting = Netting(tree.relations, lambda _: ())
        self._visibility: Visibility | None = None
        self._early: list[tuple[int, Sequence[StreamChange]]] = []

    def add(self, lsn: int, xid: int, changes: Sequence[StreamChange]) -> None:
        """The next transaction."""
        self.upto = lsn
        if self._visibility is None:
            self._early.append((xid, changes))
        elif not self._visibility.visible(xid):
            self._netting.add(changes)

    def shown(self, visibility: Visibility) -> None:
        """The snapshot is there: what it shows need not be kept."""
        self._visibility = visibility
        early, self._early = self._early, []
        for xid, changes in early:
            self.add(self.upto, xid, changes)

    def netted(self, rows_of: Callable[[int], Iterable[tuple[RowId, Row]]]) -> Netting:
        """What all of it comes to. ``rows_of``: the rows of a table that the snapshot showed."""
        self._netting.found(rows_of)
        return self._netting
