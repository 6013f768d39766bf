"""Whose connection a client id belongs to: the newest one's.

Every gateway keeps its own devices' claims. Where a service has several edges, each claim is also passed on to one
``Claims``, so that a device that comes back through another edge is known there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from syncline.actors.devices.contests import Contests, Displaced
from syncline.actors.devices.reaching import AskReach, PassOn, Reach, ReachTold
from syncline.actors.devices.reception import Claim, Evict
from syncline.cluster import Actor, Down, Ref

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadConnected:
    """Call. Answer: the number of authenticated devices."""


@dataclass(frozen=True, slots=True)
class ReadClients:
    """Call. Answer: the client ids of all authenticated devices (tuple of str)."""


@dataclass(frozen=True, slots=True)
class ReadContested:
    """Call. Answer: the client ids that two devices have lately taken from each other over and over (list of str)."""


class Holders:
    """Which device holds each client id. ``monitor``: called once with each device, whose end is to be told.
    ``now_s``: a clock that does not go back."""

    def __init__(self, monitor: Callable[[Ref], object], now_s: Callable[[], float]) -> None:
        self._monitor = monitor
        self._now_s = now_s
        self._contests = Contests()
        self._remotes: dict[str, str] = {}
        self.by_client: dict[str, Ref] = {}
        self._client_ids: dict[Ref, str] = {}  # of every device that is monitored, evicted ones too

    def claim(self, claim: Claim) -> str | None:
        """An older device of the client is evicted. Returns why the newer one has to go, too, if it has."""
        older = self.by_client.get(claim.client_id)
        if older == claim.device:
            return None
        holder = None if older is None else self._remotes[claim.client_id]
        contested, is_news = self._contests.claimed(claim.client_id, holder, claim.remote, self._now_s())
        if is_news:
            log.warning("%s", contested)
        if older is not None:
            older.inform(Evict(claim.remote, contested))
        if contested is not None:
            return contested
        self.by_client[claim.client_id], self._remotes[claim.client_id] = claim.device, claim.remote
        if claim.device not in self._client_ids:
            self._client_ids[claim.device] = claim.client_id
            self._monitor(claim.device)
        return None

    def displaced(self, one: Displaced) -> None:
        self._contests.displaced(one, self._now_s())

    @property
    def contested(self) -> list[str]:
        """See ``ReadContested``."""
        return list(self._contests.shown(self._now_s()))

    def ended(self, device: Ref) -> None:
        """A monitored device is no more."""
        client_id = self._client_ids.pop(device, "")
        if self.by_client.get(client_id) == device:
            del self.by_client[client_id]
            del self._remotes[client_id]


class Claims(Actor):
    """Of all edges. It starts with none: edges are tethered to it, and their devices come back with it."""

    def __init__(self) -> None:
        self._holders = Holders(self.monitor, lambda: self.clock.monotonic_s())
        self._reach = Reach(
            self._holders.by_client.values, lambda: self.ref, lambda delay_s: self.send_after(delay_s, PassOn())
        )

    async def handle_info(self, message: object) -> None:
        match message:
            case Claim():
                contested = self._holders.claim(message)
                if contested is not None:
                    message.device.inform(Evict(message.remote, contested))
            case Displaced():
                self._holders.displaced(message)
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
            case ReadContested():
                return self._holders.contested
            case _:
                raise TypeError(f"claims do not understand {message!r}")
