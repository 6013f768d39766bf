"""The file: one owner, one writer, whole transactions."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.client.errors import DatabaseInUse, DatabaseUnusable, UsageError
from syncline.client.schema import STORE_VERSION
from syncline.client.store import Footprints, Store, open_store

HOLD = """
import asyncio, sys
from syncline.client.store import open_store
async def main():
    async with open_store(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Another process that owns the file until it is told to go."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


async def test_a_second_process_is_told_who_owns_the_file(tmp_path: Path) -> None:
    with hold(tmp_path / "app.db") as owner:
        with pytest.raises(DatabaseInUse, match=rf"in use by process {owner.pid} on .*close it there"):
            async with open_store(tmp_path / "app.db"):
                pass
        owner.communicate(b"")


async def test_the_file_is_free_again_after_its_owner_was_killed(tmp_path: Path) -> None:
    with hold(tmp_path / "app.db") as owner:
        owner.kill()
        owner.wait()
        async with open_store(tmp_path / "app.db"):
            pass


async def test_opening_twice_in_one_process_is_refused_too(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db"):
        with pytest.raises(DatabaseInUse, match="this very process"):
            async with open_store(tmp_path / "app.db"):
                pass


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_bytes(b"dear diary, " * 100)
    with pytest.raises(DatabaseUnusable, match="not an SQLite database"):
        async with open_store(tmp_path / "app.db"):
            pass
    assert (tmp_path / "app.db").read_bytes() == b"dear diary, " * 100


async def test_a_store_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute(f"PRAGMA user_version = {STORE_VERSION + 1}")
    with pytest.raises(DatabaseUnusable, match="newer release"):
        async with open_store(tmp_path / "app.db"):
            pass


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db") as store:

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE t (a)")
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError):
            await store.write(work)
        assert await store.read(lambda c: c.execute("SELECT 1 FROM sqlite_master WHERE name = 't'").fetchall()) == []


async def test_readers_see_the_last_committed_state_while_someone_writes(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db") as store:
        await store.write(lambda c: c.execute("CREATE TABLE t (a)"))
        async with store.turn() as connection:
            await connection.execute("BEGIN IMMEDIATE")
            await connection.execute("INSERT INTO t VALUES (1)")
            assert [tuple(row) for row in await store.read(lambda c: c.execute("SELECT * FROM t").fetchall())] == []
            await connection.execute("COMMIT")
        assert [tuple(row) for row in await store.read(lambda c: c.execute("SELECT * FROM t").fetchall())] == [(1,)]


async def test_the_reader_cannot_write(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db") as store:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await store.read(lambda c: c.execute("DELETE FROM _syncline_oplog"))


async def test_foreign_keys_are_off_only_for_what_the_server_decided(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db") as store:
        await store.write(lambda c: c.execute("CREATE TABLE p (id PRIMARY KEY)"))
        await store.write(lambda c: c.execute("CREATE TABLE k (p REFERENCES p (id))"))
        await store.write_unchecked(lambda c: c.execute("INSERT INTO k VALUES (1)"))
        with pytest.raises(sqlite3.IntegrityError):
            await store.write(lambda c: c.execute("INSERT INTO k VALUES (2)"))


async def test_writing_inside_ones_own_turn_is_a_usage_error_not_a_deadlock(tmp_path: Path) -> None:
    async with open_store(tmp_path / "app.db") as store, store.turn():
        with pytest.raises(UsageError, match="inside a transaction"):
            store.refuse_nested()
        await asyncio.create_task(in_another_task(store))


async def in_another_task(store: Store) -> None:
    """Others may wait for their turn."""
    store.refuse_nested()


def test_a_footprint_reaches_through_views_triggers_and_cascades() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        """PRAGMA foreign_keys = ON;
        CREATE TABLE p (id PRIMARY KEY);
        CREATE TABLE k (id, p REFERENCES p (id) ON DELETE CASCADE);
        CREATE TABLE log (what);
        CREATE VIEW v AS SELECT k.id FROM k JOIN p ON k.p = p.id;
        CREATE TRIGGER t AFTER DELETE ON p BEGIN INSERT INTO log VALUES ('gone'); END;"""
    )
    footprints = Footprints()
    for _ in range(2):
        reads, _ = footprints.of(connection, "SELECT count(*) FROM v", ())
        assert reads >= {"k", "p"}
        _, writes = footprints.of(connection, "DELETE FROM p WHERE id = ?", (1,))
        assert writes == {"p", "k", "log"}


def test_begin_and_commit_are_not_for_the_application_to_say() -> None:
    connection = sqlite3.connect(":memory:")
    for sql in ("BEGIN", "COMMIT", "ROLLBACK"):
        with pytest.raises(UsageError, match=r"db\.transaction"):
            Footprints().of(connection, sql, ())
