"""The rows that heal a device after a rejection: as they are, with the tags they have, and never said to be newer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.integration.roles import set_another_role
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.currentrows import end_of_records
from syncline.actors.postgres.database import connect
from syncline.actors.postgres.lsn import Lsn

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, body text)"


async def test_a_row_has_the_tags_of_the_device_that_wrote_it_until_direct_sql_writes_it(database: str) -> None:
    async with scene(database, ITEMS, "items") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's")))
        reading = await connect(database, "test")
        await reading.read()
        key = (writes.relids["items"], (b"1",))
        (row,) = (await reading.current_rows([key])).rows
        assert (row.row, row.tags) == ((b"1", b"ann's"), ("ann@5",))
        await writes.connection.execute("UPDATE items SET body = 'direct'")
        found = await reading.current_rows([key])
        (row,) = found.rows
        # The stream has not told anybody yet.
        assert (row.row, row.tags) == ((b"1", b"direct"), ("ann@5", f"postgres_1@{found.visibility.at_ms}"))
        await writes.connection.execute("DELETE FROM items")
        (row,) = (await reading.current_rows([key])).rows
        assert row.row is None
        reading.terminate()


async def test_a_table_is_asked_once_for_a_thousand_keys(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = """
    CREATE TABLE pairs (a uuid, b timestamptz, note text, PRIMARY KEY (a, b));
    INSERT INTO pairs SELECT '00000000-0000-4000-8000-00000000000a', to_timestamp(n), NULLIF(n, 3)
        FROM generate_series(1, 20) n;
    """
    asked: list[str] = []
    async with scene(database, ITEMS + ";" + sql, "items", "pairs") as writes:
        await writes.connection.execute("INSERT INTO items SELECT n, n FROM generate_series(1, 20) n")
        reading = await connect(database, "test")
        await reading.read()
        items, pairs = writes.relids["items"], writes.relids["pairs"]
        numbers = [(items, (b"%d" % n,)) for n in (5, 1_000, 2, 2**40)]
        letters = [(pairs, (b"00000000-0000-4000-8000-00000000000%c" % c, b"1970-01-01 00:00:03Z")) for c in b"ab"]
        async with reading.pool.acquire() as connection:
            connection.add_query_logger(lambda query: asked.append(query.query))
            # asyncpg forgets a logger when a connection goes back to its pool
            with monkeypatch.context() as patch:
                patch.setattr(reading, "pool", Lending(connection))
                rows = (await reading.current_rows([*numbers, (0, (b"1",)), *letters])).rows
        assert [(row.table.oid, row.key) for row in rows] == [*numbers, *letters]
        note = (b"00000000-0000-4000-8000-00000000000a", b"1970-01-01 00:00:03Z", None)
        assert [row.row for row in rows] == [(b"5", b"5"), None, (b"2", b"2"), None, note, None]
        assert len([query for query in asked if "WITH found" in query]) == 2
        reading.terminate()


class Lending:
    """A pool of the one connection."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[object]:
        yield self._connection


async def test_another_table_under_the_name_is_not_read_in_its_place(database: str) -> None:
    async with scene(database, ITEMS, "items") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's")))
        reading = await connect(database, "test")
        await reading.read()
        key = (writes.relids["items"], (b"1",))
        await writes.connection.execute(
            "ALTER TABLE items RENAME TO former; CREATE TABLE items (LIKE former); INSERT INTO items VALUES (1, 'x')"
        )
        (row,) = (await reading.current_rows([key])).rows
        assert row.row == (b"1", b"ann's")
        await writes.connection.execute("DROP TABLE items; ALTER TABLE former RENAME TO items")
        (row,) = (await reading.current_rows([key])).rows
        assert row.row == (b"1", b"ann's")
        reading.terminate()


