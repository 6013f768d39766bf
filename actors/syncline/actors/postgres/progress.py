"""How far the stream has come, told to a transaction that waits for it with its rows locked.

As a rule a device's transaction that meets rows of direct SQL is rolled back until the stream has brought what SQL did,
and nothing is locked meanwhile. One of many rows may find others that SQL has written since, each time. Such a one
keeps its locks and waits where it is (``electric.await_stream``); what it has locked nobody writes any more.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.ownership import Superseded

EVERY_S = 0.01
COMMITS_MAX = 2_000

# The message is flushed and streamed, and so is what was committed before without waiting for the disk.
TELL = """
WITH flushed AS (SELECT pg_logical_emit_message(true, 'syncline.flush', ''))
INSERT INTO electric.progress AS p (lsn, commits) SELECT '0/0'::pg_lsn + $1::int8, $2::jsonb FROM flushed
ON CONFLICT (one) DO UPDATE SET lsn = excluded.lsn, commits = excluded.commits
"""


class Progress:
    """``connect``: a connection of its own, which commits durably here."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._upto = 0
        self._commits: deque[tuple[int, int]] = deque(maxlen=COMMITS_MAX)

    def absorbed(self, upto: int, commits: Iterable[tuple[int, int]]) -> None:
        """The stream has been absorbed to ``upto``. ``commits``: (xid, ms) of its transactions, new since the last."""
        self._upto = max(self._upto, upto)
        self._commits.extend(commits)

    async def tell(self) -> None:
        """Until cancelled, or Postgres is away: then whoever waits gives up after a while."""
        with suppress(*AWAY, Superseded):
            connection = await self._connect()
            try:
                while True:
                    await connection.execute(TELL, self._upto, json.dumps(dict(self._commits)))
                    await asyncio.sleep(EVERY_S)
            finally:
                connection.terminate()
