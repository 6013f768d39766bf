"""A commit that is on the disk and not visible yet: what heals a device must not come from before it.

Synchronous replication to a standby that is not there holds commits in exactly this state, for as long as the test
likes. It is switched on for the one session that is to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from tests.conftest import server_under_test
from tests.integration.tree_scene import running, until
from tests.rawdevice import RawDevice

from syncline.proto.values import Column, Relation, Transaction, Update

DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))


@pytest.fixture(scope="module")
def waiting_postgres(server_dir: Path) -> Iterator[str]:
    """A server whose one synchronous standby never comes."""
    server = server_under_test(
        server_dir / "waiting",
        {"fsync": "off", "synchronous_standby_names": "missing", "synchronous_commit": "local"},
    )
    yield server.start()
    server.stop("immediate")


@contextlib.asynccontextmanager
async def held_back(dsn: str, sql: str) -> AsyncIterator[asyncio.Task[str]]:
    """``sql`` committed on the disk and visible to nobody until the task is cancelled in Postgres."""
    session = await asyncpg.connect(dsn)
    watching = await asyncpg.connect(dsn)
    await session.execute("SET synchronous_commit = on")
    pid = session.get_server_pid()
    committing = asyncio.create_task(session.execute(sql))

    async def waits() -> bool:
        query = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
        return bool(await watching.fetchval(query, pid))

    try:
        await until(waits)
        yield committing
    finally:
        await watching.execute("SELECT pg_cancel_backend($1)", pid)
        await committing
        await session.close()
        await watching.close()


async def test_a_rejected_write_is_not_healed_with_a_row_from_before_a_commit_that_is_held_back(
    waiting_postgres: str, tmp_path: Path
) -> None:
    async with (
        running(waiting_postgres, tmp_path) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await tree.insert(1)
        await device.start()
        await device.subscribe("items")
        (table,) = device.rows.values()
        (before,) = table.values()
        key = before[0]
        assert key is not None

        async def shows(body: bytes) -> bool:
            return any(row[2] == body for row in table.values())

        async def rejected() -> bool:
            return bool(await tree.postgres.fetchval("SELECT count(*) FROM electric.rejections"))

        ms = int(time.time() * 1000)
        async with held_back(waiting_postgres, "UPDATE items SET body = 'newer'"):
            await until(lambda: shows(b"newer"))
            wrong = Update(0, (key, b"not a number", b"wrong"), before, ("postgres_1@0",))
            for frame in device.session.write(Transaction(ms, b"\1", (wrong,)), {0: DEVICE_ITEMS}):
                await device.socket.send(frame)
            await until(rejected)
            for number in range(2):  # and meanwhile everything else arrives
                body = f"meanwhile {number}"
                await tree.postgres.execute("INSERT INTO items VALUES ($1, 1, $2)", uuid.uuid4(), body)
                await until(lambda body=body: shows(body.encode()))  # type: ignore[misc]

        async def echoed() -> bool:
            return any(t.commit_ms == ms for t in device.transactions if t.origin == device.client_id)

        await until(echoed)
        assert table[key] == (key, b"0", b"newer")
