"""Hosts as Ray actors: named, detached, restarted by Ray for ever.

A host is a process with a loop of its own. What runs in it is a *program*: a coroutine function, named by its dotted
path, that runs in that loop from the first start and from every restart. When it ends by itself the process ends, and
Ray starts the next one; so it does after a SIGTERM, on which the program ends in order. Ray's calls only ask how it
stands and to stop: a few in a host's life.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from syncline.cluster.ray_cluster import NAMESPACE, still_there
from syncline.cluster.ray_names import RayName
from syncline.cluster.spec import dotted

log = logging.getLogger(__name__)

STOP_S: Final = 90.0  # a shard may have a long transaction to finish
CALLS_AT_ONCE: Final = 8
# The calls that are answered at once have threads of their own: others wait for minutes in theirs.
ASKED: Final = "asked"
ASKED_AT_ONCE: Final = 2
ENDING: Final = "ending"  # and those that end it, so that nobody who waits for it keeps them from that
ENDING_AT_ONCE: Final = 4
RETRY_S: Final = 0.2
ANSWER_S: Final = 2.0
MISSES: Final = 3  # a process that so often in a row does not say in this time how it stands does nothing at all
TURN_S: Final = 2.0  # within it an event loop turns that is not held up
STUCK_S: Final = 60.0  # longer than a busy host's loop is ever held up
WHERE_S: Final = 2.0
RESTART_PAUSE_S: Final = 0.5  # whose cause may not pass at once: a process is dear
LEFT_S: Final = 5.0  # whoever asked for a stop ends the process at once, unless it is gone itself


class Keeping(ABC):
    """What a program has of whoever keeps its host. ``stop`` is set when it is asked to end. ``generation``: counts
    those that took the place of one another while that still ran."""

    stop: asyncio.Event
    generation: int

    @abstractmethod
    def ready(self, facts: Mapping[str, object]) -> None:
        """To be called once its part is done; ``facts``: what it says of itself."""

    @abstractmethod
    def listens(self, addresses: Sequence[str]) -> None:
        """Where the others find it from now on."""

    @abstractmethod
    async def address_of(self, host: str) -> str:
        """Where another host listens now, by a unix socket if it is on this machine. Raises OSError while that is not
        known."""

    @property
    @abstractmethod
    def ip(self) -> str:
        """Of this machine, as the others reach it."""

    @abstractmethod
    async def succeed(self) -> None:
        """Takes the place of the earlier generations of this host: each ends in order, then for good. Returns when
        there is none."""

    @abstractmethod
    async def replace(self, host: str) -> None:
        """Has the process of another host ended if it has stopped to move, and the next one started. ``host``: with
        ``@`` and its generation where several work side by side."""


Program = Callable[[Any, Keeping], Awaitable[None]]
"""What a host runs: gets its argument and its keeping."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host to be: its ``name`` in the cluster, the ``program`` at ``"package.module:name"`` and its ``argument``,
    which Ray keeps for restarts. ``new_loop``: what makes its event loop."""

    name: RayName
    program: str
    argument: object
    new_loop: str = "asyncio:new_event_loop"


class Retired(Exception):
    """What a program raises whose host is not wanted any more: it ends for good, and Ray does not start it again."""


class HostProcess:
    """What runs in the Ray actor's process. Its methods are called by Ray, in threads of Ray's."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec
        self._keeping = _ByRay(spec.name)
        self._stopped = threading.Event()
        self._stays = False
        self._loop = cast("asyncio.AbstractEventLoop", dotted(spec.new_loop)())
        self._turned_s = time.monotonic()
        _on_sigterm(self._ask_to_stop)
        threading.Thread(target=self._run, name="host", daemon=True).start()

    def ready(self) -> Mapping[str, object]:
        """Waits until the program is ready; what it said of itself, and the ``pid``. Once it has ended, the next
        process answers."""
        self._keeping.is_ready.wait()
        return {**self._keeping.facts, "pid": os.getpid()}

    def place(self) -> tuple[str, tuple[str, ...]]:
        """The node it is on, and where it listens: nowhere yet while it starts."""
        return _node(), self._keeping.addresses

    def argument(self) -> object:
        """What its program was given."""
        return self._spec.argument

    def stop(self) -> None:
        """Asks the program to end, and waits for it. The process stays for ``LEFT_S``, in which whoever asked ends it
        for good. It may have died meanwhile, or have been given up: then the host is not to be without a program."""
        self._stays = True
        self._ask_to_stop()
        self._stopped.wait(STOP_S)

    def _ask_to_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._keeping.stop.set)

    def held_up_s(self) -> float:
        """How long ago its event loop took a turn."""
        return time.monotonic() - self._turned_s

    def _turn(self) -> None:
        self._turned_s = time.monotonic()
        self._loop.call_later(TURN_S / 4, self._turn)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._turn)
        program = cast("Program", dotted(self._spec.program))
        try:
            self._loop.run_until_complete(program(self._spec.argument, self._keeping))
        except Retired as retired:
            log.error("host %s ends for good: %s", self._spec.name, retired)
            logging.shutdown()
            _end_for_good()
        except Exception:
            log.exception("host %s ends", self._spec.name)
        self._keeping.is_ready.clear()
        self._stopped.set()
        if self._stays:
            time.sleep(LEFT_S)
            log.warning("host %s goes on: it was asked to stop, and nobody ended it", self._spec.name)
        elif not self._keeping.stop.is_set():
            time.sleep(RESTART_PAUSE_S)
        logging.shutdown()
        os._exit(1)  # from this thread nothing else ends the process; Ray starts the next one


