"""What is remembered of rows, and for how long.

A row that devices deleted leaves a tombstone with its last image, and the tags of its columns, so that an update which
had not seen the delete can bring it back as it was; one that direct SQL deleted an entry of ``electric.direct``. Those
grow with every delete and hold what people wanted gone. They are removed after ``deleted_kept_s``. A write that has not
seen the delete and comes even later still brings the row back, with what it carries itself
(docs/guide/offline-and-conflicts.md).

Of a row that lives, an entry says who wrote it. Devices that hold the row name that write when they write to it;
whoever names the write of another device or of Postgres has seen a row without any entry too. Who names his own alone
has not, unless that is old. So the entry goes when it is ``devices_kept_s`` old, and its authors have been forgotten
(``Database.forget_unseen``): one that comes back even later is given the row as it is then. What he did to it before is
taken for done to that row (``electric.unrecorded``). And an entry goes together with what direct SQL wrote to the row
since, for whoever holds the row has that. What went by TRUNCATE goes likewise.

All in small batches: at the start, what is remembered of living rows an hour later, when devices have come back to a
service that was away for long; and once a day.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.shapes.reaping import DELETED_KEPT_S, DEVICES_KEPT_S
from syncline.cluster import Actor

log = logging.getLogger(__name__)

KEPT = datetime.timedelta(seconds=DELETED_KEPT_S)
DEVICES_KEPT = datetime.timedelta(seconds=DEVICES_KEPT_S)
BATCH_ROWS = 1_000
WALK_ROWS = 5_000  # of which most stay
BATCH_PAUSE_S = 0.1
SETTLED_S = 3600.0
EVERY_S = 24 * 3600.0
AGAIN_AFTER_FAILURE_S = 600.0
REMOVED = "removed"
"""Under this key of ``electric.meta``: how much was removed so far, of what."""

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

# What went when a table was emptied, before the entry that says so.
PRUNE_TRUNCATED = """
WITH old AS (
    SELECT s.relid, s.key FROM electric.direct d JOIN electric.shadow s ON s.relid = d.relid AND s.at_lsn < d.lsn
    WHERE d.key = '' AND d.absorbed_at < now() - $1::interval LIMIT $2 FOR UPDATE OF s SKIP LOCKED
), removed AS (
    DELETE FROM electric.shadow s USING old WHERE s.relid = old.relid AND s.key = old.key RETURNING 1
)
SELECT count(*) FROM removed
"""

# What direct SQL wrote, and no device has written since.
PRUNE_DIRECT = """
WITH old AS (
    SELECT d.relid, d.key, d.lsn FROM electric.direct d
    WHERE d.absorbed_at < now() - CASE WHEN d."row" IS NULL THEN $2::interval ELSE $1::interval END
    LIMIT $3 FOR UPDATE SKIP LOCKED
), before AS (
    DELETE FROM electric.shadow s USING old WHERE s.relid = old.relid AND s.key = old.key AND s.at_lsn < old.lsn
), removed AS (
    DELETE FROM electric.direct d USING old WHERE d.relid = old.relid AND d.key = old.key RETURNING 1
)
SELECT count(*) FROM removed
"""

# Which xids go with which times, of rows that are as old.
PRUNE_XIDS = "DELETE FROM electric.xids WHERE ms < extract(epoch FROM now() - $1::interval) * 1000"

# One stretch of what is known of rows, in the order of its key: how much of it was removed, and where the next begins.
PRUNE_SHADOW = """
WITH stretch AS (
    SELECT relid, key FROM electric.shadow WHERE (relid, key) > ($2::oid, $3::text) ORDER BY relid, key LIMIT $4
), old AS (
    SELECT s.relid, s.key FROM stretch JOIN electric.shadow s USING (relid, key)
    WHERE s.written_at < now() - $1::interval AND CASE
        WHEN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relid) THEN true
        WHEN s.tags = '{}' THEN
            NOT EXISTS (SELECT FROM electric.tombstones t WHERE t.relid = s.relid AND t.key = s.key)
        ELSE NOT EXISTS (
            SELECT FROM unnest(s.tags || s.column_tags) AS tag
            JOIN electric.clients c ON c.client_id = left(tag, -length(split_part(tag, '@', -1)) - 1)
            LEFT JOIN electric.positions p USING (client_id)
            WHERE c.last_seen >= now() - $1::interval OR p.client_id IS NOT NULL)
        END
    FOR UPDATE OF s SKIP LOCKED
), removed AS (
    DELETE FROM electric.shadow s USING old WHERE s.relid = old.relid AND s.key = old.key RETURNING 1
)
SELECT (SELECT count(*) FROM removed) AS removed, last.relid::int8 AS relid, last.key
FROM (SELECT count(*) AS rows FROM stretch) AS counted
LEFT JOIN (SELECT relid, key FROM stretch ORDER BY relid DESC, key DESC LIMIT 1) AS last ON counted.rows = $4
"""

NOTE_REMOVED = """
INSERT INTO electric.meta AS m (key, value) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET value = (
    SELECT json_object_agg(what, number) FROM (
        SELECT what, sum(number::int8)::int8 AS number
        FROM (SELECT * FROM json_each_text(m.value::json) UNION ALL SELECT * FROM json_each_text(excluded.value::json))
            AS counts (what, number)
        GROUP BY what) AS summed)
