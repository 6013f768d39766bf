"""Connections to Postgres: every one that asks anything is made here, and told from a dead one while it is waited for.

``asyncpg`` waits for an answer as long as it is told to, whatever has become of the link; what is to be a limit for
statements that take minutes is none for a dead link. So a session that has not been answered for a while is looked
after (``lookout``). When it is found dead whoever waits has the error of a lost connection; and those of this process
that are idle, whose links are likely to be as dead, are dropped before somebody waits for them in turns.

Of a link that broke only one end may know. So whatever session is lost, in the middle of something, is ended in
Postgres on another connection: it could hold locks for hours, for which whoever tries again would wait.

A statement that was given up (timeout, cancellation) is waited for too, by asyncpg: until Postgres has said so nothing
else can be asked, and a pool has one session less.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import asyncpg

from syncline.actors.postgres.login import AS_BEFORE, AS_LOGIN
from syncline.actors.postgres.lookout import (
    LOOK_EVERY_S,
    NO_BACKEND,
    QUIET_S,
    SERVER_KEEPALIVES,
    WHO_AM_I,
    Backend,
    Lookout,
    keep_alive,
    quiet_s,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 10.0
# Then a second try: the first may have lost its link, and nobody is there yet who could be asked.
CONNECT_FIRST_S: Final = 3.0
END_TRIES: Final = 100  # while Postgres cannot be reached, a second or more each; then it has found out by itself
SLOW_BYTES_A_S: Final = 128 << 10  # a large statement takes its time to get to Postgres: a link may be as slow as that


class _Wait:
    """For one answer. ``over``: nobody wants it any more."""

    def __init__(self) -> None:
        self.over = False


class Session(asyncpg.Connection):  # type: ignore[misc]
    """A connection that is looked after from when it is ``introduced``. asyncpg gives no hook for what this needs, so
    it goes by a few names of its inside: ``_protocol`` here, and what its constructor is given."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *others: Any) -> None:
        super().__init__(protocol, transport, *others)
        self._socket = transport.get_extra_info("socket")
        keep_alive(self._socket)
        self._keeper: Keeper | None = None
        self._left_nothing = False
        self.backend = NO_BACKEND
        self._wait: _Wait | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._wait is None and not self.is_closed() and not self.is_in_transaction()

    async def introduce(self, keeper: Keeper) -> None:
        """Raises what asyncpg raises."""
        # What the handshake says of its process may be the word of a pooler.
        pid, began = await self.fetchrow(WHO_AM_I, timeout=CONNECT_TIMEOUT_S)
        if not began:  # for a role that is set for the one that logged in, and may not see it
            await self.execute(AS_LOGIN, timeout=CONNECT_TIMEOUT_S)
            pid, began = await self.fetchrow(WHO_AM_I, timeout=CONNECT_TIMEOUT_S)
            await self.execute(AS_BEFORE, timeout=CONNECT_TIMEOUT_S)
        self.backend = Backend(pid, began)
        self._keeper = keeper
        keeper.add(self)
        self.add_termination_listener(self._ended)

    # --- its end ------------------------------------------------------------------------------------------------------

    async def close(self, *, timeout: float | None = None) -> None:
        self._left_nothing = True
        try:
            await super().close(timeout=timeout)
        except BaseException:
            self._left_nothing = False
            raise

    def terminate(self) -> None:
        self._left_nothing = self._left_nothing or self.is_idle
        super().terminate()

    def _ended(self, _: asyncpg.Connection) -> None:
        if self._keeper is not None and not self._left_nothing:
            self._keeper.end(self.backend)

    # --- what is waited for -------------------------------------------------------------------------------------------

    async def watched(self, answer: Awaitable[T], arguments: object = ()) -> T:
        """Waits for ``answer``, which comes from Postgres. ``arguments``: what has to get there first."""
        wait = self._begin(_bytes_of(arguments))
        try:
            return await answer
        finally:
            self._end(wait)

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        return await self.watched(super().execute(query, *args, **options), args)

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        rows = list(args)
        return await self.watched(super().executemany(command, rows, **options), rows)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self.watched(super().fetch(query, *args, **options), args)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await self.watched(super().fetchval(query, *args, **options), args)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await self.watched(super().fetchrow(query, *args, **options), args)

    async def copy_from_query(
        self, query: str, *args: Any, output: Callable[[bytes], Awaitable[None]], **options: Any
    ) -> Any:
        """``output``: while it takes what there is, it is us who are waited for."""
        wait = self._begin(_bytes_of(args))

        async def take(data: bytes) -> None:
            nonlocal wait
            self._end(wait)
            await output(data)
            wait = self._begin()

        try:
            return await super().copy_from_query(query, *args, output=take, **options)
        finally:
            self._end(wait)

    def _begin(self, size: int = 0) -> _Wait:
        self._wait = wait = _Wait()
        if self._keeper is not None:
            self._stop_timer()
            self._timer = self._loop.call_later(QUIET_S + size / SLOW_BYTES_A_S, self._look, wait)
        return wait

    def _end(self, wait: _Wait) -> None:
        wait.over = True
        if self._wait is wait and not self._is_giving_up():
            self._wait = None
            self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_giving_up(self) -> bool:
        """Postgres has been told to cancel a statement, and not said yet that it has."""
        return self._protocol is not None and bool(self._protocol._is_cancelling())

    def _look(self, wait: _Wait) -> None:
        self._looking = self._loop.create_task(self._look_after(wait))

    async def _look_after(self, wait: _Wait) -> None:
        assert self._keeper is not None, "introduced"

        def waits() -> bool:
            return self._wait is wait and not self.is_closed() and (not wait.over or self._is_giving_up())

        if await self._keeper.finds_dead(self.backend.pid, waits, lambda: quiet_s(self._socket)):
            self.terminate()
        elif wait.over and self._wait is wait:
            self._wait = None


