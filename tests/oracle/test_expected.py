"""The oracle itself, on cases worked out by hand."""

from __future__ import annotations

from tests.oracle.expected import Key, Row, State, columns_held, differences, keys_held, rows_held
from tests.oracle.schema import Column, ForeignKey, Schema, Table
from tests.oracle.shapes import Include, Shape


def refers(columns: str, parent: str, parent_columns: str = "id") -> ForeignKey:
    names = tuple(columns.split()), tuple(parent_columns.split())
    return ForeignKey(names[0], parent, names[1], "NO ACTION", "NO ACTION", deferrable=False, nullable=True)


def table(name: str, columns: str, key: str = "id", *foreign_keys: ForeignKey) -> Table:
    return Table(name, tuple(Column(c, "int4") for c in columns.split()), tuple(key.split()), foreign_keys)


MANAGED_BY = refers("boss", "people")
LIVES_IN, BORN_IN = refers("lives", "towns"), refers("born", "towns")
MAYOR = refers("mayor", "people")
STANDS_IN, BELONGS_TO = refers("town", "towns"), refers("owner", "people")
IN_HOUSE = refers("town number", "houses", "town number")
SCHEMA = Schema(
    (
        table("people", "id boss lives born", "id", MANAGED_BY, LIVES_IN, BORN_IN),
        table("towns", "id mayor", "id", MAYOR),
        table("houses", "number town owner", "town number", STANDS_IN, BELONGS_TO),
        table("rooms", "id number town", "id", IN_HOUSE),
    )
)

PART_OF, PAGE_OF = refers("part", "notes"), refers("of", "notes")
NOTES = Schema((table("notes", "id part a b c", "id", PART_OF), table("pages", "id of n", "id", PAGE_OF)))


def held(shape: Shape, rows: dict[str, list[Row]]) -> dict[str, set[Key]]:
    """Where clauses of this file are a column's name and the number it must have: ``boss 1``."""
    state = State(SCHEMA)
    for name, each in rows.items():
        places = SCHEMA[name].key_places
        state.rows[name] = {tuple(row[place] for place in places): row for row in each}

    def matches(name: str, where: str, row: Row) -> bool:
        column, number = where.split()
        return row[SCHEMA[name].names.index(column)] == int(number)

    found = keys_held(shape, state, matches)
    return {name: keys for name, keys in found.items() if keys}


def test_rows_for_which_the_clause_holds_and_no_others() -> None:
    rows: dict[str, list[Row]] = {"towns": [(1, None), (2, None)]}
    assert held(Shape("towns", "id 2"), rows) == {"towns": {(2,)}}


def test_a_chain_of_references_comes_along_through_other_tables() -> None:
    rows: dict[str, list[Row]] = {
        "people": [(1, None, 7, None), (2, 1, None, None), (3, None, None, None)],
        "towns": [(7, 3), (8, None)],
    }
    assert held(Shape("people", "id 2"), rows) == {"people": {(2,), (1,), (3,)}, "towns": {(7,)}}


def test_circles_of_rows_end_where_they_began() -> None:
    rows: dict[str, list[Row]] = {
        "people": [(1, 2, 7, None), (2, 1, None, None), (3, 3, None, None)],
        "towns": [(7, 1)],
    }
    assert held(Shape("towns", "id 7"), rows) == {"people": {(1,), (2,)}, "towns": {(7,)}}
    assert held(Shape("people", "id 3"), rows) == {"people": {(3,)}}


def test_two_foreign_keys_between_two_tables_are_two_paths() -> None:
    rows: dict[str, list[Row]] = {
        "towns": [(7, None), (8, None)],
        "people": [(1, None, 7, 8), (2, None, 8, 7), (3, None, None, 7)],
    }
    living = Shape("towns", "id 7", (Include("people", LIVES_IN, True),))
    assert held(living, rows) == {"towns": {(7,), (8,)}, "people": {(1,)}}
    born = Shape("towns", "id 7", (Include("people", BORN_IN, True),))
    assert held(born, rows) == {"towns": {(7,), (8,)}, "people": {(2,), (3,)}}


def test_included_rows_pass_a_clause_of_their_own_and_what_is_below_them_follows() -> None:
    rows: dict[str, list[Row]] = {
        "people": [(1, None, None, None), (2, 1, None, None), (3, 1, 7, None), (4, 2, None, None), (5, 3, None, None)],
        "towns": [(7, None)],
    }
    workers = Include("people", MANAGED_BY, True, "lives 7", (Include("people", MANAGED_BY, True),))
    assert held(Shape("people", "id 1", (workers,)), rows) == {"people": {(1,), (3,), (5,)}, "towns": {(7,)}}