@pytest.mark.parametrize(
    ("alter", "read"),
    [
        ("ALTER TABLE items RENAME id TO key", [(b"1", b"ann's")]),
        ("ALTER TABLE items ALTER id TYPE text; ALTER TABLE items RENAME id TO key", [(b"1", b"ann's")]),
        ("ALTER TABLE items RENAME body TO text", [(b"1", None)]),
        ("ALTER TABLE items DROP body", [(b"1", None)]),
        ("ALTER TABLE items DROP id", []),
        ("DROP TABLE items", []),
    ],
)
async def test_rows_are_read_by_what_columns_are_called_now(
    database: str, alter: str, read: list[tuple[bytes | None, ...]]
) -> None:
    """Of a column that is gone they have NULL; what nothing is known by any more is not read, and hinders nobody."""
    async with scene(database, ITEMS + "; CREATE TABLE others (id int4 PRIMARY KEY)", "items", "others") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's"), writes.insert("others", "2")))
        reading = await connect(database, "test")
        await reading.read()
        keys = [(writes.relids["items"], (b"1",)), (writes.relids["others"], (b"2",))]
        await writes.connection.execute(alter)
        rows = (await reading.current_rows(keys)).rows
        assert [row.row for row in rows] == [*read, (b"2",)]
        assert {row.tags for row in rows if row.table.relation.table == "others"} == {("ann@5",)}
        reading.terminate()


