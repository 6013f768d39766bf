"""Deleted rows are not kept for ever.

A row that devices deleted leaves a tombstone with its last image, and the tags of its columns, so that a write which
had not seen the delete can bring it back as it was; one that direct SQL deleted an entry of ``electric.direct``. Those
grow with every delete and hold what people wanted gone.
After ``KEPT`` they are removed, in small batches: at the start and once a day. A write that has not seen the delete and
comes even later still brings the row back, with what it carries itself (docs/guide/offline-and-conflicts.md).
"""

from __future__ import annotations

import asyncio
import datetime
import logging

import asyncpg

from syncline.cluster import Actor

log = logging.getLogger(__name__)

KEPT = datetime.timedelta(days=30)
DIRECT_KEPT = datetime.timedelta(days=90)  # as long as devices are remembered
BATCH_ROWS = 1_000
BATCH_PAUSE_S = 0.1
EVERY_S = 24 * 3600.0
AGAIN_AFTER_FAILURE_S = 600.0

# Tombstones that a device's write is at are left for another time. The tags go with them only where the row is still
# deleted as far as devices know.
PRUNE = """
WITH old AS (
    SELECT relid, key FROM electric.tombstones WHERE buried_at < now() - $1::interval
    ORDER BY buried_at LIMIT $2 FOR UPDATE SKIP LOCKED
), untagged AS (
    DELETE FROM electric.shadow s USING old WHERE s.relid = old.relid AND s.key = old.key AND s.tags = '{}'
), removed AS (
    DELETE FROM electric.tombstones t USING old WHERE t.relid = old.relid AND t.key = old.key RETURNING 1
)
SELECT count(*) FROM removed
"""

# What direct SQL wrote, and no device has written since. The entry with an empty key is of a table that was emptied.
PRUNE_DIRECT = """
WITH removed AS (
    DELETE FROM electric.direct
    WHERE absorbed_at < now() - CASE WHEN "row" IS NULL THEN $2::interval ELSE $1::interval END
    RETURNING 1
)
SELECT count(*) FROM removed
"""


async def prune(pool: asyncpg.Pool, kept: datetime.timedelta = KEPT) -> int:
    """Removes what was deleted longer than ``kept`` ago; the number of rows. Raises what asyncpg raises."""
    removed = 0
    while True:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            rows = int(await connection.fetchval(PRUNE, kept, BATCH_ROWS))
        removed += rows
        if rows < BATCH_ROWS:
            break
        await asyncio.sleep(BATCH_PAUSE_S)
    return removed + int(await pool.fetchval(PRUNE_DIRECT, kept, max(kept, DIRECT_KEPT)))


class _Prune:
    """It is time."""


class Pruner(Actor):
    """Prunes by itself. A Postgres that is away is tried again later; nothing depends on it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def init(self) -> None:
        self.send_after(0, _Prune())

    async def handle_info(self, message: object) -> None:
        if isinstance(message, _Prune):
            self.background(self._prune())

    async def _prune(self) -> None:
        next_s = EVERY_S
        try:
            removed = await prune(self._pool)
            if removed:
                log.info("%d rows that were deleted more than %d days ago are forgotten", removed, KEPT.days)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning(
                "what was deleted long ago could not be removed, again in %.0f s: %s", AGAIN_AFTER_FAILURE_S, error
            )
            next_s = AGAIN_AFTER_FAILURE_S
        self.send_after(next_s, _Prune())
