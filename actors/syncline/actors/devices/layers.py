"""A device's shapes, found by the rows that they may hold. Pure.

A device may have thousands of shapes of one table, most of which name the values that their rows have. Were each of
them looked at for every row, their number would count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.shape import Shape
from syncline.proto.values import Cell, Relation


@dataclass(frozen=True, slots=True)
class Named:
    """In every row of a shape the cell at ``place`` is one of ``cells``. It has rows of one table."""

    place: int
    cells: tuple[Cell, ...]


def named_by(shape: Shape) -> Named | None:
    """By what the rows of ``shape`` are known, if its clause names that."""
    if shape.one_of is None or shape.is_tree:
        return None
    column, cells = shape.one_of
    return Named(shape.columns.index(column), tuple(cell.encode() for cell in cells))


class Knowing(Protocol):
    """Whether there may be rows of its tables that a shape does not hold, and by what those that it holds are known
    (None: by nothing)."""

    def selects(self, shape: str) -> bool: ...

    def named(self, shape: str) -> Named | None: ...


class Layer(dict[str, tuple[Relation, ...]]):
    """Shapes, of which each table has one relation. More may be put in with ``add``, and none is taken out.

    ``relations``: by table.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.relations: dict[int, Relation] = {}
        self._fresh: list[tuple[str, tuple[Relation, ...]]] = []  # not in the index yet
        self._whole: dict[int, list[str]] = {}  # by table: those that have all of its rows
        self._others: dict[int, list[str]] = {}  # and those of which nothing is known
        self._named: dict[int, dict[int, dict[Cell, list[str]]]] = {}  # and by place and cell the rest
        for shape, relations in shapes.items():
            self.add(shape, relations)

    def add(self, shape: str, relations: tuple[Relation, ...]) -> None:
        """One that is not there yet."""
        self[shape] = relations
        self.relations.update((relation.table_id, relation) for relation in relations)
        self._fresh.append((shape, relations))

    def asked(self, row: HeldRow, but: str, knowing: Knowing) -> Iterator[str] | None:
        """Those which may hold ``row``, ``but`` for one; None if one of them does for sure."""
        for shape, relations in self._fresh:
            self._index(shape, relations, knowing)
        self._fresh.clear()
        table_id, cells = row
        if any(shape != but for shape in self._whole.get(table_id, ())[:2]):
            return None
        return (shape for shape in self._found(table_id, cells) if shape != but)

    def _found(self, table_id: int, cells: tuple[Cell, ...]) -> Iterator[str]:
        for place, by_cell in self._named.get(table_id, {}).items():
            yield from by_cell.get(cells[place], ())
        yield from self._others.get(table_id, ())

    def _index(self, shape: str, relations: tuple[Relation, ...], knowing: Knowing) -> None:
        named = knowing.named(shape)
        for table_id in {relation.table_id for relation in relations}:
            if not knowing.selects(shape):
                self._whole.setdefault(table_id, []).append(shape)
            elif named is None:
                self._others.setdefault(table_id, []).append(shape)
            else:
                by_cell = self._named.setdefault(table_id, {}).setdefault(named.place, {})
                for cell in named.cells:
                    by_cell.setdefault(cell, []).append(shape)


class Layers:
    """Shapes taken apart: in each layer a table has one relation, so whoever holds a row there has it by that one.
    There is one layer where no shape names columns. ``named``: by what the rows of a shape are known."""

    def __init__(self, shapes: Shapes, named: Callable[[str], Named | None] = lambda shape: None) -> None:
        self._named = named
        self._shapes: set[str] = set()
        # Of a table: the place at which the rows of all its shapes are known, and the cells that these have there; None
        # where they are known at several places, or one by nothing.
        self._cells: dict[int, tuple[int, set[Cell]] | None] = {}
        self._layers: list[Layer] = []
        self._numbers: dict[int, dict[int, int]] = {}  # of a table: relation id -> the layer it is in
        self._holders: dict[int, set[str]] = {}  # by table
        for shape, relations in shapes.items():
            self.add(shape, relations)

    def __contains__(self, shape: str) -> bool:
        return shape in self._shapes

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def add(self, shape: str, relations: tuple[Relation, ...]) -> None:
        """One more. Repeats are harmless."""
        if shape in self._shapes:
            return
        self._shapes.add(shape)
        parts: dict[int, list[Relation]] = {}
        named = self._named(shape) if relations else None
        for relation in relations:
            self._know(relation.table_id, named)
            self._holders.setdefault(relation.table_id, set()).add(shape)
            of_table = self._numbers.setdefault(relation.table_id, {})
            parts.setdefault(of_table.setdefault(relation.id, len(of_table)), []).append(relation)
        for number, of_layer in parts.items():
            while len(self._layers) <= number:
                self._layers.append(Layer({}))
            self._layers[number].add(shape, tuple(of_layer))

    def share(self, relations: tuple[Relation, ...], but: str = "") -> bool:
        """Whether one of them, ``but`` for one, may have rows of these tables."""
        of_tables = (self._holders.get(relation.table_id, set()) for relation in relations)
        return any(len(holders) > (but in holders) for holders in of_tables)

    def may_share(self, relations: tuple[Relation, ...], named: Named | None) -> bool:
        """Whether one of them may have a row in common with one more shape, which has ``relations`` and whose rows are
        known by ``named``. No row has two cells at one place."""
        if named is None:
            return self.share(relations)
        return any(self._may_have(relation.table_id, named) for relation in relations)

    def _may_have(self, table_id: int, named: Named) -> bool:
        if table_id not in self._cells:
            return False
        known = self._cells[table_id]
        return known is None or known[0] != named.place or not known[1].isdisjoint(named.cells)

    def _know(self, table_id: int, named: Named | None) -> None:
        known = self._cells.setdefault(table_id, None if named is None else (named.place, set()))
        if known is None or named is None or known[0] != named.place:
            self._cells[table_id] = None
        else:
            known[1].update(named.cells)

    def holders(self, relations: tuple[Relation, ...]) -> frozenset[str]:
        """Those which may have rows of these tables."""
        return frozenset().union(*(self._holders.get(relation.table_id, ()) for relation in relations))

    def relations(self, table_id: int) -> list[Relation]:
        """Those by which they have rows of a table."""
        return [layer.relations[table_id] for layer in self._layers if table_id in layer.relations]
