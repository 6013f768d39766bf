"""When direct SQL inserted a row is known after a restart of the service too: not exactly, but after what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.integration.tree_scene import running, until
from tests.integration.write_scene import Operation, Scene, scene, written

from syncline.actors.postgres import absorber
from syncline.actors.postgres.absorber import KEEP_SAMPLE, SAMPLE

pytestmark = pytest.mark.every_major

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, a text)"
LATER_MS = 4_000_000_000_000


async def sampled(s: Scene) -> int:
    sample = await s.connection.fetchrow(SAMPLE)
    await s.connection.execute(KEEP_SAMPLE, sample["xid"], sample["ms"])
    return int(sample["ms"])


async def apply_after_a_restart(s: Scene, client: str, ms: int, op: Operation) -> str:
    """The stream has brought everything, and nobody knows when what committed."""
    context = json.dumps(
        {"horizon": await s.connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")}
    )
    transaction = written(client, ms, op)
    for _ in range(2):
        batch = json.dumps([transaction])
        (answer,) = json.loads(await s.connection.fetchval("CALL electric.apply($1, NULL, $2)", batch, context))
        if answer["status"] != "unabsorbed":
            return str(answer["status"])
        transaction["absorbed"] = {"xmins": dict.fromkeys(answer["xmins"], 0), "gone": answer["gone"]}
    raise AssertionError("it is absorbed")


async def reborn(s: Scene) -> tuple[int, int]:
    """Ann wrote a row and deleted it, SQL has inserted it anew. Two times in between, the later after a note."""
    await s.apply(written("ann", 100, s.insert("items", "1", "ann's")))
    await s.apply(written("ann", 200, s.delete("items", "1", seen=["ann@100"])))
    deleted_ms = await s.connection.fetchval(
        "SELECT floor(extract(epoch FROM written_at) * 1000)::int8 FROM electric.shadow"
    )
    noted_ms = await sampled(s)
    await s.connection.execute("INSERT INTO items VALUES (1, 'by SQL')")
    await sampled(s)
    return int(deleted_ms), noted_ms


async def test_who_had_seen_only_an_earlier_life_of_a_row_does_not_delete_it(database: str) -> None:
    async with scene(database, ITEMS, "items") as s:
        await reborn(s)
        delete = s.delete("items", "1", seen=["ann@100", "postgres_1@50"])
        assert await apply_after_a_restart(s, "bob", LATER_MS, delete) == "applied"
        assert await s.rows("items") == [(1, "by SQL")]


async def test_who_has_seen_it_does(database: str) -> None:
    async with scene(database, ITEMS, "items") as s:
        await reborn(s)
        now_ms = await s.connection.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8")
        delete = s.delete("items", "1", seen=[f"postgres_1@{now_ms}"])
        assert await apply_after_a_restart(s, "bob", LATER_MS, delete) == "applied"
        assert await s.rows("items") == []


@pytest.mark.parametrize("noted", [True, False])
async def test_its_columns_are_later_than_what_was_written_before_the_delete(database: str, noted: bool) -> None:
    """And without a note, after the delete."""
    async with scene(database, ITEMS, "items") as s:
        deleted_ms, noted_ms = await reborn(s)
        if not noted:
            await s.connection.execute("DELETE FROM electric.xids")
        before_ms = noted_ms - 1 if noted else deleted_ms - 1
        update = s.update("items", "1", "late", changed=[1], seen=["ann@100"])
        assert await apply_after_a_restart(s, "bob", before_ms, update) == "applied"
        assert await s.rows("items") == [(1, "by SQL")]
        assert await apply_after_a_restart(s, "cyd", LATER_MS, update) == "applied"
        assert await s.rows("items") == [(1, "late")]


async def test_a_service_notes_how_xids_go_with_time_only_while_there_are_transactions(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absorber, "SAMPLE_EVERY_S", 0.01)
    async with running(database, tmp_path, ITEMS, ("items",)) as tree:

        async def notes() -> int:
            return int(await tree.postgres.fetchval("SELECT count(*) FROM electric.xids"))

        async def quiet() -> bool:
            before = await notes()
            await asyncio.sleep(0.2)  # twenty of its looks: nothing tells that one has noted nothing
            return before > 0 and await notes() == before

        await until(quiet)
        before = await notes()
        await tree.postgres.execute("INSERT INTO items VALUES (1, 'one')")

        async def noted() -> bool:
            return await notes() > before

        await until(noted)
        pairs = await tree.postgres.fetch("SELECT xid, ms FROM electric.xids ORDER BY xid")
        assert [row["ms"] for row in pairs] == sorted(row["ms"] for row in pairs)
