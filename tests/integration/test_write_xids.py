"""Rows keep the last 32 bits of the transaction that wrote them, however many there have been since."""

from __future__ import annotations

import json

import asyncpg
import pytest
from tests.integration.write_scene import scene, written

ITEMS = "CREATE TABLE items (id text PRIMARY KEY, v text); INSERT INTO items VALUES ('1', 'direct')"
EPOCH = 1 << 32
# The last 32 bits of an xid so many transactions ago.
AGO = f"(((pg_current_xact_id()::text::bigint - $1) % {EPOCH} + {EPOCH}) % {EPOCH})::text::xid"


@pytest.mark.parametrize("epoch", [0, 1, 7])
async def test_the_horizon_is_an_xid_with_its_epoch(database: str, epoch: int) -> None:
    async with scene(database, ITEMS, "items") as s:
        oldest = int(await s.connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))
        context = json.dumps({"horizon": str(epoch * EPOCH + oldest)})
        batch = json.dumps([written("a", 100, s.update("items", "1", "new", changed=[1], seen=["postgres_1@5"]))])
        (answer,) = json.loads(await s.connection.fetchval("CALL electric.apply($1, NULL, $2)", batch, context))
        assert answer == {"status": "applied"}


@pytest.mark.parametrize("ago", [100, 1_000_000_000, 2_500_000_000, 3_000_000_000])
async def test_a_frozen_row_of_any_age_is_known_to_be_old(database: str, ago: int) -> None:
    async with scene(database, ITEMS, "items") as s:
        row = await s.connection.fetchrow(
            f"SELECT electric.whole_xid({AGO}) - pg_current_xact_id()::text::bigint AS whole, "
            f"electric.is_ours({AGO}) AS ours, electric.committed_after({AGO}) AS after, "
            f"electric.is_absorbed({AGO}, jsonb_build_object("
            "'horizon', pg_snapshot_xmin(pg_current_snapshot())::text)) AS absorbed",
            ago,
        )
        assert tuple(row) == (-ago, False, 0, True)


async def test_what_is_written_beside_us_is_later_than_we_are(database: str) -> None:
    """It has begun after us, and has committed before."""
    async with scene(database, ITEMS, "items") as s:
        other = await asyncpg.connect(database)
        async with s.connection.transaction():
            ours = await s.connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await other.execute("UPDATE items SET v = 'beside'")
            row = await s.connection.fetchrow(
                "SELECT electric.whole_xid(xmin) AS whole, electric.is_ours(xmin) AS ours, electric.is_absorbed("
                "xmin, jsonb_build_object('horizon', $1::bigint)) AS absorbed FROM items",
                ours,
            )
            assert row["whole"] > ours
            assert (row["ours"], row["absorbed"]) == (False, False)
        await other.close()


async def test_what_we_have_written_after_a_savepoint_is_ours(database: str) -> None:
    async with scene(database, ITEMS, "items") as s, s.connection.transaction():
        await s.connection.fetchval("SELECT pg_current_xact_id()")
        async with s.connection.transaction():
            await s.connection.execute("UPDATE items SET v = 'ours'")
        assert await s.connection.fetchval("SELECT electric.is_ours(xmin) FROM items")
