"""Change -> the shapes it may touch. Pure.

Shapes are found by the tables they have rows of. Where clauses will add indexes by column value here; the rule stays
that in doubt a shape is named, and decides for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncline.actors.postgres.transaction import StreamChange, Truncated
from syncline.actors.shapes.shape import Shape


class Matcher:
    """Which shapes are live, indexed by what their changes have in common."""

    def __init__(self, shapes: Iterable[Shape] = ()) -> None:
        self._by_relation: dict[int, dict[str, None]] = {}
        for shape in shapes:
            self.add(shape)

    def add(self, shape: Shape) -> None:
        for relation_id in shape.tables:
            self._by_relation.setdefault(relation_id, {})[shape.hash] = None

    def split(self, changes: Sequence[StreamChange]) -> dict[str, list[StreamChange]]:
        """Each touched shape's changes, in order."""
        touched: dict[str, list[StreamChange]] = {}
        for change in changes:
            if isinstance(change, Truncated):  # a shape of several of these tables is told once
                emptied = (self._by_relation.get(relation_id, {}) for relation_id in change.relation_ids)
                shapes = {shape: None for found in emptied for shape in found}
            else:
                shapes = self._by_relation.get(change.relation_id, {})
            for shape in shapes:
                touched.setdefault(shape, []).append(change)
        return touched
