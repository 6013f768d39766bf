"""Which host runs what: hosts that are up, by their heartbeats, and a key's host among them, by rendezvous hash.

Pure. Rendezvous hashing gives each (key, host) pair a score and takes the highest, so everyone who knows the same
hosts agrees without talking, a host that leaves gives away only its own keys, and one that joins takes only what it
keeps. There is no ring to maintain and no state to lose.

A host that misses heartbeats is *down*: nothing new is placed there, but it may be a pause or a cut cable, so what it
runs keeps its place for a while (a restarted host finds its own keys again). After ``permdown_after_s`` it is
*permdown*: forgotten, its keys move. Moving too early costs a rebuild, moving too late costs waiting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum


class HostState(Enum):
    """What is known of a host at a moment."""

    UP = "up"
    DOWN = "down"
    PERMDOWN = "permdown"


def score(key: str, host: str) -> int:
    """How much ``host`` wants ``key``: 64 bits, the same in every process."""
    digest = hashlib.blake2b(key.encode(), key=hashlib.blake2b(host.encode(), digest_size=32).digest(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def place(key: str, hosts: Iterable[str]) -> str:
    """The host for ``key``. Raises ``ValueError`` when there are no hosts."""
    candidates = tuple(hosts)
    if not candidates:
        raise ValueError(f"no host for {key!r}")
    return max(candidates, key=lambda host: (score(key, host), host))


def ranked(key: str, hosts: Iterable[str]) -> tuple[str, ...]:
    """All hosts in the order in which they would take ``key``, were those before them gone."""
    return tuple(sorted(hosts, key=lambda host: (score(key, host), host), reverse=True))


@dataclass(frozen=True, slots=True)
class Membership:
    """The hosts, by when they were last heard of (monotonic seconds of the observer). Immutable."""

    down_after_s: float = 3.0
    permdown_after_s: float = 60.0
    heard: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.down_after_s < self.permdown_after_s:
            raise ValueError("a host is down before it is permanently down")

    def heartbeat(self, host: str, now: float) -> Membership:
        """``host`` was heard of at ``now``; an older heartbeat than one already seen changes nothing."""
        return replace(self, heard={**self.heard, host: max(now, self.heard.get(host, now))})

    def left(self, host: str) -> Membership:
        """``host`` said goodbye: it is not waited for."""
        return replace(self, heard={name: at for name, at in self.heard.items() if name != host})

    def state(self, host: str, now: float) -> HostState:
        """Unknown hosts are ``PERMDOWN``."""
        silence_s = now - self.heard[host] if host in self.heard else float("inf")
        if silence_s < self.down_after_s:
            return HostState.UP
        return HostState.DOWN if silence_s < self.permdown_after_s else HostState.PERMDOWN

    def hosts(self, now: float, *states: HostState) -> tuple[str, ...]:
        """The hosts in any of ``states``, sorted."""
        return tuple(sorted(host for host in self.heard if self.state(host, now) in states))

    def home(self, key: str, now: float) -> str | None:
        """Where ``key`` belongs: among all hosts not permanently down, so that a pause moves nothing.

        ``None`` when there are none. The home may be down: then wait for it.
        """
        hosts = self.hosts(now, HostState.UP, HostState.DOWN)
        return place(key, hosts) if hosts else None
