"""The Writer: transactions of devices into Postgres, in batches, each exactly once.

One connection, one batch out at a time; what arrives meanwhile makes the next batch, so batches grow with the load and
an idle server answers at once. Large transactions have a second connection, so that nobody waits for them. What goes
into a batch and what an answer means is decided in ``apply``; the merging is done by Postgres (``sql/apply.sql``). Here
is only the waiting: connecting, calling, coming back after a loss.

Exactly once needs nothing of this process. Postgres advances the device's row in the same transaction as the data, so
whatever is in doubt after a loss is sent again, and what had been committed is answered as a duplicate. That holds
even while the backend of a lost connection is still at work: both wait for the device's row.

An answer carries a position: a WAL location that was durable after the batch, at or behind the commit of everything
the answer is about. Once the stream has passed it, the stream has shown the transaction, if it changed anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from syncline.actors.postgres.apply import Held, WriteQueue
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.batching import LARGE_OPERATIONS, Batch, Lane
from syncline.actors.postgres.ownership import Ownership, Superseded
from syncline.actors.postgres.progress import Progress
from syncline.actors.postgres.session import connect
from syncline.actors.postgres.typemap import SESSION_SETTINGS
from syncline.actors.postgres.waitingline import Decision, Status
from syncline.actors.postgres.write import Rejection, Write
from syncline.actors.shapes.reaping import DEVICES_KEPT_S
from syncline.cluster.actor import Actor
from syncline.cluster.clock import Clock
from syncline.cluster.spec import Exit, ExitKind

log = logging.getLogger(__name__)

SESSION = "syncline-writer"
RECONNECT_FIRST_S = 0.1
RECONNECT_MAX_S = 2.0
STATEMENT_TIMEOUT_S = 60.0  # for a whole batch, of which 500 transactions take a tenth of a second
# How far a device's clock may be ahead of Postgres'. Devices that move theirs beyond what they have seen are so by some
# milliseconds, and the published client compares the times it is sent: those within are taken as they are.
SKEW_MS = 1_000
OPERATION_TIMEOUT_S = 0.005  # more for each operation: on a busy machine one takes a tenth of that
ANSWER_GRACE_S = 10.0  # beyond the statement timeout; a dead connection is found sooner, see ``session``

# Session settings beside those that fix the spelling of values. A database may have other defaults; the application's
# own sessions keep them.
WRITER_SETTINGS = {
    **SESSION_SETTINGS,
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "jit": "off",
}

# As bytes: a single character beyond Latin would blow up a long text fourfold.
APPLY = "CALL electric.apply(convert_from($1, 'UTF8')::jsonb, NULL, $2::jsonb)"
REFRESH = "SELECT electric.refresh_merges()"
REFRESH_EVERY_S = 30.0  # while devices write; with 300 tables it takes some 80 ms
POSITION = "SELECT (pg_current_wal_flush_lsn() - '0/0')::int8"
UNANSWERED = Exit(ExitKind.KILLED, detail="no room for the answer to a write")


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to a ``Write``: its ``lsn`` and ``ms``, and what became of it.

    ``applied``, ``unheeded`` and ``duplicate``: it is durable, now or before. ``unheeded``: except for what triggers of
    the application's kept Postgres from doing. ``rejected``: never will be, ``rejection`` says why; it
    is recorded and the device has been advanced past it. ``overloaded``: not taken, or let go, and nothing more will be
    taken from this sender before its next turn, or the device's next connection. ``position``: see the module; of no
    meaning when overloaded.
    """

    lsn: int
    ms: int
    status: Status
    position: int
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Absorbed:
    """Cast or send. What direct SQL did in the stream up to ``upto`` is in Postgres, and so is all that transactions
    before the xid ``horizon`` did; None: of none is it known. ``commits``: (xid, ms) of transactions in the stream, new
    since the last."""

    upto: int
    horizon: str | None
    commits: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReadHeld:
    """Call. Answer: what waits for an operator, or has been put off for long, ``Held``, or None."""


