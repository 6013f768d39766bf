"""Unique names for actors that outlive any one incarnation of theirs.

A restarted actor has a new ref. Whoever talks to it over restarts therefore holds its name: ``Registry.ref(name)`` is
a ref that looks the name up at each use. An actor started from a ``ChildSpec`` with a name holds that name exactly as
long as it lives.

A name may also be that of an actor on another host (``lives_at``). Whoever uses names does not know where anybody is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from syncline.cluster.ref import CALL_TIMEOUT_S, ActorDown, Address, Ref
from syncline.cluster.spec import SHUTDOWN, Exit, ExitKind


class NameTaken(Exception):
    """Another live actor holds the name."""


class Registry:
    """The names of one host."""

    def __init__(self, host_id: str = "local") -> None:
        self.host_id = host_id
        self._refs: dict[str, Ref] = {}

    def register(self, name: str, ref: Ref) -> None:
        """Gives ``name`` to ``ref``. Raises ``NameTaken`` while another living actor holds it."""
        holder = self._refs.get(name)
        if holder is not None and holder is not ref and holder.alive:
            raise NameTaken(f"{name!r} belongs to {holder.address}")
        self._refs[name] = ref

    def lives_at(self, name: str, ref: Ref) -> None:
        """``name`` is held on another host, where ``ref`` reaches whoever holds it at each use. Raises ``NameTaken``
        when an actor of this host holds it."""
        self.register(name, ref)

    def unregister(self, name: str, ref: Ref) -> None:
        """Frees ``name`` if ``ref`` holds it."""
        if self._refs.get(name) is ref:
            del self._refs[name]

    def lookup(self, name: str) -> Ref | None:
        """Who holds ``name`` now."""
        return self._refs.get(name)

    def ref(self, name: str) -> NamedRef:
        """A ref to whoever holds ``name`` at each use, now and after restarts."""
        return NamedRef(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._refs))

    def __len__(self) -> int:
        return len(self._refs)


class NamedRef(Ref):
    """A ref that resolves its name at each use. While nobody holds the name it behaves like a ref to a dead actor."""

    __slots__ = ("_name", "_registry")

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._name = name

    def __repr__(self) -> str:
        return f"<ref {self.address}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedRef) and (self._registry, self._name) == (other._registry, other._name)

    def __hash__(self) -> int:
        return hash((id(self._registry), self._name))

    @property
    def address(self) -> Address:
        return Address(self._registry.host_id, self._name)

    @property
    def alive(self) -> bool:
        holder = self._registry.lookup(self._name)
        return holder is not None and holder.alive

    def cast(self, message: object) -> bool:
        holder = self._registry.lookup(self._name)
        return holder is not None and holder.cast(message)

    async def send(self, message: object) -> None:
        await self._holder().send(message)

    async def call(self, message: object, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return await self._holder().call(message, timeout_s)

    def inform(self, message: object) -> None:
        holder = self._registry.lookup(self._name)
        if holder is not None:
            holder.inform(message)

    def on_end(self, callback: Callable[[Exit], None]) -> Callable[[], None]:
        """Of the incarnation that holds the name now; later ones have to be watched anew."""
        holder = self._registry.lookup(self._name)
        if holder is None:
            callback(_NOBODY)
            return lambda: None
        return holder.on_end(callback)

    def stop(self, exit: Exit = SHUTDOWN) -> None:
        holder = self._registry.lookup(self._name)
        if holder is not None:
            holder.stop(exit)

    def _holder(self) -> Ref:
        holder = self._registry.lookup(self._name)
        if holder is None:
            raise ActorDown(self.address, _NOBODY)
        return holder


_NOBODY = Exit(ExitKind.NOT_FOUND, detail="nobody holds this name")