class Keeper:
    """The sessions of this process, which has one loop, at one Postgres."""

    def __init__(self, dsn: str) -> None:
        self._lookout = Lookout(dsn)
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._left: set[Backend] = set()
        self._ending: asyncio.Task[None] | None = None

    def add(self, session: Session) -> None:
        self._sessions.add(session)

    async def finds_dead(self, pid: int, waits: Callable[[], bool], quiet_s: Callable[[], float]) -> bool:
        """As ``Lookout.finds_dead``. Then the session has been ended in Postgres, if it is one of these, and whoever
        needs an idle one makes a new one."""
        if not await self._lookout.finds_dead(pid, waits, quiet_s):
            return False
        log.warning("a session of ours does not answer, and its link is dead (process %d of Postgres)", pid)
        idle = [session for session in self._sessions if session.is_idle]
        for session in idle:
            session.terminate()
        dead = [session for session in self._sessions if session.backend.pid == pid]
        await self._lookout.ends([session.backend for session in (*dead, *idle)])
        return waits()

    def end(self, backend: Backend) -> None:
        """Whatever it is about: nobody is there any more who would hear of it."""
        self._left.add(backend)
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end_all())

    async def _end_all(self) -> None:
        tries = 0
        while self._left and tries < END_TRIES:
            ending = frozenset(self._left)
            if await self._lookout.ends(ending):
                self._left -= ending
                tries = 0
            else:
                tries += 1
                await asyncio.sleep(LOOK_EVERY_S)
        self._left.clear()
        self._ending = None


_keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Keeper]] = weakref.WeakKeyDictionary()


def keeper_of(dsn: str) -> Keeper:
    """The one of whoever asks."""
    keepers = _keepers.setdefault(asyncio.get_running_loop(), {})
    return keepers.setdefault(dsn, Keeper(dsn))


async def connect(dsn: str, settings: Mapping[str, str], timeout_s: float = CONNECT_TIMEOUT_S) -> asyncpg.Connection:
    """A session of its own. ``settings``: of it. ``timeout_s``: for a try to connect. Raises what asyncpg raises."""
    session = await _connect(
        dsn, timeout=timeout_s, connection_class=Session, server_settings={**SERVER_KEEPALIVES, **settings}
    )
    try:
        await session.introduce(keeper_of(dsn))
    except BaseException:
        session.terminate()
        raise
    return session


async def open_pool(
    dsn: str,
    settings: Mapping[str, str],
    connections_max: int,
    timeout_s: float | None,
    admit: Callable[[asyncpg.Connection], Awaitable[None]] | None,
) -> asyncpg.Pool:
    """A pool of sessions, none of them there yet. ``settings``: of each. ``timeout_s``: for each statement, then
    TimeoutError. ``admit``: is called with each new one first. Raises what asyncpg raises."""

    async def begin(session: Session) -> None:
        await session.introduce(keeper_of(dsn))
        if admit is not None:
            await admit(session)

    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=connections_max,
        connect=_connect,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=timeout_s,
        connection_class=Session,
        init=begin,
        server_settings={**SERVER_KEEPALIVES, **settings},
    )


async def _connect(dsn: str, *, timeout: float, **options: Any) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(dsn, timeout=min(timeout, CONNECT_FIRST_S), **options)
    except TimeoutError:
        return await asyncpg.connect(dsn, timeout=timeout, **options)


def _bytes_of(arguments: object) -> int:
    """About; numbers and the like are small."""
    if isinstance(arguments, str | bytes):
        return len(arguments)
    if isinstance(arguments, list | tuple):
        return sum(map(_bytes_of, arguments))
    return 0
