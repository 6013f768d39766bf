"""Refs across hosts: cast, send, call and watch, spoken over links.

Each payload is one message of this small language (a msgpack array, first its verb):

    CAST target message            as if cast there; dropped if the mailbox does not take it
    INFO target message            as if informed there
    SEND id target message         answered by REPLY once the mailbox took it: back-pressure across hosts
    CALL id target message         answered by REPLY
    REPLY id outcome value         outcome: answer, refusal, down (value: exit) or full
    WATCH id target                answered by END when the target ends, at once if it has
    UNWATCH id
    END id exit
    STOP target exit

A target is a number that an earlier ref carried, or a registered name. Ids belong to the side that asked. When the
peer is declared down or turns out to be restarted, everything asked of it ends there and then with ``UNREACHABLE``.

A call whose target has no room waits there in a task of its own, so that one slow actor never blocks the link for the
others; how many can wait is bounded by the callers, each of whom waits here as well.

A full link holds back what is work: CAST, SEND, CALL and the answers. Facts go beyond its bound, as they go beyond that
of a mailbox: losing one would leave somebody waiting for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from syncline.cluster.context import Context
from syncline.cluster.link import Limits
from syncline.cluster.link_io import Callbacks, Links, Resolve, Timing
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.mailbox import MailboxFull
from syncline.cluster.ref import CALL_TIMEOUT_S, ActorDown, Address, CallTimeout, Ref, Refusal
from syncline.cluster.registry import NamedRef
from syncline.cluster.spec import SHUTDOWN, Exit, ExitKind
from syncline.cluster.wire import Wire, WireError

log = logging.getLogger(__name__)

CAST: Final = 0
INFO: Final = 1
SEND: Final = 2
CALL: Final = 3
REPLY: Final = 4
WATCH: Final = 5
UNWATCH: Final = 6
END: Final = 7
STOP: Final = 8

ANSWERED: Final = 0
REFUSED: Final = 1
DOWN: Final = 2
FULL: Final = 3

WAIT_ROOM_S: Final = 60.0  # how long a call from another host may wait for room here; its caller's timeout is shorter


class Remotes:
    """All that one host knows of refs in others, and others of refs in it."""

    def __init__(
        self,
        context: Context,
        wire: Wire,
        epoch: int,
        superseded: Callable[[Exit], None],
        frozen: Callable[[str], None],
        *,
        token: str,
        timing: Timing | None,
        limits: Limits | None,
    ) -> None:
        self._context = context
        self._wire = wire
        self._superseded = superseded
        callbacks = Callbacks(self._delivered, self._down, self._on_superseded, frozen)
        self._links = Links(context.host_id, epoch, callbacks, token=token, timing=timing, limits=limits)
        self._ids = itertools.count(context.first_serial)  # random too: no answer to a predecessor can match
        self._asked: dict[str, dict[int, asyncio.Future[Any]]] = {}  # by peer
        self._watching: dict[str, dict[int, Callable[[Exit], None]]] = {}  # by peer: ends we wait for
        self._watched: dict[str, dict[int, Callable[[], None]]] = {}  # by peer: ends it waits for
        self._exported: dict[int, Ref] = {}  # living actors that others may have a ref of
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- for the host

    async def listen(self, address: str) -> str:
        """See ``LocalHost.listen``."""
        return await self._links.listen(address)

    def dial(self, peer_id: str, address: str | Resolve) -> None:
        """See ``LocalHost.connect``."""
        self._links.dial(peer_id, address)

    def cut(self, peer_id: str) -> None:
        """See ``LocalHost.cut``."""
        self._links.cut(peer_id)

    def raise_epoch(self, epoch: int) -> None:
        """See ``LocalHost.raise_epoch``."""
        self._links.raise_epoch(epoch)

    def up(self, peer_id: str) -> bool:
        """Whether the peer is known and not declared down."""
        peer = self._links.peers.get(peer_id)
        return peer is not None and peer.up

    async def reachable(self, peer_id: str) -> None:
        """Waits for a connection to a host that we dial or that dials us."""
        await self._links.connected(peer_id)

    async def close(self) -> None:
        """Ends all links; what was asked of others ends with ``UNREACHABLE``."""
        for task in self._tasks:
            task.cancel()
        await self._links.close()
        for peer_id in tuple(self._links.peers):
            self._down(peer_id, "this host ends")

    def ref(self, address: Address) -> Ref:
        """A ref to wherever ``address`` points, here or elsewhere."""
        if address.host != self._context.host_id:
            return RemoteRef(self, address)
        if isinstance(address.target, str):
            return self._context.registry.ref(address.target)
        return self._exported.get(address.target) or RemoteRef(self, address)

    # ---------------------------------------------------------------- asking others

    def tell(self, peer_id: str, verb: int, *arguments: object) -> bool:
        """Writes one message without waiting. ``False``: not accepted. Raises ``WireError``."""
        payload = self._wire.encode([verb, *arguments], self._address_of)
        return self._links.offer(peer_id, payload, beyond=verb != CAST)

    async def ask(self, address: Address, verb: int, message: object, timeout_s: float | None) -> Any:
        """CALL or SEND, and what comes back."""
        id, peer_id = next(self._ids), address.host
        payload = self._wire.encode([verb, id, address.target, message], self._address_of)
        asked = self._asked.setdefault(peer_id, {})
        future = asked[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._links.offer(peer_id, payload):
                    if not await self._links.room(peer_id):
                        raise ActorDown(address, Exit(ExitKind.UNREACHABLE, detail=f"{peer_id} is down"))
                outcome, value = await future
        except TimeoutError:
            raise CallTimeout(address, timeout_s or 0.0) from None
        finally:
            asked.pop(id, None)
        if outcome == REFUSED:
            raise Refusal(value)
        if outcome == FULL:
            raise MailboxFull(value)
        if outcome == DOWN:
            raise ActorDown(address, value)
        return value

    def watch(self, address: Address, callback: Callable[[Exit], None]) -> Callable[[], None]:
        """See ``Ref.on_end``."""
        id, peer_id = next(self._ids), address.host
        watching = self._watching.setdefault(peer_id, {})
        watching[id] = callback
        if not self.tell(peer_id, WATCH, id, address.target):
            del watching[id]
            callback(Exit(ExitKind.UNREACHABLE, detail=f"{peer_id} is down"))
            return lambda: None

        def cancel() -> None:
            if watching.pop(id, None) is not None:
                self.tell(peer_id, UNWATCH, id)

        return cancel

    # ---------------------------------------------------------------- being asked

    def _delivered(self, peer_id: str, payload: bytes) -> None:
        try:
            verb, *arguments = self._wire.decode(payload, self.ref)
            self._perform(peer_id, verb, arguments)
        except (WireError, ValueError, TypeError) as error:
            log.error("%s: a message of %s cannot be understood: %s", self._context.host_id, peer_id, error)

    def _perform(self, peer_id: str, verb: int, arguments: list[Any]) -> None:
        if verb == CAST:
            target, message = arguments
            if not self._target(target).cast(message):
                log.debug("%s: a cast of %s to %s was not taken", self._context.host_id, peer_id, target)
        elif verb == INFO:
            self._target(arguments[0]).inform(arguments[1])
        elif verb == STOP:
            self._target(arguments[0]).stop(arguments[1])
        elif verb == CALL:
            self._on_call(peer_id, *arguments)
        elif verb == SEND:
            self._on_send(peer_id, *arguments)
        elif verb == REPLY:
            id, outcome, value = arguments
            future = self._asked.get(peer_id, {}).get(id)
            if future is not None and not future.done():
                future.set_result((outcome, value))
        elif verb == WATCH:
            self._on_watch(peer_id, *arguments)
        elif verb == UNWATCH:
            cancel = self._watched.get(peer_id, {}).pop(arguments[0], None)
            if cancel is not None:
                cancel()
        elif verb == END:
            callback = self._watching.get(peer_id, {}).pop(arguments[0], None)
            if callback is not None:
                callback(arguments[1])
        else:
            raise ValueError(f"unknown verb {verb}")

    def _on_call(self, peer_id: str, id: int, target: int | str, message: object) -> None:
        ref = self._target(target)
        if isinstance(ref, NamedRef):
            ref = self._context.registry.lookup(cast("str", target)) or ref
        future = ref.ask(message) if isinstance(ref, LocalRef) else None
        if future is None:
            self._go(self._answer(peer_id, id, lambda: ref.call(message, WAIT_ROOM_S)))
        else:
            future.add_done_callback(lambda done: self._reply(peer_id, id, done))

    def _on_send(self, peer_id: str, id: int, target: int | str, message: object) -> None:
        ref = self._target(target)
        if ref.cast(message):
            self._tell_reply(peer_id, id, ANSWERED, None)
        else:
            self._go(self._answer(peer_id, id, lambda: ref.send(message)))

    def _on_watch(self, peer_id: str, id: int, target: int | str) -> None:
        watched = self._watched.setdefault(peer_id, {})

        def ended(exit: Exit) -> None:
            watched.pop(id, None)
            self.tell(peer_id, END, id, exit)

        watched[id] = lambda: None
        cancel = self._target(target).on_end(ended)
        if id in watched:
            watched[id] = cancel

    def _target(self, target: int | str) -> Ref:
        if isinstance(target, str):
            return self._context.registry.ref(target)
        return self._exported.get(target) or _GONE

    def _reply(self, peer_id: str, id: int, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._tell_reply(peer_id, id, ANSWERED, done.result())
        elif isinstance(error, ActorDown):
            self._tell_reply(peer_id, id, DOWN, error.exit)
        elif isinstance(error, MailboxFull):
            self._tell_reply(peer_id, id, FULL, str(error))
        else:
            self._tell_reply(peer_id, id, REFUSED, str(error))

    def _tell_reply(self, peer_id: str, id: int, outcome: int, value: object) -> None:
        try:
            self._say(peer_id, id, outcome, value)
        except WireError as error:
            log.error("%s: an answer cannot cross the link: %s", self._context.host_id, error)
            self._say(peer_id, id, REFUSED, str(error))

    def _say(self, peer_id: str, id: int, outcome: int, value: object) -> None:
        """A full link is waited for: an answer must not be lost while both hosts live."""
        payload = self._wire.encode([REPLY, id, outcome, value], self._address_of)
        if not self._links.offer(peer_id, payload):
            self._go(self._say_later(peer_id, payload))

    async def _say_later(self, peer_id: str, payload: bytes) -> None:
        while await self._links.room(peer_id):
            if self._links.offer(peer_id, payload):
                return

    async def _answer(self, peer_id: str, id: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        done: asyncio.Future[Any] = asyncio.ensure_future(work())  # not begun if this is cancelled before it begins
        await asyncio.wait({done})
        self._reply(peer_id, id, done)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _address_of(self, ref: Ref) -> Address:
        address = ref.address
        if isinstance(ref, LocalRef) and isinstance(address.target, int) and address.target not in self._exported:
            serial = address.target
            self._exported[serial] = ref
            ref.on_end(lambda _: cast("None", self._exported.pop(serial, None)))
        return address

    # ---------------------------------------------------------------- peers come and go

    def _down(self, peer_id: str, why: str) -> None:
        exit = Exit(ExitKind.UNREACHABLE, detail=f"{peer_id}: {why}")
        for future in self._asked.pop(peer_id, {}).values():
            if not future.done():
                future.set_result((DOWN, exit))
        for cancel in self._watched.pop(peer_id, {}).values():
            cancel()
        for callback in self._watching.pop(peer_id, {}).values():
            callback(exit)

    def _on_superseded(self, epoch: int) -> None:
        self._superseded(Exit(ExitKind.KILLED, detail=f"superseded by epoch {epoch}"))


class RemoteRef(Ref):
    """A ref to an actor in another host. Equal to any other ref of the same address."""

    __slots__ = ("_address", "_remotes")

    def __init__(self, remotes: Remotes, address: Address) -> None:
        self._remotes = remotes
        self._address = address

    def __repr__(self) -> str:
        return f"<ref {self._address}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteRef) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int | str]:
        return self._address.host, self._address.target

    @property
    def address(self) -> Address:
        return self._address

    @property
    def alive(self) -> bool:
        """Whether its host is not known to be down; only watching tells of the actor itself."""
        return self._remotes.up(self._address.host)

    def cast(self, message: object) -> bool:
        """``True`` says that the link took it, not that the mailbox did. Raises ``WireError``."""
        return self._remotes.tell(self._address.host, CAST, self._address.target, message)

    async def send(self, message: object) -> None:
        """Returns when the mailbox there took it: one round trip. Raises ``ActorDown``, ``MailboxFull``."""
        await self._remotes.ask(self._address, SEND, message, None)

    async def call(self, message: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return await self._remotes.ask(self._address, CALL, message, timeout_s)

    def inform(self, message: object) -> None:
        self._remotes.tell(self._address.host, INFO, self._address.target, message)

    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        return self._remotes.watch(self._address, callback)

    def stop(self, exit: Exit = SHUTDOWN) -> None:
        self._remotes.tell(self._address.host, STOP, self._address.target, exit)


class _Gone(Ref):
    """Stands for an actor of this host that another host still has a ref of."""

    __slots__ = ()
    _EXIT: Final = Exit(ExitKind.NOT_FOUND, detail="it has ended")

    @property
    def address(self) -> Address:
        return Address("", "")

    @property
    def alive(self) -> bool:
        return False

    def cast(self, message: object) -> bool:
        return False

    async def send(self, message: object) -> None:
        raise ActorDown(self.address, self._EXIT)

    async def call(self, message: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        raise ActorDown(self.address, self._EXIT)

    def inform(self, message: object) -> None:
        """Nobody hears it."""

    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        callback(self._EXIT)
        return lambda: None

    def stop(self, exit: Exit = SHUTDOWN) -> None:
        """It has."""


_GONE: Final = _Gone()
