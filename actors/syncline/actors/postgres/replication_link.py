"""One replication connection: a socket, its protocol core and the timer that reports to the server.

A server that says nothing is asked for a word. One that has none either, though it has nothing else to do, is at the
other end of a dead link (``lookout``). One that is at work, on a transaction that it reads from the disk, may be silent
for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

from syncline.actors.postgres.dsn import Endpoint
from syncline.actors.postgres.login import AS_BEFORE, AS_LOGIN
from syncline.actors.postgres.lookout import QUIET_S, keep_alive
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.rowkey import quote_identifier
from syncline.actors.postgres.server_messages import CopyStarted, Event, Ready, ServerError, TlsAccepted
from syncline.actors.postgres.session import Keeper
from syncline.actors.postgres.walsender import Phase, Walsender

READ_BYTES: Final = 1 << 18
CLOSE_TIMEOUT_S: Final = 1.0
TERMINATE_TIMEOUT_MS: Final = 2_000
ASK_AFTER_S: Final = 0.5  # of silence; an idle server answers at once


class ReplicationLink:
    """One connection. ``keeper``: of sessions at ``endpoint``."""

    def __init__(
        self,
        endpoint: Endpoint,
        keeper: Keeper,
        settings: Mapping[str, str],
        flush_position: Callable[[], Lsn],
        status_interval_s: float,
        silence_s: float,
    ) -> None:
        self._endpoint = endpoint
        self._keeper = keeper
        self._flush_position = flush_position
        self._status_interval_s = status_interval_s
        self._silence_s = silence_s
        self._core = Walsender({**settings, **endpoint.startup}, endpoint.password, endpoint.tls)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._timers: list[asyncio.Task[None]] = []
        self._heard_s = time.monotonic()
        self._reads_since_s: float | None = None
        self._is_dead = False
        self._early: list[Event] = []

    async def open(self) -> None:
        """Connects and authenticates."""
        if self._endpoint.socket_path is not None:
            opening = asyncio.open_unix_connection(self._endpoint.socket_path, limit=READ_BYTES)
        else:
            opening = asyncio.open_connection(self._endpoint.host, self._endpoint.port, limit=READ_BYTES)
        self._reader, self._writer = await opening
        keep_alive(self._writer.get_extra_info("socket"))
        self._core.start()
        await self._until(Ready)

    @property
    def backend_pid(self) -> int | None:
        return self._core.backend_pid

    async def terminate(self, pid: int) -> None:
        """Ends the server's process ``pid`` if it is a replication connection, and waits until it is gone."""
        ending = (
            f"SELECT pg_terminate_backend(pid, {TERMINATE_TIMEOUT_MS}) FROM pg_stat_activity "  # noqa: S608 - integers
            f"WHERE pid = {pid} AND backend_type = 'walsender' AND usename = session_user "
            "AND datname = current_database()"
        )
        for statement in (AS_LOGIN, ending, AS_BEFORE):
            self._core.query(statement)
            await self._until(Ready)

    async def admit(self, fence: str) -> None:
        """See ``Ownership``. Raises ServerError."""
        self._core.query(fence)
        await self._until(Ready)

    async def start_replication(self, slot: str, publication: str, start: Lsn) -> None:
        names = quote_identifier(publication).replace("'", "''")
        self._core.query(
            f"START_REPLICATION SLOT {quote_identifier(slot)} LOGICAL {start} "
            f"(proto_version '1', publication_names '{names}', messages 'true')"
        )
        await self._until(CopyStarted)
        self._timers = [asyncio.create_task(task) for task in (self._report_regularly(), self._look_after())]

    async def read(self) -> list[Event]:
        """What arrives next. Raises TimeoutError (an OSError) when the server stays silent, EOFError when it left."""
        assert self._reader is not None
        if self._early:
            events, self._early = self._early, []
            return events
        self._reads_since_s = time.monotonic()
        try:
            async with asyncio.timeout(self._silence_s):
                data = await self._reader.read(READ_BYTES)
        except TimeoutError:
            raise TimeoutError(f"the server has been silent for {self._silence_s:g} s") from None
        finally:
            self._reads_since_s = None
        if self._is_dead:
            raise TimeoutError("the server does not answer: the link to it is dead")
        if not data:
            raise EOFError("the server closed the connection")
        self._heard_s = time.monotonic()
        return self._core.receive(data)

    def report(self, *, reply: bool = False) -> None:
        """Sends a standby status."""
        if self._core.phase is Phase.COPYING and self._writer is not None and not self._writer.is_closing():
            flushed = self._flush_position()
            self._core.status(max(flushed, self._core.wal_end), flushed, time.time_ns() // 1000, reply=reply)
            self._writer.write(self._core.outgoing())

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        if self._writer is None or self._writer.is_closing():
            return
        with contextlib.suppress(OSError, AssertionError):
            self.report()
            self._core.terminate()
            self._writer.write(self._core.outgoing())
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()

    async def _until(self, wanted: type[Ready] | type[CopyStarted]) -> None:
        """Talks until the wanted event; what arrived together with it is kept for ``read``."""
        assert self._reader is not None
        assert self._writer is not None
        while True:
            self._writer.write(self._core.outgoing())
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise EOFError("the server closed the connection during the handshake")
            events = self._core.receive(data)
            for event in events:
                if isinstance(event, ServerError):
                    raise event
                if isinstance(event, TlsAccepted):
                    await self._writer.start_tls(self._endpoint.tls_context(), server_hostname=self._endpoint.host)
                    self._core.tls_established()
            if any(isinstance(event, wanted) for event in events):
                self._early = [event for event in events if not isinstance(event, wanted)]
                return

    async def _report_regularly(self) -> None:
        reported_s = time.monotonic()
        while True:
            await asyncio.sleep(min(self._status_interval_s, ASK_AFTER_S))
            now_s = time.monotonic()
            asks = now_s - self._heard_s >= ASK_AFTER_S
            if asks or now_s - reported_s >= self._status_interval_s:
                reported_s = now_s
                self.report(reply=asks)

    def _silent_s(self) -> float:
        """For how long we have been waiting to hear something."""
        if self._reads_since_s is None:
            return 0.0
        return time.monotonic() - max(self._heard_s, self._reads_since_s)

    async def _look_after(self) -> None:
        pid = self.backend_pid
        assert pid is not None, "the session has begun"
        assert self._writer is not None
        while not self._is_dead:
            await asyncio.sleep(ASK_AFTER_S)
            if self._silent_s() >= ASK_AFTER_S + QUIET_S:
                self._is_dead = await self._keeper.finds_dead(pid, lambda: self._silent_s() >= QUIET_S, self._silent_s)
        self._writer.transport.abort()