"""


async def prune(
    pool: asyncpg.Pool, kept: datetime.timedelta = KEPT, devices_kept: datetime.timedelta = DEVICES_KEPT
) -> int:
    """Removes what was deleted longer than ``kept`` ago, and what direct SQL has changed longer than ``devices_kept``
    ago; the number of rows. Raises what asyncpg raises."""
    longer = max(kept, devices_kept)
    removed = await _in_batches(pool, PRUNE, kept)
    await _in_batches(pool, PRUNE_TRUNCATED, longer)
    await pool.execute(PRUNE_XIDS, longer)
    return removed + await _in_batches(pool, PRUNE_DIRECT, kept, longer)


async def prune_living(pool: asyncpg.Pool, devices_kept: datetime.timedelta = DEVICES_KEPT) -> int:
    """Removes what is remembered of rows, alive or not, whose authors have been forgotten, and which was written longer
    than ``devices_kept`` ago; the number of rows. Raises what asyncpg raises."""
    removed = 0
    relid: int | None = 0
    key = ""
    while relid is not None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            row = await connection.fetchrow(PRUNE_SHADOW, devices_kept, relid, key, WALK_ROWS)
        removed += int(row["removed"])
        relid, key = row["relid"], row["key"]
        await asyncio.sleep(BATCH_PAUSE_S)
    return removed


async def note_removed(pool: asyncpg.Pool, what: str, number: int) -> None:
    """Adds to how much was removed, where there is something to add. Raises what asyncpg raises."""
    if number:
        await pool.execute(NOTE_REMOVED, REMOVED, json.dumps({what: number}))


async def _in_batches(pool: asyncpg.Pool, sql: str, *kept: datetime.timedelta) -> int:
    removed = 0
    while True:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = off")
            rows = int(await connection.fetchval(sql, *kept, BATCH_ROWS))
        removed += rows
        if rows < BATCH_ROWS:
            return removed
        await asyncio.sleep(BATCH_PAUSE_S)


class _Prune:
    """It is time."""


class _PruneLiving:
    """It is time for what is remembered of living rows."""


class Pruner(Actor):
    """Prunes by itself. A Postgres that is away is tried again later; nothing depends on it."""

    def __init__(
        self, pool: asyncpg.Pool, deleted_kept_s: float = DELETED_KEPT_S, devices_kept_s: float = DEVICES_KEPT_S
    ) -> None:
        self._pool = pool
        self._kept = datetime.timedelta(seconds=deleted_kept_s)
        self._devices_kept = datetime.timedelta(seconds=devices_kept_s)

    async def init(self) -> None:
        self.send_after(0, _Prune())
        self.send_after(SETTLED_S, _PruneLiving())

    async def handle_info(self, message: object) -> None:
        if isinstance(message, _Prune | _PruneLiving):
            self.background(self._prune(message))

    async def _prune(self, message: _Prune | _PruneLiving) -> None:
        next_s = EVERY_S
        try:
            if isinstance(message, _Prune):
                removed = await prune(self._pool, self._kept, self._devices_kept)
                await note_removed(self._pool, "deleted_rows", removed)
                if removed:
                    log.info("%d rows that were deleted or changed long ago are forgotten", removed)
            else:
                removed = await prune_living(self._pool, self._devices_kept)
                await note_removed(self._pool, "written_rows", removed)
                if removed:
                    log.info("of %d rows it is not remembered any more which device wrote them", removed)
        except AWAY as error:
            log.warning(
                "what was written long ago could not be forgotten, again in %.0f s: %s", AGAIN_AFTER_FAILURE_S, error
            )
            next_s = AGAIN_AFTER_FAILURE_S
        self.send_after(next_s, message)
