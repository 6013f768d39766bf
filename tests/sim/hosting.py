"""A host for the service's actors on virtual time: mailboxes, registry, monitors, and the end of it all.

Every actor handles one message at a time, and some random time passes between two of them; messages between two actors
keep their order. An actor that crashes is reported to ``crashed``; who restarts what is not simulated here, the whole
service is one unit that lives and dies together, except for devices, whose end closes their connection.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.sim.waiting import Future, Scheduler, Stopped, Task, Waiting, at_once

from syncline.cluster import Actor, ActorDown, Exit, Refusal
from syncline.cluster.ref import Address, Down, Monitor
from syncline.cluster.spec import NORMAL, ExitKind

BETWEEN_MESSAGES_US = 300
FULL_MAILBOX_US = 2_000
FULL_MAILBOX_SHARE = 0.03


class SimReply:
    """An answer owed."""

    def __init__(self, future: Future) -> None:
        self.future = future

    def set(self, value: object) -> None:
        self.future.set_result(value)

    def refuse(self, error: Refusal) -> None:
        self.future.set_exception(error)


class SimRef:
    """The address of an actor, with its mailbox behind it."""

    def __init__(self, host: SimHost, actor: Actor, name: str) -> None:
        self.host = host
        self.actor = actor
        self.address = Address("sim", name)
        self.alive = True
        self._mailbox: deque[tuple[str, Any, Future | None]] = deque()
        self._handling: Task | None = None
        self._answering: Future | None = None  # of the call being handled
        self._scheduled = False
        self._background: list[Task] = []
        self._owed: list[SimReply] = []
        self._on_end: list[Callable[[Exit], None]] = []
        self._stopping: Exit | None = None

    def __repr__(self) -> str:
        return f"<{self.address.target}>"

    # --- what others do with it ---------------------------------------------------------------------------------------

    def cast(self, message: Any) -> bool:
        if not self.alive:
            return False
        self._post("cast", message, None)
        return True

    async def send(self, message: Any) -> None:
        if self.host.scheduler.rng.random() < FULL_MAILBOX_SHARE:
            await self.host.waiting.pause_up_to(FULL_MAILBOX_US)
        if not self.cast(message):
            raise ActorDown(self.address, NORMAL)

    async def call(self, message: Any, timeout_s: float = 0.0) -> Any:
        if not self.alive:
            raise ActorDown(self.address, NORMAL)
        answer = Future()
        self._post("call", message, answer)
        return await answer

    def inform(self, message: Any) -> None:
        if self.alive:
            self._post("info", message, None)

    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        self._on_end.append(callback)
        return lambda: self._on_end.remove(callback) if callback in self._on_end else None

    def monitor(self, other: SimRef) -> Monitor:
        monitor = Monitor(lambda: None)
        other.on_end(lambda exit: self.inform(Down(other, exit, monitor)))  # type: ignore[arg-type]
        return monitor

    def stop(self, exit: Exit = NORMAL) -> None:
        self._stopping = exit
        if self._handling is None:
            self._end(exit)

    # --- what the cell of an actor offers it --------------------------------------------------------------------------

    @property
    def ref(self) -> SimRef:
        return self

    @property
    def context(self) -> SimHost:
        return self.host

    def defer(self) -> SimReply:
        assert self._answering is not None, "only a call can be answered later"
        return SimReply(self._answering)

    def background(self, work: Coroutine[Any, Any, None]) -> Task:
        task = Task(work)
        self._background.append(task)
        self.host.scheduler.soon(BETWEEN_MESSAGES_US, task.run)
        task.when_done(lambda: self._background_over(task))
        return task

    # --- inside -------------------------------------------------------------------------------------------------------

    def _post(self, kind: str, message: Any, answer: Future | None) -> None:
        self._mailbox.append((kind, message, answer))
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._handling is None and self._mailbox:
            self._scheduled = True
            self.host.scheduler.soon(BETWEEN_MESSAGES_US, self._handle_next)

    def _handle_next(self) -> None:
        self._scheduled = False
        if not self.alive or not self._mailbox:
            return
        kind, message, answer = self._mailbox.popleft()
        handler = {"cast": self.actor.handle_cast, "call": self.actor.handle_call, "info": self.actor.handle_info}[kind]
        self._answering = answer
        task = self._handling = Task(handler(message))
        task.run()
        task.when_done(lambda: self._handled(task, answer))

    def _handled(self, task: Task, answer: Future | None) -> None:
        self._handling = None
        try:
            result = task.result()
        except Stopped:
            return
        except Exception as error:
            if answer is not None and isinstance(error, Refusal):
                answer.set_exception(error)
                self._schedule()
            else:
                self._crash(error)
            return
        if isinstance(result, SimReply):
            self._owed = [owed for owed in (*self._owed, result) if not owed.future.done()]
        elif answer is not None:
            answer.set_result(result)
        if self._stopping is not None:
            self._end(self._stopping)
        else:
            self._schedule()

    def _background_over(self, task: Task) -> None:
        self._background.remove(task)
        try:
            task.result()
        except Stopped:
            pass
        except Exception as error:
            self._crash(error)

    def _crash(self, error: Exception) -> None:
        self._end(Exit(ExitKind.CRASHED, cause=error))
        self.host.crashed(self, error)

    def _end(self, exit: Exit) -> None:
        if not self.alive:
            return
        self.alive = False
        for task in list(self._background):
            task.cancel()
        try:
            at_once(self.actor.terminate(exit))
        finally:
            for answer in (*(answer for _, _, answer in self._mailbox), *(owed.future for owed in self._owed)):
                if answer is not None:
                    answer.set_exception(ActorDown(self.address, exit))
            self._mailbox.clear()
            callbacks, self._on_end = self._on_end, []
            for callback in callbacks:
                callback(exit)

    def kill(self) -> None:
        """It is gone from one moment to the next, without a last word."""
        self.alive = False
        self._mailbox.clear()
        for task in list(self._background):
            task.cancel()
        if self._handling is not None:
            self._handling.cancel()


class Named:
    """The address of whoever has a name, for those who are told of it before anybody has."""

    def __init__(self, host: SimHost, name: str) -> None:
        self._host = host
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._host.ref(self._name), attribute)


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class SimHost:
    """Also the context and the registry of its actors, and their clock."""

    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Waiting,
        wall_ms: Callable[[], int],
        crashed: Callable[[SimRef, Exception], None],
    ) -> None:
        self.scheduler = scheduler
        self.waiting = waiting
        self.wall_ms = wall_ms
        self.crashed = crashed
        self._named: dict[str, SimRef] = {}
        self._refs: list[SimRef] = []
        self.alive = True

    @property
    def registry(self) -> SimHost:
        return self

    @property
    def clock(self) -> SimHost:
        return self

    def ref(self, name: str) -> SimRef:
        return self._named[name]

    def monotonic_s(self) -> float:
        return self.scheduler.now_us / 1e6

    def call_after(self, delay_s: float, work: Callable[[], None]) -> Timer:
        timer = Timer()
        self.scheduler.after(math.ceil(delay_s * 1e6), lambda: None if timer.cancelled or not self.alive else work())
        return timer

    async def start(self, actor: Actor, name: str, *, register: bool = False) -> SimRef:
        ref = SimRef(self, actor, name)
        actor._cell = ref  # type: ignore[assignment]
        self._refs.append(ref)
        if register:
            self._named[name] = ref
        await actor.init()
        return ref

    def kill(self) -> None:
        """The process is gone."""
        self.alive = False
        for ref in self._refs:
            ref.kill()
