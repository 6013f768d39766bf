"""What runs an actor: its task, its mailbox, and those who wait for its answers or its end.

How an actor ends, and what is then promised:

*   it stops itself (``stop``), or its supervisor stops it: the message at hand is finished, then ``terminate`` runs;
*   it crashes: an exception leaves ``init``, a handler or a background coroutine. ``terminate`` runs unless it was
    ``init`` that failed. The cause is logged, and told to the supervisor and to every watcher;
*   it is killed, when it does not stop in time: the handler is cancelled, and ``terminate`` still runs, for at most
    ``KILL_GRACE_S``. (Erlang can skip that because the machine closes what a dead process had open; here nobody would.)

In every case, in this order: background work is cancelled, ``terminate`` runs, the mailbox closes, the name is freed,
callers get ``ActorDown``, watchers are told. Nobody is ever left waiting for an actor that is no more.

An idle actor is a task with its two frames, a future and a deque; everything rarer is allocated when first used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, cast

from syncline.cluster.context import Context
from syncline.cluster.local_ref import LocalRef, fail
from syncline.cluster.mailbox import CALL, CAST, STOP, Entry, Mailbox, MailboxFull
from syncline.cluster.ref import ActorDown, Address, Refusal
from syncline.cluster.spec import NORMAL, SHUTDOWN, ChildSpec, Exit, ExitKind, Overflow

if TYPE_CHECKING:
    from syncline.cluster.actor import Actor

log = logging.getLogger(__name__)

KILL_GRACE_S: Final = 1.0  # for terminate() of a killed actor: it had its chance before
MESSAGES_PER_TURN: Final = 64  # then the loop goes to others, so that one busy actor cannot starve the rest

Call = tuple[object, "asyncio.Future[Any]"]  # the content of a CALL entry


class MailboxOverflow(Exception):
    """The mailbox of an actor with the policy CRASH was full."""


class Reply:
    """An answer owed: from ``Actor.defer``, returned by ``handle_call`` in place of the answer."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future

    def set(self, value: object) -> None:
        """The answer. Ignored when the caller no longer waits."""
        if not self._future.done():
            self._future.set_result(value)

    def refuse(self, error: Refusal) -> None:
        """Makes ``call`` raise ``error``. Ignored when the caller no longer waits."""
        if not self._future.done():
            self._future.set_exception(error)


