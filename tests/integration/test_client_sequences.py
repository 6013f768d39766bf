"""Keys that take the values of a sequence: a device inserts rows offline, and no two rows of anybody share a key."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.proxy import Proxy
from tests.integration.test_client_service import confirmed, device, service_with, until, url_of
from tests.npm.rig import eventually
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.actors.service import Service
from syncline.client import Database, SequenceExhausted, UsageError, open_db

SCHEMA = """
CREATE TABLE orders (
    id serial PRIMARY KEY, place bigserial, number int GENERATED ALWAYS AS IDENTITY, title text NOT NULL
);
CREATE TABLE lines (
    order_id int NOT NULL REFERENCES orders, id bigint GENERATED ALWAYS AS IDENTITY, text text,
    PRIMARY KEY (order_id, id)
);
"""
INSERT = "INSERT INTO orders (title) VALUES (?)"


@pytest.fixture
async def service(database: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Service]:
    schema = SCHEMA
    async with service_with(connection, database, tmp_path / "service", schema, "orders", "lines") as service:
        yield service


@asynccontextmanager
async def holding(service: Service, path: Path, table: str = "orders", user: str = "ann") -> AsyncIterator[Database]:
    """A device that is connected and holds the table."""
    async with open_db(path, url_of(service)) as db:
        await db.connect(insecure_token(user))
        async with asyncio.timeout(PATIENCE_S):
            await (await db.sync(table)).synced()
        yield db


async def ids(db: Database) -> list[int]:
    return [row["id"] for row in await db.sql("SELECT id FROM orders ORDER BY id")]


async def left(db: Database, column: str = "id") -> int:
    return (await db.values_left("orders"))[column]


async def refilled(db: Database, wanted: int, column: str = "id") -> None:
    async def has() -> bool:
        assert await left(db, column) == wanted
        return True

    await eventually(has)


async def test_rows_inserted_offline_have_keys_that_nobody_else_uses(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with (
        holding(service, tmp_path / "ann.db") as ann,
        holding(service, tmp_path / "bob.db", user="bob") as bob,
    ):
        assert await ann.values_left("orders") == {"id": 100, "place": 100, "number": 100}
        for db in (ann, bob):
            await db.disconnect()
            for n in range(60):
                await db.execute(INSERT, (f"{n}",))
        direct = [
            await connection.fetchval("INSERT INTO orders (title) VALUES ('sql') RETURNING id") for _ in range(60)
        ]
        here = await ids(ann), await ids(bob)
        for db in (ann, bob):
            await db.connect()
            await confirmed(db)
        there = await connection.fetch("SELECT id, place, number FROM orders ORDER BY id")
        assert [row["id"] for row in there] == sorted([*here[0], *here[1], *direct])
        for column in ("id", "place", "number"):
            assert len({row[column] for row in there}) == 180
        await until(ann, "count(*) = 180 FROM orders")
        assert await ann.rejections() == await bob.rejections() == []


async def test_everybody_inserts_at_once_and_no_key_is_used_twice(
    service: Service, connection: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    async def device_inserts(db: Database) -> None:
        for n in range(300):
            await db.execute(INSERT, (f"{n}",))
            await asyncio.sleep(0)  # the others get their turn between any two

    async def sql_inserts() -> None:
        writer = await asyncpg.connect(database)
        for _ in range(200):
            await writer.execute("INSERT INTO orders (title) VALUES ('sql')")
        await writer.close()

    async with (
        holding(service, tmp_path / "ann.db") as ann,
        holding(service, tmp_path / "bob.db", user="bob") as bob,
    ):
        await asyncio.gather(device_inserts(ann), device_inserts(bob), sql_inserts())
        for db in (ann, bob):
            await confirmed(db)
        assert await connection.fetchval("SELECT count(*) FROM orders") == 800
        assert await ann.rejections() == await bob.rejections() == []


async def test_the_more_are_used_the_more_are_there(service: Service, tmp_path: Path) -> None:
    async with holding(service, tmp_path / "ann.db") as db:
        for n in range(50):
            await db.execute(INSERT, (f"{n}",))
        await confirmed(db)
        assert await left(db) == 50
        await db.execute(INSERT, ("one more",))
        await refilled(db, 200)
        async with db.transaction() as tx:
            for n in range(101):
                await tx.execute(INSERT, (f"{n}",))
        await refilled(db, 400)


async def test_a_statement_waits_for_what_it_needs_and_a_transaction_asks_before(
    service: Service, tmp_path: Path
) -> None:
    async with holding(service, tmp_path / "ann.db") as db:
        numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        assert await db.execute(f"INSERT INTO orders (title) {numbers} SELECT i FROM n") == 1_000
        await db.reserve("orders", 3_000)
        async with db.transaction() as tx:
            await tx.execute_many(INSERT, [(f"{n}",) for n in range(3_000)])
        await confirmed(db)
        with pytest.raises(UsageError, match="at most 10000"):
            await db.reserve("orders", 10_001)
        await db.disconnect()
        with pytest.raises(SequenceExhausted):
            await db.reserve("orders", 10_000)
        many = numbers.replace("1000", "10001")
        with pytest.raises(SequenceExhausted):
            await db.execute(f"INSERT INTO orders (title) {many} SELECT i FROM n")
        await db.connect()
        with pytest.raises(SequenceExhausted):
            await db.execute(f"INSERT INTO orders (title) {many} SELECT i FROM n")
        await db.reserve("orders", 10_000)


async def test_without_any_left_only_a_key_has_to_be_given(service: Service, tmp_path: Path) -> None:
    async with holding(service, tmp_path / "ann.db") as db:
        await db.disconnect()
        async with db.transaction() as tx:
            await tx.execute_many(INSERT, [(f"{n}",) for n in range(100)])
        assert await left(db) == 0
        with pytest.raises(SequenceExhausted, match=r"not enough values are left for orders\.id.*connect") as exhausted:
            await db.execute(INSERT, ("too many",))
        assert (exhausted.value.table, exhausted.value.column) == ("orders", "id")
        async with db.transaction() as tx:
            with pytest.raises(SequenceExhausted):
                await tx.execute(INSERT, ("too many",))
            with pytest.raises(SequenceExhausted):
                await tx.execute_many(INSERT, [("too many",)])
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await tx.execute("INSERT INTO missing VALUES (1)")
            await tx.execute("INSERT INTO orders (id, title) VALUES (100000, 'given')")
        [row] = await db.sql("SELECT place, number FROM orders WHERE id = 100000")
        assert tuple(row) == (None, None)
        await db.connect()
        await confirmed(db)
        [row] = await db.sql("SELECT place, number FROM orders WHERE id = 100000")
        assert None not in tuple(row)
        await db.execute(INSERT, ("again",))
        assert await db.rejections() == []


async def test_a_key_of_several_columns_may_have_one(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with holding(service, tmp_path / "ann.db", "lines") as db:
        await db.disconnect()
        async with db.transaction() as tx:
            await tx.execute(INSERT, ("its parent comes with it, and its values",))
            await tx.execute("INSERT INTO lines (order_id, text) SELECT id, 'a' FROM orders")
            await tx.execute("INSERT INTO lines (order_id, text) SELECT id, 'b' FROM orders")
        await db.connect()
        await confirmed(db)
        there = await connection.fetch("SELECT order_id, id, text FROM lines ORDER BY id")
        assert [tuple(row) for row in there] == [(1, 1, "a"), (1, 2, "b")]


async def test_what_is_rolled_back_has_used_nothing(service: Service, tmp_path: Path) -> None:
    async with holding(service, tmp_path / "ann.db") as db:
        with suppress(ZeroDivisionError):
            async with db.transaction() as tx:
                await tx.execute(INSERT, ("not",))
                raise ZeroDivisionError
        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
            await db.execute("INSERT INTO orders (place) VALUES (5)")
        await db.execute(INSERT, ("one",))
        assert await ids(db) == [1]


async def test_what_has_taken_values_is_on_the_disk_before_it_is_sent(service: Service, tmp_path: Path) -> None:
    """Else a power failure would have it given away again what Postgres has."""

    async def flushed(db: Database) -> int:
        [row] = await db.sql("SELECT flushes FROM _syncline_state")
        return int(row["flushes"])

    async with holding(service, tmp_path / "ann.db") as db:
        await db.execute(INSERT, ("one",))
        await confirmed(db)
        assert await flushed(db) == 1
        await db.execute("UPDATE orders SET title = 'takes none'")
        await db.execute("INSERT INTO orders (id, place, number, title) VALUES (1000, 1000, 1000, 'nor does this')")
        await confirmed(db)
        assert await flushed(db) == 1
        await db.disconnect()
        await db.execute(INSERT, ("two",))
    async with device(tmp_path / "ann.db", service) as db:
        await confirmed(db)
        assert await flushed(db) == 2
        shape = await db.sync("orders")
        await shape.unsubscribe()

        async def given_back() -> bool:
            return await left(db) == 0 and await flushed(db) == 3

        await eventually(given_back)


KILLED = """
import asyncio, os, sys
from syncline.client import open_db
async def main():
    async with open_db(sys.argv[1], "ws://127.0.0.1:1") as db:
        await db.execute("INSERT INTO orders (title) VALUES ('committed')")
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO orders (title) VALUES ('not committed')")
            print("now", flush=True)
            await asyncio.sleep(600)  # it is killed here, in the middle of its transaction
