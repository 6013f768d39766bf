"""The oracle itself, on cases worked out by hand."""

from __future__ import annotations

from tests.oracle.expected import Key, Row, State, differences, keys_held
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


def held(shape: Shape, rows: dict[str, list[Row]], closure: bool = True) -> dict[str, set[Key]]:
    """Where clauses of this file are a column's name and the number it must have: ``boss 1``."""
    state = State(SCHEMA)
    for name, each in rows.items():
        places = SCHEMA[name].key_places
        state.rows[name] = {tuple(row[place] for place in places): row for row in each}

    def matches(name: str, where: str, row: Row) -> bool:
        column, number = where.split()
        return row[SCHEMA[name].names.index(column)] == int(number)

    found = keys_held(shape, state, matches, closure=closure)
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


def test_without_closure_whole_tables_come_along() -> None:
    rows: dict[str, list[Row]] = {"people": [(1, None, None, None)], "towns": [(7, None), (8, None)]}
    assert held(Shape("people"), rows, closure=False) == {"people": {(1,)}, "towns": {(7,), (8,)}}


def test_differences_say_what_is_missing_too_much_or_other_and_leave_out_what_does_not_count() -> None:
    device = {"towns": {(1,): (1, None), (2,): (2, 5), (3,): (3, None)}}
    wanted = {"towns": {(1,): (1, None), (2,): (2, 6), (4,): (4, None)}}
    (found,) = differences(device, wanted)
    assert found.describe() == "towns: missing [(4,)]; surplus [(3,)]; holds (2, 5) in place of (2, 6)"
    apart = frozenset({("towns", (2,)), ("towns", (3,)), ("towns", (4,))})
    assert differences(device, wanted, apart) == []