class _BackgroundFailed:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Cell:
    """Runs one actor from now on. Only supervisors and hosts hold cells; everyone else holds refs."""

    __slots__ = (
        "_background",
        "_current",
        "_deferred",
        "_starting",
        "_verdict",
        "_watchers",
        "actor",
        "address",
        "context",
        "exit",
        "mailbox",
        "ready",
        "ref",
        "spec",
        "task",
    )

    def __init__(self, spec: ChildSpec, context: Context) -> None:
        """Needs a running loop. Raises what ``spec.start`` raises, and ``NameTaken`` if the name is registered."""
        self.spec = spec
        self.context = context
        self.exit: Exit | None = None
        self.ready = False  # init has returned
        self.mailbox = Mailbox(spec.mailbox_capacity, spec.overflow)
        self.address = Address(context.host_id, context.next_serial(), spec.id)
        self.ref = LocalRef(self)
        self._current: asyncio.Future[Any] | None = None  # of the call being handled
        self._verdict: Exit | None = None  # decided by whoever cancelled the task
        self._starting: asyncio.Future[None] | None = None
        self._watchers: dict[object, Callable[[Exit], None]] | None = None
        self._deferred: set[asyncio.Future[Any]] | None = None
        self._background: set[asyncio.Task[None]] | None = None
        self.actor = spec.start()
        self.actor._cell = self
        if spec.name is not None:
            context.registry.register(spec.name, self.ref)
        self.task = asyncio.get_running_loop().create_task(self._run(), name=spec.id)
        self.task.add_done_callback(self._task_done)

    # ---------------------------------------------------------------- from outside

    async def started(self) -> LocalRef:
        """Waits for ``init``. Raises ``ActorDown``, with the cause, when the actor ended instead."""
        if not self.ready and self.exit is None:
            if self._starting is None:
                self._starting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._starting)
        if not self.ready:
            raise ActorDown(self.address, self.exit or NORMAL)
        return self.ref

    async def shutdown(self, timeout_s: float | None) -> Exit:
        """Asks it to stop, waits, kills it if it does not, and returns how it ended. Never hangs unless told to."""
        self.mailbox.stop(SHUTDOWN)
        await asyncio.wait({self.task}, timeout=timeout_s)
        if not self.task.done():
            log.warning("%s did not stop within %s s: killed", self.address, timeout_s, extra=self._facts())
            self.kill()
            await asyncio.wait({self.task}, timeout=2 * KILL_GRACE_S)
        if self.exit is None:
            if not self.task.done():
                log.error("%s swallows its cancellation: abandoned", self.address, extra=self._facts())
            self._end(Exit(ExitKind.KILLED))
        return cast("Exit", self.exit)

    def kill(self, exit: Exit | None = None) -> None:
        """Cancels whatever it is doing. ``terminate`` follows, bounded."""
        if self.exit is None:
            self._verdict = self._verdict or exit or Exit(ExitKind.KILLED)
            self.task.cancel()

    def watch(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        """See ``Ref.on_end``."""
        if self.exit is not None:
            callback(self.exit)
            return lambda: None
        if self._watchers is None:
            self._watchers = {}
        watchers, key = self._watchers, object()
        watchers[key] = callback
        return lambda: cast("None", watchers.pop(key, None))

    async def overflow(self, entry: Entry) -> None:
        """Gets ``entry`` into a full or closed mailbox, as the policy says. Raises ``ActorDown``, ``MailboxFull``."""
        mailbox = self.mailbox
        while self.exit is None and not mailbox.closed:
            if mailbox.overflow is not Overflow.BLOCK:
                if self.overflow_now(entry):
                    return
                if mailbox.overflow is Overflow.REFUSE:
                    raise MailboxFull(f"the mailbox of {self.address} holds {mailbox.capacity} messages")
                break
            await mailbox.room()
            if mailbox.offer(entry):
                return
        raise ActorDown(self.address, self.exit or self._verdict or Exit(ExitKind.NOT_FOUND))

    def overflow_now(self, entry: Entry) -> bool:
        """The same for those who cannot wait: whether ``entry`` got in."""
        mailbox = self.mailbox
        if mailbox.closed:
            return False
        if mailbox.overflow is Overflow.DROP_OLDEST:
            oldest = mailbox.drop_oldest()
            if oldest is not None and oldest[0] == CALL:
                fail(cast("Call", oldest[1])[1], MailboxFull(f"{self.address} dropped the call for newer messages"))
            return mailbox.offer(entry)
        mailbox.dropped += 1
        if mailbox.overflow is Overflow.CRASH and self._verdict is None:
            error = MailboxOverflow(f"{self.address} has {mailbox.capacity} messages waiting")
            self.kill(Exit(ExitKind.CRASHED, error))
        return False

    # ---------------------------------------------------------------- for the actor

    @property
    def quiet(self) -> bool:
        """See ``Actor.quiet``."""
        return self.mailbox.waits and not self._background and not self._deferred

    async def become(self, actor: Actor) -> None:
        """See ``Actor.become``."""
        actor._cell = self
        await actor.init()
        self.actor = actor
        self.mailbox.fold()

    def defer(self) -> Reply:
        """See ``Actor.defer``. Raises ``RuntimeError`` outside ``handle_call``."""
        if self._current is None:
            raise RuntimeError("only a call can be answered later")
        if self._deferred is None:
            self._deferred = set()
        self._deferred.add(self._current)
        self._current.add_done_callback(self._deferred.discard)
        return Reply(self._current)

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See ``Actor.background``."""
        if self._background is None:
            self._background = set()
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[None]) -> None:
        if self._background is not None:
            self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.mailbox.inform(_BackgroundFailed(error))

    # ---------------------------------------------------------------- the loop

    async def _run(self) -> None:
        exit = NORMAL
        try:
            async with asyncio.timeout(self.spec.init_s):
                await self.actor.init()
            self.ready = True
            if self._starting is not None:
                self._starting.set_result(None)
            exit = await self._serve()
        except asyncio.CancelledError as error:
            exit = self._verdict or Exit(ExitKind.KILLED)
            if self._verdict is None and not self.task.cancelling():  # something it awaited was cancelled
                exit = Exit(ExitKind.CRASHED, error)
        except Exception as error:
            exit = Exit(ExitKind.CRASHED, error)
        if exit.kind is ExitKind.CRASHED:
            log.error("%s crashed: %r", self.address, exit.cause, exc_info=exit.cause, extra=self._facts())
        await self._leave(exit)
        self._end(self._verdict or exit)

    async def _serve(self) -> Exit:
        mailbox = self.mailbox
        content: object
        turn = 0
        while True:
            entry = mailbox.take()
            if entry is None:
                turn = 0
                content = None  # nothing holds on to the last message
                await mailbox.wait()
                continue
            kind, content = entry
            if kind == CAST:
                await self.actor.handle_cast(content)
            elif kind == CALL:
                message, future = cast("Call", content)
                if not future.done():  # else the caller has given up: nobody needs the work
                    await self._answer(message, future)
            elif kind == STOP:
                return cast("Exit", content)
            elif isinstance(content, _BackgroundFailed):
                raise content.error
            else:
                await self.actor.handle_info(content)
            turn += 1
            if turn >= MESSAGES_PER_TURN:
                turn = 0
                await asyncio.sleep(0)

    async def _answer(self, message: object, future: asyncio.Future[Any]) -> None:
        self._current = future
        try:
            answer = await self.actor.handle_call(message)
        except Refusal as refusal:
            fail(future, refusal)
        else:
            if not isinstance(answer, Reply) and not future.done():
                future.set_result(answer)
        self._current = None

    async def _leave(self, exit: Exit) -> None:
        if self._background:
            tasks = tuple(self._background)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=KILL_GRACE_S)
        if not self.ready:
            return
        try:
            async with asyncio.timeout(KILL_GRACE_S if exit.kind is ExitKind.KILLED else None):
                await self.actor.terminate(exit)
        except asyncio.CancelledError:
            log.warning("%s was killed while terminating", self.address, extra=self._facts())
        except Exception as error:
            log.error("%s failed to terminate: %r", self.address, error, exc_info=error, extra=self._facts())

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(Exit(ExitKind.CRASHED, error))
        self._end(self._verdict or Exit(ExitKind.KILLED))  # cancelled before its first step; else this does nothing

    def _end(self, exit: Exit) -> None:
        if self.exit is not None:
            return
        self.exit = exit
        if self.spec.name is not None:
            self.context.registry.unregister(self.spec.name, self.ref)
        unheard = [cast("Call", content)[1] for kind, content in self.mailbox.close() if kind == CALL]
        for future in (*unheard, *(self._deferred or ()), *([self._current] if self._current is not None else ())):
            fail(future, ActorDown(self.address, exit))
        if self._starting is not None and not self._starting.done():
            self._starting.set_result(None)
        watchers, self._watchers = self._watchers, None
        for callback in list((watchers or {}).values()):
            callback(exit)

    def _facts(self) -> dict[str, object]:
        return {"host": self.address.host, "actor": self.spec.id, "serial": self.address.target}