asyncio.run(main())
"""


async def test_a_killed_process_gives_no_committed_value_again(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    async with holding(service, path):
        pass
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"now\n"
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    async with open_db(path, url_of(service)) as db:
        await db.execute(INSERT, ("last",))
        assert await ids(db) == [1, 2, 3]
        assert await left(db) == 97


async def test_an_answer_that_is_lost_costs_a_gap(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    proxy = Proxy(service.port)
    await proxy.start()
    async with holding(service, tmp_path / "ann.db") as db:
        for n in range(50):
            await db.execute(INSERT, (f"{n}",))
        await confirmed(db)
    async with open_db(tmp_path / "ann.db", f"ws://127.0.0.1:{proxy.port}") as db:
        await db.connect(insecure_token("ann"))
        proxy.deafen()
        await db.execute(INSERT, ("which has it ask for more",))

        async def answered() -> bool:
            return bool(await connection.fetchval("SELECT last_value > 100 FROM orders_id_seq"))

        await eventually(answered)
        proxy.cut()
        await refilled(db, 200)
        async with db.transaction() as tx:
            await tx.execute_many(INSERT, [(f"{n}",) for n in range(60)])
        await confirmed(db)
        # 49 of the first block, and none of the second, of which nothing was heard.
        assert await ids(db) == [*range(1, 101), *range(252, 263)]
    await proxy.stop()


async def test_a_copy_of_the_file_uses_none_of_its_values(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with holding(service, tmp_path / "ann.db"):
        pass
    shutil.copy(tmp_path / "ann.db", tmp_path / "copy.db")
    async with (
        open_db(tmp_path / "ann.db", url_of(service)) as db,
        open_db(tmp_path / "copy.db", url_of(service)) as copy,
    ):
        await db.execute(INSERT, ("of the original",))
        with pytest.raises(SequenceExhausted):
            await copy.execute(INSERT, ("of the copy",))
        for one in (db, copy):
            await one.connect(insecure_token("ann"))
            await confirmed(one)
        await refilled(copy, 100)
        await copy.execute(INSERT, ("of the copy",))
        await confirmed(copy)
        assert await connection.fetchval("SELECT count(*) FROM orders") == 2
        assert await ids(copy) == [1, 101]


async def test_a_file_that_the_server_finds_to_be_a_copy_drops_what_it_has(service: Service, tmp_path: Path) -> None:
    """An older state was written over it: in the file system it is the same."""
    path = tmp_path / "ann.db"
    async with holding(service, path) as db:
        await db.execute(INSERT, ("before",))
        await confirmed(db)
    shutil.copy(path, tmp_path / "backup")
    async with device(path, service) as db:
        await db.execute(INSERT, ("after",))
        await confirmed(db)
    path.write_bytes((tmp_path / "backup").read_bytes())
    async with open_db(path, url_of(service)) as db:
        assert await left(db) == 99
        await db.connect(insecure_token("ann"))
        await refilled(db, 100)
        await db.execute(INSERT, ("later",))
        await until(db, "count(*) = 3 FROM orders")
        assert await ids(db) == [1, 2, 101]


async def test_what_is_left_when_the_last_shape_goes_is_for_others(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    async with holding(service, tmp_path / "ann.db") as ann:
        await ann.execute(INSERT, ("one",))
        await confirmed(ann)
        shape = await ann.sync("orders")
        await shape.unsubscribe()

        async def given_back() -> bool:
            returned = await connection.fetchval("SELECT count(*) FROM electric.blocks WHERE client_id IS NULL")
            return returned == 3 and await left(ann) == 0

        await eventually(given_back)
        with pytest.raises(SequenceExhausted):
            await ann.execute(INSERT, ("none",))
        async with holding(service, tmp_path / "bob.db", user="bob") as bob:
            assert await left(bob) == 100
            await bob.disconnect()
            async with bob.transaction() as tx:
                await tx.execute_many(INSERT, [(f"{n}",) for n in range(100)])
            assert await ids(bob) == list(range(1, 102))


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ("INCREMENT BY 10", [1, 11, 21]),
        ("INCREMENT BY -2 MINVALUE -1000 START 5 RESTART", [5, 3, 1]),
        ("CACHE 30", [1, 2, 3]),
    ],
)
async def test_values_are_those_of_the_sequence(
    service: Service, connection: asyncpg.Connection, tmp_path: Path, settings: str, values: list[int]
) -> None:
    await connection.execute(f"ALTER SEQUENCE orders_id_seq {settings}")
    async with holding(service, tmp_path / "ann.db") as db:
        for n in range(3):
            await db.execute(INSERT, (f"{n}",))
        assert sorted(await ids(db)) == sorted(values)
        await confirmed(db)


async def test_a_sequence_that_has_ended_says_so(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await connection.execute("ALTER SEQUENCE orders_id_seq MAXVALUE 3")
    async with holding(service, tmp_path / "ann.db") as db:
        assert await left(db) == 3
        for n in range(3):
            await db.execute(INSERT, (f"{n}",))
        await confirmed(db)
        with pytest.raises(SequenceExhausted):
            await db.execute(INSERT, ("too many",))
        await db.execute("UPDATE orders SET title = 'goes on' WHERE id = 1")
        await confirmed(db)
