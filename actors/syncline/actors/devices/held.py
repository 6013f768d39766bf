"""What one device holds: its subscriptions, their shapes, and as which relations it has rows of their tables. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from syncline.actors.devices.steps import Shapes, Subscriptions
from syncline.actors.shapes.projection import columns_of
from syncline.proto.values import Relation


class HeldShapes:
    """``schema``: the hash of the schema shape, which every device holds besides those of its ``subscriptions``.

    ``relations``: by id, those by which it has rows; ``projections``: of these, such as have some columns of their
    table only. ``tables``: of each table that the device is subscribed to a relation that it knows.
    """

    def __init__(self, schema: str, subscriptions: Subscriptions) -> None:
        self._schema = schema
        self._had: dict[int, Relation] = {}  # by id: as which it has had rows on this connection
        self.hold(subscriptions)

    def hold(self, subscriptions: Subscriptions) -> None:
        """These, and no others, from now on."""
        self.subscriptions = subscriptions
        self.shapes = self.shapes_of(subscriptions)
        self.relations = {relation.id: relation for relations in self.shapes.values() for relation in relations}
        self.projections = {id: relation for id, relation in self.relations.items() if relation is not relation.whole}
        self.tables = {relation.table_id: relation for relation in self.relations.values()}
        self._had.update(self.relations)

    def shapes_of(self, subscriptions: Subscriptions) -> dict[str, tuple[Relation, ...]]:
        """The shapes of a device that has ``subscriptions``."""
        shapes: dict[str, tuple[Relation, ...]] = {self._schema: ()}
        for needed in subscriptions.values():
            shapes.update(needed)
        return shapes

    def columns(self, table_id: int, following: Shapes) -> Collection[str] | None:
        """The columns that the device has, or will have with the shapes that are ``following``, of a table of which it
        has rows, if these are not all. Those count too that it has had on this connection: what it wrote then may still
        be on its way."""
        soon: Iterable[Relation] = (relation for relations in following.values() for relation in relations)
        of_table = [relation for relation in (*self._had.values(), *soon) if relation.table_id == table_id]
        if not of_table or any(relation is relation.whole for relation in of_table):
            return None
        return columns_of(of_table)
