"""Links to Postgres that are dead, and nobody is told: the service finds out, and goes on over new ones.

The proxy takes what is sent and passes none of it on, so TCP has nothing to complain of. What else would end the wait
is set to more than the tests' patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest
import uvloop
from tests.e2e.proxy import Proxy
from tests.integration.roles import set_another_role
from tests.integration.test_write_writer import HELD, NOBODY, Ear
from tests.integration.write_scene import scene
from tests.patience import PATIENCE_S, until

from syncline.actors.postgres.database import connect_pool
from syncline.actors.postgres.lookout import Lookout
from syncline.actors.postgres.pgoutput import InsertMessage
from syncline.actors.postgres.session import connect
from syncline.actors.postgres.stream import ReplicationStream
from syncline.actors.postgres.write import RowOperation, Write
from syncline.actors.postgres.writer import WriteLoop
from syncline.cluster.clock import SystemClock

pytestmark = [
    pytest.mark.every_major,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture"),  # see test_edge_websocket
]

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL)"
NEVER_S = 10 * PATIENCE_S
LOOKS = 3
PIDS = """
SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'syncline-writer' AND datname = current_database()
"""
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop of the service, whose transports are of its own kind."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    port = urlsplit(database).port
    assert port is not None
    proxy = Proxy(port)
    await proxy.start()
    yield proxy
    await proxy.stop()


class Writing:
    """The writer behind ``proxy``, and what it has answered."""

    def __init__(self, dsn: str, proxy: Proxy, relid: int) -> None:
        self.ear = Ear()
        self._relid = relid
        self._loop = WriteLoop(proxy.leads_to(dsn), SystemClock(), self.ear, statement_timeout_s=NEVER_S)
        self._task = asyncio.create_task(self._loop.run())

    def add(self, lsn: int, name: str = "n") -> None:
        self._loop.add(Write("a", lsn, 1_000 + lsn, (RowOperation(self._relid, "I", (str(lsn), name)),), NOBODY))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def fails(asking: Awaitable[object]) -> None:
    with pytest.raises(LOST):
        async with asyncio.timeout(PATIENCE_S):
            await asking


def dead_at_once(proxy: Proxy) -> None:
    """What is there is dead, new connections pass."""
    proxy.forsake()


def closed_there(proxy: Proxy) -> None:
    proxy.halve(device=False)


def black_hole(proxy: Proxy) -> None:
    """New connections wait, those of the first look too."""
    proxy.swallow()
    asyncio.get_running_loop().call_later(1.0, proxy.heal)


@pytest.mark.parametrize("fault", [dead_at_once, closed_there, black_hole])
async def test_the_writer_sends_again_what_a_dead_link_has_swallowed(
    database: str, proxy: Proxy, fault: Callable[[Proxy], None]
) -> None:
    async with scene(database, SCHEMA, "items") as s:
        writing = Writing(database, proxy, s.relids["items"])
        writing.add(1)
        await writing.ear.until(1)
        fault(proxy)
        writing.add(2)
        writing.add(3)
        assert await writing.ear.until(3) == [("a", lsn, "applied") for lsn in (1, 2, 3)]
        await writing.stop()
        assert await s.rows("items") == [(1, "n"), (2, "n"), (3, "n")]


async def test_the_writer_asks_again_where_the_answer_was_swallowed(database: str, proxy: Proxy) -> None:
    async with scene(database, SCHEMA + ";" + HELD, "items") as s:
        writing = Writing(database, proxy, s.relids["items"])
        writing.add(1, "held")
        at_work = (
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'items'::regclass AND mode = 'RowExclusiveLock')"
        )

        async def works() -> bool:
            return bool(await s.connection.fetchval(at_work))

        await until(works)
        proxy.forsake()
        await s.connection.execute("INSERT INTO released VALUES (true)")
        assert await writing.ear.until(1) == [("a", 1, "duplicate")]
        await writing.stop()
        assert await s.rows("items") == [(1, "held")]


async def test_a_statement_that_postgres_is_at_work_on_is_waited_for(database: str, proxy: Proxy) -> None:
    async with scene(database, SCHEMA + ";" + HELD, "items") as s:
        writing = Writing(database, proxy, s.relids["items"])
        writing.add(1, "held")

        async def looked() -> bool:
            return proxy.connections > LOOKS

        await until(looked)
        pids = await s.connection.fetchval(PIDS)
        await s.connection.execute("INSERT INTO released VALUES (true)")
        assert await writing.ear.until(1) == [("a", 1, "applied")]
        assert await s.connection.fetchval(PIDS) == pids
        await writing.stop()


async def test_a_session_is_known_for_ours_where_it_has_the_rights_of_another_role(database: str, proxy: Proxy) -> None:
    async with scene(database, SCHEMA) as s:
        await set_another_role(database)
        await s.connection.execute("SELECT pg_advisory_lock(1)")
        pool = await connect_pool(proxy.leads_to(database), "test")
        asking = asyncio.create_task(pool.fetchval("SELECT current_user FROM pg_advisory_lock(1)"))

        async def looked() -> bool:
            return proxy.connections > LOOKS

        await until(looked)
        await s.connection.execute("SELECT pg_advisory_unlock(1)")
        assert await asking == await s.connection.fetchval("SELECT current_database()")
        pool.terminate()


async def test_a_session_is_ended_where_it_has_the_rights_of_another_role(database: str) -> None:
    await set_another_role(database)
    session = await connect(database, {})
    assert await Lookout(database).ends([session.backend])
    await fails(session.fetchval("SELECT 1"))


async def test_a_query_of_a_pool_fails_when_its_link_is_dead_and_the_next_has_a_new_one(
    database: str, proxy: Proxy
) -> None:
    pool = await connect_pool(proxy.leads_to(database), "test")
    several = [await pool.acquire() for _ in range(3)]
    for connection in several:
        await pool.release(connection)
    proxy.forsake()
    await fails(pool.fetchval("SELECT 1"))
    for _ in range(3):  # the idle ones are not met in turns
        assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_a_query_that_was_given_up_on_a_dead_link_frees_its_place_in_the_pool(
    database: str, proxy: Proxy
) -> None:
    pool = await connect_pool(proxy.leads_to(database), "test", 1)
    assert await pool.fetchval("SELECT 1") == 1
    proxy.forsake()
    asking = asyncio.create_task(pool.fetchval("SELECT 1"))
    await asyncio.sleep(0)  # it is on its way
    asking.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(asking, return_exceptions=True)
        assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_what_a_session_behind_a_dead_link_has_locked_is_free_when_whoever_waited_hears_of_it(
    database: str, proxy: Proxy
) -> None:
    async with scene(database, SCHEMA, "items") as s:
        pool = await connect_pool(proxy.leads_to(database), "test")
        connection = await pool.acquire()
        await connection.execute("BEGIN; LOCK TABLE items")
        proxy.forsake()
        await fails(connection.execute("COMMIT"))
        await s.connection.execute("BEGIN; LOCK TABLE items NOWAIT; COMMIT")
        pool.terminate()


@pytest.mark.parametrize("knows", ["our end", "both ends"])
async def test_what_a_lost_session_has_locked_is_free_also_where_postgres_does_not_hear_of_the_loss(
    database: str, proxy: Proxy, knows: str
) -> None:
    async with scene(database, SCHEMA, "items") as s:
        pool = await connect_pool(proxy.leads_to(database), "test")
        connection = await pool.acquire()
        await connection.execute("BEGIN; LOCK TABLE items")
        if knows == "our end":
            proxy.halve(device=True)
        else:
            proxy.cut()
        await fails(connection.execute("COMMIT"))
        async with asyncio.timeout(PATIENCE_S):
            await s.connection.execute("BEGIN; LOCK TABLE items; COMMIT")
        pool.terminate()


async def test_the_writer_does_not_wait_for_a_session_that_it_has_lost_and_postgres_works_on(
    database: str, proxy: Proxy
) -> None:
    async with scene(database, SCHEMA + ";" + HELD, "items") as s:
        writing = Writing(database, proxy, s.relids["items"])
        writing.add(1, "held")
        working = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"

        async def works() -> bool:
            return bool(await s.connection.fetchval(working))

        await until(works)
        (lost,) = await s.connection.fetchval(PIDS)
        proxy.halve(device=True)

        async def works_anew() -> bool:
            return lost not in (await s.connection.fetchval(PIDS) or ()) and await works()

        await until(works_anew)
        await s.connection.execute("INSERT INTO released VALUES (true)")
        assert await writing.ear.until(1) == [("a", 1, "applied")]
        await writing.stop()


async def test_a_table_is_read_at_the_pace_of_its_reader_and_a_dead_link_ends_it(
    database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.session.QUIET_S", 0.05)
    pool = await connect_pool(proxy.leads_to(database), "test")
    connection = await pool.acquire()
    taken = 0

    async def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        if taken < 200_000:
            await asyncio.sleep(0.2)  # the reader's slowness, four times what an answer may take unasked

    await connection.copy_from_query("SELECT repeat('x', 99) FROM generate_series(1, 10000)", output=take)
    assert taken == 1_000_000

    async def take_none(data: bytes) -> None:
        proxy.forsake()

    await fails(connection.copy_from_query("SELECT repeat('x', 99) FROM generate_series(1, 1000000)", output=take_none))
    pool.terminate()


@pytest.mark.parametrize("rights", ["its own", "of another role"])
async def test_the_stream_goes_on_when_its_link_is_dead(
    database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, rights: str
) -> None:
    monkeypatch.setattr("syncline.actors.postgres.stream.WAL_SENDER_TIMEOUT_MS", int(NEVER_S * 1000))
    async with scene(database, SCHEMA, "items") as s:
        if rights == "of another role":
            await set_another_role(database)
        await s.connection.execute("CREATE PUBLICATION p FOR TABLE items")
        slot = await s.connection.fetchval("SELECT 'slot_' || current_database()")
        await s.connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
        async with ReplicationStream(proxy.leads_to(database), slot, "p", silence_s=NEVER_S) as stream:

            async def next_id() -> bytes | None:
                async with asyncio.timeout(PATIENCE_S):
                    async for message in stream:
                        if isinstance(message, InsertMessage):
                            return message.row[0]  # type: ignore[return-value]
                raise AssertionError("the stream ended")

            await s.connection.execute("INSERT INTO items VALUES (1, 'n')")
            assert await next_id() == b"1"
            proxy.forsake()
            await s.connection.execute("INSERT INTO items VALUES (2, 'n')")
            assert await next_id() == b"2"
            assert stream.connects == 2
