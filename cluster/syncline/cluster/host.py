"""A host: one process, one event loop, one root supervisor, reachable by the others over links.

``Host`` is what a runtime hands out, whether the host is this very process (``LocalHost``), another one behind a link
(``RemoteHost``), or, under Ray, one that Ray started. All that can be asked of it: start or stop its tree, spawn an
actor beside the tree, look up a name, give a ref.

What crosses a link is small: cast, send, call, reply, and the watching of an end (``remote``). Everything else, such
as spawning, is a call to the host's own actor, which every host has under the name ``HOST_NAME``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from syncline.cluster.actor import Actor
from syncline.cluster.cell import Cell
from syncline.cluster.clock import Clock, SystemClock
from syncline.cluster.context import Context
from syncline.cluster.link import Limits
from syncline.cluster.link_io import Resolve, Timing
from syncline.cluster.ref import ActorDown, Address, Ref, Refusal
from syncline.cluster.registry import Registry
from syncline.cluster.remote import Remotes
from syncline.cluster.spec import ChildSpec, Exit, Restart
from syncline.cluster.supervisor import DynamicSupervisor, StartFailed
from syncline.cluster.wire import Forms, Wire

log = logging.getLogger(__name__)

HOST_NAME: Final = "cluster.host"  # of the actor that answers for the host
STOP_TIMEOUT_S: Final = 60.0  # for a whole remote tree


@dataclass(frozen=True, slots=True)
class StartRoot:
    """Call to a host's own actor: start this as the root supervisor."""

    root: ChildSpec


@dataclass(frozen=True, slots=True)
class StopRoot:
    """Call to a host's own actor: stop the tree; the host itself stays reachable."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Call to a host's own actor: start this beside the tree; answers the ref."""

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Lookup:
    """Call to a host's own actor: who holds this name? Answers the ref or ``None``."""

    name: str


HOST_MESSAGES: Final[tuple[type, ...]] = (StartRoot, StopRoot, Spawn, Lookup)


class Host(ABC):
    """See the module."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Its name in the cluster, such as ``origin`` or ``edge-0``; survives restarts."""

    @abstractmethod
    async def start(self, root: ChildSpec) -> Ref:
        """Starts the root supervisor. Raises ``StartFailed``, also when there is one already."""

    @abstractmethod
    async def stop(self) -> None:
        """Stops the tree, children in order. Harmless when there is none."""

    @abstractmethod
    async def spawn(self, spec: ChildSpec) -> Ref:
        """Starts an actor beside the tree, supervised. Raises ``StartFailed``."""

    @abstractmethod
    async def lookup(self, name: str) -> Ref | None:
        """The ref of whoever holds ``name`` there now."""

    @abstractmethod
    def ref(self, name: str) -> Ref:
        """A ref to whoever holds ``name`` there at each use."""


