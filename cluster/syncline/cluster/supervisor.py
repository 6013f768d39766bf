"""Supervisors: they start children, notice how these end, and carry out what ``strategy`` decided.

``Supervisor`` has a fixed list of children whose order matters: a later child may rely on an earlier one, so they
start in order and stop in reverse. ``DynamicSupervisor`` has any number of independent children that come and go.
Both are actors, hence children of other supervisors; the root belongs to a host.

A child that cannot be restarted (its ``init`` fails again and again) uses up the restart intensity like any other
crash. Then the supervisor stops its remaining children and ends with ``TooManyRestarts``: its own supervisor sees an
abnormal end and applies its own strategy. That is escalation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from syncline.cluster.actor import Actor
from syncline.cluster.cell import Cell, Reply
from syncline.cluster.context import Context
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.ref import ActorDown, Ref, Refusal
from syncline.cluster.spec import ChildSpec, Exit, ExitKind, Strategy
from syncline.cluster.strategy import Child, Decision, Intensity, decide

log = logging.getLogger(__name__)

CHILDREN_MAX: Final = 100_000  # of one dynamic supervisor: ten times the devices one core is meant to carry


class TooManyRestarts(Exception):
    """More restarts than the intensity allows; the cause is the last child's."""


class StartFailed(Refusal):
    """A child did not start: its ``start`` or ``init`` raised (the cause), id or name is taken, or the limit met."""


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """To a supervisor's ``handle_info``: this incarnation of a child is no more."""

    id: str
    cell: Cell
    exit: Exit


@dataclass(frozen=True, slots=True)
class StartChild:
    """Call to a ``DynamicSupervisor``: start this, answer its ref."""

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class StopChild:
    """Call to a ``DynamicSupervisor``: stop the child of this id, answer whether there was one."""

    id: str


@dataclass(frozen=True, slots=True)
class WhichChildren:
    """Call to any supervisor: answers ``{id: ref or None}`` in start order; ``None`` has ended."""


async def start_child(supervisor: Ref, spec: ChildSpec, timeout_s: float | None = None) -> Ref:
    """Starts a child under the ``DynamicSupervisor`` at ``supervisor``; see there. By default waits for its init."""
    return cast("Ref", await supervisor.call(StartChild(spec), spec.init_s + 1 if timeout_s is None else timeout_s))


async def stop_child(supervisor: Ref, id: str, timeout_s: float = 60.0) -> bool:
    """Stops a child of the ``DynamicSupervisor`` at ``supervisor``."""
    return cast("bool", await supervisor.call(StopChild(id), timeout_s))


@dataclass(slots=True, eq=False)
class _Slot:
    spec: ChildSpec
    cell: Cell | None = None
    starting: bool = False  # somebody waits in start_child for its first init


class Supervisor(Actor):
    """A fixed list of children, started in order. Raises ``ValueError`` when two share an id."""

    def __init__(
        self,
        strategy: Strategy,
        children: Sequence[ChildSpec],
        max_restarts: int = 3,
        max_seconds: float = 5.0,
    ) -> None:
        if len({spec.id for spec in children}) != len(children):
            raise ValueError(f"children share an id: {[spec.id for spec in children]}")
        self._strategy = strategy
        self._intensity = Intensity(max_restarts, max_seconds)
        self._history: tuple[float, ...] = ()
        self._slots = {spec.id: _Slot(spec) for spec in children}

    async def init(self) -> None:
        try:
            for slot in tuple(self._slots.values()):
                await self._start(slot)
        except BaseException:
            await self._stop_all(in_a_hurry=asyncio.current_task().cancelling() > 0)  # type: ignore[union-attr]
            raise

    async def handle_call(self, message: Any) -> object:
        if isinstance(message, WhichChildren):
            return {id: slot.cell.ref if slot.cell else None for id, slot in self._slots.items()}
        raise Refusal(f"a supervisor does not know {type(message).__name__}")

    async def handle_info(self, message: Any) -> None:
        if not isinstance(message, ChildEnded):
            return
        slot = self._slots.get(message.id)
        if slot is None or slot.cell is not message.cell:
            return  # we stopped it ourselves
        slot.cell = None
        await self._react(message.id, message.exit)

    async def terminate(self, reason: Exit) -> None:
        await self._stop_all(in_a_hurry=reason.kind is ExitKind.KILLED)

    async def _react(self, ended: str, exit: Exit) -> None:
        """Performs the decision. A start that fails is the next end to decide about, until intensity runs out."""
        while True:
            children = [Child(id, slot.spec.restart, slot.cell is not None) for id, slot in self._slots.items()]
            decision, self._history = decide(
                self._strategy, children, ended, exit, self._history, self.clock.monotonic_s(), self._intensity
            )
            if decision.escalate:
                raise _too_many(ended, exit, self._intensity) from exit.cause
            _report(self.ref, ended, exit, decision)
            for id in decision.stop:
                await self._stop(self._slots[id])
            for id in decision.forget:
                del self._slots[id]
            failed = None
            for id in decision.start:
                try:
                    await self._start(self._slots[id])
                except StartFailed as error:
                    failed = id, Exit(ExitKind.CRASHED, error)
                    break
            if failed is None:
                return
            ended, exit = failed

    async def _start(self, slot: _Slot) -> None:
        slot.cell = _spawn(self.context, slot.spec, self.ref)
        try:
            await _ready(slot.cell)
        except StartFailed:
            slot.cell = None
            raise

    async def _stop(self, slot: _Slot) -> None:
        cell, slot.cell = slot.cell, None
        if cell is not None:
            await cell.shutdown(slot.spec.shutdown_s)

    async def _stop_all(self, in_a_hurry: bool) -> None:
        slots = list(reversed(self._slots.values()))
        if in_a_hurry:
            for cell in [slot.cell for slot in slots if slot.cell]:
                cell.kill()
        for slot in slots:
            await self._stop(slot)


