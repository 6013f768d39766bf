"""What a device writes after it has seen another write outranks that one, though the device's clock is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import ITEMS, ITEMS_MIGRATION, item

from syncline.client.live import Changes
from syncline.client.replica import Replica, load_replica
from syncline.client.shape_spec import ShapeSpec
from syncline.client.store import Store, open_store
from syncline.proto.values import POSTGRES_ORIGIN, Delete, Insert, Transaction, Update

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
    for key, tag in (("a", "other@1500"), ("b", "other@1400")):
        await replica.stage([Insert(ITEMS.id, item(key, "A"), (tag,))], {ITEMS.id: ITEMS})
    await replica.apply_shape(subscription, b"1")
    assert await written_at_ms(store, replica) == 1_501


HOURS_MS = 5 * 3_600_000


@pytest.mark.parametrize("origin", ["other", POSTGRES_ORIGIN])
async def test_a_device_far_behind_follows_the_times_that_the_server_has_bounded(
    origin: str, store: Store, replica: Replica
) -> None:
    server_ms = NOW_MS + HOURS_MS
    insert = Insert(ITEMS.id, item("a", "A"), (f"{origin}@{server_ms}",))
    await replica.apply_transactions([Transaction(server_ms, b"1", (insert,), origin, 1)], {ITEMS.id: ITEMS})
    assert await written_at_ms(store, replica) == server_ms + 1


async def test_and_shows_its_own_write_over_one_that_it_had_outranked(store: Store, replica: Replica) -> None:
    """The other was made by somebody who had not seen what this device had, and before that."""
    server_ms = NOW_MS + HOURS_MS
    seen = Insert(ITEMS.id, item("a", "A"), (f"other@{server_ms}",))
    await replica.apply_transactions([Transaction(server_ms, b"1", (seen,), "other", 1)], {ITEMS.id: ITEMS})
    await written_at_ms(store, replica)
    tags = (f"other@{server_ms}", f"third@{server_ms - 1}")
    late = Update(ITEMS.id, item("a", "theirs"), item("a", "A"), tags)
    await replica.apply_transactions([Transaction(server_ms - 1, b"2", (late,), "third", 2)], {ITEMS.id: ITEMS})
    rows = await store.read(lambda connection: connection.execute("SELECT title FROM items").fetchall())
    assert [row[0] for row in rows] == ["mine"]


async def test_after_postgres_has_said_how_late_it_is_other_devices_are_believed_too(
    store: Store, replica: Replica
) -> None:
    """A delete has no tag that would say when it was."""
    server_ms = NOW_MS + HOURS_MS
    there = [Insert(ITEMS.id, item(key, "A"), (f"{POSTGRES_ORIGIN}@{server_ms}",)) for key in "ab"]
    deleted = Delete(ITEMS.id, item("b", "A"), ())
    await replica.apply_transactions(
        [
            Transaction(server_ms, b"1", tuple(there), POSTGRES_ORIGIN, 1),
            Transaction(server_ms + 500, b"2", (deleted,), "other", 2),
        ],
        {ITEMS.id: ITEMS},
    )
    assert await written_at_ms(store, replica) == server_ms + 501


async def test_nobody_follows_a_device_whose_clock_is_far_ahead(store: Store, replica: Replica) -> None:
    """Its transaction has its own time, its rows have that which the server has made of it."""
    insert = Insert(ITEMS.id, item("a", "A"), (f"ahead@{NOW_MS + 1_000}",))
    transaction = Transaction(NOW_MS + HOURS_MS, b"1", (insert,), "ahead", 1)
    await replica.apply_transactions([transaction], {ITEMS.id: ITEMS})
    assert await written_at_ms(store, replica) == NOW_MS + 1_001