def test_rows_brought_by_a_reference_bring_nothing_that_refers_to_them() -> None:
    """Town 8 is there for the sake of the reference alone: it is not where the tree goes on."""
    rows: dict[str, list[Row]] = {
        "towns": [(7, None), (8, None)],
        "people": [(1, None, 7, 8), (2, None, 8, None)],
    }
    assert held(Shape("towns", "id 7", (Include("people", LIVES_IN, True),)), rows) == {
        "towns": {(7,), (8,)},
        "people": {(1,)},
    }


def test_an_included_parent_carries_the_tree_on() -> None:
    rows: dict[str, list[Row]] = {
        "towns": [(7, None), (8, None)],
        "people": [(1, None, 7, 8), (2, None, 8, None)],
    }
    birthplace = Include("towns", BORN_IN, False, "", (Include("people", LIVES_IN, True),))
    assert held(Shape("people", "id 1", (birthplace,)), rows) == {
        "towns": {(7,), (8,)},
        "people": {(1,), (2,)},
    }


def test_keys_of_several_columns_one_of_them_null() -> None:
    rows: dict[str, list[Row]] = {
        "towns": [(7, None)],
        "houses": [(1, 7, None), (2, 7, None)],
        "rooms": [(1, 1, 7), (2, None, 7), (3, 2, 7), (4, 2, None)],
    }
    assert held(Shape("rooms", "id 1"), rows) == {"rooms": {(1,)}, "houses": {(7, 1)}, "towns": {(7,)}}
    assert held(Shape("rooms", "id 2"), rows) == {"rooms": {(2,)}}
    below = Shape("houses", "number 2", (Include("rooms", IN_HOUSE, True),))
    assert held(below, rows) == {"rooms": {(3,)}, "houses": {(7, 2)}, "towns": {(7,)}}


def test_whole_tables_bring_whole_tables() -> None:
    rows: dict[str, list[Row]] = {"people": [(1, None, None, None)], "towns": [(7, None), (8, None)]}
    assert held(Shape("people"), rows) == {"people": {(1,)}, "towns": {(7,), (8,)}}


def test_differences_say_what_is_missing_too_much_or_other_and_leave_out_what_does_not_count() -> None:
    device = {"towns": {(1,): (1, None), (2,): (2, 5), (3,): (3, None)}}
    wanted = {"towns": {(1,): (1, None), (2,): (2, 6), (4,): (4, None)}}
    (found,) = differences(device, wanted)
    assert found.describe() == "towns: missing [(4,)]; surplus [(3,)]; holds (2, 5) in place of (2, 6)"
    apart = frozenset({("towns", (2,)), ("towns", (3,)), ("towns", (4,))})
    assert differences(device, wanted, apart) == []


def test_a_device_has_of_a_row_the_columns_that_any_of_its_shapes_gives() -> None:
    state = State(NOTES)
    state.rows["notes"] = {(id,): (id, None, 10 * id, 20 * id, 30 * id) for id in (1, 2, 3)}

    def has(*shapes: Shape) -> dict[Key, Row]:
        return rows_held(shapes, state, lambda _, where, row: f"id {row[0]}" in where)["notes"]

    with_a, with_b = Shape("notes", "id 1 id 2", columns=("a",)), Shape("notes", "id 2 id 3", columns=("b",))
    assert has(with_a) == {(1,): (1, None, 10, None, None), (2,): (2, None, 20, None, None)}
    assert has(with_a, with_b)[2,] == (2, None, 20, 40, None)
    assert has(with_a, with_b)[3,] == (3, None, None, 60, None)
    assert has(with_a, Shape("notes", "id 1"))[1,] == (1, None, 10, 20, 30)


def test_a_table_at_several_places_of_a_shape_has_the_columns_of_all_of_them() -> None:
    def given(columns: str | None, below: str | None) -> set[str]:
        named = None if below is None else tuple(below.split())
        tree = (Include("notes", PART_OF, True, columns=named),)
        return set(columns_held(Shape("notes", "", tree, columns and tuple(columns.split())), NOTES)["notes"])

    assert given("a", "b") == {"id", "part", "a", "b"}
    assert given("a", None) == given(None, "a") == {"id", "part", "a", "b", "c"}
    assert columns_held(Shape("pages", columns=("id",)), NOTES) == {"pages": {"id", "of"}}