class DynamicSupervisor(Actor):
    """Any number of independent children, one_for_one. They start concurrently and stop together."""

    def __init__(self, max_restarts: int = 3, max_seconds: float = 5.0, children_max: int = CHILDREN_MAX) -> None:
        self._intensity = Intensity(max_restarts, max_seconds)
        self._history: tuple[float, ...] = ()
        self._children_max = children_max
        self._slots: dict[str, _Slot] = {}
        self._leaving = False

    def __len__(self) -> int:
        return len(self._slots)

    async def start_child(self, spec: ChildSpec) -> Ref:
        """Starts a child and waits for its ``init``. Raises ``StartFailed``; a child that never lived is not kept."""
        if spec.id in self._slots:
            raise StartFailed(f"{spec.id} runs already")
        if self._leaving or len(self._slots) >= self._children_max:
            raise StartFailed("the supervisor ends" if self._leaving else f"{self._children_max} children at most")
        cell = _spawn(self.context, spec, self.ref)
        slot = self._slots[spec.id] = _Slot(spec, cell, starting=True)
        try:
            ref = await _ready(cell)
        except BaseException:
            if self._slots.get(spec.id) is slot:
                del self._slots[spec.id]
            cell.kill()
            raise
        slot.starting = False
        if cell.exit is not None:  # so soon that its end was taken for a failed start
            self.ref.inform(ChildEnded(spec.id, cell, cell.exit))
        return ref

    async def stop_child(self, id: str) -> bool:
        """Stops and forgets a child; its id is free again afterwards. ``False``: there is none of this id."""
        slot = self._slots.get(id)
        if slot is None or slot.cell is None:
            return False
        cell, slot.cell = slot.cell, None
        await cell.shutdown(slot.spec.shutdown_s)
        self._slots.pop(id, None)
        return True

    async def handle_call(self, message: Any) -> object:
        if isinstance(message, WhichChildren):
            return {id: slot.cell.ref if slot.cell else None for id, slot in self._slots.items()}
        if isinstance(message, StartChild | StopChild):
            reply = self.defer()
            self.background(self._perform(message, reply))
            return reply
        raise Refusal(f"a dynamic supervisor does not know {type(message).__name__}")

    async def handle_info(self, message: Any) -> None:
        if not isinstance(message, ChildEnded):
            return
        slot = self._slots.get(message.id)
        if slot is None or slot.cell is not message.cell or slot.starting:
            return  # we stopped it ourselves, or it never lived and start_child says so
        slot.cell = None
        await self._react(slot, message.exit)

    async def terminate(self, reason: Exit) -> None:
        self._leaving = True
        cells = [(slot.cell, slot.spec.shutdown_s) for slot in self._slots.values() if slot.cell]
        if reason.kind is ExitKind.KILLED:
            for cell, _ in cells:
                cell.kill()
        await asyncio.gather(*(cell.shutdown(shutdown_s) for cell, shutdown_s in cells))
        self._slots.clear()

    async def _react(self, slot: _Slot, exit: Exit) -> None:
        child = [Child(slot.spec.id, slot.spec.restart, running=False)]
        decision, self._history = decide(
            Strategy.ONE_FOR_ONE,
            child,
            slot.spec.id,
            exit,
            self._history,
            self.clock.monotonic_s(),
            self._intensity,
        )
        if decision.escalate:
            raise _too_many(slot.spec.id, exit, self._intensity) from exit.cause
        _report(self.ref, slot.spec.id, exit, decision)
        if not decision.start:
            del self._slots[slot.spec.id]
            return
        try:
            slot.cell = _spawn(self.context, slot.spec, self.ref)  # a failing init comes back as ChildEnded
        except StartFailed as error:
            await self._react(slot, Exit(ExitKind.CRASHED, error))

    async def _perform(self, message: StartChild | StopChild, reply: Reply) -> None:
        try:
            if isinstance(message, StartChild):
                reply.set(await self.start_child(message.spec))
            else:
                reply.set(await self.stop_child(message.id))
        except StartFailed as error:
            reply.refuse(error)


def _spawn(context: Context, spec: ChildSpec, supervisor: LocalRef) -> Cell:
    """A running cell whose end will be told to ``supervisor``. Raises ``StartFailed``."""
    try:
        cell = Cell(spec, context)
    except Exception as error:
        log.error("%s cannot be started: %r", spec.id, error, exc_info=error, extra={"actor": spec.id})
        raise StartFailed(f"{spec.id} cannot be started: {error!r}") from error
    cell.watch(lambda exit: supervisor.inform(ChildEnded(spec.id, cell, exit)))
    return cell


async def _ready(cell: Cell) -> Ref:
    """Waits for its init. Raises ``StartFailed``."""
    try:
        return await cell.started()
    except ActorDown as down:
        raise StartFailed(f"{cell.spec.id} did not start: {down.exit}") from down.exit.cause


def _report(supervisor: LocalRef, ended: str, exit: Exit, decision: Decision) -> None:
    if decision.start:
        log.warning(
            "%s restarts %s, as %s ended: %s",
            supervisor.address,
            ", ".join(decision.start),
            ended,
            exit,
            extra={"host": supervisor.address.host, "actor": ended, "restarted": decision.start},
        )


def _too_many(id: str, exit: Exit, intensity: Intensity) -> TooManyRestarts:
    return TooManyRestarts(
        f"{id} ended again: {exit}; {intensity.max_restarts} restarts in {intensity.max_seconds:g} s did not help"
    )
