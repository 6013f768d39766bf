"""A database file that was copied or restored becomes a device of its own, and nothing is lost of what either wrote.

Postgres counts what is executed: a journal to which a trigger writes would have a line twice, or not at all.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.integration.test_client_service import confirmed, device, rows, service_with, until, url_of
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.actors.service import Service
from syncline.client import Database, open_db

pytestmark = pytest.mark.every_major

# Devices are told of no CHECK that asks for the time: Postgres alone judges.
SCHEMA = """
CREATE TABLE notes (id text PRIMARY KEY, title text CHECK (title <> 'bad' OR now() IS NULL), body text NOT NULL);
CREATE TABLE comments (id text PRIMARY KEY, note_id text NOT NULL REFERENCES notes);
CREATE TABLE journal (number bigserial, id text, title text);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO journal (id, title) VALUES (coalesce(NEW.id, OLD.id), NEW.title);
    RETURN NULL;
END $$;
CREATE TRIGGER write_down AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION write_down();
"""
INSERT = "INSERT INTO notes VALUES (?, ?, '')"


@pytest.fixture
async def service(database: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Service]:
    schema = SCHEMA
    async with service_with(connection, database, tmp_path / "service", schema, "notes", "comments") as service:
        yield service


def copy(source: Path, target: Path) -> None:
    """Of a file that nobody has open."""
    assert not source.with_name(source.name + "-wal").exists()
    shutil.copy(source, target)


async def wrote(path: Path, *ids: str) -> str:
    """Opens the file offline and writes rows; the client id it has."""
    async with open_db(path, "ws://localhost:1") as db:
        for id in ids:
            await db.execute(INSERT, (id, id))
        return db.client_id


@asynccontextmanager
async def online(path: Path, service: Service) -> AsyncIterator[Database]:
    async with asyncio.timeout(PATIENCE_S), open_db(path, url_of(service)) as db:
        await db.connect(insecure_token("ann"))
        yield db


async def connected(db: Database) -> None:
    async for status in db.status_changes():
        if status.connected:
            return


async def settled(db: Database) -> None:
    async for status in db.status_changes():
        if status.connected and status.pending_writes == 0:
            return


async def journal(connection: asyncpg.Connection) -> list[tuple[str, str | None]]:
    return [tuple(row) for row in await connection.fetch("SELECT id, title FROM journal ORDER BY number")]


async def agree(connection: asyncpg.Connection, *devices: Database) -> None:
    """All hold what Postgres has."""
    for db in devices:
        expected = [tuple(row) for row in await connection.fetch("SELECT * FROM notes ORDER BY id")]
        async with db.sql("SELECT * FROM notes ORDER BY id").live() as results:
            async for found in results:
                if [tuple(row) for row in found] == expected:
                    break


async def begun(service: Service, path: Path) -> str:
    """A device that has the table, and one row of its own in Postgres."""
    async with device(path, service, "notes") as db:
        await db.execute(INSERT, ("first", "first"))
        await confirmed(db)
        return db.client_id


@pytest.mark.parametrize("first", ["original", "copy"])
async def test_both_copies_of_a_file_have_every_write_executed_once(
    service: Service, connection: asyncpg.Connection, tmp_path: Path, first: str
) -> None:
    """Both have unsent writes in common, and as many of their own, under the same numbers."""
    a_path, b_path = tmp_path / "a.db", tmp_path / "b.db"
    client_id = await begun(service, a_path)
    await wrote(a_path, "common 1", "common 2")
    copy(a_path, b_path)
    await wrote(a_path, "a1", "a2", "a3")
    await wrote(b_path, "b1", "b2", "b3")
    if first == "copy":
        a_path, b_path = b_path, a_path
    async with online(a_path, service) as a:
        await settled(a)
        assert a.client_id == client_id
        async with online(b_path, service) as b:
            await settled(b)
            assert b.client_id != client_id
            await a.execute(INSERT, ("a4", "a4"), durable="server")
            await b.execute(INSERT, ("b4", "b4"), durable="server")
            await agree(connection, a, b)
            written = [id for id, _ in await journal(connection)]
            own = [f"{name}{number}" for name in "ab" for number in (1, 2, 3, 4)]
            assert sorted(written) == sorted(["first", "common 1", "common 2", *own])
            assert (await a.rejections(), await b.rejections()) == ([], [])


async def test_copies_that_are_connected_at_the_same_time_are_two_devices_from_the_first_moment(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Neither has written anything: only that both were opened tells them apart. Neither evicts the other."""
    await begun(service, tmp_path / "a.db")
    copy(tmp_path / "a.db", tmp_path / "b.db")
    async with online(tmp_path / "a.db", service) as a:
        await settled(a)
        async with online(tmp_path / "b.db", service) as b:
            await settled(b)
            assert a.client_id != b.client_id
            for number in range(5):
                await asyncio.gather(
                    a.execute(INSERT, (f"a{number}", "a"), durable="everyone"),
                    b.execute(INSERT, (f"b{number}", "b"), durable="everyone"),
                )
            await agree(connection, a, b)
            assert (a.status.connected, b.status.connected) == (True, True)
            assert len(await journal(connection)) == 11


