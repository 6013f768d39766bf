"""A bad write fails on the device that makes it; where that cannot know, Postgres refuses it, and it is healed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.npm.rig import devices, eventually
from tests.npm.service import serving
from tests.tokens import insecure_token

from syncline.client import Database, open_db

STAYS = """
CREATE DOMAIN code AS varchar(8) CHECK (VALUE ~ '^[A-Z]+(-[0-9]+)?$');
CREATE TABLE stays (
    id int4 PRIMARY KEY, first timestamptz NOT NULL, last timestamptz, code code,
    guests int4 CHECK (guests BETWEEN 1 AND 4), price numeric(8,2) CHECK (price >= 0),
    email text CHECK (email = lower(email) AND email LIKE '%_@_%'),
    state text NOT NULL CHECK (state IN ('asked', 'booked', 'left')),
    CONSTRAINT in_order CHECK (first < last)
);
INSERT INTO stays VALUES (1, '2024-01-02 12:00Z', '2024-01-05 10:00Z', 'A-1', 2, 99.50, 'ann@example.org', 'booked');
"""
ONE = (1, "2024-01-02 12:00:00Z", "2024-01-05 10:00:00Z", "A-1", 2, "99.50", "ann@example.org", "booked")
BAD = {
    "in_order": "last = '2024-01-02T11:00:00Z'",
    "code_check": "code = 'a-1'",
    "stays_guests_check": "guests = 5",
    "stays_price_check": "price = -0.01",
    "stays_email_check": "email = 'Ann@example.org'",
    "stays_state_check": "state = ''",
}


async def rows(db: Database) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql("SELECT * FROM stays ORDER BY id")]


@pytest.mark.every_major
@pytest.mark.each_runtime
async def test_a_bad_write_fails_where_it_is_made(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=STAYS, electrified=("stays",)) as (service, postgres),
        open_db(tmp_path / "ann.db", service.url.replace("http", "ws")) as ann,
    ):
        await ann.connect(insecure_token("ann"))
        await (await ann.sync("stays")).synced()
        assert await rows(ann) == [ONE]
        for name, change in BAD.items():
            with pytest.raises(sqlite3.IntegrityError, match=f"^CHECK constraint failed: {name}$"):
                await ann.execute(f"UPDATE stays SET {change}")
        for change, said in (("code = 'ABCDEFGHI'", "value too long"), ("price = '1000000'", "numeric field overflow")):
            with pytest.raises(sqlite3.IntegrityError, match=said):
                await ann.execute(f"UPDATE stays SET {change}")
        assert await rows(ann) == [ONE]

        await ann.execute("INSERT INTO stays (id, first, price, state) VALUES (2, '2024-02-01 00:00:00Z', 0, 'asked')")
        await ann.execute("UPDATE stays SET last = '2024-02-02T00:00:00Z', guests = 4, code = 'B' WHERE id = 2")
        await eventually(lambda: postgres.fetchval("SELECT count(*) = 1 FROM stays WHERE guests = 4 AND price = 0"))
        assert not await postgres.fetchval("SELECT count(*) FROM electric.rejections")

        # A constraint that goes, and one that comes, while the device is there.
        await postgres.execute(
            "ALTER TABLE stays DROP CONSTRAINT stays_guests_check, ADD CONSTRAINT cheap CHECK (price < 100);"
            "SELECT electric.refresh_merges()"
        )

        async def knows() -> bool:
            try:
                await ann.execute("UPDATE stays SET guests = 5 WHERE id = 1")
            except sqlite3.IntegrityError:
                return False
            return True

        await eventually(knows)
        with pytest.raises(sqlite3.IntegrityError, match="cheap"):
            await ann.execute("UPDATE stays SET price = 100 WHERE id = 1")
        await eventually(lambda: postgres.fetchval("SELECT guests = 5 FROM stays WHERE id = 1"))
        assert not await postgres.fetchval("SELECT count(*) FROM electric.rejections")


async def test_the_npm_client_is_told_of_no_check_and_healed_by_the_service(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=STAYS, electrified=("stays",)) as (service, postgres),
        devices(tmp_path, service.url, "bob") as [bob],
    ):
        await bob.sync("stays")
        before = await bob.dump("stays")
        for number, (name, change) in enumerate(BAD.items(), 1):
            await bob.execute((f"UPDATE stays SET {change}",))
            refused = "SELECT constraint_name FROM electric.rejections ORDER BY id DESC LIMIT 1"
            await eventually(
                lambda n=number: postgres.fetchval("SELECT count(*) = $1 FROM electric.rejections", n)  # type: ignore[misc]
            )
            assert await postgres.fetchval(refused) == name

            async def healed() -> bool:
                return await bob.dump("stays") == before

            await eventually(healed)

        # What is told of constraints alone is nothing to it, and it goes on.
        await postgres.execute("ALTER TABLE stays DROP CONSTRAINT stays_guests_check; SELECT electric.refresh_merges()")
        await bob.execute(("UPDATE stays SET guests = 5",))
        await eventually(lambda: postgres.fetchval("SELECT guests = 5 FROM stays"))
        await postgres.execute("UPDATE stays SET guests = 6")

        async def follows() -> bool:
            return [row["guests"] for row in (await bob.dump("stays")).values()] == [6]

        await eventually(follows)
        assert not bob.unhandled
