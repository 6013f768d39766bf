"""Device writes on their way back: what the writer's SQL puts into the WAL is what the assembler looks for."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from syncline.actors.postgres.bootstrap import PUBLICATION, bootstrap
from syncline.actors.postgres.catalog import load_catalog
from syncline.actors.postgres.slot import ensure_slot
from syncline.actors.postgres.snapshot import emit_mark, take_snapshot
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.streamed import TransactionChunk
from syncline.actors.postgres.transaction import DEVICE_ROWS_MAX, TransactionAssembler
from syncline.actors.postgres.typemap import SESSION_SETTINGS
from syncline.proto.values import Delete, Insert, Update

DEVICE = str(uuid.UUID(int=7))


class Scene:
    def __init__(self, dsn: str, pool: asyncpg.Pool, slot: str, items: int) -> None:
        self.dsn = dsn
        self.pool = pool
        self.slot = slot
        self.items = items

    async def apply(self, lsn: int, ms: int, *ops: dict[str, Any], tags: tuple[str, ...] = ()) -> str:
        batch = [
            {"client": DEVICE, "lsn": lsn, "ms": ms, "ops": [{"rel": self.items, "tags": tags, **op} for op in ops]}
        ]
        async with self.pool.acquire() as writer:
            results = await writer.fetchval("CALL electric.apply($1::jsonb, NULL)", json.dumps(batch))
        return str(json.loads(results)[0]["status"])

    async def stream(self) -> list[TransactionChunk]:
        """Everything so far that is not empty or is a device's."""
        await emit_mark(self.pool, "end")
        assembler = TransactionAssembler((await load_catalog(self.pool)).key_places)
        found: list[TransactionChunk] = []
        async with ReplicationStream(self.dsn, self.slot, PUBLICATION) as stream:
            async for message in stream:
                for chunk in assembler.feed(message):
                    if "end" in chunk.marks:
                        return found
                    if chunk.changes or chunk.head.origin:
                        found.append(chunk)
        raise AssertionError("the stream ended")


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    await bootstrap(database)
    async with asyncpg.create_pool(database, min_size=1, max_size=4, server_settings=SESSION_SETTINGS) as pool:
        await pool.execute("CREATE TABLE items (id text PRIMARY KEY, at timestamptz, v text)")
        await pool.execute("CALL electric.electrify('public.items')")
        async with pool.acquire() as app:
            slot = await ensure_slot(app, "slot_" + await app.fetchval("SELECT current_database()"))
            items = await app.fetchval("SELECT 'items'::regclass::oid::bigint")
        yield Scene(database, pool, slot.name, items)


def insert(key: str) -> dict[str, Any]:
    return {"op": "I", "row": [key, "2024-01-31 12:00:00Z", "v"], "modified": [True] * 3}


@pytest.mark.every_major
async def test_a_devices_insert_comes_back_as_its_own(scene: Scene) -> None:
    assert await scene.apply(1, 1_700_000_000_123, insert('a"\n')) == "applied"
    (chunk,) = await scene.stream()
    assert (chunk.head.origin, chunk.head.authored_ms) == (DEVICE, 1_700_000_000_123)
    assert (chunk.head.client_lsn, chunk.head.client_ms) == (1, 1_700_000_000_123)
    tags = (f"{DEVICE}@1700000000123",)
    assert chunk.changes == [Insert(scene.items, (b'a"\n', b"2024-01-31 12:00:00Z", b"v"), tags)]
    catalog = await load_catalog(scene.pool)
    snapshot = await take_snapshot(scene.pool, catalog.tables[scene.items], "m", lambda: ())
    assert [row async for chunk in snapshot for row in chunk] == [((b'a"\n', b"2024-01-31 12:00:00Z", b"v"), tags)]


@pytest.mark.every_major
async def test_a_devices_update_and_delete_carry_the_tags_that_remain(scene: Scene) -> None:
    await scene.pool.execute("INSERT INTO items VALUES ('a', NULL, 'v')")
    update = {"op": "U", "row": ["a", None, "w"], "modified": [False, False, True]}
    assert await scene.apply(1, 10, update) == "applied"
    delete = {"op": "D", "row": ["a", None, None], "modified": [False] * 3}
    assert await scene.apply(2, 20, delete, tags=(f"{DEVICE}@10", "postgres_1@0")) == "applied"
    direct, first, second = await scene.stream()
    assert direct.head.origin is None
    (updated,), (deleted,) = first.changes, second.changes
    assert isinstance(updated, Update)
    assert set(updated.tags) == {"postgres_1@0", f"{DEVICE}@10"}
    assert deleted == Delete(scene.items, (b"a", None, b"v" if updated.row[2] == b"v" else b"w"), ())


