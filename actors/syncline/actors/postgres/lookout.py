"""Whether a session of ours that stays silent is still there: Postgres is asked, on another connection.

A link can be dead with nobody told of it: a NAT forgot it, a host failed, a proxy lost one of its ends. Silence alone
says nothing, since a large transaction may rightly take minutes. What does is Postgres itself: a session that is gone
there will not answer; nor will one that has been waiting for *us* all the time that we have been waiting for it. The
way there is open then, so a new link has an answer at once. One that is at work is waited for.

What is found dead, or was lost otherwise, is to be ended in Postgres too, which may not know of it: what it has locked
would be in the way of whoever tries again.

TCP's own means are set on each connection besides. They find a dead link that nobody waits at, as long as TCP knows
of it, and keep a NAT from forgetting one that is idle. On what is not TCP, or not of Linux, there is less of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.gathering import Gathering
from syncline.actors.postgres.login import AS_LOGIN

log = logging.getLogger(__name__)

QUIET_S: Final = 0.5  # an answer that takes longer is asked for
LOOK_EVERY_S: Final = 1.0
LOOK_WITHIN_S: Final = 4.0  # where Postgres cannot be reached there is another look
END_WITHIN_MS: Final = 2_000
NAME: Final = "syncline lookout"

# A session that waits for its client, be it for the next statement or for room for its answer, has an event of class
# Client; a walsender that has nothing to send has one of its own. Sessions have the name of the role that logged in,
# whatever role is set for it.
_LOOK: Final = """
SELECT pid, coalesce(wait_event_type = 'Client' OR wait_event = 'WalSenderMain', false) AS waits,
    coalesce(wait_event IN ('ClientWrite', 'WalSenderWriteData'), false) AS sends,
    coalesce(state_change::text, '') AS since
FROM pg_stat_activity WHERE pid = ANY ($1::int[]) AND datname = current_database() AND usename = session_user
"""
_END: Final = """
SELECT pg_terminate_backend(a.pid, $3) FROM pg_stat_activity a JOIN unnest($1::int[], $2::text[]) AS s (pid, began)
ON s.pid = a.pid AND s.began = extract(epoch FROM a.backend_start)::text AND usename = session_user
"""
WHO_AM_I: Final = """
SELECT pid, coalesce(extract(epoch FROM backend_start)::text, '') AS began
FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""

KEEPALIVE_IDLE_S: Final = 5
KEEPALIVE_EVERY_S: Final = 2
KEEPALIVE_TRIES: Final = 3
UNACKED_MS: Final = 10_000
_TCP_OPTIONS: Final = {
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
    "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,  # what macOS calls it
    "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
    "TCP_KEEPCNT": KEEPALIVE_TRIES,
    "TCP_USER_TIMEOUT": UNACKED_MS,
}
# The same at the other end. What it sends may wait for us as long as we are slow, so that has no limit there.
SERVER_KEEPALIVES: Final = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
    "tcp_keepalives_interval": str(KEEPALIVE_EVERY_S),
    "tcp_keepalives_count": str(KEEPALIVE_TRIES),
}
# In Linux' struct tcp_info: milliseconds since data was received.
_LAST_RECEIVED: Final = struct.Struct("=I")
_LAST_RECEIVED_AT: Final = 52
_TCP_INFO_BYTES: Final = _LAST_RECEIVED_AT + _LAST_RECEIVED.size


@dataclass(frozen=True, slots=True)
class Backend:
    """A session in Postgres. ``began``: when, since numbers of processes come again; "" for none."""

    pid: int
    began: str


NO_BACKEND: Final = Backend(0, "")


@dataclass(frozen=True, slots=True)
class Seen:
    """What Postgres says of a session. ``gone``: there is none. ``waits``: for us, and has done so ``since``, which is
    anything that changes with its state. ``sends``: until there is room for more of its answer."""

    gone: bool
    waits: bool = False
    since: str = ""
    sends: bool = False


GONE: Final = Seen(gone=True)


def is_dead(before: Seen | None, seen: Seen | None, quiet_s: float) -> bool:
    """Whether nothing more comes from a session that we wait for, by two looks in a row. None: Postgres did not say.
    ``quiet_s``: for how long nothing at all has come, for ever where nobody knows: then an answer may be on its way to
    us who are slow."""
    if seen is None or not (seen.gone or seen.waits):
        return False
    if seen.sends and quiet_s == math.inf:
        return False
    return seen.gone or (seen == before and quiet_s >= LOOK_EVERY_S)


class Lookout:
    """Looks for the sessions of ours at ``dsn``: all that are in doubt at a time with one connection."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._looks: Gathering[int, Seen | None] = Gathering(self._look)

    async def finds_dead(self, pid: int, waits: Callable[[], bool], quiet_s: Callable[[], float]) -> bool:
        """True when the session of Postgres' process ``pid`` turns out to be dead, False once nobody ``waits`` for it.
        ``quiet_s``: for how long nothing has come from it."""
        before: Seen | None = None
        while waits():
            seen = await self._looks.answer(pid)
            if not waits():
                break
            if is_dead(before, seen, quiet_s()):
                return True
            before = seen
            await asyncio.sleep(LOOK_EVERY_S)
        return False

    async def ends(self, backends: Iterable[Backend]) -> bool:
        """Ends these sessions, those that are still there, and waits for that. False: Postgres cannot be reached."""
        known = list(backends)
        with contextlib.suppress(*AWAY):
            pids, began = [backend.pid for backend in known], [backend.began for backend in known]
            await self._ask(_END, pids, began, END_WITHIN_MS)
            return True
        return False

    async def _look(self, pids: Sequence[int]) -> dict[int, Seen | None]:
        try:
            rows = await self._ask(_LOOK, list(pids))
        except AWAY:
            return dict.fromkeys(pids)
        found = {row["pid"]: Seen(False, row["waits"], row["since"], row["sends"]) for row in rows}
        return {pid: found.get(pid, GONE) for pid in pids}

    async def _ask(self, sql: str, *arguments: Any) -> list[Any]:
        async with asyncio.timeout(LOOK_WITHIN_S):
            connection = await asyncpg.connect(self._dsn, server_settings={"application_name": NAME})
            try:
                await connection.execute(AS_LOGIN)
                found: list[Any] = await connection.fetch(sql, *arguments)
                return found
            finally:
                connection.terminate()


def keep_alive(connected: Any) -> None:
    """Sets what TCP has to find a dead link. ``connected``: a socket, or what a loop has in its place, or None."""
    if not _is_tcp(connected):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


def quiet_s(connected: Any) -> float:
    """For how long nothing has come; for ever where nobody knows."""
    if not _is_tcp(connected) or sys.platform != "linux" or connected.fileno() < 0:
        return math.inf
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (ms,) = _LAST_RECEIVED.unpack_from(info, _LAST_RECEIVED_AT)
    return float(ms) / 1000


def _is_tcp(connected: Any) -> bool:
    return connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6)