class _ByRay(Keeping):
    def __init__(self, name: RayName) -> None:
        self.stop = asyncio.Event()
        self.generation = name.generation
        self.is_ready = threading.Event()
        self.facts: Mapping[str, object] = {}
        self.addresses: tuple[str, ...] = ()
        self._name = name

    def ready(self, facts: Mapping[str, object]) -> None:
        self.facts = facts
        self.is_ready.set()

    def listens(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)

    @property
    def ip(self) -> str:
        import ray

        return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    async def address_of(self, host: str) -> str:
        return await asyncio.to_thread(self._address_of, host)

    def _address_of(self, host: str) -> str:
        """The process itself is asked: what it says is never that of one before it."""
        import ray
        from ray.exceptions import RayError

        for there in reversed(self._found(host)):
            try:
                node, addresses = ray.get(asked(there.actor.place).remote(), timeout=WHERE_S)
            except RayError as error:
                log.debug("host %s does not say where it is: %s", there.name, type(error).__name__)
                continue
            for kind in ("unix:", "tcp:") if node == _node() else ("tcp:",):
                for address in addresses:
                    if address.startswith(kind):
                        return str(address)
        raise ConnectionError(f"host {host} listens nowhere yet")

    async def succeed(self) -> None:
        for earlier in await asyncio.to_thread(self._found, self._name.host):
            if earlier.name.generation < self._name.generation:
                await earlier.stop()

    async def replace(self, host: str) -> None:
        import ray

        base, _, generation = host.partition("@")
        of = await asyncio.to_thread(self._found, base)
        if generation:
            of = [there for there in of if there.name.generation == int(generation)]
        if of and not await of[0].moves():  # the earliest: a later one waits for its place
            log.error("host %s is frozen and is replaced", host)
            await asyncio.to_thread(ray.kill, of[0].actor, no_restart=False)

    def _found(self, host: str) -> list[RayHost]:
        """All generations of it, the newest last."""
        names = [name for name in RayHost.names() if (name.service, name.host) == (self._name.service, host)]
        return [there for there in map(RayHost.find, names) if there is not None]


def _on_sigterm(act: Callable[[], None]) -> None:
    """``act`` is what SIGTERM does from now on. Ray makes actors in the main thread, mostly; elsewhere Python lets
    nobody set a handler. Ray's own, which ends the process on the spot, is there by then: it gets something else to do.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: act())
    else:
        import ray._private.worker as worker

        assert hasattr(worker, "raise_sys_exit_with_custom_error_message"), "Ray's handler of SIGTERM calls it"
        worker.raise_sys_exit_with_custom_error_message = lambda *_, **__: act()


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _end_for_good() -> None:
    import ray

    ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def asked(method: Any) -> Any:
    """A method of a host's actor, as one that is answered at once."""
    return method.options(concurrency_group=ASKED)


