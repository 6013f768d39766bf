"""Queries that would wait for ever: a Postgres that answers nothing, a migration that is not there any more."""

from __future__ import annotations

import asyncpg
import pytest
from tests.integration.write_scene import scene

from syncline.actors.postgres.database import connect
from syncline.actors.postgres.streamed import MigrationNotice


async def test_a_query_that_is_not_answered_in_time_fails(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.postgres.database.QUERY_TIMEOUT_S", 0.3)
    async with scene(database):
        reading = await connect(database, "test")
        locking = await asyncpg.connect(database)
        await locking.execute("BEGIN; LOCK TABLE electric.clients")
        with pytest.raises(TimeoutError):
            await reading.device_seen("client", "user", proven=True)
        await locking.execute("ROLLBACK")
        assert await reading.device_seen("client", "user", proven=True)
        await locking.close()
        reading.terminate()


async def test_a_migration_somebody_deleted_does_not_hold_up_the_stream(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.database.VISIBLE_WITHIN_S", 0.1)
    async with scene(database, "CREATE TABLE items (id int4 PRIMARY KEY)", "items"):
        reading = await connect(database, "test")
        await reading.read()
        (known,) = reading.history.migrations
        notices = [MigrationNotice(known.id, known.version), MigrationNotice(known.id + 1, "20990101000000_001")]
        assert list(await reading.read_migrations(notices)) == [known]
        reading.terminate()
