"""Whose connection a client id belongs to: the newest one's.

Every gateway keeps its own devices' claims. Where a service has several edges, each claim is also passed on to one
``Claims``, so that a device that comes back through another edge is known there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from syncline.actors.devices.reaching import AskReach, PassOn, Reach, ReachTold
from syncline.actors.devices.reception import Claim, Evict
from syncline.cluster import Actor, Down, Ref


@dataclass(frozen=True, slots=True)
class ReadConnected:
    """Call. Answer: the number of authenticated devices."""


@dataclass(frozen=True, slots=True)
class ReadClients:
    """Call. Answer: the client ids of all authenticated devices (tuple of str)."""


class Holders:
    """Which device holds each client id. ``monitor``: called once with each device, whose end is to be told."""

    def __init__(self, monitor: Callable[[Ref], object]) -> None:
        self._monitor = monitor
        self.by_client: dict[str, Ref] = {}
        self._client_ids: dict[Ref, str] = {}  # of every device that is monitored, evicted ones too

    def claim(self, claim: Claim) -> None:
        """An older device of the client is evicted."""
        older = self.by_client.get(claim.client_id)
        if older is not None and older != claim.device:
            older.inform(Evict(claim.remote))
        self.by_client[claim.client_id] = claim.device
        if claim.device not in self._client_ids:
            self._client_ids[claim.device] = claim.client_id
            self._monitor(claim.device)

    def ended(self, device: Ref) -> None:
        """A monitored device is no more."""
        client_id = self._client_ids.pop(device, "")
        if self.by_client.get(client_id) == device:
            del self.by_client[client_id]


class Claims(Actor):
    """Of all edges. It starts with none: edges are tethered to it, and their devices come back with it."""

    def __init__(self) -> None:
        self._holders = Holders(self.monitor)
        self._reach = Reach(
            self._holders.by_client.values, lambda: self.ref, lambda delay_s: self.send_after(delay_s, PassOn())
        )

    async def handle_info(self, message: object) -> None:
        match message:
            case Claim():
                self._holders.claim(message)
            case Down(ref=ref):
                self._holders.ended(ref)
                self._reach.ended(ref)
            case AskReach():
                self._reach.ask(message)
            case ReachTold():
                self._reach.told(message)
            case PassOn():
                self._reach.pass_on()
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadConnected():
                return len(self._holders.by_client)
            case ReadClients():
                return tuple(self._holders.by_client)
            case _:
                raise TypeError(f"claims do not understand {message!r}")
