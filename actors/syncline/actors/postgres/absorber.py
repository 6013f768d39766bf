"""The Absorber: what the stream says of direct SQL writes, into ``electric.direct``.

The router hands over the updates and deletes that no device made. They are written in batches, an entry a row; while
a batch is being written the next one gathers, and when that has become large, the stream waits. What an entry is, is
decided in ``absorption``.

The writer is told how far that has come: a device's write to a row that direct SQL wrote last waits for it. It is told
a position of the stream up to which all is absorbed, and a horizon, an xid before which every transaction is. That is
the oldest transaction that was running when some position was the newest of the WAL, once that position is absorbed.

A batch is on the disk before anybody is told: after a crash of Postgres nobody would write it again, and a device's
write to such a row would be taken for one of which all is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from syncline.actors.names import WRITER
from syncline.actors.postgres.absorption import Absorption, Entry, Place, Stretch
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.streamed import TransactionHead
from syncline.actors.postgres.writer import Absorbed
from syncline.cluster import Actor
from syncline.cluster.ref import ActorDown

log = logging.getLogger(__name__)

BATCH_ROWS = 2_000
# More are not gathered while a batch is being written: some 20 MB.
WAITING_ROWS_MAX = 20_000
RETRY_S = 0.5
# Between two looks at what is running, while something happens.
HORIZON_EVERY_S = 0.05
CONFIRM_EVERY_S = 0.5
SAMPLE_EVERY_S = 60.0

ABSORB = "SELECT electric.absorb($1::int8[]::oid[], $2, $3, $4, $5, $6, $7, $8)"
HERE = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, (pg_current_wal_insert_lsn() - '0/0')::int8"
SAMPLE = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS xid,
    floor(extract(epoch FROM statement_timestamp()) * 1000)::int8 - 1 AS ms
"""
KEEP_SAMPLE = """
INSERT INTO electric.xids AS x (xid, ms) VALUES ($1, $2)
ON CONFLICT (xid) DO UPDATE SET ms = greatest(x.ms, excluded.ms)
"""
# What is wrong with an entry itself, and will be the next time.
REFUSED = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)


@dataclass(frozen=True, slots=True)
class Absorb:
    """Cast or send. ``heads``: of the transactions that ended in this stretch of the stream, which goes to ``upto``.
    ``stretches``: what direct SQL did in it."""

    heads: tuple[TransactionHead, ...]
    stretches: tuple[Stretch, ...]
    upto: int


