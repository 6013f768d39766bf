"""A subscription that is given up at the moment at which a new connection gives it another id."""

from __future__ import annotations

import asyncio
from pathlib import Path

from syncline.client.live import Changes
from syncline.client.replica import load_replica
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shapes import ShapeState
from syncline.client.store import open_store


async def test_it_is_given_up_under_the_id_it_is_asked_for(tmp_path: Path) -> None:
    async with open_store(tmp_path / "device.db") as store:
        replica = await load_replica(store, Changes(), lambda: 1)
        subscription = await replica.subscribe(ShapeSpec("items"))
        async with store.turn():
            renewing = asyncio.create_task(replica.renew_requests())
            await asyncio.sleep(0)  # it waits for its turn
            cancelling = asyncio.create_task(replica.cancel([subscription]))
            await asyncio.sleep(0)  # it waits behind that
        await renewing
        renewed = replica.subscriptions[subscription.position]
        assert renewed.subscription_id != subscription.subscription_id
        (cancelled,) = await cancelling
        assert (cancelled.subscription_id, cancelled.state) == (renewed.subscription_id, ShapeState.WITHDRAWN)
        assert replica.subscriptions[subscription.position] == cancelled
        stored = await store.read(lambda c: c.execute("SELECT subscription_id FROM _syncline_subscriptions").fetchall())
        assert [tuple(row) for row in stored] == [(renewed.subscription_id,)]
