"""Asks shapes which rows they hold, and no shape about rows that cannot be its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from syncline.actors.devices.steps import HeldRow, Shapes
from syncline.actors.shapes.messages import AskHeld
from syncline.actors.shapes.shape import Shape
from syncline.cluster import Ref
from syncline.proto.values import Cell

HELD_TIMEOUT_S = 60.0


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


class Holders(Protocol):
    """Where shapes are, whether there may be rows of their tables that they do not hold, and by what those that they
    hold are known (None: by nothing)."""

    def refs(self, shapes: Iterable[str]) -> Mapping[str, Ref]: ...

    def selects(self, shape: str) -> bool: ...

    def named(self, shape: str) -> Named | None: ...


class _Rows:
    """Rows, found by table and by the values they have: a device may have thousands of shapes of a table, and for each
    of them it is asked which rows come into question."""

    def __init__(self, rows: Sequence[HeldRow]) -> None:
        self._rows = rows
        self._of_table: dict[int, list[int]] = {}
        for place, (relation_id, _) in enumerate(rows):
            self._of_table.setdefault(relation_id, []).append(place)
        self._by_cell: dict[tuple[int, int], dict[Cell, list[int]]] = {}

    def of(self, relation_id: int, named: Named | None) -> Sequence[int]:
        """The places of the rows of a table that may be of a shape."""
        if named is None:
            return self._of_table.get(relation_id, ())
        by_cell = self._by_cell.get((relation_id, named.place))
        if by_cell is None:
            by_cell = self._by_cell[relation_id, named.place] = {}
            for place in self._of_table.get(relation_id, ()):
                by_cell.setdefault(self._rows[place][1][named.place], []).append(place)
        return [place for cell in named.cells for place in by_cell.get(cell, ())]


async def any_holds(holders: Holders, shapes: Shapes, lsn: int, rows: Sequence[HeldRow]) -> list[bool]:
    """Which of ``rows``, as of ``lsn``, any of ``shapes`` holds there. Raises what a call raises."""
    held = [False] * len(rows)
    found = _Rows(rows)
    asked: dict[str, list[int]] = {}
    for shape, relations in shapes.items():
        named = holders.named(shape)
        places = [place for relation in relations for place in found.of(relation.table_id, named)]
        if not holders.selects(shape):
            for place in places:
                held[place] = True
        elif places:
            asked[shape] = places

    async def ask(shape: str, ref: Ref) -> None:
        places = [place for place in asked[shape] if not held[place]]
        if places:
            answer = await ref.call(AskHeld(lsn, tuple(rows[place] for place in places)), HELD_TIMEOUT_S)
            assert isinstance(answer, tuple)
            for place, holds in zip(places, answer, strict=True):
                held[place] = held[place] or bool(holds)

    if asked:
        await asyncio.gather(*(ask(shape, ref) for shape, ref in holders.refs(asked).items()))
    return held
