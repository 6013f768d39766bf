"""What direct SQL wrote is known when Postgres is back from a crash, also where it had only just been written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.npm.rig import eventually
from tests.npm.service import serving
from tests.tokens import insecure_token

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.client import open_db

ITEMS = """
CREATE TABLE items (id text PRIMARY KEY, title text NOT NULL, state text NOT NULL);
INSERT INTO items VALUES ('i1', 'old', 'old');
"""


@pytest.fixture
async def lazy(postgres: EmbeddedPostgres) -> AsyncIterator[EmbeddedPostgres]:
    """The server, while it puts nothing on the disk that nobody waits for."""
    await _set(postgres, "SET wal_writer_delay = '10s'")
    yield postgres
    await _set(postgres, "RESET wal_writer_delay")


async def _set(postgres: EmbeddedPostgres, what: str) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"ALTER SYSTEM {what}")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()


@pytest.mark.parametrize("then", ["SELECT 1", "UPDATE items SET state = 'direct'"], ids=["alone", "and more after it"])
async def test_an_earlier_write_of_a_device_does_not_beat_it(
    lazy: EmbeddedPostgres, database: str, tmp_path: Path, then: str
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, sql),
        open_db(tmp_path / "device.db", service.url) as db,
    ):
        await db.connect(insecure_token("ann"))
        await (await db.sync("items")).synced()
        await db.disconnect()
        await db.execute("UPDATE items SET title = 'device'")
        await sql.execute("SELECT pg_sleep(0.002)")  # writes are told apart by their milliseconds
        await sql.execute("UPDATE items SET title = 'direct'")

        async def is_written_down() -> bool:
            return bool(await sql.fetchval("SELECT count(*) FROM electric.direct"))

        await eventually(is_written_down)
        await asyncio.to_thread(lazy.stop, "immediate")
        await asyncio.to_thread(lazy.start)
        again = await asyncpg.connect(database)
        await again.execute(then)
        await db.connect()

        async def is_carried_out() -> bool:
            return db.status.pending_writes == 0

        await eventually(is_carried_out)
        assert await again.fetchval("SELECT title FROM items") == "direct"
        await again.close()
