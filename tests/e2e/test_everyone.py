"""Whoever waits for everyone is told when all devices have it, whichever processes they are connected to."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.npm.service import RUNTIME, serving
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.client import Database, open_db

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY)"
SPREAD: dict[str, dict[str, str]] = {
    "one edge": {},
    "edges": {"SYNCLINE_EDGE_HOSTS": "2"},
    "processes": {"SYNCLINE_CONNECTIONS_PLACEMENT": "dedicated", "SYNCLINE_CONNECTION_HOSTS": "4"},
}


@pytest.mark.each_runtime
@pytest.mark.parametrize("spread", SPREAD if RUNTIME == "ray" else ["one edge"])
async def test_everyone_has_it_when_who_wrote_it_is_told_so(database: str, tmp_path: Path, spread: str) -> None:
    settings = SPREAD[spread]
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",), settings=settings) as (service, _),
        AsyncExitStack() as stack,
    ):
        devices: list[Database] = []
        for number in range(4):
            db = await stack.enter_async_context(open_db(tmp_path / f"{number}.db", service.url))
            await db.connect(insecure_token("ann"))
            await (await db.sync("items")).synced()
            devices.append(db)

        async def write(number: int, db: Database) -> None:
            for id in range(100 * number, 100 * number + 20):
                await db.execute("INSERT INTO items VALUES (?)", (id,), durable="everyone")
                for other in devices:
                    assert await other.sql("SELECT 1 FROM items WHERE id = ?", (id,))

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*[write(number, db) for number, db in enumerate(devices)])
