"""Writes that Postgres cannot take for long cost their device nothing but these."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from tests.e2e.test_shapes import device
from tests.npm.rig import eventually
from tests.npm.service import serving
from tests.tokens import insecure_token

from syncline.actors.devices.uplink import WRITES_OUT_MAX
from syncline.actors.postgres.apply import DEVICE_PENDING_MAX

SQL = """
CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO items VALUES (1, 0), (2, 0);
"""


async def test_a_device_with_held_writes_comes_back_again_and_again_and_gets_its_stream(
    database: str, tmp_path: Path
) -> None:
    writes = WRITES_OUT_MAX + 20
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("items",)) as (service, postgres),
        device(tmp_path / "ann.db", service.url) as ann,
    ):
        await (await ann.sync("items")).synced()
        await ann.disconnect()
        for n in range(1, writes + 1):
            await ann.execute("UPDATE items SET n = ? WHERE id = 1", (n,))
        holder = await asyncpg.connect(database)
        try:
            async with holder.transaction():
                await holder.execute("SELECT FROM items WHERE id = 1 FOR UPDATE")
                for connection in range(1, DEVICE_PENDING_MAX // WRITES_OUT_MAX + 3):
                    await ann.connect(insecure_token("ann"))
                    await postgres.execute("UPDATE items SET n = $1 WHERE id = 2", connection)

                    async def told(number: int = connection) -> bool:
                        return [row["n"] for row in await ann.sql("SELECT n FROM items WHERE id = 2")] == [number]

                    await eventually(told)
                    assert ann.status.connected
                    assert ann.status.pending_writes == writes
                    await ann.disconnect()
        finally:
            await holder.close()
        await ann.connect(insecure_token("ann"))

        async def arrived() -> bool:
            return not ann.status.pending_writes

        await eventually(arrived)
        assert await postgres.fetchval("SELECT n FROM items WHERE id = 1") == writes
