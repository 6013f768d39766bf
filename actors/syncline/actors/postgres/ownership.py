"""One owner per slot: epochs, and sessions that show theirs.

An active slot is exclusive, but no fence. A process that was frozen, or cut off, while another took over wakes up and
goes on where it was: its writer would write. So whoever takes over raises the *epoch* first, which is kept in Postgres,
then ends every session that carries an older one in its ``application_name``; and every session of ours asks, before
it does anything, whether its epoch still stands. A session that asked before the epoch was raised was there to be
ended, and one that asks later is refused: none is left between the two. Whoever is refused ends.

There are two kinds of claim, and one count for both:

- a *service* takes over the slot from another service, all of whose processes have had their time;
- a *host* of the service, which is a process of it, takes the place of its own predecessor alone.

The epoch of a host goes along on its links too, where frames of a lower one are dropped (``cluster.link``). Sessions
are told apart by the name alone, so they have to be of a role whose sessions ours may see and end: the one that logs
in, whatever role is set for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import Final

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.login import as_login
from syncline.actors.postgres.session import connect

log = logging.getLogger(__name__)

SERVICE_SUPERSEDED: Final = "SY001"  # the SQLSTATEs of sql/fence.sql
HOST_SUPERSEDED: Final = "SY002"
PREFIX: Final = "syncline"
END_WITHIN_MS: Final = 5_000  # a session is not ended while it waits for a synchronous standby
END_RETRY_S: Final = 0.5
SAY_EVERY_S: Final = 15.0
ASK_EVERY_S: Final = 5.0
UNSEEN_LOOKS: Final = 2

_END_SESSIONS = r"""
SELECT pid, application_name, pg_terminate_backend(pid, $3) AS ended FROM (
    SELECT pid, application_name,
           substring(application_name FROM '^syncline ([0-9]{1,18}) ')::bigint AS epoch,
           substring(application_name FROM '^syncline [0-9]{1,18} ([^ ]+)') AS host
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename = session_user AND pid <> pg_backend_pid()
) AS ours
WHERE epoch < $1 AND ($2::text IS NULL OR host = $2)
"""

_AT_WORK = r"""
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND usename = session_user
      AND substring(application_name FROM '^syncline ([0-9]{1,18}) ')::bigint > $1
)
"""

_OWNER = "SELECT epoch FROM electric.owner WHERE slot = $1"


class Superseded(Exception):
    """Another process has taken over; this one must end. The message says what of it. ``service``: the service of this
    one is over, else it is this process alone."""

    def __init__(self, message: str, *, service: bool) -> None:
        super().__init__(message)
        self.service = service


class Ownership:
    """The claim of one process of ours to work for ``slot``: as ``host``, with ``epoch``, for the service whose epoch
    is ``service``."""

    def __init__(self, slot: str, service: int, host: str, epoch: int) -> None:
        self.slot = slot
        self.service = service
        self.host = host
        self.epoch = epoch
        self._end: Superseded | None = None
        self._over = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.host}, epoch {self.epoch}, for slot {self.slot}"

    def application_name(self, part: str = "") -> str:
        """Of a session of ours; ``part``: what the session is for."""
        return " ".join(filter(None, (PREFIX, str(self.epoch), _short(self.host), part)))

    @property
    def fence(self) -> str:
        """A query that fails when the claim is over, with an error that ``refused`` knows."""
        slot, host = (text.replace("'", "''") for text in (self.slot, self.host))
        return f"SELECT electric.fence('{slot}', {self.service}, '{host}', {self.epoch})"

    async def admit(self, connection: asyncpg.Connection) -> None:
        """The first thing that a session does. Raises Superseded, and what asyncpg raises."""
        try:
            await connection.execute(self.fence)
        except asyncpg.PostgresError as error:
            superseded = self.refused(error.sqlstate, str(error))
            if superseded is None:
                raise
            raise superseded from error

    async def lost(self, pool: asyncpg.Pool) -> Superseded:
        """Returns when the claim is over. Asks now and then: who reads nothing from Postgres would not hear of it."""
        while self._end is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_EVERY_S):
                    await self._over.wait()
            with contextlib.suppress(*AWAY, Superseded):
                async with pool.acquire(timeout=ASK_EVERY_S) as connection:
                    await self.admit(connection)
        return self._end

    def refused(self, sqlstate: str | None, why: str) -> Superseded | None:
        """What an error of Postgres says of the claim, if it says that it is over."""
        superseded = _superseded(sqlstate, f"{self}: {why}")
        if superseded is not None and self._end is None:
            self._end = superseded
            self._over.set()
        return superseded


async def take_over(connection: asyncpg.Connection, slot: str) -> int:
    """This service owns ``slot`` from now on: its epoch. The sessions of every earlier one are ended.

    ``connection`` is not in a transaction. Raises what asyncpg raises.
    """
    epoch = int(await connection.fetchval("SELECT electric.take_over($1)", slot))
    await _end_sessions(connection, epoch, None)
    return epoch


async def claim(connection: asyncpg.Connection, slot: str, service: int, host: str) -> Ownership:
    """This process is ``host`` of ``service`` from now on; the sessions of its predecessors are ended.

    ``connection`` is not in a transaction. Raises Superseded when the service itself is, and what asyncpg raises.
    """
    try:
        epoch = int(await connection.fetchval("SELECT electric.claim($1, $2, $3)", slot, service, host))
    except asyncpg.PostgresError as error:
        superseded = _superseded(error.sqlstate, f"{host}: {error}")
        if superseded is None:
            raise
        raise superseded from error
    await _end_sessions(connection, epoch, _short(host))
    return Ownership(slot, service, host, epoch)


async def owner_of(dsn: str, slot: str) -> int | None:
    """The epoch that ``slot`` belongs to now; None when Postgres does not say."""
    with contextlib.suppress(*AWAY):
        connection = await _watching(dsn)
        try:
            owner: int | None = await connection.fetchval(_OWNER, slot, timeout=ASK_EVERY_S)
            return owner
        finally:
            connection.terminate()
    return None


async def _watching(dsn: str) -> asyncpg.Connection:
    return await connect(dsn, {"application_name": f"{PREFIX} watch"}, ASK_EVERY_S)


async def watched(dsn: str, slot: str, service: int) -> Superseded | None:
    """Returns when ``slot`` belongs to a later service; None when for a while nobody has been seen at work for this
    one, or Postgres is away."""
    unseen = 0
    while unseen < UNSEEN_LOOKS:
        unseen += 1
        with contextlib.suppress(*AWAY):
            connection = await _watching(dsn)
            try:
                owner = await connection.fetchval(_OWNER, slot, timeout=ASK_EVERY_S)
                at_work = await connection.fetchval(_AT_WORK, service, timeout=ASK_EVERY_S)
            finally:
                connection.terminate()
            if owner != service:
                return Superseded(f"slot {slot} belongs to epoch {owner}, ours was {service}", service=True)
            if at_work:
                unseen = 0
        await asyncio.sleep(ASK_EVERY_S)
    return None


async def _end_sessions(connection: asyncpg.Connection, below: int, host: str | None) -> None:
    """Those of epochs ``below``, of all hosts or of one; waits until they are gone, and says now and then for which."""
    said_s = -math.inf
    while True:
        async with as_login(connection):
            rows = await connection.fetch(_END_SESSIONS, below, host, END_WITHIN_MS)
        for row in rows:
            if row["ended"]:
                log.warning("session %d of an earlier owner (%s) was ended", row["pid"], row["application_name"])
        left = [row for row in rows if not row["ended"]]
        if not left:
            return
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            log.warning(
                "not ready yet: sessions of an earlier owner do not end, although Postgres was asked to end them, and "
                "might still write (%s). See what they wait for in pg_stat_activity; where that does not pass, end the "
                "processes of these numbers where Postgres runs, or start Postgres again",
                ", ".join(f"process {row['pid']}: {row['application_name']}" for row in left),
            )
        await asyncio.sleep(END_RETRY_S)


def _superseded(sqlstate: str | None, message: str) -> Superseded | None:
    if sqlstate not in (SERVICE_SUPERSEDED, HOST_SUPERSEDED):
        return None
    return Superseded(message, service=sqlstate == SERVICE_SUPERSEDED)


def _short(host: str) -> str:
    """``host`` as it stands in the name of a session, which Postgres cuts off after 63 bytes."""
    return host.partition(":")[0]
