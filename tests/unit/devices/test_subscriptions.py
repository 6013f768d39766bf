"""From what a device asks to the shapes that hold it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.catalogs import catalog_of
from tests.unit.devices.edge_scene import CATALOG, described

from syncline.actors.devices.starting import plan_now
from syncline.actors.devices.subscriptions import (
    PLANNED_AT_ONCE,
    SubscriptionRefused,
    check_ids,
    plan,
    table_shape,
)
from syncline.proto.values import ShapeRequest

ID = "0d8f7a52-6c1e-4b7a-9e55-2f4f3c8f9a10"  # fixed: it is part of test names, which every worker must agree on


def tables(planned: Any) -> list[list[str]]:
    """The tables of each request, in order."""
    return [[planned.shapes[shape].table for shape in shapes] for _, shapes in planned.requests]


def test_a_table_comes_with_what_it_references_and_that_first() -> None:
    planned = plan((ShapeRequest("r", "notes"),), CATALOG)
    assert tables(planned) == [["items", "notes"]]
    assert planned.shapes.keys() == planned.relations.keys()


def test_tables_that_reference_each_other_or_themselves_come_once() -> None:
    catalog = catalog_of([described(1, "a", "b"), described(2, "b", "a", "b"), described(3, "c", "unsynced")])
    assert tables(plan((ShapeRequest("r", "a"), ShapeRequest("s", "c")), catalog)) == [["b", "a"], ["c"]]


def test_two_devices_that_ask_the_same_share_the_shape() -> None:
    (first,) = plan((ShapeRequest("r", "items"),), CATALOG).shapes
    assert first == table_shape(CATALOG.tables[7]).hash
    (second,) = plan((ShapeRequest("another", "items"),), CATALOG).shapes
    assert first == second


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ShapeRequest("r", ""), "EMPTY_SHAPE_DEFINITION"),
        (ShapeRequest("r", "nowhere"), "TABLE_NOT_FOUND"),
        (ShapeRequest("r", "x" * 10_000), "TABLE_NOT_FOUND"),
        (ShapeRequest("r", "items", where="n = 1"), "INVALID_WHERE_CLAUSE"),
        (ShapeRequest("r", "items", columns=("elsewhere",)), "CODE_UNSPECIFIED"),
        (ShapeRequest("r", "items", include=((("id",), ShapeRequest("", "notes")),)), "INVALID_INCLUDE_TREE"),
    ],
)
def test_every_shape_that_cannot_be_had_is_named(request_: ShapeRequest, code: str) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        plan((ShapeRequest("fine", "items"), request_), CATALOG)
    assert refused.value.code == "SHAPE_REQUEST_ERROR"
    ((request_id, shape_code, message),) = refused.value.errors
    assert (request_id, shape_code) == ("r", code)
    assert len(message) < 300


def test_an_unknown_table_comes_with_what_to_do() -> None:
    with pytest.raises(SubscriptionRefused, match=r"CALL electric\.electrify\('nowhere'\)"):
        plan((ShapeRequest("r", "nowhere"),), CATALOG)


@pytest.mark.parametrize("id", ["", "not a uuid", ID.replace("-", ""), "{" + ID + "}", ID + " " * 200])
def test_a_subscription_id_is_a_uuid_as_it_is_written(id: str) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        check_ids(id, (ShapeRequest("r", "items"),))
    assert refused.value.code == "CODE_UNSPECIFIED"


def test_capitals_are_allowed_in_it() -> None:
    check_ids(ID.upper(), (ShapeRequest("r", "items"),))


@pytest.mark.parametrize("requests", [(), (ShapeRequest("r", "items"), ShapeRequest("r", "notes"))])
def test_a_subscription_asks_for_something_and_names_each_thing_once(requests: tuple[ShapeRequest, ...]) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        check_ids(ID, requests)
    assert refused.value.code == "CODE_UNSPECIFIED"


async def test_while_a_large_subscription_is_planned_others_have_their_turns() -> None:
    class Known:
        catalog = CATALOG
        pool = None

    requests = tuple(ShapeRequest(f"r{n}", "items", f"this.id = '{n}'") for n in range(10 * PLANNED_AT_ONCE))
    planning = asyncio.create_task(plan_now(requests, Known()))  # type: ignore[arg-type]
    turns = 0
    while not planning.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10
    planned = planning.result()
    assert planned == plan(requests, CATALOG)
    assert len(planned.requests) == len(requests)
