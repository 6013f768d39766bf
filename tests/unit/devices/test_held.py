"""What a device holds, when more comes: the same as if it had been all there from the start."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.devices.held import HeldShapes
from syncline.actors.devices.steps import Delivery
from syncline.actors.shapes.projection import projection
from syncline.proto.values import Column, Relation

SCHEMA = "schema"
TABLES = {
    name: Relation(id, "public", name, (Column("id", "int8", True), Column("title", "text")))
    for id, name in enumerate("abc", 1)
}
NARROW = {name: projection(table, frozenset({"id"})) for name, table in TABLES.items()}

shapes = st.dictionaries(
    st.sampled_from([*TABLES, *(f"narrow {name}" for name in NARROW)]),
    st.none(),
    min_size=1,
)


def relations_of(shape: str) -> tuple[Relation, ...]:
    narrow = shape.startswith("narrow ")
    return (NARROW[shape.removeprefix("narrow ")] if narrow else TABLES[shape],)


@given(st.lists(shapes, max_size=5))
def test_it_is_as_if_everything_had_been_there_from_the_start(subscribed: list[dict[str, None]]) -> None:
    held = HeldShapes(SCHEMA, {})
    for number, of_one in enumerate(subscribed):
        its = {shape: relations_of(shape) for shape in of_one}
        assert SCHEMA in held.layers
        held.receive(Delivery((str(number),), (("request", tuple(its)),), its))
    whole = HeldShapes(SCHEMA, held.subscriptions)
    assert list(held.subscriptions) == [str(number) for number in range(len(subscribed))]
    assert (held.shapes, held.relations, held.projections) == (whole.shapes, whole.relations, whole.projections)
    assert held.tables.keys() == whole.tables.keys()
    for name, table in TABLES.items():
        assert held.columns(table.id, {}) == whole.columns(table.id, {})
        assert held.has_whole(table.id) == any(table in relations for relations in held.shapes.values())
        assert not held.has_whole(table.id) or held.columns(table.id, {}) is None
        narrow = any(NARROW[name] in relations for relations in held.shapes.values())
        assert held.every(table.id, {}) == whole.every(table.id, {}) == ({"id"} if narrow else None)
        assert held.every(table.id, {"coming": (NARROW[name],)}) == {"id"}
        assert held.layers.share((table,)) == whole.layers.share((table,)), name
        assert held.layers.holders((table,)) == whole.layers.holders((table,))
