"""Every device transaction exactly once, whatever dies, wherever it was.

Each transaction inserts a journal row; a trigger of the application counts its executions. At the end every journal id
is there and was executed once, and every device was answered once for each of its transactions, in order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.integration.write_scene import scene

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.write import RowOperation, Write
from syncline.actors.postgres.writer import WriteLoop, Written
from syncline.cluster.clock import SystemClock
from syncline.cluster.ref import Ref

SCHEMA = """
CREATE TABLE journal (id text PRIMARY KEY, device text NOT NULL);
CREATE TABLE counters (id text PRIMARY KEY, value int NOT NULL);
CREATE TABLE executions (id text NOT NULL);
CREATE FUNCTION executed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO executions VALUES (NEW.id); RETURN NULL; END $$;
CREATE TRIGGER executed AFTER INSERT ON journal FOR EACH ROW EXECUTE FUNCTION executed();
INSERT INTO counters VALUES ('shared', 0);
"""
NOBODY = cast(Ref, object())


class Crowd:
    """Devices with a log each. Knows what was answered."""

    def __init__(self, relids: dict[str, int], devices: int, transactions: int) -> None:
        self.writes = [
            self._write(relids, f"device-{device}", number)
            for number in range(1, transactions + 1)
            for device in range(devices)
        ]
        self.answers: list[tuple[str, Written]] = []
        self.all_answered = asyncio.Event()
        self._more = asyncio.Event()

    @staticmethod
    def _write(relids: dict[str, int], device: str, number: int) -> Write:
        row = (f"{device}/{number}", device)
        counter = ("shared", str(number))
        return Write(
            device,
            number,
            1_000 + number,
            (
                RowOperation(relids["journal"], "I", row),
                RowOperation(relids["counters"], "U", counter, (False, True), (f"{device}@{999 + number}",)),
            ),
            NOBODY,
        )

    def hear(self, write: Write, written: Written) -> None:
        self.answers.append((write.client_id, written))
        self._more.set()
        if len(self.answers) == len(self.writes):
            self.all_answered.set()

    async def answered(self, count: int) -> None:
        while len(self.answers) < count and not self.all_answered.is_set():
            self._more.clear()
            await self._more.wait()


@asynccontextmanager
async def writing(dsn: str, crowd: Crowd) -> AsyncIterator[None]:
    loop = WriteLoop(dsn, SystemClock(), crowd.hear, "writer-under-test")
    for write in crowd.writes:
        loop.add(write)
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def check(dsn: str, crowd: Crowd) -> None:
    connection = await asyncpg.connect(dsn)
    executed = Counter(row["id"] for row in await connection.fetch("SELECT id FROM executions"))
    journal = {row["id"] for row in await connection.fetch("SELECT id FROM journal")}
    await connection.close()
    expected = {f"{write.client_id}/{write.lsn}" for write in crowd.writes}
    assert journal == expected
    assert executed == Counter(expected)
    heard: dict[str, list[int]] = {}
    for device, written in crowd.answers:
        assert written.status in ("applied", "duplicate")
        assert written.position > 0
        heard.setdefault(device, []).append(written.lsn)
    assert all(lsns == sorted(set(lsns)) for lsns in heard.values())
    assert sum(map(len, heard.values())) == len(crowd.writes)


async def test_nothing_dies(database: str) -> None:
    async with scene(database, SCHEMA, "journal", "counters") as s:
        crowd = Crowd(s.relids, devices=20, transactions=20)
        async with writing(database, crowd):
            await crowd.all_answered.wait()
        await check(database, crowd)
        assert {written.status for _, written in crowd.answers} == {"applied"}


async def test_the_backend_is_killed_again_and_again_in_the_middle_of_a_batch(database: str) -> None:
    async with scene(database, SCHEMA, "journal", "counters") as s:
        crowd = Crowd(s.relids, devices=50, transactions=60)

        async def kill() -> None:
            for executed in range(130, 3_000, 170):  # a batch has 500: most of these are inside one
                while await s.connection.fetchval("SELECT count(*) FROM journal") < executed:
                    pass
                await s.connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name = 'writer-under-test'"
                )

        async with writing(database, crowd):
            killer = asyncio.create_task(kill())
            await crowd.all_answered.wait()
            await killer
        await check(database, crowd)
        assert "duplicate" in {written.status for _, written in crowd.answers}


async def test_postgres_crashes_in_the_middle_of_a_batch(postgres: EmbeddedPostgres, database: str) -> None:
    async with scene(database, SCHEMA, "journal", "counters") as s:
        crowd = Crowd(s.relids, devices=50, transactions=60)
    async with writing(database, crowd):
        for crash in range(1, 3):
            await crowd.answered(crash * 600)
            await asyncio.to_thread(postgres.stop, "immediate")
            await asyncio.to_thread(postgres.start)
        await crowd.all_answered.wait()
    await check(database, crowd)


class Cutter:
    """A TCP proxy whose connections are cut after ``next_limit()`` bytes in either direction.

    The server's end is left to find out for itself: its backend goes on working, as behind a dead network.
    """

    def __init__(self, dsn: str, next_limit: Callable[[], int]) -> None:
        self._url = urlsplit(dsn)
        self._next_limit = next_limit
        self._servers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield self._url._replace(netloc=f"{self._url.username}:{self._url.password}@127.0.0.1:{port}").geturl()
        finally:
            server.close()
            for writer in self._servers:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(self._url.hostname, self._url.port)
        self._servers.append(upstream)
        left = self._next_limit()

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            while left > 0 and (data := await source.read(min(left, 65536))):
                left -= len(data)
                sink.write(data)
                await sink.drain()

        directions: list[Awaitable[None]] = [
            asyncio.ensure_future(pass_on(reader, upstream)),
            asyncio.ensure_future(pass_on(upstream_reader, writer)),
        ]
        with suppress(OSError):
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        for direction in directions:
            cast("asyncio.Future[None]", direction).cancel()
        writer.transport.abort()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_network_is_cut_at_any_byte_while_the_lost_backend_works_on(database: str, seed: int) -> None:
    chance = random.Random(seed)
    cuts = iter([chance.randrange(2_000, 200_000) for _ in range(25)])
    async with scene(database, SCHEMA, "journal", "counters") as s:
        crowd = Crowd(s.relids, devices=30, transactions=40)
        async with Cutter(database, lambda: next(cuts, 1 << 40)).listening() as dsn, writing(dsn, crowd):
            await crowd.all_answered.wait()
        await check(database, crowd)
