"""A request with a clause or an include tree, as one shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.catalogs import catalog_of

from syncline.actors.devices.planning import INCLUDED_MAX, PlanRefused, projected, selected_shape
from syncline.actors.postgres.catalog import Catalog
from syncline.actors.shapes.shape import Included, Reference, Shape
from syncline.proto.values import ShapeRequest


def table(oid: int, name: str, **references: str) -> dict[str, Any]:
    columns = [{"name": "id", "type": "int4", "not_null": True, "pk": 1}]
    columns += [{"name": column, "type": "int4", "not_null": False, "pk": None} for column in references]
    fks = [
        {"columns": [column], "schema": "public", "table": parent, "ref_columns": ["id"]}
        for column, parent in references.items()
    ]
    return {"oid": oid, "schema": "public", "table": name, "columns": columns, "fks": fks}


CATALOG: Catalog = catalog_of(
    [
        table(1, "users", boss="users"),
        table(2, "projects", owner="users"),
        table(3, "issues", project="projects", opened_by="users", closed_by="users"),
        table(4, "comments", issue="issues", author="users"),
    ]
)


def request(table: str, where: str = "", **include: ShapeRequest) -> ShapeRequest:
    return ShapeRequest("r", table, where, tuple(((column,), below) for column, below in include.items()))


def test_below_a_table_are_those_that_refer_to_it_and_those_it_refers_to() -> None:
    shape = selected_shape(request("issues", issue=request("comments"), project=request("projects")), CATALOG)
    assert shape.included == (
        Included(2, 0, many=False, columns=("id",), above_columns=("project",)),
        Included(4, 0, many=True, columns=("issue",), above_columns=("id",)),
    )


def test_whatever_rows_refer_to_comes_along_however_far() -> None:
    shape = selected_shape(request("projects", project=request("issues")), CATALOG)
    assert shape.references == (
        Reference(1, ("boss",), 1, ("id",)),
        Reference(2, ("owner",), 1, ("id",)),
        Reference(3, ("closed_by",), 1, ("id",)),
        Reference(3, ("opened_by",), 1, ("id",)),
        Reference(3, ("project",), 2, ("id",)),
    )
    assert shape.tables.keys() == {1, 2, 3}


def test_the_order_of_what_is_included_and_the_spelling_of_clauses_make_no_other_shape() -> None:
    one = request("projects", 'this."id" != 3', project=request("issues", "this.id>1", issue=request("comments")))
    other = request("projects", "(this.id <> 3)", project=request("issues", "this.id > 1", issue=request("comments")))
    assert selected_shape(one, CATALOG).hash == selected_shape(other, CATALOG).hash
    twice = ((("opened_by",), request("users")), (("closed_by",), request("users")))
    shapes = [selected_shape(ShapeRequest("r", "issues", "", order), CATALOG) for order in (twice, twice[::-1])]
    assert shapes[0].hash == shapes[1].hash


def test_another_clause_is_another_shape() -> None:
    assert selected_shape(request("users", "this.id = 1"), CATALOG) != selected_shape(
        request("users", "this.id = 2"), CATALOG
    )


def test_a_stored_shape_is_the_shape() -> None:
    shape = selected_shape(request("projects", "this.id > 1", project=request("issues", "this.id = 2")), CATALOG)
    assert Shape.from_json(shape.to_json()) == shape


@pytest.mark.parametrize(
    ("wish", "code", "says"),
    [
        (request("nowhere", "this.id = 1"), "TABLE_NOT_FOUND", "nowhere"),
        (request("issues", issue=request("nowhere")), "TABLE_NOT_FOUND", "nowhere"),
        (request("issues", id=request("comments")), "INVALID_INCLUDE_TREE", r"\(id\) between comments and issues"),
        (request("issues", project=request("projects", "this.id = 1")), "INVALID_WHERE_CLAUSE", "comes along"),
        (request("issues", issue=request("comments", "this.nothing = 1")), "INVALID_WHERE_CLAUSE", "nothing"),
        (ShapeRequest("r", "issues", "", ((("issue",), request("comments")),) * 2), "INVALID_INCLUDE_TREE", "twice"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(wish: ShapeRequest, code: str, says: str) -> None:
    with pytest.raises(PlanRefused, match=says) as refused:
        selected_shape(wish, CATALOG)
    assert refused.value.code == code


def test_a_tree_has_an_end() -> None:
    wish = request("users")
    for _ in range(INCLUDED_MAX + 1):
        wish = request("users", boss=wish)
    with pytest.raises(PlanRefused, match="at most"):
        selected_shape(wish, CATALOG)


def test_what_is_tied_to_columns_that_devices_do_not_have_is_no_reason_for_others() -> None:
    """A constraint over a column that was added later."""
    (plain,) = catalog_of([table(5, "plain", a="nothing", b="nothing") | {"fks": []}]).tables.values()
    catalog = Catalog({5: replace(plain, tied=(frozenset({"a", "later"}),))})
    assert projected({5: frozenset({"a"})}, catalog) == ((5, ("id", "a")),)