class WriteLoop:
    """Drives a ``WriteQueue`` against one database. ``answer`` is called once for each write added. ``session``: for
    whom its sessions are, or just what they are called. ``skew_ms``: how far devices' clocks may be ahead of Postgres'
    before they are no longer believed. ``kept_ms``: how old what was recorded of a row is when it is forgotten. Until
    it is ``absorbed`` for the first time it does not wait for any stream."""

    def __init__(
        self,
        dsn: str,
        clock: Clock,
        answer: Callable[[Write, Written], None],
        session: Ownership | str = SESSION,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        skew_ms: int = SKEW_MS,
        kept_ms: int = int(DEVICES_KEPT_S * 1_000),
    ) -> None:
        self._answer = answer
        self._clock = clock
        self._queue = WriteQueue()
        self._context: dict[str, Any] = {"skew_ms": skew_ms, "kept_ms": kept_ms}
        self._work = {lane: asyncio.Event() for lane in Lane}
        self._last_complaint = ""
        self._links = {lane: _Link(dsn, clock, session, statement_timeout_s) for lane in Lane}
        self._progress = Progress(_Link(dsn, clock, session, statement_timeout_s).opened)

    def add(self, write: Write) -> None:
        """Takes a write; never waits."""
        decision = self._queue.add(write)
        if decision is None:
            self._wake()
        else:
            self._tell(decision, 0)

    def absorbed(self, absorbed: Absorbed) -> None:
        """Tells how far the stream has come."""
        self._context["horizon"] = absorbed.horizon
        self._queue.absorbed(absorbed.upto, absorbed.commits)
        self._progress.absorbed(absorbed.upto, absorbed.commits)
        self._wake()

    def held(self) -> Held | None:
        """What waits for an operator, or has been put off for long."""
        return self._queue.held()

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as lanes:
                for lane in Lane:
                    lanes.create_task(self._serve(lane))
        finally:
            for link in self._links.values():
                link.cut()

    async def _serve(self, lane: Lane) -> None:
        while True:
            batch = self._queue.take(self._clock.monotonic_s(), lane)
            if batch is None:
                await self._wait(lane)
            else:
                await self._carry_out(batch, lane)
                self._wake()  # the next write of a device may go by another lane

    def _wake(self) -> None:
        for work in self._work.values():
            work.set()

    async def _wait(self, lane: Lane) -> None:
        """Until a write arrives or a device's time to try again has come."""
        work = self._work[lane]
        work.clear()
        delay_s = self._queue.wait_s(self._clock.monotonic_s(), lane)
        timer = None if delay_s is None else self._clock.call_after(delay_s, work.set)
        try:
            await work.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _carry_out(self, batch: Batch, lane: Lane) -> None:
        link = self._links[lane]
        await link.connect()
        telling = asyncio.create_task(self._progress.tell()) if batch.patient else None
        try:
            answers, position = await link.apply(batch, self._context)
        except asyncpg.PostgresError as error:
            if link.ended(error):
                self._lose(error, lane)
            else:
                log.error(
                    "a batch of %d device writes failed as a whole, each is tried alone: %s", len(batch.writes), error
                )
                for decision in self._queue.failed(_rejection_of(error), self._clock.monotonic_s(), lane):
                    self._tell(decision, 0)
                self._complain()
        except AWAY as error:
            self._lose(error, lane)
        else:
            for decision in self._queue.settle(json.loads(answers), self._clock.monotonic_s(), lane):
                self._tell(decision, position)
            self._complain()
        finally:
            if telling is not None:
                telling.cancel()

    def _lose(self, error: BaseException, lane: Lane) -> None:
        log.warning("the writer lost its connection to Postgres, the batch is sent again: %s", error)
        self._links[lane].cut()
        self._queue.lost(self._clock.monotonic_s(), lane)

    def _complain(self) -> None:
        """What holds writes goes to the log, once until something else is wrong."""
        if self._queue.complaint != self._last_complaint:
            self._last_complaint = self._queue.complaint
            log.error("a device's write is held until this is mended in Postgres: %s", self._last_complaint)

    def _tell(self, decision: Decision, position: int) -> None:
        write = decision.write
        self._answer(write, Written(write.lsn, write.ms, decision.status, position, decision.rejection))


