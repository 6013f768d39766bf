"""The Rereader: shapes whose tables have changed otherwise than the stream says are read anew.

That is so where a partition has been attached with its rows, or detached, dropped or truncated alone, and where the
replica identity was taken away from a table. Postgres is asked for it (``sql/reread.sql``), and each shard gives up the
shapes that have such a table and starts again; devices come back, and are sent what differs.

Before that the slot has to have passed the place at which it was noticed. A shape that is read anew takes over what the
stream tells of its table while it is read, and after that: a row that was written to a partition shortly before it went
would come back with a stream that is behind, or that starts again before that place, and nothing would take it away.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Actor, ActorDown, CallTimeout

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
# All devices lose their connection for a moment: many partitions may come and go at a time.
REREAD_EVERY_S: Final = 15.0
GIVE_UP_TIMEOUT_S: Final = 60.0
PASSED_EVERY_S: Final = 0.1
"""How often the slot is asked how far it is: it tells nobody."""

LOOK: Final = "SELECT electric.look_for_stale()"
STALE: Final = (
    "SELECT relid::int8 AS relid, relid::regclass::text AS name, stale FROM electric.tables WHERE stale <= now()"
)
HERE: Final = "SELECT pg_current_wal_lsn()::text"
PASSED: Final = """
SELECT coalesce(bool_and(s.confirmed_flush_lsn >= $1::text::pg_lsn), false)
FROM electric.owner o JOIN pg_replication_slots s ON s.slot_name = o.slot
WHERE s.active AND s.database = current_database()
"""
DONE: Final = "UPDATE electric.tables SET stale = NULL WHERE relid = $1::int8::oid AND stale = $2"


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Call to a shard. Shapes with one of these tables are to be read anew, if there are any; then it starts again.
    Answer: how many there are."""

    relation_ids: frozenset[int]


class _Look:
    """It is time."""


class Rereader(Actor):
    """Looks by itself. A Postgres that is away, or a shard, is tried again later."""

    def __init__(self, pool: asyncpg.Pool, shards: Shards) -> None:
        self._pool = pool
        self._shards = shards

    async def init(self) -> None:
        self.send_after(LOOK_EVERY_S, _Look())

    async def handle_info(self, message: object) -> None:
        if isinstance(message, _Look):
            self.background(self._look())

    async def _look(self) -> None:
        next_s = LOOK_EVERY_S
        try:
            if await self._pool.fetchval(LOOK) and await self._reread():
                next_s = REREAD_EVERY_S
        except (*AWAY, ActorDown, CallTimeout) as error:
            log.warning("tables that have changed besides the stream could not be looked for, again soon: %s", error)
        self.send_after(next_s, _Look())

    async def _reread(self) -> int:
        """How many shapes are read anew."""
        stale = await self._pool.fetch(STALE)
        here = await self._pool.fetchval(HERE)
        while not await self._pool.fetchval(PASSED, here):  # noqa: ASYNC110 - the slot tells nobody
            await asyncio.sleep(PASSED_EVERY_S)
        message = GiveUp(frozenset(row["relid"] for row in stale))
        shapes = 0
        for shard in self._shards.refs.values():
            shapes += await shard.call(message, GIVE_UP_TIMEOUT_S)
        for row in stale:
            log.warning("%s has changed otherwise than the stream says: its shapes are read anew", row["name"])
            await self._pool.execute(DONE, row["relid"], row["stale"])
        return shapes
