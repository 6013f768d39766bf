"""Snapshots against a real Postgres: exact rows, exact place, under writers who do not wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import pytest
from tests.patience import PATIENCE_S

from syncline.actors.postgres.bootstrap import PUBLICATION, bootstrap
from syncline.actors.postgres.catalog import Catalog, TableInfo, load_catalog
from syncline.actors.postgres.rowkey import key_sql
from syncline.actors.postgres.slot import ensure_publication, ensure_slot
from syncline.actors.postgres.snapshot import Snapshot, TaggedRow, emit_mark, take_snapshot
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.postgres.transaction import TransactionAssembler
from syncline.proto.values import Cell, Delete, Insert, Row, Update

pytestmark = pytest.mark.every_major

ACCOUNTS = 40
TOTAL = ACCOUNTS * 100
NOW_MS = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


@dataclass
class Scene:
    """A bootstrapped database with one electrified table, ``accounts``."""

    dsn: str
    pool: asyncpg.Pool
    catalog: Catalog
    slot: str

    @property
    def accounts(self) -> TableInfo:
        table = self.catalog.named("accounts")
        assert table is not None
        return table


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    await bootstrap(database)
    async with asyncpg.create_pool(database, min_size=2, max_size=12) as pool:
        await pool.execute("CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance int NOT NULL)")
        await pool.execute("CALL electric.electrify('public.accounts')")
        async with pool.acquire() as app:
            await ensure_publication(app, PUBLICATION)
            state = await ensure_slot(app, "slot_" + await app.fetchval("SELECT current_database()"))
        assert state.created
        yield Scene(database, pool, await load_catalog(pool), state.name)


async def rows_of(snapshot: Snapshot) -> list[TaggedRow]:
    return [row async for chunk in snapshot for row in chunk]


async def snapshot_rows(scene: Scene, table: TableInfo | None = None) -> list[TaggedRow]:
    return await rows_of(await take_snapshot(scene.pool, table or scene.accounts, "m", lambda: ()))


# --- the exact place --------------------------------------------------------------------------------------------------


@dataclass
class History:
    """The stream from the empty table on: which is the truth, when replayed."""

    transactions: list[tuple[int, list[StreamChange], tuple[str, ...]]] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, stream: ReplicationStream, catalog: Catalog) -> None:
        assembler = TransactionAssembler(catalog.key_places)
        async for message in stream:
            for chunk in assembler.feed(message):
                assert chunk.first
                assert chunk.last
                self.transactions.append((chunk.head.xid, chunk.changes, chunk.marks))
                for mark in chunk.marks:
                    self.marks[mark] = len(self.transactions)
                self.heard.set()

    async def reach(self, mark: str) -> int:
        """How many transactions precede the mark, its own included."""
        async with asyncio.timeout(PATIENCE_S):
            while mark not in self.marks:
                self.heard.clear()
                await self.heard.wait()
        return self.marks[mark]


def apply(image: dict[Cell, Row], changes: list[StreamChange]) -> None:
    for change in changes:
        match change:
            case Insert(_, row, _) | Update(_, row, _, _):
                image[row[0]] = row
            case Delete(_, old_row, _):
                image.pop(old_row[0], None)
            case Truncated():
                image.clear()


def balance(image: dict[Cell, Row]) -> int:
    return sum(int(row[2] or b"0") for row in image.values())


async def write(pool: asyncpg.Pool, seed: int, stop: asyncio.Event) -> None:
    """Moves money between accounts, closes and reopens them: the sum never changes in any committed state."""
    choice = random.Random(seed)
    async with pool.acquire() as app:
        while not stop.is_set():
            source, target = sorted(choice.sample(range(ACCOUNTS), 2))
            async with app.transaction():
                if choice.random() < 0.3:
                    rest = await app.fetchval("DELETE FROM accounts WHERE id = $1 RETURNING balance", source)
                    if rest is not None:
                        await app.execute(
                            "INSERT INTO accounts VALUES ($1, 'reopened', $2) "
                            "ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + $2",
                            source if choice.random() < 0.5 else 1000 + seed,
                            rest,
                        )
                else:
                    taken = await app.fetchval(
                        "UPDATE accounts SET balance = balance - 1 WHERE id = $1 RETURNING 1", source
                    )
                    given = await app.fetchval(
                        "UPDATE accounts SET balance = balance + 1 WHERE id = $1 RETURNING 1", target
                    )
                    if taken != given:
                        await app.execute(
                            "INSERT INTO accounts VALUES ($1, 'difference', $2) "
                            "ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + $2",
                            2000 + seed,
                            (taken or 0) - (given or 0),
                        )


async def test_snapshots_among_concurrent_writers_are_placed_exactly(scene: Scene) -> None:
    history, stop = History(), asyncio.Event()
    async with ReplicationStream(scene.dsn, scene.slot, PUBLICATION) as stream:
        following = asyncio.create_task(history.follow(stream, scene.catalog))
        await scene.pool.execute("INSERT INTO accounts SELECT i, 'o', 100 FROM generate_series(0, $1 - 1) i", ACCOUNTS)
        await emit_mark(scene.pool, "filled")
        await history.reach("filled")
        writers = [asyncio.create_task(write(scene.pool, seed, stop)) for seed in range(8)]
        denied = 0
        for number in range(40):
            registered = len(history.transactions)
            before = [xid for xid, _, _ in history.transactions[:registered]]
            mark = f"mark-{number}"
            snapshot = await take_snapshot(
                scene.pool,
                scene.accounts,
                mark,
                lambda before=before: before,
                others=(f"another-{number}",),  # type: ignore[misc]
            )
            image = {row[0]: row for row, _ in await rows_of(snapshot)}
            assert balance(image) == TOTAL
            placed = await history.reach(mark)
            assert await history.reach(f"another-{number}") == placed
            for xid, changes, _ in history.transactions[registered:placed]:
                if not snapshot.visible(xid):
                    denied += bool(changes)
                    apply(image, changes)
            truth: dict[Cell, Row] = {}
            for _, changes, _ in history.transactions[:placed]:
                apply(truth, changes)
            assert image == truth
            assert all(snapshot.visible(xid) for xid in before)
            assert not any(snapshot.visible(xid) for xid, _, _ in history.transactions[placed:])
        stop.set()
        await asyncio.gather(*writers)
        assert denied > 0  # some transaction did commit between the snapshot and its mark
        await emit_mark(scene.pool, "end")
        await history.reach("end")
        final: dict[Cell, Row] = {}
        for _, changes, _ in history.transactions:
            apply(final, changes)
        assert final == {row[0]: row for row, _ in await snapshot_rows(scene)}
    await following


async def test_a_snapshot_is_taken_again_while_it_misses_what_was_streamed(scene: Scene) -> None:
    async with scene.pool.acquire() as app:
        writing = app.transaction()
        await writing.start()
        await app.execute("INSERT INTO accounts VALUES (1, 'late', 1)")
        xid = await app.fetchval("SELECT pg_current_xact_id()::text::bigint % 4294967296")
        asked = asyncio.Event()

        def streamed() -> list[int]:
            asked.set()
            return [xid]

        taking = asyncio.create_task(take_snapshot(scene.pool, scene.accounts, "m", streamed))
        await asked.wait()
        assert not taking.done()
        await writing.commit()
    snapshot = await taking
    assert snapshot.visible(xid)
    assert [row for row, _ in await rows_of(snapshot)] == [(b"1", b"late", b"1")]


async def test_nobody_empties_the_table_under_a_snapshot(scene: Scene) -> None:
    await scene.pool.execute("INSERT INTO accounts VALUES (1, 'a', 1)")
    snapshot = await take_snapshot(scene.pool, scene.accounts, "m", lambda: ())
    with pytest.raises(asyncpg.LockNotAvailableError):
        await scene.pool.execute("SET lock_timeout = '50ms'; TRUNCATE accounts")
    assert len(await rows_of(snapshot)) == 1
    await scene.pool.execute("TRUNCATE accounts")


# --- the rows ---------------------------------------------------------------------------------------------------------


async def test_rows_carry_the_tags_of_the_device_that_wrote_them_last(scene: Scene) -> None:
    async with scene.pool.acquire() as app, app.transaction():
        await app.execute("INSERT INTO accounts SELECT i, 'o', 1 FROM generate_series(1, 4) i")
        await app.execute(
            f"INSERT INTO electric.shadow (relid, key, tags, column_tags) "
            f"SELECT 'accounts'::regclass, {key_sql(['id'])}, ARRAY['device@5', 'other@7'], '{{}}' "
            f"FROM accounts WHERE id < 4"
        )
    await scene.pool.execute("UPDATE accounts SET owner = 'sql' WHERE id IN (2, 3)")
    await scene.pool.execute(
        f"INSERT INTO electric.direct (relid, key, lsn, ms, column_ms) "
        f"SELECT 'accounts'::regclass, {key_sql(['id'])}, '0/1', 8, '{{}}' FROM accounts WHERE id = 2"
    )
    before = await scene.pool.fetchval(NOW_MS)
    rows = {row[0]: tags for row, tags in await snapshot_rows(scene)}
    (tag,) = rows[b"4"]
    origin, ms = tag.split("@")
    assert origin == "postgres_1"
    assert before <= int(ms) <= await scene.pool.fetchval(NOW_MS), "what Postgres had written by then has been seen"
    assert rows == {
        b"1": ("device@5", "other@7"),
        b"2": (tag,),  # direct SQL wrote it since, having seen everything
        b"3": ("device@5", "other@7", tag),  # so it may be, but the stream has not told
        b"4": (tag,),
    }


async def test_a_row_that_sql_put_where_devices_had_deleted_one_says_when_it_was_there(scene: Scene) -> None:
    """So that a write to it can be told from a write to the deleted one (``electric.saw_direct_since``)."""
    await scene.pool.execute(
        f"INSERT INTO electric.shadow (relid, key, tags, column_tags) "
        f"SELECT 'accounts'::regclass, {key_sql(['id'])}, '{{}}', '{{}}' FROM (VALUES (1)) AS t (id)"
    )
    before = await scene.pool.fetchval(NOW_MS)
    await scene.pool.execute("INSERT INTO accounts VALUES (1, 'sql', 1)")
    ((_, (tag,)),) = await snapshot_rows(scene)
    origin, ms = tag.split("@")
    assert origin == "postgres_1"
    assert before <= int(ms) <= await scene.pool.fetchval(NOW_MS)


async def test_snapshot_and_stream_print_every_value_alike(scene: Scene) -> None:
    async with scene.pool.acquire() as app:
        await app.execute("""
            CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
            CREATE TABLE every (
                id uuid, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, t text, v varchar, d date, ti time,
                ts timestamp, tz timestamptz, j json, jb jsonb, by bytea, m mood, PRIMARY KEY (id, tz));
            CALL electric.electrify('public.every');
        """)
        await app.execute(r"""
            SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET bytea_output = 'escape';
            SET extra_float_digits = 0; SET IntervalStyle = 'iso_8601';
            INSERT INTO every VALUES
            (gen_random_uuid(), true, -32768, -2147483648, -9223372036854775808, 'NaN', 'Infinity',
             E'\t\n\\N\r\b\f\x0B"',
             '', '4713-01-01 BC', '24:00:00', 'infinity', '0044-03-15 00:00:00.000001+00 BC', '{"a" : [1,  null]}',
             '{"a" : [1,  null]}', '\x', 'sad'),
            (gen_random_uuid(), false, 32767, 2147483647, 9223372036854775807, 3.4028235e38, 5e-324, 'é😀',
             repeat('x', 100000), '5874897-12-31', '00:00:00.000001', '294276-12-31 23:59:59.999999', '-infinity',
             '"\u0041"', '1e10', '\x00ff0a5c09', 'it''s "ok"'),
            (gen_random_uuid(), NULL, NULL, NULL, NULL, 0.1, '-0', '\N', 'NULL', NULL, NULL, NULL,
             '2024-01-31 12:34:56.7+05:45', NULL, NULL, NULL, NULL);
            RESET ALL;
        """)
        table = (await load_catalog(app)).named("every")
        assert table is not None
    async with ReplicationStream(scene.dsn, scene.slot, PUBLICATION) as stream:
        assembler = TransactionAssembler(scene.catalog.key_places)
        streamed: list[Row] = []
        async for message in stream:
            streamed += [
                change.row
                for chunk in assembler.feed(message)
                for change in chunk.changes
                if isinstance(change, Insert) and change.relation_id == table.oid
            ]
            if len(streamed) == 3:
                break
    assert sorted(streamed) == sorted(row for row, _ in await snapshot_rows(scene, table))
    by_text = {row[7]: row for row in streamed}
    assert by_text[b'\t\n\\N\r\b\f\v"'][12] == b"0044-03-15 00:00:00.000001Z BC"
    assert by_text["é😀".encode()][15] == b"\x00\xff\n\\\t"
    assert by_text[b"\\N"][5:7] == (b"0.1", b"-0")


async def test_another_table_under_the_name_is_not_read_in_its_place(scene: Scene) -> None:
    await scene.pool.execute("ALTER TABLE accounts RENAME TO former; CREATE TABLE accounts (LIKE former)")
    with pytest.raises(asyncpg.UndefinedTableError, match=r"public\.accounts has been altered"):
        await snapshot_rows(scene)
    await scene.pool.execute("DROP TABLE accounts; ALTER TABLE former RENAME TO accounts")
    assert await snapshot_rows(scene) == []


@pytest.mark.parametrize(
    ("alter", "read"),
    [
        ("ALTER TABLE accounts RENAME TO former", [(b"1", b"ann", b"7")]),
        ("ALTER TABLE accounts RENAME owner TO holder", [(b"1", None, b"7")]),
        ("ALTER TABLE accounts DROP owner", [(b"1", None, b"7")]),
        ("ALTER TABLE accounts RENAME id TO key", [(b"1", b"ann", b"7")]),
        ("ALTER TABLE accounts DROP id", []),
    ],
)
async def test_a_table_that_was_altered_is_read_once_the_catalogue_was_read_anew(
    scene: Scene, alter: str, read: list[tuple[bytes | None, ...]]
) -> None:
    await scene.pool.execute(
        "INSERT INTO accounts VALUES (1, 'ann', 7); INSERT INTO electric.shadow (relid, key, tags, column_tags) "
        "VALUES ('accounts'::regclass, '[\"1\"]', ARRAY['device@5'], '{}')"
    )
    await scene.pool.execute(alter)
    with pytest.raises(asyncpg.UndefinedTableError):
        await snapshot_rows(scene)
    table = (await load_catalog(scene.pool)).tables[scene.accounts.oid]
    rows = await snapshot_rows(scene, table)
    assert [row for row, _ in rows] == read
    assert all(tags == ("device@5",) for _, tags in rows)


async def test_a_column_that_has_another_type_is_not_read_as_one_of_the_former(scene: Scene) -> None:
    """Bytes travel otherwise than they are printed."""
    await scene.pool.execute("INSERT INTO accounts VALUES (1, 'ann', 7)")
    await scene.pool.execute("ALTER TABLE accounts ALTER owner TYPE bytea USING owner::bytea")
    with pytest.raises(asyncpg.UndefinedTableError, match="has been altered"):
        await snapshot_rows(scene)
    table = (await load_catalog(scene.pool)).tables[scene.accounts.oid]
    assert [row for row, _ in await snapshot_rows(scene, table)] == [(b"1", b"ann", b"7")]


async def test_rows_come_in_bounded_chunks(scene: Scene) -> None:
    await scene.pool.execute("INSERT INTO accounts SELECT i, repeat('x', 100), 1 FROM generate_series(1, 20000) i")
    snapshot = await take_snapshot(scene.pool, scene.accounts, "m", lambda: ())
    sizes = [len(chunk) async for chunk in snapshot]
    assert sum(sizes) == 20_000
    assert max(sizes) <= 2_000


async def every_connection(pool: asyncpg.Pool) -> None:
    """Takes all connections of the pool at once: none is lost."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pool.get_max_size()):
            connection = await stack.enter_async_context(pool.acquire(timeout=5))
            assert not connection.is_in_transaction()


async def test_a_snapshot_left_early_gives_its_connection_back(scene: Scene) -> None:
    await scene.pool.execute("INSERT INTO accounts SELECT i, repeat('x', 100), 1 FROM generate_series(1, 200000) i")
    snapshot = await take_snapshot(scene.pool, scene.accounts, "m", lambda: ())
    async with contextlib.aclosing(aiter(snapshot)) as chunks:  # type: ignore[type-var]
        assert await anext(chunks)
    await every_connection(scene.pool)
    with pytest.raises(RuntimeError, match="once"):
        await rows_of(snapshot)


async def test_a_snapshot_never_read_gives_its_connection_back_when_closed(scene: Scene) -> None:
    snapshot = await take_snapshot(scene.pool, scene.accounts, "m", lambda: ())
    await snapshot.aclose()
    await snapshot.aclose()
    await every_connection(scene.pool)


async def test_a_failing_query_is_raised_and_gives_the_connection_back(scene: Scene) -> None:
    await scene.pool.execute("INSERT INTO accounts VALUES (1, 'a', 1)")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await rows_of(await take_snapshot(scene.pool, scene.accounts, "m", lambda: (), "1 / (t.id - 1) = 1"))
    await every_connection(scene.pool)
