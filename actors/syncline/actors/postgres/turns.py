"""One process at a time begins a history of a database, whatever services start together, or wake up late.

Whoever has the turn works through the connection that holds it. Once that session is ended, all of it is over: who was
frozen meanwhile finds a connection that is closed, and can do nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.login import as_login

log = logging.getLogger(__name__)

LOCK: Final = 0x4C696E6561676573  # advisory lock key: "Lineages" in ASCII
SILENT_S: Final = 15.0  # whoever has the turn asks Postgres something all the time
POLL_S: Final = 0.1

# Not those who wait for Postgres: a slot is made once all transactions of that moment have ended.
_END_SILENT = """
SELECT pid, pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pg_locks.database =
          (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) + objid::bigint = $1
  AND usename = session_user AND state LIKE 'idle%' AND state_change < clock_timestamp() - make_interval(secs => $2)
"""


@contextlib.asynccontextmanager
async def alone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """No other process is in here meanwhile; one that does nothing any more is ended. What is done has to be done by
    ``connection``, which is not in a transaction, and may be in here already. Raises what asyncpg raises."""
    # Asked again and again: a query that waits would hold back what its snapshot sees.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        async with as_login(connection):
            ended = await connection.fetch(_END_SILENT, LOCK, SILENT_S)
        for pid, _ in ended:
            log.warning("session %d was ended: it has done nothing for %.0f s where others wait for it", pid, SILENT_S)
        await asyncio.sleep(POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(*AWAY):
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