class _Link:
    """A connection of the writer, made when it is needed. A batch gets more time the more operations it has."""

    def __init__(self, dsn: str, clock: Clock, session: Ownership | str, statement_timeout_s: float) -> None:
        self._dsn = dsn
        self._clock = clock
        self._owner = session if isinstance(session, Ownership) else None
        name = session if isinstance(session, str) else session.application_name("writer")
        self._settings = WRITER_SETTINGS | {"application_name": name}
        self._statement_timeout_s = statement_timeout_s
        self._timeout_set = ""
        self._connection: asyncpg.Connection | None = None
        self._refresh_at_s = 0.0

    async def connect(self) -> None:
        """Returns with a connection, a new one when there is none. Tries for ever: without Postgres there is nothing
        to do. Raises Superseded."""
        delay_s = RECONNECT_FIRST_S
        while self._connection is None or self._connection.is_closed():
            try:
                self._timeout_set = ""
                self._connection = await self.opened()
                self._refresh_at_s = self._clock.monotonic_s()
            except Superseded:
                self.cut()
                raise
            except AWAY as error:
                self.cut()
                log.warning("the writer has no connection to Postgres, next try in %.1f s: %s", delay_s, error)
                await self._sleep(delay_s)
                delay_s = min(RECONNECT_MAX_S, 2 * delay_s)

    async def opened(self) -> asyncpg.Connection:
        """Another one. Raises Superseded, and what asyncpg raises."""
        connection = await connect(self._dsn, self._settings)
        if self._owner is not None:
            try:
                await self._owner.admit(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def apply(self, batch: Batch, context: Mapping[str, Any]) -> tuple[str, int]:
        """Postgres' answers, as JSON text, and the position behind them. Raises what asyncpg raises."""
        assert self._connection is not None, "connected"
        if self._clock.monotonic_s() >= self._refresh_at_s:
            self._refresh_at_s = self._clock.monotonic_s() + REFRESH_EVERY_S
            await self._refresh()
        timeout_s = self._statement_timeout_s
        if batch.operations > LARGE_OPERATIONS:
            timeout_s += batch.operations * OPERATION_TIMEOUT_S
        setting = f"SET statement_timeout = '{round(timeout_s * 1000)}ms'"
        if setting != self._timeout_set:
            await self._connection.execute(setting, timeout=ANSWER_GRACE_S)
            self._timeout_set = setting
        answers = await self._connection.fetchval(
            APPLY, batch.text, json.dumps(context), timeout=timeout_s + ANSWER_GRACE_S
        )
        position = await self._connection.fetchval(POSITION, timeout=timeout_s + ANSWER_GRACE_S)
        return answers, position

    async def _refresh(self) -> None:
        """What no failing write tells, such as a default of a column that came since. Raises what asyncpg raises when
        the connection is over; any other failure is none of the batch that waits."""
        assert self._connection is not None, "connected"
        try:
            await self._connection.execute(REFRESH, timeout=ANSWER_GRACE_S)
        except asyncpg.PostgresError as error:
            if self.ended(error):
                raise
            log.warning("merge functions could not be compared with their tables, again in a while: %s", error)

    def ended(self, error: asyncpg.PostgresError) -> bool:
        """Whether ``error`` was the end of the connection. Postgres says why (57P01, 57P02) before it closes it; 57014
        is a mere time-out."""
        sqlstate = error.sqlstate or ""
        return self._connection is None or self._connection.is_closed() or sqlstate.startswith(("08", "57P"))

    def cut(self) -> None:
        """Drops the connection."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _sleep(self, delay_s: float) -> None:
        over = asyncio.Event()
        timer = self._clock.call_after(delay_s, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()


class Writer(Actor):
    """Takes ``Write`` by cast or send, and casts back ``Written``.

    Whoever sends must keep a device's order, and must treat the end of this actor as the loss of everything not yet
    answered: the device's connection ends, and the device sends it all again.
    """

    def __init__(
        self,
        dsn: str,
        session: Ownership | str = SESSION,
        *,
        absorbing: bool = False,
        skew_ms: int = SKEW_MS,
        kept_ms: int = int(DEVICES_KEPT_S * 1_000),
    ) -> None:
        """``absorbing``: somebody tells how far the stream has come. The others: see ``WriteLoop``."""
        self._dsn = dsn
        self._session = session
        self._absorbing = absorbing
        self._skew_ms = skew_ms
        self._kept_ms = kept_ms

    async def init(self) -> None:
        self._loop = WriteLoop(
            self._dsn, self.clock, _answer, self._session, skew_ms=self._skew_ms, kept_ms=self._kept_ms
        )
        if self._absorbing:
            self._loop.absorbed(Absorbed(0, None))
        self.background(self._loop.run())

    async def handle_cast(self, message: Any) -> None:
        match message:
            case Write():
                self._loop.add(message)
            case Absorbed():
                self._loop.absorbed(message)
            case _:
                raise TypeError(f"the writer does not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadHeld():
                return self._loop.held()
            case _:
                raise TypeError(f"the writer does not understand {message!r}")


def _answer(write: Write, written: Written) -> None:
    """To the device; one that has no room even for an answer ends, and hears of its writes when it comes back."""
    if not write.reply_to.cast(written) and write.reply_to.alive:
        write.reply_to.stop(UNANSWERED)


def _rejection_of(error: asyncpg.PostgresError) -> Rejection:
    return Rejection(
        error.sqlstate or "XX000",
        error.message or str(error),
        error.detail,
        error.hint,
        error.table_name,
        error.constraint_name,
    )
