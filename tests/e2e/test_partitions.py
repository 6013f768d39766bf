"""Partitioned tables, to devices one table: whatever comes and goes of it, by rows or by whole partitions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import jwt
import pytest
from tests.npm.rig import devices, eventually
from tests.npm.service import ServiceProcess, serving

from syncline.client import Database, open_db

EVENTS = """
CREATE TABLE events (at date, id int, note text, large text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE events_2025_0 PARTITION OF events_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_2025_1 PARTITION OF events_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO events SELECT date '2024-06-01' + n, n, 'before' FROM generate_series(1, 400) AS n;
"""
LARGE = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n)"
NEW = "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"


@asynccontextmanager
async def synced(
    database: str, folder: Path
) -> AsyncIterator[tuple[ServiceProcess, asyncpg.Connection, Database, Callable[[], Awaitable[bool]]]]:
    """A service, Postgres, a device that has all events, and whether it has the same ones as Postgres."""
    async with (
        serving(database, folder, sql=EVENTS, electrified=("events",)) as (service, postgres),
        open_db(folder / "eve.db", service.url.replace("http", "ws")) as device,
    ):
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("events")).synced()

        async def same() -> bool:
            wanted = await postgres.fetch("SELECT at::text, id, note, large FROM events ORDER BY at, id")
            held = await device.sql("SELECT at, id, note, large FROM events ORDER BY at, id")
            return [tuple(row) for row in held] == [tuple(row) for row in wanted]

        assert await same()
        yield service, postgres, device, same


@pytest.mark.every_major
async def test_rows_of_all_partitions_are_of_one_table_and_may_move_between_them(database: str, tmp_path: Path) -> None:
    async with synced(database, tmp_path) as (_, postgres, device, same):
        await postgres.execute("INSERT INTO events_2025_1 SELECT * FROM events WHERE false")
        await postgres.execute("UPDATE events SET note = 'touched' WHERE id % 10 = 0")
        await postgres.execute("DELETE FROM events_2024 WHERE id % 10 = 1")
        await postgres.execute("UPDATE events SET at = at + 365 WHERE id BETWEEN 2 AND 8")  # to other partitions
        await eventually(same)
        await device.execute("INSERT INTO events (at, id, note) VALUES ('2025-02-02', 1001, 'mine')")
        await device.execute("UPDATE events SET note = 'mine' WHERE id = 20")
        await device.execute("DELETE FROM events WHERE id = 30")
        await eventually(lambda: postgres.fetchval("SELECT count(*) = 2 FROM events WHERE note = 'mine'"))
        await eventually(lambda: postgres.fetchval("SELECT count(*) = 0 FROM events WHERE id = 30"))
        await eventually(same)
        await postgres.execute("TRUNCATE events")
        await eventually(same)


@pytest.mark.every_major
async def test_a_new_partition_is_noticed_and_what_was_written_to_it_before_is_repaired(
    database: str, tmp_path: Path
) -> None:
    async with synced(database, tmp_path) as (_, postgres, device, same):
        # Before anybody can have noticed: without an old row in the stream, a large value is left out of an update.
        await postgres.execute(
            f"{NEW}; INSERT INTO events VALUES ('2026-01-01', 1, 'a', {LARGE}), ('2026-01-02', 2, 'b', {LARGE});"
        )
        await postgres.execute("UPDATE events SET note = 'changed' WHERE at = '2026-01-01'")
        await postgres.execute("DELETE FROM events WHERE at = '2026-01-02'")
        await eventually(same, within_s=60)
        identity = "SELECT relreplident = 'f' FROM pg_class WHERE relname = 'events_2026'"
        await eventually(lambda: postgres.fetchval(identity))
        await eventually(
            lambda: postgres.fetchval("SELECT count(*) = 0 FROM electric.tables WHERE stale IS NOT NULL"), within_s=60
        )
        await postgres.execute("UPDATE events SET note = 'again' WHERE at = '2026-01-01'")
        await device.execute("INSERT INTO events (at, id, note) VALUES ('2026-05-05', 3, 'mine')")
        await eventually(lambda: postgres.fetchval("SELECT count(*) = 1 FROM events_2026 WHERE note = 'mine'"))
        await eventually(same, within_s=60)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (
            "CREATE TABLE older (LIKE events INCLUDING ALL); INSERT INTO older VALUES ('2023-03-03', 1, 'old')",
            "ALTER TABLE events ATTACH PARTITION older FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
        ),
        ("SELECT 1", "ALTER TABLE events DETACH PARTITION events_2024"),
        ("SELECT 1", "DROP TABLE events_2024"),
        ("SELECT 1", "TRUNCATE events_2024"),
    ],
    ids=["attached", "detached", "dropped", "truncated"],
)
async def test_what_comes_and_goes_with_a_whole_partition_reaches_devices(
    database: str, tmp_path: Path, before: str, change: str
) -> None:
    async with synced(database, tmp_path) as (_, postgres, device, same):
        await postgres.execute(before)
        await device.disconnect()
        await device.execute("INSERT INTO events (at, id, note) VALUES ('2025-03-03', 1001, 'offline')")
        await device.connect()
        await postgres.execute(change)
        await eventually(lambda: postgres.fetchval("SELECT count(*) = 1 FROM events WHERE note = 'offline'"))
        await eventually(same, within_s=60)
        await postgres.execute("INSERT INTO events VALUES ('2025-12-12', 5, 'after')")
        await eventually(same, within_s=60)


async def test_what_was_written_just_before_a_partition_went_does_not_come_back_with_a_stream_that_is_behind(
    database: str, tmp_path: Path
) -> None:
    """It is noticed that the partition has gone before the stream tells of the last rows in it."""
    async with synced(database, tmp_path) as (_, postgres, _device, same):
        await postgres.execute("CREATE TABLE busy (id int PRIMARY KEY, load text)")
        await postgres.execute("CALL electric.electrify('busy')")
        for number in range(40):
            await postgres.execute(
                "INSERT INTO busy SELECT $1 * 10000 + n, repeat('x', 200) FROM generate_series(1, 10000) AS n", number
            )
        await postgres.execute("INSERT INTO events VALUES ('2024-12-12', 5, 'too late'), ('2025-12-12', 5, 'in time')")
        await postgres.execute("ALTER TABLE events DETACH PARTITION events_2024")
        assert not await same()
        await eventually(same, within_s=60)


async def test_a_table_whose_replica_identity_is_taken_away_is_put_right(database: str, tmp_path: Path) -> None:
    items = f"""
    CREATE TABLE items (id int PRIMARY KEY, title text, large text);
    INSERT INTO items VALUES (1, 'one', {LARGE}), (2, 'two', {LARGE}), (3, 'three', NULL);
    """
    async with (
        serving(database, tmp_path, sql=items, electrified=("items",)) as (service, postgres),
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as device,
    ):
        await device.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await device.sync("items", where="this.title <> 'two'")).synced()
        await postgres.execute("""
            ALTER TABLE items REPLICA IDENTITY DEFAULT;
            UPDATE items SET title = 'two' WHERE id = 1;
            UPDATE items SET title = 'new' WHERE id = 2;
            DELETE FROM items WHERE id = 3;
        """)

        async def current() -> bool:
            held = await device.sql("SELECT id, title, length(large) FROM items")
            return [tuple(row) for row in held] == [(2, "new", 32_000)]

        await eventually(current, within_s=60)


async def test_a_device_of_the_old_line_has_it_as_one_table_too(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=EVENTS, electrified=("events",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as (ann,),
    ):
        await ann.sync("events")
        count = "SELECT count(*) AS n FROM events"
        assert (await ann.query(count))[0]["n"] == 400
        await postgres.execute("ALTER TABLE events DETACH PARTITION events_2024")

        async def emptied() -> bool:
            return bool((await ann.query(count))[0]["n"] == 0)

        await eventually(emptied, within_s=60)
