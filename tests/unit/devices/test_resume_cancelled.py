"""A device that was cut off between its unsubscribe and the batch of rows that leave."""

from __future__ import annotations

from typing import Any

from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.starting import start
from syncline.actors.postgres.catalog import Catalog, TableInfo
from syncline.actors.postgres.subscription import Subscription
from syncline.actors.shapes.messages import ShapePlace
from syncline.proto.events import StartRequested
from syncline.proto.values import Column, Relation, ShapeRequest

ITEMS = Relation(7, "public", "items", (Column("id", "text", primary_key=True),))
CANCELLED = "22222222-2222-4222-8222-222222222222"


class Database:
    """What a start asks of the database."""

    catalog = Catalog({7: TableInfo(ITEMS, {"fks": []})})

    def __init__(self, cancelled: bool) -> None:
        self._cancelled = cancelled

    async def subscriptions(self, client_id: str) -> dict[str, Subscription]:
        return {CANCELLED: Subscription(CANCELLED, (ShapeRequest("r", "items"),), self._cancelled)}

    async def of_this_history(self, client_id: str) -> bool:
        return True

    async def wal_position(self) -> int:
        return 1_000


class Places:
    """Every shape is ready from the start."""

    async def ensure(self, shape: Any, relation: Any) -> ShapePlace:
        return ShapePlace(ref=None, ready_lsn=1)  # type: ignore[arg-type]

    def selects(self, shape: str) -> bool:
        return False

    def named(self, shape: str) -> None:
        return None


async def resumed(cancelled: bool) -> tuple[Outbound, dict[str, Any]]:
    event = StartRequested(1, b"500", (CANCELLED,), None, "sqlite")
    started = await start("me", event, Database(cancelled), Places())  # type: ignore[arg-type]
    return started.outbound, started.subscriptions


def tables(shapes: Any) -> set[str]:
    return {relation.table for relations in shapes.values() for relation in relations}


async def test_rows_of_a_cancelled_subscription_that_a_device_still_lists_leave_when_it_resumes() -> None:
    outbound, subscriptions = await resumed(cancelled=True)
    assert tables(outbound.shapes) == {"items"}, "the device has these rows"
    assert tables(outbound.target_shapes) == set(), "and is going to lose them"
    assert subscriptions == {}


async def test_an_active_subscription_just_goes_on() -> None:
    outbound, subscriptions = await resumed(cancelled=False)
    assert tables(outbound.shapes) == tables(outbound.target_shapes) == {"items"}
    assert list(subscriptions) == [CANCELLED]
