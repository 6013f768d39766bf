"""What waits for a task's own transaction to end is refused inside it: it would wait for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.unit.client.satellite_peer import Peer, running_peer
from tests.unit.client.test_client_satellite import synced, until

from syncline.client import Database, Rejection, Shape, Transaction, UsageError, open_db

REJECTION = Rejection(1, "23505", "taken", None, None, None, None, (), {}, ())
PATIENCE_S = 10.0


class Scene(NamedTuple):
    db: Database
    shape: Shape
    earlier: Transaction
    """Committed."""


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        yield peer


@pytest.fixture
async def scene(peer: Peer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_db(tmp_path / "app.db", peer.url) as db:
        await synced(db, peer)
        async with db.transaction() as earlier:
            await earlier.execute("INSERT INTO items (id) VALUES ('earlier')")
        yield Scene(db, await db.sync("items"), earlier)


def earlier_id(scene: Scene) -> int:
    assert scene.earlier.id is not None
    return scene.earlier.id


CALLS: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "sync": lambda s: s.db.sync("items", "this.rank > 0"),
    "synced": lambda s: s.shape.synced(),
    "unsubscribe": lambda s: s.shape.unsubscribe(),
    "dismiss": lambda s: s.db.dismiss(REJECTION),
    "connect": lambda s: s.db.connect(),
    "disconnect": lambda s: s.db.disconnect(),
    "durable of the database": lambda s: s.db.durable("server", earlier_id(s)),
    "durable of an earlier transaction": lambda s: s.earlier.durable("device"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_what_waits_for_ones_own_transaction_is_refused_and_the_transaction_goes_on(
    scene: Scene, call: Callable[[Scene], Awaitable[object]]
) -> None:
    async def write() -> None:
        async with scene.db.transaction() as tx:
            await tx.execute("INSERT INTO items (id) VALUES ('x')")
            with pytest.raises(UsageError, match="do that before the transaction, or after it"):
                await call(scene)

    async with asyncio.timeout(PATIENCE_S):
        await write()
        await until(scene.db, "EXISTS (SELECT 1 FROM items WHERE id = 'x')")


async def test_what_another_task_does_waits_for_its_turn(scene: Scene) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async with scene.db.transaction() as tx:
            asking = asyncio.create_task(scene.db.sync("items", "this.rank > 0"))
            await tx.execute("INSERT INTO items (id) VALUES ('x')")
            assert not asking.done()
        await (await asking).synced()