class HostEnded(Exception):
    """The host has been ended for good."""


class RayHost:
    """A host as others see it. Use from one event loop."""

    def __init__(self, name: RayName, actor: Any, *, found: bool) -> None:
        self.name = name
        self.found = found
        self.actor = actor

    @classmethod
    def bring_up(cls, spec: HostSpec, node: str | None = None) -> RayHost:
        """The host of that name: the one that is there (``found``), or else a new one. It prefers ``node``, and goes
        elsewhere when that is gone."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = cls.find(spec.name)
        if there is not None:
            return there
        actor = (
            cast("Any", ray.remote)(concurrency_groups={ASKED: ASKED_AT_ONCE, ENDING: ENDING_AT_ONCE})(HostProcess)
            .options(
                name=str(spec.name),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,  # two may bring up the same tree at the same time
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=CALLS_AT_ONCE,
                num_cpus=0,
                memory=1,  # who asks for nothing at all is put on any node, whatever it prefers
                scheduling_strategy="DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node, soft=True),
            )
            .remote(spec)
        )
        return cls(spec.name, actor, found=False)

    @classmethod
    def find(cls, name: RayName) -> RayHost | None:
        """The host of that name, if there is one."""
        import ray

        try:
            return cls(name, ray.get_actor(str(name), namespace=NAMESPACE), found=True)
        except ValueError:
            return None

    @staticmethod
    def names() -> list[RayName]:
        """Of all hosts of all services in this cluster."""
        import ray

        return sorted(name for name in map(RayName.parse, ray.util.list_named_actors()) if name is not None)

    async def node(self) -> str:
        """The id of the node it is on. Raises HostEnded, ClusterUnavailable."""
        node, _ = cast("tuple[str, object]", await self._ask(asked(self.actor.place)))
        return node

    async def argument(self) -> object:
        """What its program was given, by whoever brought it up. Raises HostEnded, ClusterUnavailable."""
        return await self._ask(asked(self.actor.argument))

    async def ready(self) -> Mapping[str, object]:
        """Waits until its program is ready, over as many restarts as that takes: what it says of itself, and its
        ``pid``. Raises HostEnded, ClusterUnavailable."""
        return cast("Mapping[str, object]", await self._ask(self.actor.ready))

    async def _ask(self, method: Any) -> object:
        from ray.exceptions import RayActorError

        while True:
            try:
                answer: object = await asyncio.wrap_future(method.remote().future())
                return answer
            except RayActorError as died:
                await asyncio.to_thread(still_there)
                if self.find(self.name) is None:
                    raise HostEnded(f"host {self.name} has been ended") from died
                log.info("host %s starts again: %s", self.name, type(died).__name__)
                await asyncio.sleep(RETRY_S)

    def end(self) -> None:
        """Ends its process for good, whatever it is doing."""
        import ray

        ray.kill(self.actor, no_restart=True)

    async def moves(self) -> bool:
        """Whether its process does anything: one that is busy says nothing over its links for as long, and is none to
        end. Waits until it is through; False when that takes longer than anything it may be at."""
        from ray.exceptions import RayActorError

        misses = 0
        while misses < MISSES:
            try:
                async with asyncio.timeout(ANSWER_S):
                    held_up_s: float = await asyncio.wrap_future(asked(self.actor.held_up_s).remote().future())
            except TimeoutError:
                misses += 1
                continue
            except RayActorError:
                return True  # it has ended, and Ray starts the next one
            if held_up_s < TURN_S or held_up_s > STUCK_S:
                return held_up_s < TURN_S
            misses = 0
            await asyncio.sleep(TURN_S / 2)
        return False

    async def stop(self) -> None:
        """Ends its program in order, then its process, for good."""
        from ray.exceptions import RayActorError

        try:
            async with asyncio.timeout(STOP_S):
                ending = self.actor.stop.options(concurrency_group=ENDING)
                await asyncio.wrap_future(ending.remote().future())
        except (RayActorError, TimeoutError) as error:
            log.warning("host %s did not end in order: %s", self.name, str(error) or type(error).__name__)
        self.end()
