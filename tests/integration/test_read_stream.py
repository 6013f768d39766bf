"""The stream against a real Postgres: what it carries, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
from tests.patience import PATIENCE_S

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import Commit, InsertMessage
from syncline.actors.postgres.slot import slot_state
from syncline.actors.postgres.stream import ReplicationStream, StreamError
from syncline.actors.postgres.streamed import StreamChange, TransactionChunk, Truncated
from syncline.actors.postgres.transaction import TransactionAssembler
from syncline.proto.values import Delete, Insert, Update

pytestmark = pytest.mark.every_major

PUBLICATION = "p"


class Scene:
    """A database with a publication of all its tables and a slot, and a connection for the application."""

    def __init__(self, dsn: str, app: asyncpg.Connection, slot: str) -> None:
        self.dsn = dsn
        self.app = app
        self.slot = slot

    def stream(self, dsn: str = "", **options: float) -> ReplicationStream:
        return ReplicationStream(dsn or self.dsn, self.slot, PUBLICATION, **{"status_interval_s": 0.1, **options})

    async def confirmed(self) -> Lsn:
        state = await slot_state(self.app, self.slot)
        assert state is not None
        return state.done

    async def wal_end(self) -> Lsn:
        return Lsn.parse(await self.app.fetchval("SELECT pg_current_wal_insert_lsn()::text"))

    async def reconnect(self) -> None:
        self.app = await asyncpg.connect(self.dsn)


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    app = await asyncpg.connect(database)
    slot = await app.fetchval("SELECT 'slot_' || current_database()")
    await app.execute("""
        CREATE TABLE items (id int PRIMARY KEY, v text);
        ALTER TABLE items REPLICA IDENTITY FULL;
        CREATE PUBLICATION p FOR ALL TABLES;
    """)
    await app.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    scene = Scene(database, app, slot)
    yield scene
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await scene.app.close()


async def chunks_of(stream: ReplicationStream, *, confirm: bool = True) -> AsyncIterator[TransactionChunk]:
    assembler = TransactionAssembler(lambda _, names: (0,))
    async for message in stream:
        for chunk in assembler.feed(message):
            yield chunk
            if confirm and chunk.last:
                stream.confirm(chunk.head.lsn)


async def changes_until(stream: ReplicationStream, count: int) -> list[StreamChange]:
    """The next ``count`` changes."""
    found: list[StreamChange] = []
    async with asyncio.timeout(PATIENCE_S):
        async for chunk in chunks_of(stream):
            found.extend(chunk.changes)
            if len(found) >= count:
                return found
    raise AssertionError("the stream ended")


async def until(met: Callable[[], object]) -> None:
    """Waits for a condition that other tasks bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while not met():  # noqa: ASYNC110 - the condition is anybody's
            await asyncio.sleep(0.01)