@pytest.mark.every_major
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("slug text GENERATED ALWAYS AS (lower(v)) STORED, id int PRIMARY KEY, v text", ["7"]),
        ("a int, slug text GENERATED ALWAYS AS (lower(v)) STORED, b int, v text, PRIMARY KEY (b, a)", ["7", "8"]),
        ("was text, id int PRIMARY KEY, v text", ["7"]),
    ],
)
async def test_other_columns_between_those_of_the_key_do_not_matter(scene: Scene, table: str, key: list[str]) -> None:
    """Generated ones are in the stream since Postgres 18. And what is dropped before is no column at all."""
    await scene.pool.execute(f"CREATE TABLE things ({table}); ALTER TABLE things DROP COLUMN IF EXISTS was")
    await scene.pool.execute("CALL electric.electrify('public.things')")
    rel = await scene.pool.fetchval("SELECT 'things'::regclass::oid::bigint")
    unchanged = [False] * len(key)
    for lsn, v in ((10, "V"), (20, "W")):
        write = {"op": "U", "rel": rel, "row": [*key, v], "modified": [*unchanged, True]}
        if lsn == 10:
            write |= {"op": "I", "modified": [True] * (len(key) + 1)}
        assert await scene.apply(lsn, lsn, write, tags=() if lsn == 10 else (f"{DEVICE}@10",)) == "applied"
    assert (
        await scene.apply(
            30,
            30,
            {"op": "D", "rel": rel, "row": [*key, None], "modified": [*unchanged, False]},
            tags=(f"{DEVICE}@20",),
        )
        == "applied"
    )
    inserted, updated, deleted = await scene.stream()
    assert [len(chunk.direct) for chunk in (inserted, updated, deleted)] == [0, 0, 0]
    tags = [change.tags for chunk in (inserted, updated) for change in chunk.changes]  # type: ignore[union-attr]
    assert tags == [(f"{DEVICE}@10",), (f"{DEVICE}@20",)]


async def test_each_row_of_a_very_large_write_carries_the_tags_its_shadow_row_has(scene: Scene) -> None:
    count = DEVICE_ROWS_MAX + 20_000
    rows = [{"op": "I", "row": [str(n), None, None], "modified": [True] * 3} for n in range(count - 1)]
    await scene.pool.execute("INSERT INTO items VALUES ('last', NULL, 'v')")
    update = {"op": "U", "row": ["last", None, "w"], "modified": [False, False, True]}
    assert await scene.apply(1, 10, *rows, update) == "applied"
    chunks = [chunk for chunk in await scene.stream() if chunk.head.origin]
    assert {chunk.head.origin for chunk in chunks} == {DEVICE}
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    *inserts, last = [change for chunk in chunks for change in chunk.changes]
    assert len(inserts) == count - 1
    assert {change.tags for change in inserts if isinstance(change, Insert)} == {(f"{DEVICE}@10",)}
    assert isinstance(last, Update)
    assert set(last.tags) == {"postgres_1@0", f"{DEVICE}@10"}


@pytest.mark.every_major
async def test_a_rejected_write_is_not_taken_for_an_echo(scene: Scene) -> None:
    await scene.pool.execute("ALTER TABLE items ADD CHECK (v <> 'v')")
    assert await scene.apply(1, 10, insert("a")) == "rejected"
    assert await scene.stream() == []


@pytest.mark.every_major
async def test_rows_an_application_trigger_writes_inside_a_devices_transaction_are_of_postgres(scene: Scene) -> None:
    await scene.pool.execute("""
        CREATE TABLE journal (id text PRIMARY KEY);
        CALL electric.electrify('public.journal');
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO journal VALUES (NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER note AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION note();
    """)
    assert await scene.apply(1, 10, insert("a")) == "applied"
    (chunk,) = await scene.stream()
    tags = {
        change.row[0]: change.tags for change in chunk.changes if isinstance(change, Insert) and len(change.row) == 1
    }
    (only,) = tags.values()
    assert only[0].startswith("postgres_1@")
    assert chunk.head.origin == DEVICE