async def test_a_file_restored_from_a_backup_goes_on_as_another_device(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """Its numbers, and what it believes of the rows, are those of long ago."""
    path = tmp_path / "a.db"
    client_id = await begun(service, path)
    copy(path, tmp_path / "backup.db")
    async with online(path, service) as a:
        for id in ("later 1", "later 2"):
            await a.execute(INSERT, (id, id), durable="server")
        await a.execute("UPDATE notes SET title = 'changed' WHERE id = 'first'", durable="server")
    shutil.copy(tmp_path / "backup.db", path)
    await wrote(path, "restored 1", "restored 2", "restored 3")
    async with online(path, service) as a:
        await settled(a)
        assert a.client_id != client_id
        await agree(connection, a)
        assert len(await rows(a, "SELECT * FROM notes")) == 6
        assert len(await journal(connection)) == 7


async def test_what_a_backup_had_not_sent_is_executed_once_whether_the_original_sends_it_or_not(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    await begun(service, path)
    await wrote(path, "sent by both")
    copy(path, tmp_path / "backup.db")
    async with online(path, service) as a:
        await settled(a)
        await a.execute("DELETE FROM notes WHERE id = 'sent by both'", durable="server")
    shutil.copy(tmp_path / "backup.db", path)
    async with online(path, service) as a:
        await settled(a)
        await agree(connection, a)
        assert [id for id, _ in await journal(connection)] == ["first", "sent by both", "sent by both"]
        assert await rows(a, "SELECT id FROM notes") == [("first",)]


async def test_what_both_had_written_and_postgres_refuses_is_refused_to_both(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await begun(service, tmp_path / "a.db")
    async with open_db(tmp_path / "a.db", "ws://localhost:1") as a:
        await a.execute(INSERT, ("bad", "bad"))
    copy(tmp_path / "a.db", tmp_path / "b.db")
    for name in ("a.db", "b.db"):
        async with online(tmp_path / name, service) as db:
            await settled(db)
            assert [rejection.sqlstate for rejection in await db.rejections()] == ["23514"]
            assert await rows(db, "SELECT id FROM notes") == [("first",)]
    assert await connection.fetchval("SELECT count(*) FROM electric.rejections") == 1


async def test_a_power_failure_that_takes_the_last_commits_is_a_restored_file(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """The file is that of a moment ago, of the same opening: a snapshot of a running device stands for it."""
    path, snapshot = tmp_path / "a.db", tmp_path / "snapshot.db"
    await begun(service, path)
    async with online(path, service) as a:
        await settled(a)
        with sqlite3.connect(path) as source, sqlite3.connect(snapshot) as target:
            source.backup(target)
        await a.execute(INSERT, ("lost here", "kept there"), durable="server")
    path.unlink()
    snapshot.rename(path)
    await wrote(path, "new")
    async with online(path, service) as a:
        await settled(a)
        await agree(connection, a)
        assert sorted(id for id, _ in await journal(connection)) == ["first", "lost here", "new"]


async def test_an_original_that_goes_on_while_a_snapshot_of_it_is_opened_gives_way(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    path, snapshot = tmp_path / "a.db", tmp_path / "snapshot.db"
    client_id = await begun(service, path)
    async with online(path, service) as a:
        await settled(a)
        await a.disconnect()
        await a.execute(INSERT, ("common", "common"))
        with sqlite3.connect(path) as source, sqlite3.connect(snapshot) as target:
            source.backup(target)
        await a.execute(INSERT, ("of the original", ""))
        async with online(snapshot, service) as b:
            await b.execute(INSERT, ("of the snapshot", ""), durable="server")
            assert b.client_id == client_id
            await a.connect()
            await settled(a)
            assert a.client_id != client_id
            await agree(connection, a, b)
            expected = ["common", "first", "of the original", "of the snapshot"]
            assert sorted(id for id, _ in await journal(connection)) == expected


@pytest.mark.parametrize("original_stays", [False, True], ids=["the original goes", "the original stays"])
@pytest.mark.parametrize(
    ("statement", "notes", "comments"),
    [
        ("INSERT INTO comments VALUES ('c', 'common')", ["common", "first"], ["c"]),
        ("DELETE FROM notes WHERE id = 'common'", ["first"], []),
    ],
    ids=["refers to it", "deletes it"],
)
async def test_what_a_copy_wrote_to_what_both_have_in_common_is_carried_out_after_it(
    service: Service,
    connection: asyncpg.Connection,
    database: str,
    tmp_path: Path,
    statement: str,
    notes: list[str],
    comments: list[str],
    original_stays: bool,
) -> None:
    """What they have in common waits for a row that an application has locked, and goes under another id."""
    a_path, b_path = tmp_path / "a.db", tmp_path / "b.db"
    async with device(a_path, service, "notes", "comments") as a:
        await a.execute(INSERT, ("first", "first"))
        await confirmed(a)
        client_id = a.client_id
    async with open_db(a_path, "ws://localhost:1") as a:
        await a.execute("UPDATE notes SET title = 'changed' WHERE id = 'first'")
        await a.execute(INSERT, ("common", "common"))
    copy(a_path, b_path)
    async with open_db(b_path, "ws://localhost:1") as b:
        await b.execute(statement)
    async with AsyncExitStack() as stack:
        locking = await asyncpg.connect(database)
        stack.push_async_callback(locking.close)
        lock = locking.transaction()
        await lock.start()
        await locking.execute("SELECT FROM notes WHERE id = 'first' FOR UPDATE")
        async with online(a_path, service) as a:
            await connected(a)
        devices = [await stack.enter_async_context(online(a_path, service))] if original_stays else []
        async with online(b_path, service) as b:
            await connected(b)
            await asyncio.sleep(0.5)  # it sends what it has, and is lost before it has heard of any of it
        b = await stack.enter_async_context(online(b_path, service))
        await connected(b)
        await asyncio.sleep(0.5)  # it sends all of it again, which is answered by nobody while the row is locked
        await lock.rollback()
        devices.append(b)
        for db in devices:  # all of them, before what Postgres has is looked at: the copy's own comes last
            await settled(db)
        for db in devices:
            await agree(connection, db)
            assert await db.rejections() == []
        assert b.client_id != client_id
        assert [id for (id,) in await rows(b, "SELECT id FROM notes ORDER BY id")] == notes
        assert [id for (id,) in await rows(b, "SELECT id FROM comments")] == comments


async def test_a_copy_of_a_copy_is_told_apart_too(
    service: Service, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.db" for name in "abc"]
    await begun(service, paths[0])
    await wrote(paths[0], "common to all")
    copy(paths[0], paths[1])
    await wrote(paths[1], "common to b and c")
    copy(paths[1], paths[2])
    for path in paths:
        await wrote(path, f"of {path.name}")
    seen = set()
    for path in (*paths, *reversed(paths)):
        async with online(path, service) as db:
            await settled(db)
            await until(db, "EXISTS (SELECT 1 FROM notes WHERE id = 'common to all')")
            seen.add(db.client_id)
    assert len(seen) == 3
    written = [id for id, _ in await journal(connection)]
    expected = ["first", "common to all", "common to b and c", "of a.db", "of b.db", "of c.db"]
    assert sorted(written) == sorted(expected)
    async with online(paths[0], service) as a, online(paths[1], service) as b, online(paths[2], service) as c:
        await agree(connection, a, b, c)


async def test_a_device_that_is_opened_and_connected_often_stays_the_same(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    client_id = await begun(service, path)
    for number in range(4):
        for offline in range(number):
            assert await wrote(path, *(f"{number} {offline}" for _ in range(offline % 2))) == client_id
        async with online(path, service) as db:
            await settled(db)
            assert db.client_id == client_id
            await db.disconnect()
            await db.connect()
            await settled(db)
            assert db.client_id == client_id
