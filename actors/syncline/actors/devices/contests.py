"""Two that connect with one client id and take each other's place, over and over. Pure.

A client id is for one database. The newest connection of it wins, for an older one is most often a dead socket of the
same device. But an older one that answers when it is closed was alive: somebody else has the id too. That is a copy of
the file, or one file that two programs use, and it cannot go well: they count their transactions alike. So when it has
happened several times within a short while, both are told, and turned away until some time has passed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

# So many within so long: a device alone does not do that.
DISPLACED_MAX: Final = 3
WITHIN_S: Final = 10.0
# How long both are turned away then, and how long it is shown.
REFUSED_S: Final = 10.0
SHOWN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Displaced:
    """A connection of ``client_id`` from ``remote`` was alive when one from ``by`` took its place."""

    client_id: str
    remote: str
    by: str


@dataclass(slots=True)
class _Contest:
    """``displaced_s``: when that happened lately. ``found_s``: when it came to be too often; ``between``: whom."""

    displaced_s: deque[float] = field(default_factory=lambda: deque(maxlen=DISPLACED_MAX - 1))
    found_s: float | None = None
    between: tuple[str, str] = ("", "")


class Contests:
    """Of all client ids that are or were in question. Times are of one clock that does not go back."""

    def __init__(self) -> None:
        self._by_client: dict[str, _Contest] = {}

    def displaced(self, one: Displaced, now_s: float) -> None:
        self._forget(now_s)
        contest = self._by_client.setdefault(one.client_id, _Contest())
        contest.displaced_s.append(now_s)
        contest.between = (one.remote, one.by)

    def claimed(self, client_id: str, holder: str | None, remote: str, now_s: float) -> tuple[str | None, bool]:
        """Whether ``remote`` is to be turned away, and ``holder``, which has the id, with it: what to tell them; and
        whether this is news."""
        self._forget(now_s)
        contest = self._by_client.get(client_id)
        if contest is None:
            return None, False
        if contest.found_s is not None and now_s - contest.found_s < REFUSED_S:
            return _told(client_id, contest.between), False
        recent = [at_s for at_s in contest.displaced_s if now_s - at_s < WITHIN_S]
        if holder is None or len(recent) < DISPLACED_MAX - 1:
            return None, False
        is_news = contest.found_s is None
        contest.found_s, contest.between = now_s, (holder, remote)
        contest.displaced_s.clear()
        return _told(client_id, contest.between), is_news

    def shown(self, now_s: float) -> tuple[str, ...]:
        """The client ids of which that is so, or was until a moment ago."""
        self._forget(now_s)
        return tuple(client_id for client_id, one in self._by_client.items() if one.found_s is not None)

    def _forget(self, now_s: float) -> None:
        for client_id, one in tuple(self._by_client.items()):
            lately = bool(one.displaced_s) and now_s - one.displaced_s[-1] < WITHIN_S
            if not lately and (one.found_s is None or now_s - one.found_s >= SHOWN_S):
                del self._by_client[client_id]


def _told(client_id: str, between: tuple[str, str]) -> str:
    return (
        f"the client id {client_id} is in use twice, from {between[0]} and from {between[1]}: a database was copied, "
        "or two programs have it open. Close one of them or give it a database of its own, then connect again"
    )