class LocalHost(Host):
    """The host that is this process. ``open`` first, ``close`` last; between them it has a loop and may have links.

    ``epoch`` is the claim of the owner this host works for; ``types`` are the messages that may cross links, ``forms``
    those that do so in a form of their own. ``frozen`` is told the id of a linked host that has stopped to move: its
    process is there, and nobody starts it again by itself.
    """

    def __init__(
        self,
        id: str,
        *,
        epoch: int = 0,
        types: Iterable[type] = (),
        forms: Forms | None = None,
        clock: Clock | None = None,
        token: str = "",
        timing: Timing | None = None,
        limits: Limits | None = None,
        frozen: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._id = id
        self.context = Context(id, clock or SystemClock(), Registry(id), first_serial=secrets.randbits(40) << 20)
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._remotes = Remotes(
            self.context,
            Wire((*HOST_MESSAGES, *types), forms),
            epoch,
            self.give_up,
            frozen,
            token=token,
            timing=timing,
            limits=limits,
        )
        self._front: Cell | None = None
        self._root: Cell | None = None

    @property
    def id(self) -> str:
        return self._id

    async def open(self) -> None:
        """Starts the host's own actors; needed before anything else."""
        self._front = Cell(
            ChildSpec("host", lambda: _Front(self), Restart.TEMPORARY, None, name=HOST_NAME), self.context
        )
        await self._front.started()
        self._front.watch(self._front_ended)

    async def close(self) -> None:
        """Stops everything in it and says goodbye to the other hosts."""
        await self.stop()
        if self._front is not None:
            await self._front.shutdown(None)
        await self._remotes.close()

    async def start(self, root: ChildSpec) -> Ref:
        if self._root is not None and self._root.exit is None:
            raise StartFailed(f"{self._id} has a root already: {self._root.spec.id}")
        try:
            self._root = Cell(root, self.context)
            ref = await self._root.started()
        except ActorDown as down:
            raise StartFailed(f"{root.id} did not start: {down.exit}") from down.exit.cause
        except Exception as error:
            raise StartFailed(f"{root.id} cannot be started: {error!r}") from error
        self._root.watch(self._root_ended)
        return ref

    async def stop(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            await root.shutdown(root.spec.shutdown_s)

    async def spawn(self, spec: ChildSpec) -> Ref:
        return await self._front_actor().beside.start_child(spec)

    async def lookup(self, name: str) -> Ref | None:
        return self.context.registry.lookup(name)

    def ref(self, name: str) -> Ref:
        return self.context.registry.ref(name)

    async def listen(self, address: str) -> str:
        """Lets other hosts connect at ``unix:/path`` or ``tcp:host:port`` (0: any); returns the address taken."""
        return await self._remotes.listen(address)

    def connect(self, host_id: str, address: str | Resolve) -> RemoteHost:
        """Keeps a link to another host from now on. One of the two connects, the other listens. ``address`` may be a
        function that finds it, which is asked before each attempt."""
        self._remotes.dial(host_id, address)
        return self.peer(host_id)

    def peer(self, host_id: str) -> RemoteHost:
        """Another host, whether it connected to us or we to it."""
        return RemoteHost(host_id, self._remotes)

    def cut(self, host_id: str) -> None:
        """Drops the present connection to a host, as a network may: for tests."""
        self._remotes.cut(host_id)

    def raise_epoch(self, epoch: int) -> None:
        """This host works for a newer claim. Raises ``ValueError`` when it is older."""
        self._remotes.raise_epoch(epoch)

    def give_up(self, exit: Exit) -> None:
        """Whoever runs this host waits for ``ended``, and closes it."""
        if not self.ended.done():
            self.ended.set_result(exit)

    def _front_actor(self) -> _Front:
        if self._front is None:
            raise RuntimeError(f"{self._id} is not open")
        return cast("_Front", self._front.actor)

    def _root_ended(self, exit: Exit) -> None:
        """Escalation past the root ends the host."""
        if self._root is not None:
            self.give_up(exit)

    def _front_ended(self, exit: Exit) -> None:
        if exit.abnormal:
            self.give_up(exit)


class RemoteHost(Host):
    """Another host, over a link. Raises ``ActorDown`` (unreachable) from everything while it is down."""

    def __init__(self, id: str, remotes: Remotes) -> None:
        self._id = id
        self._remotes = remotes

    @property
    def id(self) -> str:
        return self._id

    @property
    def up(self) -> bool:
        """Whether it is connected or expected back at any moment."""
        return self._remotes.up(self._id)

    async def reachable(self) -> None:
        """Waits until it is connected."""
        await self._remotes.reachable(self._id)

    async def start(self, root: ChildSpec) -> Ref:
        return cast("Ref", await self._ask(StartRoot(root), root.init_s + 1))

    async def stop(self) -> None:
        await self._ask(StopRoot(), STOP_TIMEOUT_S)

    async def spawn(self, spec: ChildSpec) -> Ref:
        return cast("Ref", await self._ask(Spawn(spec), spec.init_s + 1))

    async def lookup(self, name: str) -> Ref | None:
        return cast("Ref | None", await self._ask(Lookup(name), 5.0))

    def ref(self, name: str) -> Ref:
        return self._remotes.ref(Address(self._id, name))

    async def _ask(self, message: object, timeout_s: float) -> Any:
        try:
            return await self.ref(HOST_NAME).call(message, timeout_s)
        except Refusal as refusal:
            raise StartFailed(str(refusal)) from refusal


class _Front(Actor):
    """The host's own actor: answers for it, and keeps what was spawned beside the tree."""

    beside: DynamicSupervisor

    def __init__(self, host: LocalHost) -> None:
        self._host = host
        self._supervisor: Cell | None = None

    async def init(self) -> None:
        self.beside = DynamicSupervisor()
        spec = ChildSpec("beside", lambda: self.beside, Restart.TEMPORARY, None)
        self._supervisor = Cell(spec, self.context)
        await self._supervisor.started()
        self.monitor(self._supervisor.ref)

    async def handle_call(self, message: Any) -> object:
        if isinstance(message, Lookup):
            return self.context.registry.lookup(message.name)
        reply = self.defer()
        self.background(self._perform(message, reply))
        return reply

    async def handle_info(self, message: Any) -> None:
        """Too many restarts beside the tree: a fresh supervisor, nothing of the old."""
        await self.init()

    async def terminate(self, reason: Exit) -> None:
        if self._supervisor is not None:
            await self._supervisor.shutdown(None)

    async def _perform(self, message: object, reply: Any) -> None:
        try:
            if isinstance(message, Spawn):
                reply.set(await self._host.spawn(message.spec))
            elif isinstance(message, StartRoot):
                reply.set(await self._host.start(message.root))
            elif isinstance(message, StopRoot):
                await self._host.stop()
                reply.set(None)
            else:
                reply.refuse(Refusal(f"a host does not know {type(message).__name__}"))
        except Refusal as refusal:
            reply.refuse(refusal)
