"""What one device holds: its subscriptions, their shapes, and as which relations it has rows of their tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from syncline.actors.devices.layers import Layers, Named
from syncline.actors.devices.steps import Delivery, Shapes, Subscriptions
from syncline.actors.shapes.projection import columns_of
from syncline.proto.values import Relation

# There are thousands of devices that have a few shapes, and what is kept for each of them counts.
LAYERS_KEPT_SHAPES_MIN = 100


class HeldShapes:
    """``schema``: the hash of the schema shape, which every device holds besides those of its ``subscriptions``.

    ``relations``: by id, those by which it has rows; ``projections``: of these, such as have some columns of their
    table only. ``tables``: of each table that the device is subscribed to a relation that it knows. ``named``: by what
    the rows of a shape are known.
    """

    def __init__(
        self,
        schema: str,
        subscriptions: Subscriptions,
        named: Callable[[str], Named | None] = lambda shape: None,
    ) -> None:
        self._schema = schema
        self._named = named
        self._layers: Layers | None = None
        self._had: dict[int, Relation] = {}  # by id: as which it has had rows on this connection
        self._every: dict[int, frozenset[str]] = {}  # by table: the columns that each of these has, if not all
        self.hold(subscriptions)

    def hold(self, subscriptions: Subscriptions) -> None:
        """These, and no others, from now on."""
        self.subscriptions = subscriptions
        self.shapes: Mapping[str, tuple[Relation, ...]] = self.shapes_of(subscriptions)
        self.relations: dict[int, Relation] = {}
        self.projections: dict[int, Relation] = {}
        self.tables: dict[int, Relation] = {}
        self._layers = None
        self._know(self.shapes)

    def receive(self, delivery: Delivery) -> None:
        """Those of a new subscription besides. A device may have a thousand: none of the others is looked at."""
        self.subscriptions = delivery.after(self.subscriptions)
        fresh = {shape: relations for shape, relations in delivery.shapes.items() if shape not in self.shapes}
        self.shapes = {**self.shapes, **fresh}
        self._know(fresh)
        if self._layers is not None:
            for shape, relations in fresh.items():
                self._layers.add(shape, relations)

    @property
    def layers(self) -> Layers:
        """Its shapes by the rows that they may hold. Whoever adds to them what is being delivered does so as
        ``receive`` will."""
        if self._layers is None:
            self._layers = Layers(self.shapes, self._named)
        return self._layers

    def rest(self) -> None:
        """Nothing is delivered for a while: of few shapes ``layers`` are soon made again."""
        if len(self.shapes) < LAYERS_KEPT_SHAPES_MIN:
            self._layers = None

    def _know(self, shapes: Shapes) -> None:
        relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
        self.relations.update(relations)
        for id, one in relations.items():
            if one is not one.whole:
                self.projections[id] = one
                self._every[one.table_id] = self._every.get(one.table_id, frozenset(one.names)).intersection(one.names)
        self.tables.update((one.table_id, one) for one in relations.values())
        self._had.update(relations)

    def shapes_of(self, subscriptions: Subscriptions) -> dict[str, tuple[Relation, ...]]:
        """The shapes of a device that has ``subscriptions``."""
        shapes: dict[str, tuple[Relation, ...]] = {self._schema: ()}
        for needed in subscriptions.values():
            shapes.update(needed)
        return shapes

    def has_whole(self, table_id: int) -> bool:
        """Whether it has had whole rows of the table on this connection: then ``columns`` is None, whatever follows."""
        return table_id in self._had  # a table's whole relation has its id

    def columns(self, table_id: int, following: Shapes) -> Collection[str] | None:
        """The columns that the device has, or will have with the shapes that are ``following``, of a table of which it
        has rows, if these are not all. Those count too that it has had on this connection: what it wrote then may still
        be on its way."""
        soon: Iterable[Relation] = (relation for relations in following.values() for relation in relations)
        of_table = [relation for relation in (*self._had.values(), *soon) if relation.table_id == table_id]
        if not of_table or any(relation is relation.whole for relation in of_table):
            return None
        return columns_of(of_table)

    def every(self, table_id: int, coming: Shapes) -> Collection[str] | None:
        """The columns that each row of a table has which the device has had on this connection, or may have of shapes
        that are ``coming``, if these are not all."""
        soon = (relation for relations in coming.values() for relation in relations if relation.table_id == table_id)
        sets = [frozenset(one.names) for one in soon if one is not one.whole]
        if (had := self._every.get(table_id)) is not None:
            sets.append(had)
        return frozenset.intersection(*sets) if sets else None
