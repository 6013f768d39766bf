"""A transaction that SQLite has rolled back by itself, and the application goes on: nothing of it stays."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from syncline.client import Database, Transaction, TransactionRolledBack, UsageError, open_db

Step = Callable[[Transaction], Awaitable[object]]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_db(tmp_path / "device.db", "ws://127.0.0.1:1") as db:
        await db.execute("CREATE TABLE notes (n INTEGER PRIMARY KEY, text TEXT)")
        yield db


async def notes(db: Database) -> list[int]:
    return [row[0] for row in await db.sql("SELECT n FROM notes ORDER BY n")]


async def roll_back(tx: Transaction) -> None:
    """As a conflict clause of this kind does, also that of a table."""
    await tx.execute("INSERT INTO notes (n) VALUES (1)")
    with suppress(sqlite3.IntegrityError):
        await tx.execute("INSERT OR ROLLBACK INTO notes (n) VALUES (1)")


STEPS: dict[str, Step] = {
    "a statement": lambda tx: tx.execute("INSERT INTO notes (n) VALUES (2)"),
    "many": lambda tx: tx.execute_many("INSERT INTO notes (n) VALUES (?)", [(2,), (3,)]),
    "a query": lambda tx: tx.sql("INSERT INTO notes (n) VALUES (2) RETURNING n"),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
async def test_what_follows_is_refused_with_the_reason(db: Database, step: Step) -> None:
    async def write() -> None:
        async with db.transaction() as tx:
            await roll_back(tx)
            await step(tx)

    with pytest.raises(TransactionRolledBack, match=r"UNIQUE constraint failed: notes\.n") as refused:
        await write()
    assert isinstance(refused.value.__cause__, sqlite3.IntegrityError)
    assert await notes(db) == []


async def test_so_is_the_commit(db: Database) -> None:
    with pytest.raises(TransactionRolledBack, match="UNIQUE"):
        async with db.transaction() as tx:
            await roll_back(tx)
    assert await notes(db) == []


async def test_so_it_is_where_the_application_takes_no_notice_at_all(db: Database) -> None:
    async def write() -> None:
        async with db.transaction() as tx:
            await roll_back(tx)
            for step in STEPS.values():
                with suppress(TransactionRolledBack):
                    await step(tx)

    with pytest.raises(TransactionRolledBack):
        await write()
    assert await notes(db) == []


async def test_a_full_disk_is_such_a_reason_and_the_next_transaction_is_as_any(db: Database) -> None:
    def pages_max(pages: int) -> Callable[[sqlite3.Connection], object]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO notes (n) VALUES (1)")
            with suppress(sqlite3.OperationalError):
                await tx.execute("INSERT INTO notes (n, text) VALUES (2, ?)", ("x" * 100_000,))
            await tx.execute("INSERT INTO notes (n) VALUES (3)")

    await db._store._writer.run(pages_max(1))  # no more than there are
    with pytest.raises(TransactionRolledBack, match="full"):
        await write()
    await db._store._writer.run(pages_max(1 << 20))
    assert await notes(db) == []
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO notes (n) VALUES (4)")
    assert await notes(db) == [4]


async def test_an_error_that_costs_only_its_statement_may_be_caught(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO notes (n) VALUES (1)")
        with suppress(sqlite3.IntegrityError):
            await tx.execute("INSERT INTO notes (n) VALUES (1)")
        await tx.execute("INSERT INTO notes (n) VALUES (2)")
    assert await notes(db) == [1, 2]


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_is_executed_by_a_transaction_that_is_over(db: Database, fails: bool) -> None:
    with suppress(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO notes (n) VALUES (1)")
            if fails:
                raise ZeroDivisionError
    async with db.transaction():
        with pytest.raises(UsageError, match="is over"):
            await tx.execute("INSERT INTO notes (n) VALUES (2)")
    assert await notes(db) == ([] if fails else [1])


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_no_query_ends_a_transaction(db: Database, ending: str) -> None:
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO notes (n) VALUES (1)")
        with pytest.raises(UsageError, match="not begun or ended by SQL"):
            await tx.sql(ending)
    assert await notes(db) == [1]


async def test_a_live_query_hears_of_what_a_query_has_written(db: Database) -> None:
    async with db.sql("SELECT n FROM notes").live() as results:
        assert await anext(results) == []
        async with db.transaction() as tx:
            assert [row["n"] for row in await tx.sql("INSERT INTO notes (n) VALUES (1) RETURNING n")] == [1]
        assert [row["n"] for row in await anext(results)] == [1]
