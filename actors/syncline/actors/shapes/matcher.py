"""Change -> the shapes it may touch. Pure.

Whole tables are found by relation id alone. Where clauses will add indexes by column value here; the rule stays that
in doubt a shape is named, and decides for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncline.actors.postgres.transaction import StreamChange, Truncated
from syncline.actors.shapes.shape import Shape


class Matcher:
    """Which shapes are live, indexed by what their changes have in common."""

    def __init__(self, shapes: Iterable[Shape] = ()) -> None:
        self._by_relation: dict[int, dict[str, None]] = {}
        self._relations: dict[str, int] = {}
        for shape in shapes:
            self.add(shape)

    def add(self, shape: Shape) -> None:
        if shape.kind == "table":
            self._by_relation.setdefault(shape.relation_id, {})[shape.hash] = None
            self._relations[shape.hash] = shape.relation_id

    def relation_of(self, shape: str) -> int:
        """The relation id of a live table shape."""
        return self._relations[shape]

    def split(self, changes: Sequence[StreamChange]) -> dict[str, list[StreamChange]]:
        """Each touched shape's changes, in order."""
        touched: dict[str, list[StreamChange]] = {}
        for change in changes:
            if isinstance(change, Truncated):
                for relation_id in change.relation_ids:
                    for shape in self._by_relation.get(relation_id, ()):
                        touched.setdefault(shape, []).append(change)
            else:
                for shape in self._by_relation.get(change.relation_id, ()):
                    touched.setdefault(shape, []).append(change)
        return touched
