"""Which of a device's shapes hold a row: found by the values that they name, as if each of them had been asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.devices.holders import any_holds
from syncline.actors.devices.layers import Layers, Named
from syncline.actors.devices.overlaps import holding
from syncline.actors.devices.steps import AnyHolds, HeldRow
from syncline.actors.shapes.messages import AskHeld
from syncline.actors.shapes.projection import projection
from syncline.proto.values import Column, Relation

TABLES = [
    Relation(id, "public", f"t{id}", tuple(Column(name, "text", name == "id") for name in ("id", "a", "b")))
    for id in (1, 2)
]
CELLS = [b"x", b"y", b"z", None]


@dataclass
class Asked:
    """A shape. ``holding``: of the rows that it may hold those that it does."""

    relations: tuple[Relation, ...]
    selects: bool
    named: Named | None
    holding: frozenset[HeldRow]
    asked: list[HeldRow] = field(default_factory=list)

    def may_hold(self, row: HeldRow) -> bool:
        if row[0] not in {relation.table_id for relation in self.relations}:
            return False
        return not self.selects or self.named is None or row[1][self.named.place] in self.named.cells

    def holds(self, row: HeldRow) -> bool:
        return self.may_hold(row) and (not self.selects or row in self.holding)

    async def call(self, question: AskHeld, _: float) -> tuple[bool, ...]:
        self.asked += question.rows
        return tuple(map(self.holds, question.rows))


@dataclass
class Known:
    shapes: dict[str, Asked]

    def refs(self, shapes: Iterable[str]) -> dict[str, Any]:
        return {shape: self.shapes[shape] for shape in shapes}

    def selects(self, shape: str) -> bool:
        return self.shapes[shape].selects

    def named(self, shape: str) -> Named | None:
        return self.shapes[shape].named


ROWS = st.builds(
    lambda table, cells: (table, cells),
    st.sampled_from([table.id for table in TABLES]),
    st.tuples(*[st.sampled_from(CELLS)] * 3),
)


@st.composite
def relations(draw: st.DrawFn) -> tuple[Relation, ...]:
    """Of one table or both, with all columns or some."""
    chosen = draw(st.lists(st.sampled_from(TABLES), min_size=1, max_size=2, unique_by=lambda table: table.id))
    names = st.sampled_from([frozenset("ab"), frozenset("a"), frozenset("b")])
    return tuple(projection(table, draw(names)) for table in chosen)


@st.composite
def shapes(draw: st.DrawFn, rows: list[HeldRow]) -> Asked:
    of = draw(relations())
    selects = draw(st.booleans())
    named = None
    if selects and len(of) == 1 and draw(st.booleans()):
        named = Named(draw(st.integers(0, 2)), tuple(draw(st.sets(st.sampled_from(CELLS[:3]), min_size=1))))
    return Asked(of, selects, named, frozenset(draw(st.sets(st.sampled_from(rows)))))


def held(layers: Layers, known: Known, rows: list[HeldRow], but: str) -> list[tuple[Relation, ...]]:
    asking = holding(layers, 10, rows, but)
    answer: object = None
    while True:
        try:
            step = asking.send(answer)
        except StopIteration as end:
            found: list[tuple[Relation, ...]] = end.value
            return found
        assert isinstance(step, AnyHolds)
        answer = asyncio.run(any_holds(known, step.shapes, step.lsn, step.rows, step.but))


@given(st.data())
def test_a_shape_that_may_share_no_row_shares_none(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(shapes([(TABLES[0].id, (b"a",) * 3)]), max_size=6))
    known = Known({f"s{number}": shape for number, shape in enumerate(drawn)})
    layers = Layers({}, known.named)
    there: list[Asked] = []
    for name, shape in known.shapes.items():
        may_share = layers.may_share(shape.relations, shape.named)
        overlaps = any(
            other.may_hold(row) and shape.may_hold(row)
            for other in there
            for table in TABLES
            for row in ((table.id, cells) for cells in product(CELLS, repeat=3))
        )
        assert may_share or not overlaps
        if all(one.named is not None and one.named.place == 0 for one in (*there, shape)):
            assert may_share == overlaps
        layers.add(name, shape.relations)
        there.append(shape)


@given(st.data())
def test_it_is_as_if_each_shape_had_been_asked_also_when_more_come(data: st.DataObject) -> None:
    rows = data.draw(st.lists(ROWS, min_size=1, max_size=6))
    drawn = data.draw(st.lists(shapes(rows), max_size=8))
    known = Known({f"s{number}": shape for number, shape in enumerate(drawn)})
    layers = Layers({})
    there: dict[str, Asked] = {}
    for name, shape in known.shapes.items():
        layers.add(name, shape.relations)
        there[name] = shape
        but = data.draw(st.sampled_from([*there, ""]))
        found = held(layers, known, rows, but)
        for row, by in zip(rows, found, strict=True):
            expected = {
                relation.id
                for other, its in there.items()
                if other != but and its.holds(row)
                for relation in its.relations
                if relation.table_id == row[0]
            }
            assert {relation.id for relation in by} == expected
            assert len(by) == len(expected)
        others = {other: its for other, its in there.items() if other != but}
        tables = {relation.table_id for its in others.values() for relation in its.relations}
        for table in TABLES:
            assert layers.share((table,), but) == (table.id in tables)
            assert {one.id for one in layers.relations(table.id)} == {
                one.id for its in there.values() for one in its.relations if one.table_id == table.id
            }
    for shape in known.shapes.values():
        assert all(map(shape.may_hold, shape.asked)), "nobody is asked in vain"