class Proxy:
    """Passes bytes between a client and the server, until told to cut, or to fall silent with its sockets open."""

    def __init__(self, dsn: str) -> None:
        self._server = urlsplit(dsn)
        self._links: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.cut_after_bytes = 0
        self.connections = 0

    async def start(self) -> str:
        """The DSN that leads through the proxy."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        user, _, _ = self._server.netloc.rpartition("@")
        return urlunsplit(self._server._replace(netloc=f"{user}@127.0.0.1:{port}"))

    def silence(self) -> None:
        self._open.clear()

    async def stop(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            link.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open = asyncio.Event()
        self._open.set()
        there = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._links += [writer, there[1]]
        for source, target, counted in ((reader, there[1], False), (there[0], writer, True)):
            task = asyncio.create_task(self._pump(source, target, self._open, counted=counted))
            self._tasks.add(task)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event, *, counted: bool
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await source.read(4096):
                await gate.wait()
                target.write(data)
                await target.drain()
                passed += len(data)
                if counted and self.cut_after_bytes and passed > self.cut_after_bytes:
                    break
        target.close()


@pytest.fixture
async def proxy(scene: Scene) -> AsyncIterator[Proxy]:
    proxy = Proxy(scene.dsn)
    yield proxy
    await proxy.stop()


# --- what it carries --------------------------------------------------------------------------------------------------


async def test_inserts_updates_deletes_and_truncates_arrive(scene: Scene) -> None:
    async with scene.stream() as stream:
        await scene.app.execute("INSERT INTO items VALUES (1, 'a')")
        await scene.app.execute("UPDATE items SET v = 'b'")
        await scene.app.execute("UPDATE items SET id = 2")
        await scene.app.execute("DELETE FROM items")
        await scene.app.execute("TRUNCATE items")
        kinds = [type(change) for change in await changes_until(stream, 6)]
    assert kinds == [Insert, Update, Delete, Insert, Delete, Truncated]


async def test_a_large_value_that_an_update_left_alone_is_whole_on_both_images(scene: Scene) -> None:
    large = "x" * 500_000
    await scene.app.execute("ALTER TABLE items ALTER v SET STORAGE EXTERNAL")
    await scene.app.execute("ALTER TABLE items ADD COLUMN n int")
    await scene.app.execute("INSERT INTO items VALUES (1, $1, 1)", large)
    await scene.app.execute("UPDATE items SET n = 2")
    async with scene.stream() as stream:
        _, update = await changes_until(stream, 2)
    assert isinstance(update, Update)
    assert update.row == (b"1", large.encode(), b"2")
    assert update.old_row == (b"1", large.encode(), b"1")


async def test_a_definition_that_changes_takes_effect_at_its_place(scene: Scene) -> None:
    await scene.app.execute("INSERT INTO items VALUES (1, 'a')")
    await scene.app.execute("ALTER TABLE items ADD COLUMN n int DEFAULT 7")
    await scene.app.execute("INSERT INTO items VALUES (2, 'b')")
    async with scene.stream() as stream:
        rows = [change.row for change in await changes_until(stream, 2) if isinstance(change, Insert)]
    assert rows == [(b"1", b"a"), (b"2", b"b", b"7")]


async def test_a_transaction_of_200_000_rows_passes_in_little_memory(scene: Scene) -> None:
    await scene.app.execute("INSERT INTO items SELECT i, repeat('x', 200) FROM generate_series(1, 200000) i")
    process = psutil.Process()
    rows, grown, last = 0, 0, False
    async with scene.stream() as stream:
        before = process.memory_info().rss
        async for chunk in chunks_of(stream):
            assert len(chunk.changes) <= 5_000
            rows += len(chunk.changes)
            grown = max(grown, process.memory_info().rss - before)
            last = chunk.last
            if last and rows:
                break
    assert rows == 200_000
    assert grown < 64 << 20  # as objects the rows would take some 100 MB, as bytes 45


# --- what it tells the server -----------------------------------------------------------------------------------------


async def test_an_idle_database_advances_its_slot(scene: Scene) -> None:
    await scene.app.execute("CREATE TABLE unpublished (n int); ALTER PUBLICATION p OWNER TO CURRENT_USER")
    await scene.app.execute("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE items")
    async with scene.stream() as stream:

        async def follow() -> None:
            while not stream.closed:
                await stream.receive()
                stream.confirm(stream.idle_lsn)

        following = asyncio.create_task(follow())
        await scene.app.execute("INSERT INTO unpublished SELECT generate_series(1, 1000)")
        target = await scene.wal_end()
        async with asyncio.timeout(PATIENCE_S):
            while await scene.confirmed() < target - 1:  # noqa: ASYNC110 - Postgres has no event for it
                await asyncio.sleep(0.02)
    await following


async def test_what_is_not_confirmed_is_sent_again_and_what_is_confirmed_is_not(scene: Scene) -> None:
    await scene.app.execute("INSERT INTO items VALUES (1, 'a')")
    await scene.app.execute("INSERT INTO items VALUES (2, 'b')")
    async with scene.stream() as stream:
        commits: list[Lsn] = []
        while len(commits) < 2:
            commits += [message.commit_lsn for message in await stream.receive() if isinstance(message, Commit)]
        stream.confirm(commits[0])
    async with scene.stream() as stream:
        (change, *_) = await changes_until(stream, 1)
    assert isinstance(change, Insert)
    assert change.row == (b"2", b"b")


async def test_idle_positions_stay_below_what_is_half_read(scene: Scene) -> None:
    async with scene.stream() as stream:
        await scene.app.execute("INSERT INTO items SELECT i, 'x' FROM generate_series(1, 50000) i")
        async for message in stream:
            if isinstance(message, InsertMessage):
                break
        seen = 1
        async for message in stream:
            seen += isinstance(message, InsertMessage)
            if isinstance(message, Commit):
                assert stream.idle_lsn >= message.commit_lsn
                break
            if seen == 100:
                held = stream.idle_lsn
        assert held < message.commit_lsn
    assert seen == 50_000


async def test_a_slow_consumer_is_not_taken_for_a_dead_one(scene: Scene) -> None:
    await scene.app.execute("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, 30000) i")
    async with scene.stream(scene.dsn + "?wal_sender_timeout=600") as stream:
        rows = sum(isinstance(message, InsertMessage) for message in await stream.receive())
        await asyncio.sleep(2)  # the consumer's own slowness, three times what the server tolerates without a status
        while rows < 30_000:
            rows += sum(isinstance(message, InsertMessage) for message in await stream.receive())
        assert stream.connects == 1


# --- what it survives -------------------------------------------------------------------------------------------------


async def test_a_crash_of_postgres_loses_and_repeats_nothing(scene: Scene, postgres: EmbeddedPostgres) -> None:
    seen: list[bytes | None] = []
    async with scene.stream() as stream:

        async def consume() -> None:
            async for chunk in chunks_of(stream, confirm=False):
                seen.extend(change.row[0] for change in chunk.changes if isinstance(change, Insert))

        consuming = asyncio.create_task(consume())
        await scene.app.execute("INSERT INTO items SELECT i, 'x' FROM generate_series(1, 100) i")
        await until(lambda: len(seen) == 100)
        await asyncio.to_thread(postgres.stop, "immediate")
        await until(lambda: stream.last_error)
        await asyncio.to_thread(postgres.start)
        await scene.reconnect()
        await scene.app.execute("INSERT INTO items SELECT i, 'x' FROM generate_series(101, 200) i")
        await until(lambda: len(seen) >= 200)
        assert stream.connects >= 2
        assert stream.last_error is None
    await consuming
    assert seen == [b"%d" % i for i in range(1, 201)]


async def test_a_connection_cut_inside_a_transaction_goes_on_where_it_was(scene: Scene, proxy: Proxy) -> None:
    await scene.app.execute("INSERT INTO items SELECT i, repeat('x', 50) FROM generate_series(1, 20000) i")
    proxy.cut_after_bytes = 600_000
    async with scene.stream(await proxy.start()) as stream:
        seen: list[bytes | None] = []
        commits = 0
        async with asyncio.timeout(PATIENCE_S):
            async for message in stream:
                if isinstance(message, InsertMessage):
                    seen.append(message.row[0])  # type: ignore[arg-type]
                elif isinstance(message, Commit):
                    commits += 1
                    break
                if proxy.connections == 3:
                    proxy.cut_after_bytes = 0
    assert proxy.connections >= 3
    assert seen == [b"%d" % i for i in range(1, 20_001)]


async def test_a_peer_that_falls_silent_is_given_up(scene: Scene, proxy: Proxy) -> None:
    async with scene.stream(await proxy.start(), silence_s=0.6) as stream:
        await scene.app.execute("INSERT INTO items VALUES (1, 'a')")
        await changes_until(stream, 1)
        proxy.silence()
        await scene.app.execute("INSERT INTO items VALUES (2, 'b')")
        (change, *_) = await changes_until(stream, 1)
        assert isinstance(change, Insert)
        assert change.row == (b"2", b"b")
        assert proxy.connections >= 2


async def test_a_slot_that_somebody_holds_is_waited_for(scene: Scene) -> None:
    holder = scene.stream()
    await scene.app.execute("INSERT INTO items VALUES (1, 'a')")
    await changes_until(holder, 1)
    async with scene.stream() as stream:
        waiting = asyncio.create_task(changes_until(stream, 1))
        await until(lambda: stream.last_error)
        assert "another Syncline serves this database" in str(stream.advice)
        await holder.aclose()
        await scene.app.execute("INSERT INTO items VALUES (2, 'b')")
        assert await waiting


async def test_a_missing_slot_is_raised_with_advice(scene: Scene) -> None:
    async with ReplicationStream(scene.dsn, "no_such_slot", PUBLICATION) as stream:
        with pytest.raises(StreamError, match="start over from a new one"):
            await stream.receive()


async def test_a_wrong_password_is_raised_with_advice(scene: Scene) -> None:
    parts = urlsplit(scene.dsn)
    dsn = urlunsplit(parts._replace(netloc=f"postgres:wrong@{parts.hostname}:{parts.port}"))
    async with ReplicationStream(dsn, scene.slot, PUBLICATION) as stream:
        with pytest.raises(StreamError, match=r"28P01.*check user, password"):
            await stream.receive()


async def test_closing_ends_a_consumer_that_waits(scene: Scene) -> None:
    stream = scene.stream()
    waiting = asyncio.create_task(changes_until(stream, 1))
    await until(lambda: stream.connected)
    await stream.aclose()
    with pytest.raises(AssertionError, match="the stream ended"):
        await waiting
