"""Which shapes are asked whether they hold a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.unit.shapes.shape_scene import ITEMS, SHAPE, row

from syncline.actors.devices.holders import any_holds
from syncline.actors.devices.layers import Named, named_by
from syncline.actors.devices.steps import HeldRow
from syncline.actors.shapes.messages import AskHeld
from syncline.actors.shapes.shape import Reference, Shape


def by_body(*bodies: str) -> Shape:
    return replace(SHAPE, where=f"body in {bodies}", one_of=("body", bodies))


@dataclass
class Asked:
    """Stands for a shape that holds ``holding``, and notes what it is asked."""

    holding: tuple[HeldRow, ...] = ()
    rows: list[HeldRow] = field(default_factory=list)

    async def call(self, question: AskHeld, timeout_s: float) -> tuple[bool, ...]:
        self.rows += question.rows
        return tuple(row in self.holding for row in question.rows)


@dataclass
class Known:
    shapes: dict[str, Shape]
    answering: dict[str, Asked]

    def refs(self, shapes: Iterable[str]) -> dict[str, Any]:
        return {shape: self.answering[shape] for shape in shapes}

    def selects(self, shape: str) -> bool:
        return self.shapes[shape].selects

    def named(self, shape: str) -> Named | None:
        return named_by(self.shapes[shape])


def known(*shapes: Shape, holding: tuple[HeldRow, ...] = ()) -> Known:
    by_hash = {shape.hash: shape for shape in shapes}
    return Known(by_hash, {hash: Asked(holding) for hash in by_hash})


async def answers(holders: Known, *rows: HeldRow) -> list[bool]:
    return await any_holds(holders, dict.fromkeys(holders.shapes, (ITEMS,)), 10, rows)


async def test_of_many_shapes_that_name_values_only_those_are_asked_whose_value_a_row_has() -> None:
    shapes = [by_body(str(n)) for n in range(500)]
    other = replace(SHAPE, where="some day")
    first, second = (ITEMS.id, row(1, "7")), (ITEMS.id, row(2, "nobody's"))
    holders = known(*shapes, other, holding=(first,))
    assert await answers(holders, first, second) == [True, False]
    asked = {hash: shape.rows for hash, shape in holders.answering.items() if shape.rows}
    assert asked == {shapes[7].hash: [first], other.hash: [second]}


async def test_a_shape_of_several_values_is_asked_about_the_rows_of_each() -> None:
    ours = by_body("a", "b")
    rows = [(ITEMS.id, row(n, body)) for n, body in enumerate(("a", "c", "b"))]
    holders = known(ours, holding=(rows[2],))
    assert await answers(holders, *rows) == [False, False, True]
    assert holders.answering[ours.hash].rows == [rows[0], rows[2]]


async def test_a_whole_table_holds_every_row_and_nobody_is_asked() -> None:
    holders = known(SHAPE, by_body("a"))
    assert await answers(holders, (ITEMS.id, row(1, "a")), (ITEMS.id, row(2, "b"))) == [True, True]
    assert not any(shape.rows for shape in holders.answering.values())


def test_a_tree_may_hold_rows_that_its_own_clause_does_not_name() -> None:
    assert named_by(by_body("a")) == Named(ITEMS.names.index("body"), (b"a",))
    refers = Reference(ITEMS.id, ("body",), 8, ("id",))
    assert named_by(replace(by_body("a"), references=(refers,))) is None
    assert named_by(SHAPE) is None