@pytest.mark.parametrize(
    ("forbid", "missing"),
    [
        ("CREATE SCHEMA app; ALTER TABLE items SET SCHEMA app", "permission denied for schema app"),
        ("REVOKE SELECT ON items FROM {role}", "permission denied for table items"),
    ],
    ids=["USAGE", "SELECT"],
)
async def test_what_our_role_may_not_read_is_left_out_and_named_once(
    database: str, forbid: str, missing: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_another_role(database)
    admin = await asyncpg.connect(database)
    await admin.execute("SET ROLE NONE; GRANT CREATE ON SCHEMA public TO PUBLIC")
    sql = ITEMS + "; CREATE TABLE others (id int4 PRIMARY KEY)"
    async with scene(database, sql, "items", "others") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's"), writes.insert("others", "2")))
        reading = await connect(database, "test")
        await reading.read()
        others, items = (writes.relids["others"], (b"2",)), (writes.relids["items"], (b"1",))
        await admin.execute(forbid.format(role=await writes.connection.fetchval("SELECT current_user")))
        for _ in range(2):
            found = await reading.current_rows([items, others])
            assert [row.row for row in found.rows] == [(b"2",)]
            assert found.left == ()
        (record,) = caplog.records
        assert missing in record.getMessage()
        monkeypatch.setattr("syncline.actors.postgres.currentrows.READING_BYTES_MAX", 1)
        found = await reading.current_rows([others, items])
        assert [row.row for row in found.rows] == [(b"2",)]
        assert found.left == (items,)
        reading.terminate()
    await admin.close()


NESTED = b"[" * 200_000 + b"]" * 200_000
CHECKED = "CREATE FUNCTION checked(int4) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN {} END $$;"


@pytest.mark.parametrize(
    ("column", "alter", "wrong"),
    [
        ("jsonb", "SELECT", NESTED),
        ("int4", "CREATE DOMAIN positive AS int4 CHECK (VALUE > 0); ALTER TABLE items ALTER id TYPE positive", b"-1"),
        (
            "int4",
            CHECKED.format("IF $1 < 0 THEN RAISE 'too small'; END IF; RETURN true;")
            + "CREATE DOMAIN positive AS int4 CHECK (checked(VALUE)); ALTER TABLE items ALTER id TYPE positive",
            b"-1",
        ),
        ("text", "ALTER TABLE items ALTER id TYPE int4 USING id::int4", b"none"),
    ],
    ids=["nested too deeply", "the check of a domain", "what a check calls", "another type"],
)
async def test_a_key_that_its_column_does_not_take_is_no_rows_whatever_postgres_says_of_it(
    database: str, column: str, alter: str, wrong: bytes
) -> None:
    async with scene(database, f"CREATE TABLE items (id {column} PRIMARY KEY, body text)", "items") as writes:
        await writes.apply(written("ann", 5, writes.insert("items", "1", "ann's")))
        reading = await connect(database, "test")
        await reading.read()
        await writes.connection.execute(alter)
        rows = (await reading.current_rows([(writes.relids["items"], (key,)) for key in (wrong, b"1")])).rows
        assert [row.row for row in rows] == [None, (b"1", b"ann's")]
        await reading.read()
        rows = (await reading.current_rows([(writes.relids["items"], (key,)) for key in (wrong, b"1")])).rows
        assert [row.row for row in rows] == [None, (b"1", b"ann's")]
        reading.terminate()


async def test_a_type_that_is_in_another_schema_now_is_found_there(database: str) -> None:
    types = "CREATE SCHEMA types; CREATE DOMAIN types.number AS int4; "
    table = "CREATE TABLE items (id int4 PRIMARY KEY, body text)"
    async with scene(database, types + table, "items") as writes:
        await writes.connection.execute(
            "INSERT INTO items VALUES (1, 'one'); ALTER TABLE items ALTER id TYPE types.number"
        )
        reading = await connect(database, "test")
        await reading.read()
        await writes.connection.execute("ALTER SCHEMA types RENAME TO kinds")
        (row,) = (await reading.current_rows([(writes.relids["items"], (b"1",))])).rows
        assert row.row == (b"1", b"one")
        reading.terminate()


async def test_what_they_show_lies_before_their_position_which_is_on_the_disk(database: str) -> None:
    """A commit that does not wait for the disk is visible before it is there."""
    async with scene(database, ITEMS, "items") as writes:
        reading = await connect(database, "test")
        await reading.read()
        key = (writes.relids["items"], (b"1",))
        busy = await asyncpg.connect(database, server_settings={"synchronous_commit": "off"})
        await busy.execute("INSERT INTO items VALUES (1, '')")
        for number in range(200):
            name = "x" * (number % 97)
            await busy.execute("UPDATE items SET body = $1 WHERE id = 1", name)
            end = Lsn.parse(await writes.connection.fetchval("SELECT pg_current_wal_insert_lsn()::text"))
            current = await reading.current_rows([key])
            flushed = Lsn.parse(await writes.connection.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
            (row,) = current.rows
            assert row.row == (b"1", name.encode())
            assert end_of_records(end, 8192) <= current.position <= flushed
        await busy.close()
        reading.terminate()


def test_records_end_before_the_header_of_a_page_that_holds_none_yet() -> None:
    page = Lsn(5 * 8192)
    assert [end_of_records(Lsn(page + inside), 8192) - page for inside in (0, 24, 40, 48, 8191)] == [0, 0, 0, 48, 8191]


async def test_rows_are_read_up_to_a_size_and_what_is_left_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.currentrows.READING_BYTES_MAX", 250)
    monkeypatch.setattr("syncline.actors.postgres.currentrows.KEYS_AT_ONCE", 4)
    async with scene(database, ITEMS + "; CREATE TABLE others (id int4 PRIMARY KEY)", "items", "others") as writes:
        await writes.connection.execute("INSERT INTO items SELECT n, repeat('x', 99) FROM generate_series(1, 9) n")
        await writes.connection.execute("UPDATE items SET body = repeat('x', 1000) WHERE id = 8")
        reading = await connect(database, "test")
        await reading.read()
        items, others = writes.relids["items"], writes.relids["others"]
        left: tuple[tuple[int, tuple[bytes | None, ...]], ...] = (
            *((items, (b"%d" % n,)) for n in (3, 20, 1, 2, 21, 4, 8, 5)),
            (others, (b"1",)),
        )
        portions = []
        while left:
            found = await reading.current_rows(left)
            assert tuple((row.table.oid, row.key) for row in found.rows) + found.left == left
            portions.append([row.key[0] for row in found.rows if row.row is not None])
            left = found.left
        assert portions == [[b"3", b"1", b"2"], [b"4", b"8"], [b"5"]]
        reading.terminate()
