"""The running satellite: keeps one replica and the server in step, through any number of connections.

One task runs for as long as the application wants to be connected. It makes a connection, serves it until it ends
(``connection``), asks ``connectivity`` what to do next, and does that. Whatever ends a connection, a bug of ours
included, is shown in the status and never ends the task: a device must not be stuck because of one bad moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from syncline.client.connection import Connection, ConnectionEnded
from syncline.client.connectivity import (
    BACKOFF_MAX_S,
    EXPIRED_CLOSE_REASON,
    RESTARTS,
    Backoff,
    Next,
    Status,
    after,
    return_s,
)
from syncline.client.durability import Reaching
from syncline.client.errors import AuthRefused, ServerRefused, ShapeRefused, SynclineError, UsageError
from syncline.client.live import Watched
from syncline.client.replica import Replica
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shape_status import ShapeStatuses
from syncline.client.shapes import (
    WANTED,
    ShapeState,
    Subscription,
    earlier,
    find,
    later,
    undelivered_count,
)
from syncline.client.store import whole
from syncline.client.transport import OpenTransport, TransportClosed

Token: TypeAlias = str | Callable[[], Awaitable[str]]

log = logging.getLogger("syncline.client")

_REPLACED = "another shape has taken the place of this one under its key"
_UNSUBSCRIBED = "the shape was unsubscribed while it was awaited"
_REASONS = {Next.STOP_AUTH: "token refused", Next.STOP_REFUSED: "refused"}


class Satellite:
    def __init__(self, replica: Replica, url: str, open_transport: OpenTransport) -> None:
        self._replica = replica
        self._url = url
        self._open_transport = open_transport
        self._token: Token | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._progressed = False
        self._withhold: int | None = None
        self._decided: asyncio.Future[None] | None = None
        self._subscribing = asyncio.Lock()
        self._accepting: dict[int, asyncio.Future[None]] = {}
        self._syncing: dict[int, asyncio.Future[None]] = {}
        self._reaching = Reaching()
        self.status = Watched(Status())
        self.shapes = ShapeStatuses(lambda: replica.subscriptions)
        self._show()

    # --- wanted by the application ------------------------------------------------------------------------------------

    async def connect(self, token: Token | None) -> None:
        """Be connected from now on. Returns when the first attempt is decided; raises what it was refused with."""
        if token is not None:
            self._token = token
        if self._token is None:
            raise UsageError("the first connect needs a token")
        await self._stop()
        self._decided = asyncio.get_running_loop().create_future()
        self._show(reason="connecting")
        self._task = asyncio.create_task(self._run(self._token), name="syncline satellite")
        await asyncio.shield(self._decided)

    async def disconnect(self) -> None:
        await self._stop()
        self._show(connected=False, reason="disconnected")

    async def sync(self, spec: ShapeSpec, key: str | None = None) -> Subscription:
        """Subscribe to a shape, or find the subscription that exists. Raises ShapeRefused if the server declines."""
        async with self._subscribing:
            known = find(self._replica.subscriptions.values(), spec, key)
            while known is not None and (unwanted := later(self._replica.subscriptions.values(), known)):
                await self._cancel(unwanted, _REPLACED)
                # One of them may have been delivered just before, and have taken its place.
                known = find(self._replica.subscriptions.values(), spec, key)
            if known is None:
                known = await whole(self._replica.subscribe(spec, key))
                self._show()
                if self._connection is not None and self._connection.live:
                    self._accepting[known.position] = asyncio.get_running_loop().create_future()
                    await self._send(self._connection.subscribe(known))
        answer = self._accepting.get(known.position)
        if answer is not None:
            await asyncio.shield(answer)
        return known

    async def synced(self, position: int) -> None:
        """Wait until the subscription is delivered and, connected, values of its tables' sequences are here.

        Raises ShapeRefused, or UsageError once it is cancelled.
        """
        subscription = self._replica.subscriptions.get(position)
        if subscription is None or subscription.state not in WANTED:
            raise UsageError("this shape is not subscribed any more", hint="call sync again")
        if subscription.state is not ShapeState.DELIVERED:
            if position not in self._syncing:
                self._syncing[position] = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._syncing[position])
        await self.has_values()

    async def has_values(self) -> None:
        """Connected, ask for values of sequences that are wanted, and wait for the answers."""
        if self._connection is not None:
            await self._send(self._connection.has_values())

    async def unsubscribe(self, position: int) -> None:
        """Give a shape up, and what it was to replace. Its rows leave the device when the server has said which ones no
        other shape holds."""
        subscriptions = self._replica.subscriptions
        subscription = subscriptions.get(position)
        if subscription is not None and subscription.state in WANTED:
            await self._cancel([*earlier(subscriptions.values(), subscription), subscription], _UNSUBSCRIBED)

    async def _cancel(self, subscriptions: Sequence[Subscription], why: str) -> None:
        if not subscriptions:
            return
        cancelled = await whole(self._replica.cancel(subscriptions))
        self._end(subscriptions, why)
        if self._connection is not None:
            await self._send(self._connection.unsubscribe(cancelled))

    def _end(self, subscriptions: Sequence[Subscription], why: str) -> None:
        """Nobody need wait for these any more."""
        for subscription in subscriptions:
            self._answer(self._accepting, subscription.position, UsageError(why))
            self._answer(self._syncing, subscription.position, UsageError(why))
        self.shapes.follow(subscriptions)
        self._show()

    def dismissed(self) -> None:
        """The application has dealt with a rejection."""
        self._show()

    def wrote(self) -> None:
        """A local transaction has been committed."""
        self._show()
        if self._connection is not None:
            self._connection.wrote()

    async def others_have_it(self) -> None:
        """Wait until all other devices that are connected when the server is asked have what it has sent us by now."""
        reached = self._reaching.wait()
        if self._connection is not None:
            self._connection.wrote()
        await reached

    async def close(self) -> None:
        await self._stop()
        self._reaching.fail("the database was closed")
        for position in list(self._syncing):
            self._answer(self._syncing, position, UsageError("the database was closed"))

    # --- reported by a connection (progress.Progress) -----------------------------------------------------------------

    def started(self) -> None:
        # What the server refuses to take stays worth knowing on a connection that only works because it is withheld.
        last_error = None if self._withhold is None else self.status.value.last_error
        self._show(connected=True, reason=None, last_error=last_error)
        self.shapes.follow_all()  # those that were withdrawn have been forgotten
        self._decide(None)

    def applied(self) -> None:
        self._progressed = True
        self._show()

    def reach_awaited(self) -> bool:
        return self._reaching.to_ask()

    def reached(self) -> None:
        self._reaching.reached()

    def reach_unknown(self) -> None:
        self._reaching.fail("this server does not tell what other devices have")

    def accepted(self, subscription: Subscription) -> None:
        self._answer(self._accepting, subscription.position, None)

    def receiving(self, subscription: Subscription, rows: int, rows_estimate: int | None) -> None:
        self.shapes.received(subscription, rows, rows_estimate)

    def delivered(self, subscription: Subscription) -> None:
        self._answer(self._accepting, subscription.position, None)
        self._answer(self._syncing, subscription.position, None)
        self.shapes.follow([subscription])

    def replaced(self, subscriptions: Sequence[Subscription]) -> None:
        self._end(subscriptions, _REPLACED)

    def repairing(self, rows: int, rows_estimate: int | None) -> None:
        self.shapes.repairing(rows, rows_estimate)

    def repaired(self) -> None:
        self.shapes.follow_all()

    def left(self, subscriptions: Sequence[Subscription]) -> None:
        self.shapes.follow(subscriptions)

    def refused(self, subscription: Subscription, code: str, message: str) -> None:
        refusal = ShapeRefused(f"the server does not deliver {subscription.spec.table}: {message}", code=code)
        self._answer(self._accepting, subscription.position, refusal)
        self._answer(self._syncing, subscription.position, refusal)
        self.shapes.refused(subscription, f"{code}: {message}")
        self._show(last_error=str(refusal))

    # --- the task -----------------------------------------------------------------------------------------------------

    async def _run(self, token: Token) -> None:
        backoff = Backoff()
        token_fresh = True
        while True:
            self._progressed = False
            since_s = asyncio.get_running_loop().time()
            problem = await self._attempt(token)
            connected_before = self.status.value.connected
            code = _code(problem)
            self._withhold = problem.refused_entry if isinstance(problem, ConnectionEnded) else None
            renewable = not isinstance(token, str)
            restarts = connected_before and isinstance(problem, TransportClosed) and problem.close_code in RESTARTS
            step = after(code, token_renewable=renewable, token_fresh=token_fresh, restarts=restarts)
            token_fresh = step is Next.RENEW_TOKEN or not connected_before
            log.info("connection to %s ended: %s (next: %s)", self._url, problem, step.value)
            self._release_accepting()
            if step in _REASONS:
                self._show(connected=False, reason=_REASONS[step], last_error=str(problem))
                self._decide(_refusal(step, problem))
                return
            if step is Next.RESET:
                failure = await self._reset()
                if failure is not None:
                    step, problem = Next.RETRY, failure
            self.shapes.follow_all()
            self._show(connected=False, reason="unreachable", last_error=str(problem))
            if step in (Next.RETRY, Next.RETURN):
                self._decide(None)
            if step is Next.RETURN:
                backoff.reset()
                await asyncio.sleep(return_s(random.random()))  # noqa: S311 - jitter
                continue
            lasted = asyncio.get_running_loop().time() - since_s > BACKOFF_MAX_S
            absent = isinstance(problem, TransportClosed) and problem.absent
            settled = self._progressed or lasted
            await asyncio.sleep(backoff.after_s(random.random(), absent=absent, settled=settled))  # noqa: S311 - jitter

    async def _attempt(self, token: Token) -> Exception:
        """One connection from start to end; returns what ended it."""
        try:
            text = token if isinstance(token, str) else await token()
            async with self._open_transport(self._url) as transport:
                self._connection = Connection(transport, self._replica, self, text, self._withhold)
                await self._connection.serve()
        except (TransportClosed, ConnectionEnded, TimeoutError) as problem:
            return problem
        except Exception as problem:
            log.warning("the connection to %s failed", self._url, exc_info=problem)
            return problem
        finally:
            self._connection = None
            self._reaching.lost()
        return TransportClosed("the connection ended")

    async def _reset(self) -> Exception | None:
        """Returns what went wrong: SQLite's full disk, say. Nothing has changed then, so the next connection ends here
        again."""
        try:
            await whole(self._replica.reset())
        except Exception as problem:
            log.warning("what came from %s could not be given up", self._url, exc_info=problem)
            return problem
        return None

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._release_accepting()
        self.shapes.follow_all()
        self._decide(None)

    def _release_accepting(self) -> None:
        """The answer will not come on this connection; the subscriptions are durable and will be asked for again."""
        for position in list(self._accepting):
            self._answer(self._accepting, position, None)

    async def _send(self, sending: Awaitable[None]) -> None:
        """Send what is also durable: if the connection is just breaking, the next one repeats it."""
        try:
            await sending
        except TransportClosed:
            log.debug("not sent, will be repeated on the next connection")

    def _show(self, **changes: object) -> None:
        replica = self._replica
        self.status.set(
            replace(
                self.status.value,
                pending_writes=replica.pending_writes,
                rejections=replica.rejections,
                behind=undelivered_count(replica.subscriptions.values()),
                **changes,  # type: ignore[arg-type]
            )
        )

    def _decide(self, refusal: SynclineError | None) -> None:
        decided, self._decided = self._decided, None
        _settle(decided, refusal)

    @staticmethod
    def _answer(waiting: dict[int, asyncio.Future[None]], position: int, refusal: SynclineError | None) -> None:
        _settle(waiting.pop(position, None), refusal)


def _settle(future: asyncio.Future[None] | None, refusal: SynclineError | None) -> None:
    if future is None or future.done():
        return
    if refusal is None:
        future.set_result(None)
    else:
        future.set_exception(refusal)
        future.exception()  # Seen: whoever waits raises it, and it is no loss if nobody does.


def _code(problem: Exception) -> str | None:
    if isinstance(problem, ConnectionEnded):
        return problem.code
    if isinstance(problem, TransportClosed) and problem.reason == EXPIRED_CLOSE_REASON:
        return EXPIRED_CLOSE_REASON
    return None


def _refusal(step: Next, problem: Exception) -> SynclineError:
    if step is Next.STOP_AUTH:
        return AuthRefused(str(problem), hint="call connect with a new token")
    return ServerRefused(str(problem))
