"""The rows that heal a device after a rejection: as they are, with the tags they have, and never said to be newer."""

from __future__ import annotations

import asyncpg
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.database import connect
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.snapshot import UNTRACKED_TAGS

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, body text)"


async def test_a_row_has_the_tags_of_the_device_that_wrote_it_until_direct_sql_writes_it(database: str) -> None:
    async with scene(database, ITEMS, "items") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's")))
        reading = await connect(database, "test")
        await reading.read()
        key = (writes.relids["items"], (b"1",))
        (row,), _ = await reading.current_rows([key])
        assert (row.row, row.tags) == ((b"1", b"ann's"), ("ann@5",))
        await writes.connection.execute("UPDATE items SET body = 'direct'")
        (row,), _ = await reading.current_rows([key])
        assert (row.row, row.tags) == ((b"1", b"direct"), UNTRACKED_TAGS)
        await writes.connection.execute("DELETE FROM items")
        (row,), _ = await reading.current_rows([key])
        assert row.row is None
        reading.terminate()


async def test_their_position_is_one_whose_transactions_they_show(database: str) -> None:
    """What is in the WAL and not on the disk yet is not visible either: its place must not count as shown."""
    async with scene(database, ITEMS, "items") as writes:
        reading = await connect(database, "test")
        await reading.read()
        busy = await asyncpg.connect(database)
        transaction = busy.transaction()
        await transaction.start()
        for _ in range(3):
            await busy.execute("INSERT INTO items SELECT n, 'x' FROM generate_series(1, 50) n")
            before = Lsn.parse(await writes.connection.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
            _, position = await reading.current_rows([(writes.relids["items"], (b"1",))])
            after = Lsn.parse(await writes.connection.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
            assert before <= position <= after
            await busy.execute("DELETE FROM items")
        await transaction.rollback()
        await busy.close()
        reading.terminate()
