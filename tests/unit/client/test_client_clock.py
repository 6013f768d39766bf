"""What a device writes after it has seen another write outranks that one, though the device's clock is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import ITEMS, ITEMS_MIGRATION, item

from syncline.client.live import Changes
from syncline.client.oplog import CLOCK_SKEW_MAX_MS
from syncline.client.replica import Replica, load_replica
from syncline.client.shape_spec import ShapeSpec
from syncline.client.store import Store, open_store
from syncline.proto.values import Insert, Transaction

NOW_MS = 1_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "app.db") as store:
        yield store


@pytest.fixture
async def replica(store: Store) -> Replica:
    replica = await load_replica(store, Changes(), lambda: NOW_MS)
    await replica.migrate([ITEMS_MIGRATION])
    return replica


async def written_at_ms(store: Store, replica: Replica) -> int:
    def write(connection: object) -> int:
        connection.execute("UPDATE items SET title = 'mine'")  # type: ignore[attr-defined]
        stamped = replica.stamp(connection)  # type: ignore[arg-type]
        assert stamped is not None
        return stamped.commit_ms

    return await store.write(write)


async def test_a_row_seen_in_a_transaction(store: Store, replica: Replica) -> None:
    insert = Insert(ITEMS.id, item("a", "A"), ("other@1500",))
    await replica.apply_transactions([Transaction(1_500, b"1", (insert,), "other", 1)], {ITEMS.id: ITEMS})
    assert await written_at_ms(store, replica) == 1_501


async def test_a_row_seen_in_the_data_of_a_shape(store: Store, replica: Replica) -> None:
    subscription = await replica.subscribe(ShapeSpec("items"))
    replica.begin_delivery()
    absurd = f"wild@{NOW_MS + CLOCK_SKEW_MAX_MS + 1}"
    for key, tag in (("a", "other@1500"), ("b", absurd)):
        await replica.stage([Insert(ITEMS.id, item(key, "A"), (tag,))], {ITEMS.id: ITEMS})
    await replica.apply_shape(subscription, b"1")
    assert await written_at_ms(store, replica) == 1_501