class Absorber(Actor):
    """``tables``: the synced tables as the catalogue has them now. ``confirm``: is told now and then up to where all is
    absorbed. ``start``: where the stream begins."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        tables: Callable[[], Mapping[int, TableInfo]],
        confirm: Callable[[int], None],
        start: int,
    ) -> None:
        self._pool = pool
        self._tables = tables
        self._confirm = confirm
        self._absorption = Absorption()
        self._commits: list[tuple[int, int]] = []  # (xid, ms), which the writer has not been told of
        self._upto = start
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        self._news.set()
        self._room.set()
        self._horizons: deque[tuple[int, str]] = deque()  # (position, xid): a horizon once that is absorbed
        self._horizon: str | None = None
        self._absorbed = start

    async def init(self) -> None:
        self.background(self._run())
        self.background(self._look())
        self.background(self._settle())
        self.background(self._sample())

    async def handle_cast(self, message: object) -> None:
        if not isinstance(message, Absorb):
            raise TypeError(f"the absorber does not understand {message!r}")
        self._commits += [(head.xid, head.commit_ms) for head in message.heads]
        tables = self._tables()
        for stretch in message.stretches:
            self._absorption.add(stretch, tables)
        self._upto = max(self._upto, message.upto)
        self._work.set()
        self._news.set()
        if len(self._absorption.entries) > WAITING_ROWS_MAX:
            self._room.clear()
            await self._room.wait()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            entries, upto, commits = self._absorption.take(), self._upto, self._commits
            self._commits = []
            self._room.set()
            places = sorted(entries)
            for start in range(0, len(places), BATCH_ROWS):
                await self._write({place: entries[place] for place in places[start : start + BATCH_ROWS]})
            self._absorbed = upto
            while self._horizons and self._horizons[0][0] <= upto:
                _, self._horizon = self._horizons.popleft()
            with suppress(ActorDown):  # one that starts again holds back what it does not know to be absorbed
                await self.context.registry.ref(WRITER).send(Absorbed(upto, self._horizon, tuple(commits)))

    async def _write(self, entries: Mapping[Place, Entry]) -> None:
        """Of entries that Postgres refuses the others are written. Such a row has a key that no index takes, and then
        devices cannot write it either: what they would be merged with misses nobody."""
        columns = columns_of(entries)
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await connection.execute("SET LOCAL synchronous_commit = local")
                    await connection.execute(ABSORB, *columns)
                return
            except REFUSED as error:
                if len(entries) == 1:
                    log.error("what direct SQL wrote to a row cannot be recorded, it is passed over: %s", error)
                    return
                for place, entry in entries.items():
                    await self._write({place: entry})
                return
            except AWAY as error:
                log.warning("what direct SQL wrote cannot be recorded, which devices' writes wait for: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _here(self) -> tuple[str, int]:
        """The oldest transaction that runs, and the newest position of the WAL."""
        while True:
            try:
                xid, lsn = await self._pool.fetchrow(HERE)
                return str(xid), int(lsn)
            except AWAY as error:
                log.warning("Postgres does not say where it is: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _look(self) -> None:
        """Looks for horizons to come, while something happens."""
        while True:
            await self._news.wait()
            self._news.clear()
            xid, lsn = await self._here()
            if xid != (self._horizons[-1][1] if self._horizons else self._horizon):
                self._horizons.append((lsn, xid))
            await asyncio.sleep(HORIZON_EVERY_S)

    async def _sample(self) -> None:
        """Notes how xids go with time: of rows that direct SQL has inserted it tells about when, also after a restart.
        Writes only when there have been transactions, apart from this one."""
        newest: asyncpg.Record | None = None
        while True:
            try:
                sample = await self._pool.fetchrow(SAMPLE)
                if newest is None or sample["xid"] != newest["xid"]:
                    both = (sample,) if newest is None else (newest, sample)
                    await self._pool.executemany(KEEP_SAMPLE, [(one["xid"], one["ms"]) for one in both])
                    sample = await self._pool.fetchrow(SAMPLE)
                newest = sample
            except AWAY as error:
                log.info("Postgres does not say how far its transactions are: %s", error)
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _settle(self) -> None:
        """Confirms what is absorbed."""
        confirmed = -1
        while True:
            if self._absorbed != confirmed:
                confirmed = self._absorbed
                self._confirm(confirmed)
            await asyncio.sleep(CONFIRM_EVERY_S)


def columns_of(entries: Mapping[Place, Entry]) -> tuple[list[object], ...]:
    """The arguments of ``electric.absorb``."""
    return (
        [relation_id for relation_id, _ in entries],
        [key for _, key in entries],
        [entry.lsn for entry in entries.values()],
        [entry.piece for entry in entries.values()],
        [entry.ms for entry in entries.values()],
        [_numbers(entry.column_ms) for entry in entries.values()],
        [_numbers(entry.column_lsn) for entry in entries.values()],
        [None if entry.row is None else _array(map(_quoted, entry.row)) for entry in entries.values()],
    )


def _numbers(numbers: Iterable[int | None]) -> str:
    return _array(None if number is None else str(number) for number in numbers)


def _array(elements: Iterable[str | None]) -> str:
    return "{" + ",".join("NULL" if element is None else element for element in elements) + "}"


def _quoted(text: str | None) -> str | None:
    if text is None:
        return None
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
